"""Rows that are held once, and gathered along the neurons."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array, csr_matrix, issparse

from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.gathered_inputs import GatheredInputs
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.rows import DealtRows, RowRange, RowsInRanges
from tests.thread_communicator import run_in_threads

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

    def gather(communicator):
        replica = grid.replica(communicator.rank)
        shard = grid.shard(communicator.rank)
        part = whole.part(distribution, replica, shard)
        inputs = GatheredInputs(part, communicator.along("neurons"), N_ROWS)
        gathered = []
        for rows in BATCHES:
            own = distribution.own(replica, rows)
            out = None if issparse(part.X) else np.empty((N_ROWS, 5), dtype)
            found = inputs.inputs(own, out)
            gathered.append(found.toarray() if issparse(found) else found.copy())
            expected = whole.inputs(own)
            if issparse(found):
                assert_array_equal(found.indices, expected.indices)
                assert_array_equal(found.indptr, expected.indptr)
        return replica, gathered

    for replica, gathered in run_in_threads(grid, gather):
        for rows, found in zip(BATCHES, gathered, strict=True):
            assert found.dtype == dtype
            assert_array_equal(found, X.astype(dtype)[distribution.own(replica, rows)])
