"""Features of a mini-batch whose rows are divided among the shards of a replica."""

from typing import Any

import numpy as np
from scipy.sparse import csr_array

from skdistmlp.nn.types import Features, FloatArray, Rows
from skdistmlp.parallel.communicators import Collectives, Label
from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.rows import RowNumbers, numbers_of
from skdistmlp.parallel.split import consecutive_ranges


class GatheredInputs:
    """Gathers rows along the neurons: every shard gets those that the others have.

    Parameters
    ----------
    dataset : Dataset
        With the features of this shard's rows.
    shards : Collectives
        Along the neurons.
    max_rows : int
        The largest number of rows of any mini-batch or block.
    """

    def __init__(self, dataset: Dataset, shards: Collectives, max_rows: int) -> None:
        self._dataset = dataset
        self._shards = shards
        self._n_features = dataset.X.shape[1]
        self._is_sparse = dataset.nnz_per_row is not None
        n_numbers = 0 if self._is_sparse else max_rows * self._n_features
        self._gathered = np.empty((1, n_numbers), dataset.X.dtype)

    def inputs(self, rows: Rows, out: FloatArray | None = None) -> Features:
        """Return the features of rows of this replica, the same on all its shards.

        Parameters
        ----------
        rows : slice or ndarray of int
            Their numbers in the data set.
        out : ndarray of shape (max_rows, n_features)
            Overwritten with dense features, of which it gets the first rows.
        """
        numbers = numbers_of(rows)
        shards = self._dataset.distribution.shards(rows)
        # Those of the first shard, then those of the second, and so on.
        order = np.argsort(shards, kind="stable")
        counts = np.bincount(shards, minlength=self._shards.n_ranks)
        first = int(counts[: self._shards.rank].sum())
        own = order[first : first + counts[self._shards.rank]]
        if self._is_sparse:
            return self._sparse(numbers, order, own, counts)
        ranges = consecutive_ranges([int(n) * self._n_features for n in counts])
        gathered = self._gathered[:, : len(numbers) * self._n_features]
        part = gathered[:, ranges[self._shards.rank].columns]
        taken = self._dataset.inputs(
            numbers[own], part.reshape(len(own), self._n_features)
        )
        self._shards.all_gather(taken.reshape(1, -1), ranges, Label.FEATURES, gathered)
        # In the order of the mini-batch, so that sums over its rows have the same bits
        # whoever had them.
        assert out is not None
        inputs = out[: len(numbers)]
        inputs[order] = gathered.reshape(len(numbers), self._n_features)
        return inputs

    def _sparse(
        self,
        numbers: RowNumbers,
        order: RowNumbers,
        own: RowNumbers,
        counts: np.ndarray,
    ) -> Features:
        """Gather compressed rows: first how many numbers each has, then these."""
        rows: Any = self._dataset.inputs(numbers[own])
        lengths = self._gather_integers(
            np.diff(rows.indptr), counts, Label.FEATURE_COUNTS
        )
        indptr = np.concatenate([[0], np.cumsum(lengths)])
        ends = indptr[np.cumsum(counts)]
        n_stored = np.diff(np.concatenate([[0], ends]))
        indices = self._gather_integers(rows.indices, n_stored, Label.FEATURE_COLUMNS)
        data = self._shards.all_gather(
            np.ascontiguousarray(rows.data).reshape(1, -1),
            consecutive_ranges(n_stored.tolist()),
            Label.FEATURES,
            np.empty((1, int(indptr[-1])), rows.dtype),
        )[0]
        shape = len(numbers), self._n_features
        gathered = csr_array((data, indices, indptr.astype(np.int32)), shape)
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        in_order: csr_array = gathered[back]
        return in_order

    def _gather_integers(
        self, own: np.ndarray, counts: np.ndarray, label: Label
    ) -> np.ndarray:
        """Gather integers, which travel as the floats that have the same bytes."""
        carried = own.astype(np.int32, copy=False).view(np.float32)
        out = np.empty((1, int(counts.sum())), np.float32)
        ranges = consecutive_ranges(counts.tolist())
        gathered = self._shards.all_gather(carried.reshape(1, -1), ranges, label, out)
        return gathered[0].view(np.int32)
