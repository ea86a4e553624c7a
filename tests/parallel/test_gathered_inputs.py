"""Rows that are held once, and gathered along the neurons."""

from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array, csr_matrix, issparse

from skdistmlp.parallel.communicators import StopRequested
from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.gathered_inputs import GatheredInputs
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.local_network import open_local_network
from skdistmlp.parallel.rows import DealtRows, RowHolding, RowRange, RowsInRanges
from skdistmlp.parallel.shard import take_state
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.training.step import announce, training_step
from tests.parallel.ops_contract import make_problem
from tests.thread_communicator import run_in_threads
from tests.wire.test_communicator import connected, run

N_ROWS = 40
X = np.random.default_rng(0).normal(size=(N_ROWS, 5)) * (np.arange(5) % 2)
X[7] = 0
Y = np.zeros((N_ROWS, 1))
BATCHES = [
    np.array([3, 39, 7, 0, 12, 8]),
    np.arange(N_ROWS)[::-1],
    np.array([5]),
    np.array([], int),
    slice(0, N_ROWS),
    slice(3, 9),
]
DISTRIBUTIONS = [
    DealtRows(1, 2),
    DealtRows(1, 3),
    DealtRows(2, 2),
    # The second shard has nothing.
    RowsInRanges((RowRange(0, N_ROWS),), 1, 2),
    RowsInRanges(
        (RowRange(0, 9, 1, 1), RowRange(9, 10, 0, 1), RowRange(10, 40, 1, 0)), 2, 2
    ),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("convert", [np.asarray, csr_array, csr_matrix])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=str)
def test_every_shard_gets_the_rows_of_its_replica(distribution, convert, dtype):
    """In the order of the mini-batch, bit for bit."""
    whole = Dataset(convert(X.astype(dtype)), Y)
    grid = Grid(distribution.n_shards, distribution.n_replicas)

    def gather(communicator, announced):
        replica = grid.replica(communicator.rank)
        shard = grid.shard(communicator.rank)
        part = whole.part(distribution, replica, shard)
        inputs = GatheredInputs(part, communicator.along("neurons"), N_ROWS)
        gathered = []
        out = None if issparse(part.X) else np.empty((N_ROWS, 5), dtype)
        for rows, following in pairwise([*BATCHES, None]):
            own = distribution.own(replica, rows)
            if announced and following is not None:
                inputs.expect(distribution.own(replica, following), out)
            inputs.finish()
            found = inputs.inputs(own, out)
            gathered.append(found.toarray() if issparse(found) else found.copy())
            expected = whole.inputs(own)
            if issparse(found):
                assert_array_equal(found.indices, expected.indices)
                assert_array_equal(found.indptr, expected.indptr)
            inputs.proceed()
        return replica, gathered

    for replica, gathered in [
        *run_in_threads(grid, lambda communicator: gather(communicator, False)),
        *run_in_threads(grid, lambda communicator: gather(communicator, True)),
    ]:
        for rows, found in zip(BATCHES, gathered, strict=True):
            assert found.dtype == dtype
            assert_array_equal(found, X.astype(dtype)[distribution.own(replica, rows)])


class Counting:
    """Collectives that count the exchanges that were begun."""

    def __init__(self, collectives):
        self._collectives = collectives
        self.n_ranks, self.rank = collectives.n_ranks, collectives.rank
        self.n_begun = 0

    def begin_all_gather(self, *arguments):
        self.n_begun += 1
        return self._collectives.begin_all_gather(*arguments)


@pytest.mark.parametrize(
    ("convert", "counts"),
    [(np.asarray, (2, 2, 3, 3, 3)), (csr_array, (4, 6, 7, 9, 9))],
    ids=["dense", "sparse"],
)
def test_expected_rows_travel_while_a_step_computes(convert, counts):
    """Of sparse rows, what is stored follows once it is known how much that is."""
    whole, distribution = Dataset(convert(X), Y), DealtRows(1, 2)

    def gather(communicator):
        collectives = Counting(communicator)
        part = whole.part(distribution, 0, communicator.rank)
        inputs = GatheredInputs(part, collectives, N_ROWS)
        out = None if convert is csr_array else np.empty((N_ROWS, 5))
        begun = []
        inputs.expect(BATCHES[1], out)
        inputs.finish()
        inputs.inputs(BATCHES[0], out)
        begun.append(collectives.n_begun)
        inputs.proceed()
        begun.append(collectives.n_begun)
        inputs.expect(BATCHES[2], out)
        inputs.finish()
        found = inputs.inputs(BATCHES[1], out)
        begun.append(collectives.n_begun)
        found = found.toarray() if issparse(found) else found
        assert_array_equal(found, X[BATCHES[1]])
        inputs.finish()
        begun.append(collectives.n_begun)
        inputs.inputs(BATCHES[2], out)
        begun.append(collectives.n_begun)
        return tuple(begun)

    assert run_in_threads(2, gather) == [counts, counts]


def test_rows_that_were_not_expected_are_gathered_all_the_same():
    whole, distribution = Dataset(X, Y), DealtRows(1, 2)

    def gather(communicator):
        part = whole.part(distribution, 0, communicator.rank)
        inputs, out = GatheredInputs(part, communicator, N_ROWS), np.empty((N_ROWS, 5))
        for expected, rows in [(BATCHES[0], BATCHES[1]), (BATCHES[4], BATCHES[3])]:
            inputs.expect(expected, out)
            inputs.finish()
            inputs.inputs(slice(0, 1), out)
            inputs.finish()
            assert_array_equal(inputs.inputs(rows, out), X[rows])
        # A step that was announced and did not begin: nothing travels after it.
        inputs.expect(BATCHES[1], out)
        inputs.finish()
        inputs.finish()
        assert_array_equal(inputs.inputs(BATCHES[0], out), X[BATCHES[0]])
        return inputs._pending

    assert run_in_threads(2, gather) == [None, None]


def test_nothing_is_under_way_after_a_stop():
    """Whoever closed a connection with unread packets would break it for the others."""
    split = NetworkSplit.even((4, 5, 3), 2)
    problem = make_problem(split)
    parts = problem.dataset.parts(Grid(2), RowHolding("once"))

    def shard(communicator):
        rank = communicator.rank
        state = take_state(split, problem.initial, rank)
        ops = open_local_network(
            problem.network, split, state, parts[rank], communicator, 5
        ).ops
        batches = [np.arange(5) + 5 * (n % 4) for n in range(100)]
        done = []

        def train():
            for rows in announce(ops, batches):
                if len(done) == 3 and rank == 1:
                    communicator.request_stop()
                training_step(ops, rows, 0.1)
                done.append(rows)

        with pytest.raises(StopRequested):
            train()
        assert ops._features._pending is None
        links = communicator._connections.links.values()
        return len(done), [len(link.sending) + len(link.receiving) for link in links]

    assert run(connected(2), shard) == [(4, [0])] * 2
