"""What the command says about a measured crossover."""

from dataclasses import replace

import pytest

from skdistmlp.crossover.advice import (
    advise,
    describe_crossover,
    describe_errors,
    impossible,
)
from skdistmlp.crossover.rule import parameter_threshold
from tests.crossover.measurements import measurements


@pytest.mark.parametrize(
    ("speedups", "threshold", "where"),
    [
        pytest.param(
            [0.5, 0.9, 0.99], None, "nowhere up to 10,000 parameters", id="never"
        ),
        pytest.param(
            [2.0, 1.5, 1.0],
            None,
            "nowhere up to 10,000 parameters",
            id="only small networks",
        ),
        pytest.param(
            [1.5, 2.0, 3.0],
            100,
            "at every size measured, 100 parameters and more",
            id="always",
        ),
        pytest.param(
            [0.5, 2.0, 3.0], 220, "from about 220 parameters up", id="in between"
        ),
        pytest.param(
            [1.0, 1.2, 1.5], 100, "from about 100 parameters up", id="at the first"
        ),
        pytest.param(
            [0.5, 1.0, 2.0], 1000, "from about 1,000 parameters up", id="at a size"
        ),
        pytest.param(
            [2.0, 0.5, 3.0], 1600, "from about 1,600 parameters up", id="wavering"
        ),
        pytest.param(
            [0.5, 2.0, 0.5, 2.0],
            22_000,
            "from about 22,000 parameters up",
            id="wavering on the way up",
        ),
    ],
)
def test_the_threshold_is_where_every_larger_size_is_faster(speedups, threshold, where):
    measured = measurements(speedups)
    sizes = [each.n_parameters for each in measured]
    assert parameter_threshold(sizes, speedups) == threshold
    assert describe_crossover(sizes, speedups) == where
    if threshold is None:
        assert advise(measured, 4) == (
            "4 workers are not faster than this process at the largest size measured "
            "(10,000 parameters): train locally, or try larger batches."
        )
    else:
        assert advise(measured, 4) == (
            f"4 workers are faster {where}: use parameter_threshold={threshold}\n"
            f"A fit on them takes about 88 ms longer, however many steps it has; if "
            f"your fits are that short, use a higher threshold."
        )


def test_nothing_is_recommended_from_impossible_speedups():
    measured = measurements([0.5, 1.5, 15.0])
    assert impossible(measured, max_speedup=3.0) == measured[2:]
    advice = advise(measured, 2, max_speedup=3.0)
    assert advice.startswith(
        "Speed-ups above 3 are impossible on these 2 workers, but "
    )
    assert "15.0 for 64-(2) was measured" in advice
    assert "=" not in advice
    assert "use parameter_threshold=" in advise(measured, 20, max_speedup=30.0)


def test_errors_of_what_was_expected_are_summed_up():
    measured = [
        replace(each, expected_speedup=expected)
        for each, expected in zip(
            measurements([1.0, 2.0, 4.0]), [1.1, 2.0, 3.0], strict=True
        )
    ]
    assert describe_errors(measured) == (
        "engine='auto' expected these speed-ups with errors of 10% (median) and 25% "
        "(maximum)."
    )
    assert describe_errors(measurements([1.0])) == ""
