"""Blocks of rows: checked where they lie, joined where they are needed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.sizeof import sizeof
from distributed import get_worker
from scipy.sparse import csr_array, issparse
from sklearn.utils import check_array

from skdistmlp.cluster._dask import fetch_keys
from skdistmlp.exceptions import WorkerLostError
from skdistmlp.nn.types import Features
from skdistmlp.parallel.data import Dataset, index_dtype

BATCH_BYTES = 32 * 2**20
"""Bytes of blocks on their way to a worker at a time, beside the array that they are
copied into; a larger block comes alone."""


@dataclass(frozen=True)
class Block:
    """What has to be known of a block of rows to plan with it.

    Attributes
    ----------
    shape : tuple of int
        Rows and columns.
    dtype : dtype
        float32 or float64: that of the numbers once they are features.
    nnz : int or None
        How many numbers a sparse block stores; None for a dense one.
    nbytes : int
        Bytes of the block as it lies on its worker.
    """

    shape: tuple[int, int]
    dtype: np.dtype[np.floating]
    nnz: int | None
    nbytes: int


def describe(block: Any, estimator_name: str) -> Block:
    """Check a block as scikit-learn does, on the worker that has it."""
    rows = _as_features(block, estimator_name, ensure_all_finite=True)
    nnz = int(rows.nnz) if issparse(rows) else None
    return Block(rows.shape, rows.dtype, nnz, sizeof(block))


def _as_features(block: Any, estimator_name: str | None = None, **checks: Any) -> Any:
    """Return a block as an array or compressed rows; an empty one is a block too."""
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
) -> Features:
    """Copy blocks into one array, a few at a time, so that they are never there twice.

    Parameters
    ----------
    names : sequence
        What `gather` knows the blocks by, in the order of their rows.
    blocks : sequence of Block
        What is known of them.
    dtype : dtype
        Of the array.
    gather : callable
        From some names to a list of blocks, which is used up.

    Returns
    -------
    ndarray or csr_array of shape (n_samples, n_features)
        All rows.
    """
    n_rows, n_features = sum(b.shape[0] for b in blocks), blocks[0].shape[1]
    sink: _DenseRows | _SparseRows
    if blocks[0].nnz is None:
        sink = _DenseRows((n_rows, n_features), dtype)
    else:
        nnz = sum(block.nnz or 0 for block in blocks)
        sink = _SparseRows((n_rows, n_features), nnz, dtype)
    for batch in _batches(names, blocks):
        fetched = gather(batch)
        while fetched:
            sink.append(_as_features(fetched.pop(0), ensure_all_finite=False))
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


@dataclass(frozen=True)
class BlockLocations:
    """Where the blocks of X lie, for a worker that is to join them.

    Not as arguments of a task: Dask would keep all of them on the worker until the
    task ends, beside the array that they are joined to, and copies of blocks that
    the user holds for some seconds more.

    Attributes
    ----------
    who_has : mapping
        From the keys of the blocks, in the order of their rows, to the addresses of
        the workers that have them.
    blocks : sequence of Block
        What is known of them.
    dtype : dtype
        Of the array to join them to.
    """

    who_has: Mapping[Any, Sequence[str]]
    blocks: Sequence[Block]
    dtype: np.dtype[np.floating]


def assemble_dataset(
    locations: BlockLocations, targets: tuple[np.ndarray, np.ndarray | None]
) -> Dataset:
    """Return the data set of one shard, its blocks fetched from the other workers."""
    worker = get_worker()

    def gather(keys: list[Any]) -> list[Any]:
        who_has = {key: locations.who_has[key] for key in keys}
        values, missing, lost = fetch_keys(worker, who_has)
        if missing:
            raise WorkerLostError(
                f"could not fetch {len(missing)} blocks of X from "
                f"{', '.join(lost) or 'the workers that had them'}. Call again: Dask "
                f"recomputes lost blocks if it can."
            )
        return [values[key] for key in keys]

    X = concatenate_blocks(
        list(locations.who_has), locations.blocks, locations.dtype, gather
    )
    return Dataset(X, *targets)


def predict_rows(block: Any, function: Callable[[Any], Any]) -> Any:
    """Return what a function makes of a block."""
    return function(block)
