"""Blocks of rows, described one by one and concatenated a few at a time."""

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal
from scipy import sparse

from skdistmlp.cluster.data import blocks
from skdistmlp.cluster.data.blocks import (
    Block,
    Extent,
    Piece,
    array_sink,
    copy_pieces,
    describe_block,
    digest_of,
    index_dtype,
    part_of,
    pieces_in,
    whole_blocks,
)
from skdistmlp.parallel.rows import RowRange

ROWS = np.arange(12.0).reshape(4, 3)


@pytest.mark.parametrize(
    ("block", "dtype", "nnz"),
    [
        (ROWS, np.float64, None),
        (ROWS.astype("f4"), np.float32, None),
        (ROWS.astype(int), np.float64, None),
        (ROWS[:0], np.float64, None),
        (pd.DataFrame(ROWS), np.float64, None),
        (sparse.csr_array(ROWS), np.float64, 11),
        (sparse.csc_array(ROWS.astype("f4")), np.float32, 11),
    ],
    ids=["float64", "float32", "int", "empty", "frame", "sparse", "columns"],
)
def test_a_block_is_described(block, dtype, nnz):
    found = describe_block(block, "Estimator")
    assert found.shape == block.shape
    assert found.dtype == dtype
    assert found.nnz == nnz
    assert found.nbytes >= block.shape[0] * 4


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_digest_tells_other_rows(convert, dtype):
    rows = ROWS.astype(dtype)
    changed = rows.copy()
    changed[2, 1] = np.nextafter(changed[2, 1], dtype(100))
    each = [rows, changed, rows[[1, 0, 2, 3]], rows[:, ::-1], rows[:3], rows[:0]]
    assert len({digest_of(convert(one)) for one in each}) == 6
    assert digest_of(convert(rows.copy())) == digest_of(convert(rows))
    assert digest_of(np.asfortranarray(rows)) == digest_of(rows)


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_array])
def test_a_digest_tells_rows_that_are_alike(convert):
    rng = np.random.default_rng(0)
    square = rng.random((50, 50))
    assert digest_of(convert(square)) != digest_of(convert(square.T))
    bits = (rng.random((2050, 20)) < 0.3).astype(float)
    swapped = bits.copy()
    swapped[[0, 2048]] = bits[[2048, 0]]
    assert digest_of(convert(bits)) != digest_of(convert(swapped))
    zeros = [np.zeros(shape) for shape in [(4, 3), (3, 4), (4, 4), (0, 4), (0, 3)]]
    assert len({digest_of(convert(one)) for one in zeros}) == len(zeros)


def test_a_digest_has_room_for_all_blocks_of_zeros_and_ones():
    blocks_of_bits = [
        (np.random.default_rng(seed).random((30, 20)) < 0.5).astype(float)
        for seed in range(500)
    ]
    assert len(set(map(digest_of, blocks_of_bits))) == 500


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_block_with_values_that_are_not_finite_is_refused(value):
    spoilt = ROWS.copy()
    spoilt[1, 1] = value
    with pytest.raises(ValueError, match=r"Input X contains (NaN|infinity)") as caught:
        describe_block(spoilt, "MyEstimator")
    assert np.isinf(value) or "MyEstimator" in str(caught.value)


def concatenate(names, described, dtype, gather):
    pieces = whole_blocks(names, described)
    sink = array_sink(Extent.of(pieces, described, np.dtype(dtype)))
    return copy_pieces(pieces, gather, sink)


def gather_from(given, requests):
    """Return a `gather` that records what it was asked for."""

    def gather(names):
        requests.append(names)
        return [given[name] for name in names]

    return gather


def test_blocks_are_concatenated_a_few_at_a_time(monkeypatch):
    """The bytes under way are bounded; a block beyond the bound comes alone."""
    given = [Block((n, 4), np.dtype(float), None, 32 * n) for n in (5, 6, 30, 1)]
    monkeypatch.setattr(blocks, "BATCH_BYTES", 32 * 12)
    values, requests = [np.full(block.shape, n) for n, block in enumerate(given)], []
    rows = concatenate(range(4), given, np.float32, gather_from(values, requests))
    assert requests == [[0, 1], [2], [3]]
    assert rows.dtype == np.float32
    assert_array_equal(rows[:, 0], np.repeat(range(4), [5, 6, 30, 1]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_array, sparse.csc_array])
def test_blocks_of_every_kind_are_concatenated(convert, dtype):
    parts = [convert(part) for part in (ROWS[:1], ROWS[1:1], ROWS[1:])]
    described = [describe_block(part, "Estimator") for part in parts]
    rows = concatenate(range(3), described, dtype, gather_from(parts, []))
    assert sparse.issparse(rows) == (convert is not np.asarray)
    assert rows.dtype == dtype
    assert_array_equal(rows.toarray() if sparse.issparse(rows) else rows, ROWS)


def test_fetched_blocks_are_released_as_they_are_copied():
    given = [ROWS[:2], ROWS[2:]]
    lists = []

    def gather(names):
        lists.append([given[name] for name in names])
        return lists[-1]

    described = [describe_block(block, "Estimator") for block in given]
    concatenate(range(2), described, float, gather)
    assert lists == [[]]


@pytest.mark.parametrize(
    ("shape", "nnz", "dtype"),
    [
        ((10, 10), 100, np.int32),
        ((2**31 - 1, 3), 5, np.int32),
        ((2**31, 3), 5, np.int64),
        ((10, 2**31), 5, np.int64),
        ((10, 10), 2**31, np.int64),
    ],
)
def test_index_dtype_is_the_smallest_that_is_sufficient(shape, nnz, dtype):
    assert index_dtype(shape, nnz) == dtype


def test_index_dtype_is_the_one_that_scipy_chooses():
    rows = sparse.csr_array(ROWS)
    assert index_dtype(rows.shape, rows.nnz) == rows.indices.dtype


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_array])
def test_ranges_of_rows_are_copied_from_the_blocks_that_have_them(convert):
    parts = [convert(part) for part in (ROWS[:1], ROWS[1:1], ROWS[1:])]
    described = [describe_block(part, "Estimator") for part in parts]
    ranges = [RowRange(0, 1), RowRange(2, 4)]
    pieces = pieces_in(ranges, "abc", described)
    assert [(p.name, p.start, p.stop) for p in pieces] == [("a", 0, 1), ("c", 1, 3)]
    extent = Extent.of(pieces, described, np.dtype(float))
    gather = gather_from(dict(zip("abc", parts, strict=True)), [])
    rows = copy_pieces(pieces, gather, array_sink(extent))
    rows = rows.toarray() if sparse.issparse(rows) else rows
    assert_array_equal(rows, ROWS[[0, 2, 3]])


def test_a_part_of_a_block_does_not_keep_the_block():
    described = describe_block(ROWS, "Estimator")
    whole, part = (Piece("a", described, 0, stop) for stop in (4, 2))
    assert part_of(ROWS, whole) is ROWS
    found = part_of(ROWS, part)
    assert_array_equal(found, ROWS[:2])
    assert not np.shares_memory(found, ROWS)


def test_room_for_a_part_of_a_sparse_block_is_reserved_in_proportion():
    described = describe_block(sparse.csr_array(ROWS), "Estimator")
    extent = Extent.of([Piece("a", described, 0, 1)], [described], np.dtype(float))
    assert (extent.shape, extent.nnz, extent.likely_nnz) == ((1, 3), 11, 3)
