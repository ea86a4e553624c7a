import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skdistmlp.parallel.data import Dataset

X = np.arange(12.0).reshape(6, 2)
Y = np.arange(6)[:, np.newaxis] % 2 == [0, 1]
WEIGHT = np.array([1, 0.5, 0, 2, 4, 8])

every_kind_of_rows = pytest.mark.parametrize(
    "rows",
    [slice(1, 4), slice(2, 2), np.array([5, 0, 0, 3]), np.array([], dtype=int)],
    ids=["slice", "empty slice", "indices", "no indices"],
)


def unaligned(array):
    """Copy an array to an odd address, as arrays come through Dask."""
    buffer = np.empty(array.nbytes + 1, np.uint8)
    copy = buffer[1:].view(array.dtype).reshape(array.shape)
    copy[...] = array
    assert not copy.flags.aligned
    return copy


@every_kind_of_rows
@pytest.mark.parametrize("weighted", [False, True])
def test_rows_of_features_targets_and_weights(rows, weighted):
    dataset = Dataset(X, Y, WEIGHT if weighted else None)
    assert_array_equal(dataset.inputs(rows), X[rows])
    assert_array_equal(dataset.targets(rows), Y[rows])
    n_rows, total = dataset.counts(rows)
    assert (n_rows, type(total)) == (len(X[rows]), float)
    if weighted:
        assert_array_equal(dataset.weights(rows), WEIGHT[rows])
        assert total == WEIGHT[rows].sum()
    else:
        assert dataset.weights(rows) is None
        assert total == n_rows


def test_a_slice_of_features_is_not_copied():
    out = np.zeros((6, 2))
    assert np.shares_memory(Dataset(X).inputs(slice(1, 4), out), X)
    assert not out.any()


def test_indexed_features_are_copied_into_the_first_rows_of_a_buffer():
    out = np.zeros((5, 2))
    rows = np.array([4, 4, 1])
    taken = Dataset(X).inputs(rows, out)
    assert_array_equal(taken, X[rows])
    assert_array_equal(out, [*X[rows], [0, 0], [0, 0]])
    assert np.shares_memory(taken, out)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "spoil",
    [unaligned, np.asfortranarray, lambda X: X[:, ::-1], lambda X: X.astype("f2")],
    ids=["unaligned", "Fortran", "strided", "another dtype"],
)
def test_prepared_features_are_fit_for_being_taken(spoil, dtype):
    spoilt = spoil(X.astype(dtype))
    dataset = Dataset(spoilt, Y, WEIGHT).prepared(np.dtype(dtype))
    assert dataset.X.flags.aligned
    assert dataset.X.flags.c_contiguous
    assert dataset.X.dtype == dtype
    assert_array_equal(dataset.X, spoilt)
    assert dataset.y is Y
    assert dataset.sample_weight is WEIGHT


def test_features_that_are_fit_already_are_not_copied():
    assert Dataset(X).prepared(X.dtype).X is X
