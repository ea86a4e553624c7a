"""From what size on sharing is said to pay."""

import pytest

from skdistmlp.crossover.measurement import advice, parameter_threshold, where_faster


@pytest.mark.parametrize(
    ("gains", "threshold", "where"),
    [
        pytest.param([0.5, 0.9, 0.99], None, "not up to 10,000 parameters", id="never"),
        pytest.param([2.0, 1.5, 1.0], None, "not up to 10,000 parameters", id="small"),
        pytest.param(
            [1.5, 2.0, 3.0],
            100,
            "from the smallest measured on (100 parameters)",
            id="always",
        ),
        pytest.param(
            [0.5, 2.0, 3.0], 220, "from about 220 parameters on", id="in between"
        ),
        pytest.param(
            [1.0, 1.2, 1.5], 100, "from about 100 parameters on", id="at the first"
        ),
        pytest.param(
            [0.5, 1.0, 2.0], 1000, "from about 1,000 parameters on", id="at a size"
        ),
        pytest.param(
            [2.0, 0.5, 3.0], 1600, "from about 1,600 parameters on", id="wavering"
        ),
        pytest.param(
            [0.5, 2.0, 0.5, 2.0],
            22_000,
            "from about 22,000 parameters on",
            id="wavering on the way up",
        ),
    ],
)
def test_where_sharing_begins_to_pay(gains, threshold, where):
    rows = [
        {"parameters": 100 * 10**i, "times faster": gain, "more a fit, ms": 87.6}
        for i, gain in enumerate(gains)
    ]
    assert parameter_threshold(rows) == threshold
    assert where_faster(rows) == where
    if threshold is None:
        assert advice(rows, 4).startswith("4 workers were not faster than this process")
        assert "parameter_threshold" not in advice(rows, 4)
    else:
        assert advice(rows, 4) == (
            f"4 workers are faster {where}: use parameter_threshold={threshold}\n"
            f"A fit takes about 88 ms more on them, however many steps it has; if "
            f"yours are as short as that, use a higher threshold."
        )
