"""What is computed in pieces while exchanges travel, and that nothing else changes."""

from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array

from skdistmlp.parallel import overlap
from skdistmlp.parallel.communicators import Finished
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.local_network import open_local_network
from skdistmlp.parallel.overlap import GatherInHalves, gradient_meanwhile
from skdistmlp.parallel.rows import RowHolding
from skdistmlp.parallel.shard import gradient, take_state
from skdistmlp.parallel.split import NetworkSplit, join_shards, split_neurons
from skdistmlp.training.step import announce, predict_blocks, training_step
from tests.marks import only_quick
from tests.parallel.ops_contract import make_problem
from tests.thread_communicator import run_in_threads
from tests.wire.test_communicator import connected, run


def gather_of(n_shards, n_rows, n_neurons, dtype=np.float32):
    def columns(communicator):
        ranges = split_neurons(n_neurons, range(1, n_shards + 1))
        out = np.empty((n_rows, n_neurons), dtype)
        gather = GatherInHalves(communicator, ranges, 1, out)
        return [part and (part.start, part.stop) for part in gather.columns]

    return run_in_threads(n_shards, columns)


def test_large_layers_are_gathered_in_halves():
    n_neurons = overlap.HALVED_BYTES // (100 * 4)
    assert gather_of(2, 100, n_neurons - 1)[0] == [None]
    first, second = gather_of(2, 100, n_neurons + 2)
    half = (n_neurons + 2) // 6
    assert first == [(0, half), (half, (n_neurons + 2) // 3)]
    assert [len(first), len(second)] == [2, 2]
    assert len(gather_of(2, 50, n_neurons + 2, np.float64)[0]) == 2
    # One shard gathers nothing.
    assert gather_of(1, 100, 10 * n_neurons)[0] == [None]


class Counted:
    """An exchange that counts how often it was advanced."""

    def __init__(self):
        self.n_advanced = 0

    def advance(self):
        self.n_advanced += 1


@pytest.mark.parametrize("n_blocks", [1, 2, 3, 7])
@pytest.mark.parametrize("n_intercepts", [0, 4])
def test_an_exchange_advances_between_blocks_of_the_gradient(n_blocks, n_intercepts):
    rng = np.random.default_rng(0)
    inputs, delta = rng.normal(size=(9, 7)), rng.normal(size=(9, 4))
    found = np.full((7, 4), np.nan), np.full(n_intercepts, np.nan)
    expected = np.empty((7, 4)), np.empty(n_intercepts)
    gradient(inputs, delta, *expected)
    exchange = Counted()
    with (
        patch.object(overlap, "BLOCK_FLOP", 2 * 9 * 7 * 4 / n_blocks),
        patch.object(overlap, "BLOCK_BYTES", 8),
    ):
        gradient_meanwhile(exchange, 8 * n_blocks, inputs, delta, *found)
        gradient_meanwhile(Finished(delta), 80, inputs, delta, *found)
    for mine, theirs in zip(found, expected, strict=True):
        assert_allclose(mine, theirs, rtol=1e-13)
    assert exchange.n_advanced == (n_blocks if n_blocks > 1 else 0)


def trained(grid, problem, run_all, form="copies"):
    """Return losses, outputs and parameters of each replica of a grid."""
    split = NetworkSplit.even(problem.split.layer_units, grid.n_shards)
    parts, whole = problem.dataset.parts(grid, RowHolding(form)), problem.start()

    def process(communicator):
        rank = communicator.rank
        state = take_state(split, whole, rank, grid.n_replicas)
        opened = open_local_network(
            problem.network, split, state, parts[rank], communicator, 12
        )
        order = np.random.default_rng(0)
        batches = [order.permutation(20)[:12] for _ in range(6)]
        for rows in announce(opened.ops, [*batches, np.arange(5)]):
            training_step(opened.ops, rows, 0.05)
        outputs = predict_blocks(opened, [np.arange(12), slice(12, 20)])
        return opened.loss.pop(), outputs, opened.state.fetch().parameters

    results = run_all(process)
    shards = [parameters for _, _, parameters in results]
    return [
        (
            *results[first][:2],
            join_shards(split, shards[first : first + grid.n_shards]),
        )
        for first in range(0, grid.n_ranks, grid.n_shards)
    ]


GRIDS = [Grid(2), Grid(3), Grid(2, 2)]

HIDDEN = [(6, 4), (5, 7, 4), (3, 5, 4, 6)]


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("hidden", HIDDEN, ids=str)
@pytest.mark.parametrize(
    ("dropout", "activation"),
    only_quick(1, cases=[(0.0, "tanh"), (0.3, "tanh"), (0.0, "gelu"), (0.3, "gelu")]),
)
def test_pieces_change_nothing_but_rounding(grid, hidden, dropout, activation):
    """All in one, and all in pieces, which each repeat bit for bit."""
    split = NetworkSplit.even((4, *hidden, 3), 1)
    dropped = [dropout * (layer > 0) for layer in range(len(hidden) + 1)]
    problem = make_problem(split, activation, n_rows=20, dropout=dropped)
    ((*expected,),) = trained(Grid(1), problem, lambda work: run_in_threads(1, work))

    for n_bytes, n_flop in [(np.inf, np.inf), (0, 50)]:
        with (
            patch.object(overlap, "HALVED_BYTES", n_bytes),
            patch.object(overlap, "BLOCK_FLOP", n_flop),
            patch.object(overlap, "BLOCK_BYTES", 1),
        ):
            in_threads = trained(grid, problem, lambda work: run_in_threads(grid, work))
            over_sockets = trained(
                grid, problem, lambda work: run(connected(grid), work)
            )
        for replica in in_threads + over_sockets:
            for mine, first, alone in zip(
                replica, in_threads[0], expected, strict=True
            ):
                assert_array_equal(mine, first)
                assert_allclose(mine, alone, rtol=1e-9, atol=1e-11)


def test_halves_of_sparse_features_are_computed_too():
    split = NetworkSplit.even((4, 6, 4, 3), 1)
    dense = make_problem(split, "relu", n_rows=20)
    sparse = replace(
        dense, dataset=replace(dense.dataset, X=csr_array(dense.dataset.X))
    )
    ((*expected,),) = trained(Grid(1), dense, lambda work: run_in_threads(1, work))
    with patch.object(overlap, "HALVED_BYTES", 0):
        for replica in trained(Grid(2), sparse, lambda w: run_in_threads(2, w)):
            for mine, alone in zip(replica, expected, strict=True):
                assert_allclose(mine, alone, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("sparse", [None, csr_array])
@pytest.mark.parametrize("n_bytes", [0, np.inf])
def test_features_that_travel_a_step_ahead_change_no_bit(grid, sparse, n_bytes):
    split = NetworkSplit.even((4, 6, 4, 3), 1)
    problem = make_problem(split, "relu", n_rows=20, sparse=sparse)
    with patch.object(overlap, "HALVED_BYTES", n_bytes):
        expected = trained(grid, problem, lambda work: run_in_threads(grid, work))
        for replica, alone in zip(
            trained(grid, problem, lambda w: run(connected(grid), w), form="once"),
            expected,
            strict=True,
        ):
            for mine, theirs in zip(replica, alone, strict=True):
                assert_array_equal(mine, theirs)
