"""The operations of the futures engine: which tasks a step submits, and from what."""

from collections import defaultdict
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from skdistmlp.cluster.futures.ops import (
    STEPS_AHEAD,
    FuturesOps,
    TaskInputs,
    add_in_order,
)
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.rows import COPIES
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.training.step import forward_pass, training_step
from tests.parallel.ops_contract import make_problem


class NotedPlacement:
    """A placement that notes tasks and runs none: the result of a future is its key."""

    def __init__(self):
        self.phase = ""
        self.step = 0
        self.added = {}
        self.submitted = []
        self.popped = []
        self.scattered = defaultdict(list)

    def begin(self):
        self.step += 1

    def key(self, rank, operation):
        return f"{operation}-shard{rank}", "run", self.step

    def add(self, rank, operation, function, *args):
        key = self.key(rank, operation)
        self.added[key] = (function.__name__, args)
        return key

    def submit(self, keys):
        self.submitted.append(keys)
        return [SimpleNamespace(key=key) for key in keys]

    def scatter(self, name, values, ranks=None):
        self.scattered[name].append(values)
        return [f"{name}{rank}" for rank in range(len(values))]

    def scatter_cached(self, name, values, sizes, owner=None):
        return self.scatter(name, values)

    def pop_results(self, *futures):
        self.popped += futures
        return [1.0 for _ in futures]


@pytest.fixture
def problem():
    return make_problem(NetworkSplit.even((4, 6, 4, 3), 2))


def ops_of(problem, **options):
    placement = NotedPlacement()
    ops = FuturesOps(
        placement, problem.network, problem.split, problem.dataset, **options
    )
    ops.place_shards(problem.initial)
    if not options:
        ops.rows = problem.dataset.place_on(placement, Grid(2), COPIES).futures
    return ops, placement


def test_a_step_has_one_task_per_layer_and_shard_each_way(problem):
    ops, placement = ops_of(problem)
    training_step(ops, slice(0, 20), 0.1)
    names = {name.rpartition("-shard")[0] for name, *_ in placement.added}
    assert names == {
        *(f"forward-layer{layer}" for layer in range(3)),
        *(f"backward-layer{layer}" for layer in (1, 2)),
        "loss",
        "update",
    }
    # The loss is computed once, everything else by both shards.
    assert len(placement.added) == 2 * (3 + 2 + 1) + 1


def test_a_hidden_layer_reads_the_activations_of_all_shards(problem):
    ops, placement = ops_of(problem)
    forward_pass(ops, slice(0, 20))

    def given(layer, rank):
        _, args = placement.added[placement.key(rank, f"forward-layer{layer}")]
        return args[2]

    keys = [placement.key(rank, "forward-layer0") for rank in range(2)]
    assert given(0, 0) == ["rows0"]
    assert given(1, 0) == given(1, 1) == keys
    # The output layer is row-parallel: each shard reads its own neurons only.
    assert [given(2, rank) for rank in range(2)] == [
        [placement.key(rank, "forward-layer1")] for rank in range(2)
    ]


def test_shards_are_replaced_together_by_the_results_of_a_step(problem):
    ops, placement = ops_of(problem)
    assert ops.shards == ["shard0", "shard1"]
    training_step(ops, slice(0, 20), 0.1)
    assert [future.key for future in ops.shards] == [
        placement.key(rank, "update") for rank in range(2)
    ]
    assert not ops.is_epoch_start


def test_a_bounded_number_of_losses_is_in_flight(problem):
    ops, placement = ops_of(problem)
    for number in range(1, 6):
        training_step(ops, slice(0, 20), 0.1)
        assert len(ops.losses) == min(number, STEPS_AHEAD)
    assert ops.loss_sum == len(placement.popped) == 5 - STEPS_AHEAD


def test_streamed_rows_are_sent_when_their_turn_comes(problem):
    ops, placement = ops_of(problem, stream_rows=True)
    value = ops.inputs(slice(3, 7))
    assert value == TaskInputs([["rows0"], ["rows1"]])
    (blocks,) = placement.scattered["rows"]
    assert len(blocks) == 2
    for block in blocks:
        np.testing.assert_array_equal(block.X, problem.dataset.X[3:7])


def test_the_best_parameters_are_not_part_of_a_placed_shard(problem):
    ops, placement = ops_of(problem)
    best = problem.initial.parameters.copy()
    ops.place_shards(replace(problem.initial, best=best))
    assert all(
        shard.state.best is None
        for shards in placement.scattered["shard"]
        for shard in shards
    )


def test_numbers_are_added_one_by_one_with_every_python():
    """`sum` gives 1 from Python 3.12 on."""
    assert add_in_order([1.0, 1e100, -1e100]) == 0.0
    assert add_in_order([1e100, -1e100], start=1.0) == 0.0
    assert add_in_order([]) == 0.0
