"""Rows that stay in their blocks."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy import sparse

from skdistmlp.cluster.data.block_rows import BlockRows

X = np.arange(80.0).reshape(20, 4) % 7
PARTS = [slice(0, 3), slice(3, 3), slice(3, 4), slice(4, 20)]
PLACES = [
    np.array([3, 19, 3, 0, 11]),
    np.array([], int),
    np.arange(20)[::-1],
    slice(0, 20),
    slice(2, 6),
]
KINDS = {"dense": np.asarray, "sparse": sparse.csr_array, "matrix": sparse.csr_matrix}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_taken_from_their_blocks(kind, dtype):
    is_sparse = kind != "dense"
    store = BlockRows(4, dtype, is_sparse)
    for part in PARTS:
        store.append(KINDS[kind](X[part]))
    assert store.rows is store
    assert (store.shape, store.dtype) == ((20, 4), dtype)
    assert store.nnz == (np.count_nonzero(X) if is_sparse else None)
    for places in PLACES:
        out = None if is_sparse else np.full((25, 4), np.nan, dtype)
        taken = store.take(places, out)
        if is_sparse:
            taken = taken.toarray()
        else:
            assert np.shares_memory(taken, out) or not len(taken)
        assert taken.dtype == dtype
        assert_array_equal(taken, X[places])


@pytest.mark.parametrize("offset", [0, 1])
def test_blocks_of_the_right_dtype_are_not_copied(offset):
    """Nor if they are not aligned, as most that came through Dask."""
    block = np.ndarray((5, 4), float, bytearray(5 * 4 * 8 + 1), offset)
    block[...] = X[:5]
    block.flags.writeable = False
    store = BlockRows(4, np.float64, False)
    store.append(block)
    assert np.shares_memory(store._blocks[0], block)
    assert store.nbytes == 5 * 4 * 8
    assert_array_equal(store.take(np.array([3, 1])), X[[3, 1]])


@pytest.mark.parametrize("is_sparse", [False, True])
def test_there_may_be_no_blocks(is_sparse):
    store = BlockRows(4, np.float32, is_sparse)
    assert (store.shape, store.nbytes) == ((0, 4), 0)
    assert store.nnz == (0 if is_sparse else None)
    assert store.take(np.array([], int)).shape == (0, 4)
