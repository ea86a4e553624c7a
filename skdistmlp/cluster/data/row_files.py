"""Rows in a file in a worker's local directory, for more of them than memory holds.

The file has no name once it is open, and is readable by its owner only: it is gone when
the process closes it or ends, however that comes. Rows are read with ``pread``: mapped
pages would count as memory of the process, by which Dask pauses and kills workers.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

import numpy as np
from scipy.sparse import csr_array

from skdistmlp.cluster.data.blocks import Extent
from skdistmlp.exceptions import ClusterError
from skdistmlp.nn.types import Features, FloatArray, Rows
from skdistmlp.parallel.data import RowStore
from skdistmlp.parallel.rows import numbers_of

WRITTEN_AT_ONCE = 2**20
"""Bytes that are converted to the dtype of the file together: no copy of a block."""


class _File:
    """An open file without a name, whose room on the disk is reserved.

    Parameters
    ----------
    directory : str
        Where.
    n_bytes : int
        Its size.

    Raises
    ------
    ClusterError
        If the disk has too little room, or the directory cannot be written to.
    """

    _fd = -1

    def __init__(self, directory: str, n_bytes: int) -> None:
        self._directory, self._n_bytes = directory, n_bytes
        with self._explained():
            # Mode 0600.
            self._fd, path = tempfile.mkstemp(prefix="skdistmlp-rows-", dir=directory)
            os.unlink(path)
            _reserve(self._fd, n_bytes)

    def write(self, data: memoryview, offset: int) -> None:
        """Write all bytes of `data`."""
        while data:
            with self._explained():
                n_written = os.pwrite(self._fd, data, offset)
            data, offset = data[n_written:], offset + n_written

    def read(self, out: memoryview, offset: int) -> None:
        """Fill `out`."""
        while out:
            n_read = os.preadv(self._fd, [out], offset)
            if n_read == 0:
                raise OSError(f"the file of rows ends before byte {offset:,}")
            out, offset = out[n_read:], offset + n_read

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say of an error how many bytes were to be written where."""
        try:
            yield
        except OSError as error:
            # First: what was reserved until now is free again.
            self.close()
            room = "cannot be written to"
            with suppress(OSError):
                found = os.statvfs(self._directory)
                n_free = found.f_bavail * found.f_frsize
                room = f"has room for {n_free:,} bytes"
            raise ClusterError(
                f"{self._n_bytes:,} bytes of rows are to be written to "
                f"{self._directory}, which {room}: {error.strerror}. Free some, choose "
                f"another directory (--local-directory of dask worker), or use more "
                f"workers."
            ) from error

    def close(self) -> None:
        """Close the file, which is then gone; again does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


def _reserve(fd: int, n_bytes: int) -> None:
    """Have the disk set room aside, so that it cannot run full later."""
    if n_bytes == 0:
        return
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, n_bytes)
    else:
        os.truncate(fd, n_bytes)


class _FileRows(RowStore):
    """What rows in files have in common."""

    _files: tuple[_File, ...] = ()

    @property
    def rows(self) -> "_FileRows":
        """Itself: a sink of rows that has them."""
        return self

    def close(self) -> None:
        """Close the files, which are then gone."""
        for file in self._files:
            file.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("rows in a file stay on their worker")


class DenseFileRows(_FileRows):
    """Dense rows in a file: a `RowStore`, and a sink that fills it.

    Parameters
    ----------
    directory : str
        Where.
    shape : tuple of int
        Rows and columns.
    dtype : dtype
        float32 or float64.
    """

    nnz = None
    nbytes = 0

    def __init__(
        self, directory: str, shape: tuple[int, int], dtype: np.dtype[np.floating]
    ) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._row_bytes = shape[1] * self.dtype.itemsize
        self._file = _File(directory, shape[0] * self._row_bytes)
        self._files = (self._file,)
        self._n_rows = 0

    def append(self, rows: FloatArray) -> None:
        """Write rows after those that are there."""
        n_at_once = max(1, WRITTEN_AT_ONCE // self._row_bytes)
        for start in range(0, len(rows), n_at_once):
            part = np.ascontiguousarray(rows[start : start + n_at_once], self.dtype)
            self._file.write(_bytes_of(part), self._n_rows * self._row_bytes)
            self._n_rows += len(part)

    def take(self, places: Rows, out: FloatArray | None = None) -> Features:
        """Read rows, those that follow each other at once; see `RowStore`."""
        numbers = numbers_of(places)
        taken = np.empty((len(numbers), self.shape[1]), self.dtype)
        if out is not None:
            taken = out[: len(numbers)]
        data, width = _bytes_of(taken), self._row_bytes
        for first, start, stop in _runs(numbers):
            self._file.read(data[start * width : stop * width], first * width)
        return taken


class SparseFileRows(_FileRows):
    """Compressed rows in two files, of values and columns; see `DenseFileRows`.

    Parameters
    ----------
    directory : str
        Where.
    shape : tuple of int
        Rows and columns.
    nnz : int
        How many numbers all rows store, roughly: room for them is reserved.
    dtype : dtype
        float32 or float64.
    """

    def __init__(
        self,
        directory: str,
        shape: tuple[int, int],
        nnz: int,
        dtype: np.dtype[np.floating],
    ) -> None:
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._values = _File(directory, nnz * self.dtype.itemsize)
        self._columns = _File(directory, nnz * INDEX.itemsize)
        self._files = self._values, self._columns
        self._ends = np.zeros(shape[0] + 1, np.int64)
        self._n_rows = 0

    @property
    def nnz(self) -> int:  # type: ignore[override]
        """Number of stored values."""
        return int(self._ends[self._n_rows])

    @property
    def nbytes(self) -> int:  # type: ignore[override]
        """Bytes in memory: where each row ends."""
        return self._ends.nbytes

    def append(self, rows: Any) -> None:
        """Write compressed rows after those that are there."""
        n_before, n_rows = self.nnz, rows.shape[0]
        values = np.ascontiguousarray(rows.data, self.dtype)
        columns = np.ascontiguousarray(rows.indices, INDEX)
        self._values.write(_bytes_of(values), n_before * self.dtype.itemsize)
        self._columns.write(_bytes_of(columns), n_before * INDEX.itemsize)
        ends = slice(self._n_rows + 1, self._n_rows + 1 + n_rows)
        np.add(rows.indptr[1:] - rows.indptr[0], n_before, out=self._ends[ends])
        self._n_rows += n_rows

    def take(self, places: Rows, out: FloatArray | None = None) -> Features:
        """Read rows; see `RowStore`."""
        numbers = numbers_of(places)
        starts = self._ends[numbers]
        indptr = np.zeros(len(numbers) + 1, np.int64)
        np.cumsum(self._ends[numbers + 1] - starts, out=indptr[1:])
        values = np.empty(int(indptr[-1]), self.dtype)
        columns = np.empty(len(values), INDEX)
        parts = (
            (self._values, _bytes_of(values), self.dtype.itemsize),
            (self._columns, _bytes_of(columns), INDEX.itemsize),
        )
        for _, start, stop in _runs(numbers):
            first, end = int(indptr[start]), int(indptr[stop])
            for file, data, width in parts:
                at = int(starts[start]) * width
                file.read(data[first * width : end * width], at)
        shape = len(numbers), self.shape[1]
        return csr_array((values, columns, indptr.astype(INDEX)), shape)


def file_sink(directory: str, extent: Extent) -> DenseFileRows | SparseFileRows:
    """Return what takes rows into a file.

    Raises
    ------
    ClusterError
        If the disk has too little room.
    """
    if extent.nnz is None:
        return DenseFileRows(directory, extent.shape, extent.dtype)
    return SparseFileRows(directory, extent.shape, extent.likely_nnz, extent.dtype)


INDEX = np.dtype(np.int32)
"""Of the numbers of columns in a file, and in what is read of it."""


def _runs(numbers: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yield, for rows that follow each other, the first and their places in a batch."""
    if not len(numbers):
        return
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    bounds = [0, *breaks.tolist(), len(numbers)]
    firsts = numbers[bounds[:-1]].tolist()
    yield from zip(firsts, bounds[:-1], bounds[1:], strict=True)


def _bytes_of(array: np.ndarray) -> memoryview:
    """Return the bytes of a C-contiguous array, none if it is empty."""
    return array.data.cast("B") if array.size else memoryview(b"")
