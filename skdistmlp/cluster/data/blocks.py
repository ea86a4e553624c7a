"""Blocks of rows: checked on their workers, concatenated where they are needed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.sizeof import sizeof
from scipy.sparse import csr_array, issparse
from sklearn.utils import check_array

from skdistmlp.nn.types import Features
from skdistmlp.parallel.grid import ALL_ROWS, RowShare

BATCH_BYTES = 32 * 2**20
"""Bytes of blocks that are fetched together. They take memory in addition to the
array that they are copied into; a larger block is fetched by itself."""


@dataclass(frozen=True)
class Block:
    """What planning has to know about a block of rows.

    Attributes
    ----------
    shape : tuple of int
        Rows and columns.
    dtype : dtype
        float32 or float64: that of the block converted to features.
    nnz : int or None
        Number of values that a sparse block stores; None for a dense one.
    nbytes : int
        Size of the block on its worker.
    """

    shape: tuple[int, int]
    dtype: np.dtype[np.floating]
    nnz: int | None
    nbytes: int


def describe_block(block: Any, estimator_name: str) -> Block:
    """Check a block as scikit-learn does, on the worker that holds it."""
    rows = _as_features(block, estimator_name, ensure_all_finite=True)
    nnz = int(rows.nnz) if issparse(rows) else None
    return Block(rows.shape, rows.dtype, nnz, sizeof(block))


def index_dtype(shape: tuple[int, int], nnz: int) -> np.dtype[np.signedinteger]:
    """Return the dtype of the indices of compressed rows, chosen as SciPy does."""
    wide = max(*shape, nnz) > np.iinfo(np.int32).max
    return np.dtype(np.int64 if wide else np.int32)


def _as_features(block: Any, estimator_name: str | None = None, **checks: Any) -> Any:
    """Return a block, which may be empty, as an array or as compressed rows."""
    return check_array(
        block,
        accept_sparse="csr",
        dtype=(np.float64, np.float32),
        ensure_min_samples=0,
        input_name="X",
        estimator=estimator_name,
        **checks,
    )


def concatenate_blocks(
    names: Sequence[Any],
    blocks: Sequence[Block],
    dtype: np.dtype[np.floating],
    gather: Callable[[list[Any]], list[Any]],
    share: RowShare = ALL_ROWS,
) -> Features:
    """Copy blocks into one array, a few at a time, to hold the rows only once.

    Parameters
    ----------
    names : sequence
        What `gather` identifies the blocks by, in the order of their rows.
    blocks : sequence of Block
        Their descriptions.
    dtype : dtype
        Of the array.
    gather : callable
        Returns a list of the blocks with the given names. The list is emptied.
    share : RowShare
        Which rows to copy; by default all.

    Returns
    -------
    ndarray or csr_array of shape (n_rows, n_features)
        Those rows.
    """
    n_rows, n_features = sum(b.shape[0] for b in blocks), blocks[0].shape[1]
    shape = share.count(n_rows), n_features
    sink: _DenseRows | _SparseRows
    if blocks[0].nnz is None:
        sink = _DenseRows(shape, dtype)
    else:
        nnz = sum(block.nnz or 0 for block in blocks)
        sink = _SparseRows(shape, nnz, dtype)
    n_before = 0
    for batch in _batches(names, blocks):
        fetched = gather(batch)
        while fetched:
            # Popped, so that each block is freed as soon as it has been copied.
            block = _as_features(fetched.pop(0), ensure_all_finite=False)
            if share.n_replicas > 1:
                rows = slice(n_before, n_before + block.shape[0])
                n_before = rows.stop
                block = block[share.positions(rows)]
            sink.append(block)
    return sink.rows


class _DenseRows:
    """An array that is filled from the top."""

    def __init__(self, shape: tuple[int, int], dtype: np.dtype[np.floating]) -> None:
        self.rows = np.empty(shape, dtype)
        self._n_rows = 0

    def append(self, block: Any) -> None:
        end = self._n_rows + len(block)
        self.rows[self._n_rows : end] = block
        self._n_rows = end


class _SparseRows:
    """Compressed rows that are filled from the top."""

    def __init__(
        self, shape: tuple[int, int], nnz: int, dtype: np.dtype[np.floating]
    ) -> None:
        index = index_dtype(shape, nnz)
        self._shape = shape
        self._data = np.empty(nnz, dtype)
        self._indices = np.empty(nnz, index)
        self._indptr = np.zeros(shape[0] + 1, index)
        self._n_rows = self._n_stored = 0

    def append(self, block: Any) -> None:
        stored = slice(self._n_stored, self._n_stored + block.nnz)
        self._data[stored] = block.data
        self._indices[stored] = block.indices
        ends = slice(self._n_rows + 1, self._n_rows + 1 + block.shape[0])
        np.add(block.indptr[1:], self._n_stored, out=self._indptr[ends])
        self._n_rows += block.shape[0]
        self._n_stored += block.nnz

    @property
    def rows(self) -> csr_array:
        if self._n_stored < len(self._data):
            # Of some rows only: how many numbers they have was not known. In place:
            # there may be no room for a copy.
            for array in (self._data, self._indices):
                array.resize(self._n_stored, refcheck=False)
        return csr_array((self._data, self._indices, self._indptr), self._shape)


def _batches(names: Sequence[Any], blocks: Sequence[Block]) -> Iterator[list[Any]]:
    """Yield the names of consecutive blocks that are fetched together."""
    batch: list[Any] = []
    n_bytes = 0
    for name, block in zip(names, blocks, strict=True):
        if batch and n_bytes + block.nbytes > BATCH_BYTES:
            yield batch
            batch, n_bytes = [], 0
        batch.append(name)
        n_bytes += block.nbytes
    if batch:
        yield batch
