"""Rows that stay in the blocks that Dask computed, so that memory has them once."""

from typing import Any

import numpy as np
from scipy.sparse import csr_array, vstack

from skdistmlp.nn.types import Features, FloatArray, Rows
from skdistmlp.parallel.data import RowStore
from skdistmlp.parallel.rows import numbers_of


class BlockRows(RowStore):
    """Blocks of dense or sparse rows, one after the other: a `RowStore`, and a sink.

    A block is used as it is if it has the right dtype, and converted if not. Nothing is
    written to it.

    Parameters
    ----------
    n_features : int
        Number of columns.
    dtype : dtype
        float32 or float64.
    is_sparse : bool
        Whether they are compressed rows.
    """

    def __init__(
        self, n_features: int, dtype: np.dtype[np.floating], is_sparse: bool
    ) -> None:
        self.dtype = np.dtype(dtype)
        self._is_sparse = is_sparse
        self._n_features = n_features
        self._blocks: list[Any] = []
        self._starts = [0]

    @property
    def rows(self) -> "BlockRows":
        """Itself: a sink of rows that has them."""
        return self

    @property
    def shape(self) -> tuple[int, int]:  # type: ignore[override]
        """Rows and columns."""
        return self._starts[-1], self._n_features

    @property
    def nnz(self) -> int | None:  # type: ignore[override]
        """Number of stored values of sparse rows; None for dense ones."""
        if not self._is_sparse:
            return None
        return sum(block.nnz for block in self._blocks)

    @property
    def nbytes(self) -> int:  # type: ignore[override]
        """Bytes of all blocks."""
        return sum(
            sum(array.nbytes for array in (block.data, block.indices, block.indptr))
            if self._is_sparse
            else block.nbytes
            for block in self._blocks
        )

    def append(self, rows: Any) -> None:
        """Keep a block, after those that are there."""
        if self._is_sparse:
            rows = csr_array(rows.astype(self.dtype, copy=False))
        else:
            # Not aligned: blocks that came through Dask seldom are, and an index copies
            # only the rows that it asks for, where `np.take` would copy the block.
            rows = np.ascontiguousarray(rows, self.dtype)
        self._blocks.append(rows)
        self._starts.append(self._starts[-1] + rows.shape[0])

    def take(self, places: Rows, out: FloatArray | None = None) -> Features:
        """Copy rows from their blocks; see `RowStore`."""
        numbers = numbers_of(places)
        of_rows = np.searchsorted(self._starts, numbers, "right") - 1
        # The rows of one block together, in the order in which they are wanted.
        order = np.argsort(of_rows, kind="stable")
        used, firsts = np.unique(of_rows[order], return_index=True)
        groups = np.split(order, firsts[1:])
        if self._is_sparse:
            return self._take_sparse(numbers, order, used, groups)
        taken = np.empty((len(numbers), self._n_features), self.dtype)
        if out is not None:
            taken = out[: len(numbers)]
        # Of no rows at all there is one group, which is empty.
        for block, group in zip(used.tolist(), groups, strict=False):
            taken[group] = self._blocks[block][numbers[group] - self._starts[block]]
        return taken

    def close(self) -> None:
        """Do nothing: the memory is given back with the last reference."""

    def _take_sparse(
        self,
        numbers: np.ndarray,
        order: np.ndarray,
        used: np.ndarray,
        groups: list[np.ndarray],
    ) -> csr_array:
        if not len(used):
            return csr_array((0, self._n_features), dtype=self.dtype)
        parts = [
            self._blocks[block][numbers[group] - self._starts[block]]
            for block, group in zip(used.tolist(), groups, strict=True)
        ]
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        in_order: csr_array = csr_array(vstack(parts, format="csr"))[back]
        return in_order
