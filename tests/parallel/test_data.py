import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array, csr_matrix, issparse

from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.rows import (
    DealtRows,
    RowHolding,
    RowRange,
    RowsInRanges,
    numbers_of,
)

X = np.arange(12.0).reshape(6, 2)
Y = np.arange(6)[:, np.newaxis] % 2 == [0, 1]
WEIGHT = np.array([1, 0.5, 0, 2, 4, 8])

formats = pytest.mark.parametrize("sparse", [csr_matrix, csr_array])
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
    n_rows, total = dataset.batch_totals(rows)
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
def test_prepared_features_are_contiguous_and_aligned(spoil, dtype):
    spoilt = spoil(X.astype(dtype))
    dataset = Dataset(spoilt, Y, WEIGHT).prepared(np.dtype(dtype))
    assert dataset.X.flags.aligned
    assert dataset.X.flags.c_contiguous
    assert dataset.X.dtype == dtype
    assert_array_equal(dataset.X, spoilt)
    assert dataset.y is Y
    assert dataset.sample_weight is WEIGHT


def test_suitable_features_are_not_copied():
    assert Dataset(X).prepared(X.dtype).X is X


@formats
@every_kind_of_rows
@pytest.mark.parametrize("with_out", [False, True])
def test_rows_of_sparse_features_are_sparse(rows, sparse, with_out):
    dataset = Dataset(sparse(X), Y, WEIGHT)
    taken = dataset.inputs(rows, np.empty((6, 2)) if with_out else None)
    assert isinstance(taken, sparse)
    assert_array_equal(taken.toarray(), X[rows])
    assert dataset.n_rows == 6


@formats
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("given", ["f4", "f8", "i4"])
def test_prepared_sparse_features_have_the_dtype_asked_for(sparse, given, dtype):
    given_X = sparse(X.astype(given))
    dataset = Dataset(given_X, Y, WEIGHT).prepared(np.dtype(dtype))
    assert isinstance(dataset.X, sparse)
    assert dataset.X.dtype == dtype
    assert_array_equal(dataset.X.toarray(), X)
    assert np.shares_memory(dataset.X.data, given_X.data) == (given_X.dtype == dtype)


@formats
def test_unaligned_sparse_features_give_the_same_results(sparse):
    """As arrays that came through Dask are."""
    spoilt = sparse(X)
    for part in ("data", "indices", "indptr"):
        setattr(spoilt, part, unaligned(getattr(spoilt, part)))
    dataset = Dataset(spoilt, Y).prepared(X.dtype)
    for rows in (slice(1, 4), np.array([5, 0, 0, 3])):
        taken = dataset.inputs(rows)
        assert_array_equal(taken.toarray(), X[rows])
        assert_array_equal(taken @ np.eye(2), X[rows])
        assert_array_equal(taken.T @ np.eye(len(X[rows])), X[rows].T)


@pytest.mark.parametrize(
    ("features", "values"),
    [
        (X, None),
        (csr_matrix(X), 11 / 6),
        (csr_array((3, 2)), 0),
        (csr_array((0, 2)), 0),
    ],
    ids=["dense", "sparse", "zeros", "no rows"],
)
def test_nnz_per_row_is_the_mean_of_stored_values(features, values):
    assert Dataset(features).nnz_per_row == values


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_targets_keep_their_own_dtype(dtype):
    """In float32 their squares may overflow; the loss is taken in float64."""
    y = 1e25 * np.arange(6.0)[:, np.newaxis]
    assert Dataset(X, y).prepared(np.dtype(dtype)).y is y


DISTRIBUTIONS = [
    DealtRows(1),
    DealtRows(2),
    DealtRows(9),
    DealtRows(1, 3),
    DealtRows(2, 2),
    RowsInRanges((RowRange(0, 7),)),
    RowsInRanges((RowRange(0, 4, 1), RowRange(4, 4), RowRange(4, 7)), 2),
    RowsInRanges(
        (RowRange(0, 1, 0, 1), RowRange(1, 3, 1, 0), RowRange(3, 7, 0, 1)), 2, 2
    ),
]


@pytest.mark.parametrize("make", [np.asarray, csr_matrix, csr_array])
@pytest.mark.parametrize("distribution", DISTRIBUTIONS, ids=str)
def test_a_part_has_the_features_of_its_rows(make, distribution):
    X = np.arange(14.0).reshape(7, 2)
    y = np.arange(7.0)[:, np.newaxis]
    whole = Dataset(make(X), y, np.ones(7))
    n_held = 0
    for replica in range(distribution.n_replicas):
        for shard in range(distribution.n_shards):
            part = whole.part(distribution, replica, shard)
            assert part.n_rows == 7
            assert part.nbytes <= whole.nbytes
            n_held += part.X.shape[0]
            for rows in (np.array([5, 0, 3, 6]), slice(2, 6), slice(0, 7), slice(3, 3)):
                own = distribution.own(replica, rows)
                if distribution.n_shards > 1:
                    own = numbers_of(own)[distribution.shards(own) == shard]
                found = part.inputs(own)
                found = found.toarray() if issparse(found) else found
                assert_array_equal(found, X[own])
                assert_array_equal(part.targets(rows), y[rows])
    assert n_held == 7


def test_the_parts_of_a_grid_are_all_rows_a_copy_per_shard_or_each_row_once():
    X = np.arange(24.0).reshape(12, 2)
    dataset, grid = Dataset(X, X[:, :1]), Grid(n_shards=3, n_replicas=2)
    sizes = {
        form: [part.X.shape[0] for part in dataset.parts(grid, RowHolding(form))]
        for form in ("all", "copies", "once")
    }
    assert sizes == {"all": 6 * [12], "copies": 6 * [6], "once": 6 * [2]}
    # Who computes a row is the same in all forms.
    rows = np.array([3, 0, 11, 4])
    for form in sizes:
        for rank, part in enumerate(dataset.parts(grid, RowHolding(form))):
            replica = grid.replica(rank)
            own = part.distribution.own(replica, rows)
            assert_array_equal(own, rows[rows % 2 == replica])
