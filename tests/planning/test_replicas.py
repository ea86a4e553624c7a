"""How many replicas are taken where the user leaves it open."""

from itertools import pairwise

import pytest

from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.cost import StepCost, bytes_exchanged
from skdistmlp.planning.replicas import preferred_replicas


def preferred(layer_units, n_workers, n_rows):
    cost = StepCost.of_step(n_rows, itemsize=4)
    return preferred_replicas(layer_units, n_workers, cost)


@pytest.mark.parametrize(
    ("layer_units", "n_workers", "n_rows", "best"),
    [
        # The cells of the design, of which those with large batches gain by replicas.
        ((64, 256, 256, 10), 2, 200, 1),
        ((64, 256, 256, 10), 2, 2000, 2),
        ((784, 1024, 1024, 10), 2, 200, 1),
        ((784, 1024, 1024, 10), 2, 2000, 1),
        ((784, 1024, 1024, 10), 2, 8000, 2),
        ((784, 4096, 10), 2, 200, 1),
        # Little is exchanged, so the fewest exchanges are best.
        ((64, 9, 9, 10), 2, 200, 1),
        ((64, 256, 256, 10), 1, 20_000, 1),
    ],
)
def test_replicas_are_taken_where_they_exchange_far_less(
    layer_units, n_workers, n_rows, best
):
    assert preferred(layer_units, n_workers, n_rows)[0] == best


@pytest.mark.parametrize("n_rows", [20, 20_000])
def test_each_is_possible_and_the_better_ones_come_first(n_rows):
    """The others are taken where memory is too small for these."""
    layer_units = (64, 512, 512, 10)
    found = preferred(layer_units, 12, n_rows)
    assert sorted(found) == [1, 2, 3, 4, 6, 12]
    cost = StepCost.of_step(n_rows, itemsize=4)
    sent = [
        bytes_exchanged(NetworkSplit.even(layer_units, 12 // n), cost, n) for n in found
    ]
    one = found.index(1)
    assert (one > 2) == (n_rows > 20)
    for part in (sent[: one + 1], sent[one + 1 :]):
        assert all(a <= b for a, b in pairwise(part))


def test_every_replica_has_rows():
    assert max(preferred((64, 10**6, 10**6, 10), 8, 4)) <= 4


@pytest.mark.parametrize("n_replicas", [1, 2, 4])
def test_bytes_are_those_of_every_process_together(n_replicas):
    """Counted by hand, for a grid of two shards in each replica."""
    split = NetworkSplit.even((5, 8, 6, 3), 2)
    cost = StepCost.of_step(10, itemsize=8)
    rows_of_all_replicas = 10
    hidden = 2 * 8 * rows_of_all_replicas  # gathered, and scattered
    logits = 2 * 3 * rows_of_all_replicas  # each to the other
    parameters = 2 * split.n_parameters * (n_replicas - 1)
    expected = 8 * (hidden + logits + parameters)
    assert bytes_exchanged(split, cost, n_replicas) == expected
