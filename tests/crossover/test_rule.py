"""The rule that turns speed-ups into a crossover size."""

import pytest

from skdistmlp.crossover.rule import crossover_size, parameter_threshold


@pytest.mark.parametrize(
    ("speedups", "size"),
    [
        ([0.5, 1.1, 0.5, 1.5], 4 * 2**0.5),  # a dip on the way up counts
        ([1.1, 0.5, 1.5, 2.0], 2 * 2**0.5),
        ([0.9, 1.0, 1.2, 1.5], 2),
        ([1.0, 1.2, 1.5, 2.0], 1),
        ([1.1, 1.2, 1.5, 2.0], 1),
        ([0.5, 1.1, 1.2, 1.0], None),
        ([0.5, 0.6, 0.7, 0.8], None),
    ],
    ids=str,
)
def test_every_size_above_the_crossover_is_faster(speedups, size):
    found = crossover_size([1, 2, 4, 8], speedups)
    assert found == (size and pytest.approx(size))


@pytest.mark.parametrize(
    ("sizes", "speedups", "threshold"),
    [
        ([1234, 5678], [2.0, 3.0], 1234),  # a measured size is not rounded
        ([1000, 10_000], [0.5, 1.5], 3200),
        ([1, 100], [0.5, 1.5], 10),
        ([1, 10], [0.5, 1.5], 4),
        ([1000, 10_000], [1.5, 0.5], None),
    ],
    ids=str,
)
def test_a_threshold_is_rounded_up_to_two_digits(sizes, speedups, threshold):
    found = parameter_threshold(sizes, speedups)
    assert found == threshold
    assert found is None or type(found) is int
