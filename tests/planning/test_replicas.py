"""How many replicas are taken where the user leaves it open."""

from dataclasses import replace
from itertools import pairwise

import pytest

from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.cost import StepCost, bytes_held
from skdistmlp.planning.memory import WorkerMemory
from skdistmlp.planning.replicas import preferred_replicas, workers_to_choose_from
from skdistmlp.planning.traffic import bytes_exchanged
from tests.training.jobs import plan_of


def preferred(layer_units, n_workers, n_rows):
    cost = StepCost.of_step(n_rows, itemsize=4)
    return preferred_replicas(layer_units, n_workers, cost)


@pytest.mark.parametrize(
    ("layer_units", "n_workers", "n_rows", "best"),
    [
        # Replicas for mini-batches that are large for the network.
        ((64, 256, 256, 10), 2, 200, 1),
        ((64, 256, 256, 10), 2, 2000, 2),
        ((784, 1024, 1024, 10), 2, 200, 1),
        ((784, 1024, 1024, 10), 2, 1800, 1),
        ((784, 1024, 1024, 10), 2, 2000, 2),
        ((784, 1024, 1024, 10), 2, 8000, 2),
        ((784, 4096, 10), 2, 200, 1),
        # Little is exchanged, so the fewest exchanges are best.
        ((64, 9, 9, 10), 2, 200, 1),
        ((64, 256, 256, 10), 1, 20_000, 1),
    ],
)
def test_replicas_are_taken_where_they_exchange_less(
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


def test_blocks_in_order_are_for_shards_only():
    """A replica would compute whole mini-batches alone."""
    cost = StepCost.of_step(20_000, itemsize=4, in_ordered_blocks=True)
    assert preferred_replicas((64, 256, 256, 10), 4, cost) == [1]


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


@pytest.mark.parametrize("n_replicas", [1, 2, 3])
def test_an_evaluation_sends_parameters_to_all_and_gradients_along_both_axes(
    n_replicas,
):
    split = NetworkSplit.even((5, 8, 6, 3), 2)
    n_rows, n_ranks = 10, 2 * n_replicas
    step = bytes_exchanged(split, StepCost.of_step(n_rows, itemsize=4), n_replicas)
    evaluation = StepCost.of_evaluation(n_rows, itemsize=4)
    # Each shard of a replica sends its part of the gradient to the other.
    joined = split.n_parameters * n_replicas
    more = 4 * (split.n_parameters * (n_ranks - 1) + joined)
    # Losses, of the rows and of all, and two decisions of the first process.
    more += 8 * (n_ranks * (n_replicas - 1) + (n_ranks + 2) * (n_ranks - 1))
    assert bytes_exchanged(split, evaluation, n_replicas) == step + more


@pytest.mark.parametrize("average", [False, True])
def test_replicas_hold_parts_of_the_moments_and_all_of_an_average(average):
    layout = NetworkSplit.even((100, 400, 10), 1).layout(0)
    n, n_rows = layout.n_parameters, 8
    cost = StepCost.of_step(
        n_rows,
        itemsize=4,
        arrays_of_parameters=4 + average,
        arrays_divided=2 + average,
        keeps_average=average,
        data_bytes=1000,
        feature_bytes=800,
    )
    held = bytes_held(layout, cost, 2, 1)
    # Parameters and gradient; half of what the optimiser keeps, of the sum and of what
    # is received; the average to predict with.
    numbers = 2 * n + (2 + average + 2) * n / 2 + average * n
    assert 0 < held - 4 * numbers - 600 < 4 * n_rows * 4 * 510


WORKERS = ("a", "b", "c")


@pytest.mark.parametrize(
    ("free", "chosen"),
    [
        ((4, 9, 9), ("b", "c")),
        # The first plan is better, but only one worker has room for it.
        ((4, 5, 9), ("b", "c")),
        ((9, 9, 9), WORKERS),
        # Other fits hold the memory, and will free it.
        ((0, 4, 0), ("a", "c")),
        # Nowhere is enough.
        ((1, 1, 4), WORKERS),
    ],
)
def test_workers_are_chosen_from_those_with_room(free, chosen):
    """Two of them, for plans of which each would hold 8 bytes, or 5."""
    limits = (8, 4, 8) if free[0] == 0 else free
    memory = {
        worker: WorkerMemory(limit, taken=limit - room)
        for worker, limit, room in zip(WORKERS, limits, free, strict=True)
    }
    plan = plan_of("peers", WORKERS, 2)
    plans = [replace(plan, bytes_held=(each, 0)) for each in (8, 5)]
    assert workers_to_choose_from(plans, WORKERS, 2, memory, 1.0) == chosen


def test_workers_without_a_limit_have_room():
    plan = replace(plan_of("peers", WORKERS, 2), bytes_held=(10**15, 0))
    memory = {"b": WorkerMemory(10**9)}
    assert workers_to_choose_from([plan], WORKERS, 2, memory, 1.0) == ("a", "c")
