"""Rows in files that have no name."""

import os
import pickle
import stat
from contextlib import suppress

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy import sparse

from skdistmlp.cluster.data import row_files
from skdistmlp.cluster.data.blocks import Extent
from skdistmlp.cluster.data.row_files import file_sink
from skdistmlp.exceptions import ClusterError

X = np.random.default_rng(0).normal(size=(30, 4)) * (np.arange(4) % 3 > 0)
X[11] = 0
PLACES = [
    np.array([3, 29, 3, 0, 11, 12, 13]),
    np.array([], int),
    np.arange(30)[::-1],
    slice(0, 30),
    slice(7, 9),
]
KINDS = {"dense": np.asarray, "sparse": sparse.csr_array}


def filled(directory, convert, dtype=np.float64):
    """Return a sink of all rows, written in parts of which one is empty."""
    rows = convert(X)
    nnz = rows.nnz if sparse.issparse(rows) else None
    # Less room than they take, as where a block is denser than was thought.
    sink = file_sink(str(directory), Extent(X.shape, nnz, np.dtype(dtype), 5))
    for part in (slice(0, 1), slice(1, 1), slice(1, 20), slice(20, 30)):
        sink.append(rows[part])
    return sink.rows


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_read_as_they_were_written(tmp_path, kind, dtype):
    store = filled(tmp_path, KINDS[kind], dtype)
    assert (store.shape, store.dtype) == (X.shape, dtype)
    assert store.nnz == (None if kind == "dense" else np.count_nonzero(X))
    for places in PLACES:
        out = np.full((40, 4), np.nan, dtype) if kind == "dense" else None
        taken = store.take(places, out)
        if kind == "dense":
            assert np.shares_memory(taken, out) or not len(taken)
        else:
            taken = taken.toarray()
        assert taken.dtype == dtype
        assert_array_equal(taken, X.astype(dtype)[places])


@pytest.mark.parametrize("order", ["F", "strided"])
def test_rows_in_any_layout_are_written(tmp_path, order, monkeypatch):
    monkeypatch.setattr(row_files, "WRITTEN_AT_ONCE", 100)
    given = np.asfortranarray(X) if order == "F" else np.repeat(X, 2, 1)[:, ::2]
    sink = file_sink(str(tmp_path), Extent(X.shape, None, np.dtype(float)))
    sink.append(given)
    assert_array_equal(sink.rows.take(slice(0, 30)), X)


def open_in(directory):
    """Return what the system says of files that this process has open there."""
    found = []
    for fd in os.listdir("/proc/self/fd"):
        # The list itself was read through one that is closed by now.
        with suppress(FileNotFoundError):
            if os.readlink(f"/proc/self/fd/{fd}").startswith(str(directory)):
                found.append(os.fstat(int(fd)))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_has_no_name_and_only_its_owner_may_read_it(tmp_path, kind):
    store = filled(tmp_path, KINDS[kind])
    assert not list(tmp_path.iterdir())
    opened = open_in(tmp_path)
    assert len(opened) == (1 if kind == "dense" else 2)
    assert {stat.S_IMODE(one.st_mode) for one in opened} == {0o600}
    assert {one.st_nlink for one in opened} == {0}
    del store
    assert not open_in(tmp_path)


@pytest.mark.parametrize("nnz", [None, 2**57])
def test_a_disk_without_room_is_named_before_a_row_is_written(tmp_path, nnz):
    extent = Extent((2**50, 64), nnz, np.dtype(float), nnz or 0)
    message = (
        r"[\d,]{20,} bytes of rows are to be written to .*, which has room for [\d,]+ "
        r"bytes: .*Free some, choose another directory \(--local-directory of dask"
    )
    with pytest.raises(ClusterError, match=message):
        file_sink(str(tmp_path), extent)
    assert not list(tmp_path.iterdir())
    assert not open_in(tmp_path)


@pytest.mark.parametrize("kind", ["missing", "a file"])
def test_a_directory_that_cannot_be_written_to_is_named(tmp_path, kind):
    directory = tmp_path / "there"
    if kind == "a file":
        directory.touch()
    message = f"rows are to be written to {directory}, which .*: No.* choose another"
    with pytest.raises(ClusterError, match=message):
        file_sink(str(directory), Extent((5, 3), None, np.dtype(float)))


def test_a_closed_file_gives_its_room_back_at_once(tmp_path):
    store = filled(tmp_path, sparse.csr_array)
    assert len(open_in(tmp_path)) == 2
    store.close()
    store.close()
    assert not open_in(tmp_path)


def test_room_is_reserved_before_it_is_used(tmp_path):
    store = file_sink(str(tmp_path), Extent((1000, 1000), None, np.dtype(float)))
    assert os.fstat(store._file._fd).st_blocks * 512 >= 8 * 10**6


def test_a_file_that_ends_too_early_is_an_error(tmp_path):
    store = filled(tmp_path, np.asarray)
    os.truncate(store._file._fd, 40)
    with pytest.raises(OSError, match="the file of rows ends before byte"):
        store.take(slice(0, 30))


@pytest.mark.parametrize("kind", KINDS)
def test_rows_in_a_file_stay_in_their_process(tmp_path, kind):
    with pytest.raises(TypeError, match="stay on their worker"):
        pickle.dumps(filled(tmp_path, KINDS[kind]))
