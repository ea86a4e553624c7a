"""Features of a mini-batch whose rows are divided among the shards of a replica."""

from collections.abc import Generator
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from skdistmlp.nn.types import Features, FloatArray, Rows
from skdistmlp.parallel.communicators import Collectives, Exchange, Label
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
        # Rows to begin with in the next step, and in this one; those that travel, as a
        # generator that waits between two exchanges; and those that have come.
        self._expected: tuple[Rows, FloatArray | None] | None = None
        self._next: tuple[Rows, FloatArray | None] | None = None
        self._pending: Generator[None, None, Features] | None = None
        self._pending_rows: Rows | None = None
        self._arrived: tuple[Rows, Features] | None = None

    def expect(self, rows: Rows, out: FloatArray | None) -> None:
        """Note which rows are asked for after the next; see `inputs`."""
        self._expected = rows, out

    def inputs(self, rows: Rows, out: FloatArray | None = None) -> Features:
        """Return the features of rows of this replica, the same on all its shards.

        Those that are expected next begin to travel.

        Parameters
        ----------
        rows : slice or ndarray of int
            Their numbers in the data set.
        out : ndarray of shape (max_rows, n_features)
            Overwritten with dense features, of which it gets the first rows.
        """
        if self._arrived is None or not _are_equal(self._arrived[0], rows):
            self._begin(rows, out)
            self._finish_pending()
        assert self._arrived is not None
        (_, features), self._arrived = self._arrived, None
        if self._next is not None:
            self._begin(*self._next)
            self._next = None
        return features

    def proceed(self) -> None:
        """Begin what could not be begun before something else had come."""
        if self._pending is not None:
            next(self._pending)

    def finish(self) -> None:
        """Wait for the rows that have begun to travel.

        It is called before a step begins, which may end the training: whoever left
        unread packets behind and closed a connection would break it for the others.
        """
        self._finish_pending()
        # If the step does not begin after all, they are not gathered.
        self._next, self._expected = self._expected, None

    def _finish_pending(self) -> None:
        while self._pending is not None:
            try:
                next(self._pending)
            except StopIteration as ended:
                assert self._pending_rows is not None
                self._arrived = self._pending_rows, ended.value
                self._pending = None

    def _begin(self, rows: Rows, out: FloatArray | None) -> None:
        self._pending_rows = rows
        self._pending = self._gather(rows, out)
        next(self._pending)

    def _gather(
        self, rows: Rows, out: FloatArray | None
    ) -> Generator[None, None, Features]:
        """Begin a gather; continue at `proceed`; finish it and return the features."""
        numbers = numbers_of(rows)
        shards = self._dataset.distribution.shards(rows)
        # Those of the first shard, then those of the second, and so on.
        order = np.argsort(shards, kind="stable")
        counts = np.bincount(shards, minlength=self._shards.n_ranks)
        first = int(counts[: self._shards.rank].sum())
        own = order[first : first + counts[self._shards.rank]]
        if self._is_sparse:
            return (yield from self._gather_sparse(numbers, order, own, counts))
        ranges = consecutive_ranges([int(n) * self._n_features for n in counts])
        gathered = self._gathered[:, : len(numbers) * self._n_features]
        part = gathered[:, ranges[self._shards.rank].columns]
        taken = self._dataset.inputs(
            numbers[own], part.reshape(len(own), self._n_features)
        )
        exchange = self._shards.begin_all_gather(
            taken.reshape(1, -1), ranges, Label.FEATURES, gathered
        )
        yield
        # All that is to be known has been sent.
        yield
        exchange.finish()
        # In the order of the mini-batch, so that sums over its rows have the same bits
        # whoever had them.
        assert out is not None
        inputs = out[: len(numbers)]
        inputs[order] = gathered.reshape(len(numbers), self._n_features)
        return inputs

    def _gather_sparse(
        self,
        numbers: RowNumbers,
        order: RowNumbers,
        own: RowNumbers,
        counts: np.ndarray,
    ) -> Generator[None, None, Features]:
        """Gather compressed rows: first how many numbers each has, then these."""
        rows: Any = self._dataset.inputs(numbers[own])
        exchange = self._begin_integers(
            np.diff(rows.indptr), counts, Label.FEATURE_COUNTS
        )
        yield
        indptr = np.concatenate([[0], np.cumsum(exchange.finish()[0].view(np.int32))])
        ends = indptr[np.cumsum(counts)]
        n_stored = np.diff(np.concatenate([[0], ends]))
        columns = self._begin_integers(rows.indices, n_stored, Label.FEATURE_COLUMNS)
        values = self._shards.begin_all_gather(
            np.ascontiguousarray(rows.data).reshape(1, -1),
            consecutive_ranges(n_stored.tolist()),
            Label.FEATURES,
            np.empty((1, int(indptr[-1])), rows.dtype),
        )
        yield
        indices, data = columns.finish()[0].view(np.int32), values.finish()[0]
        shape = len(numbers), self._n_features
        gathered = csr_array((data, indices, indptr.astype(np.int32)), shape)
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        in_order: csr_array = gathered[back]
        return in_order

    def _begin_integers(
        self, own: np.ndarray, counts: np.ndarray, label: Label
    ) -> Exchange:
        """Gather integers, which travel as the floats that have the same bytes."""
        carried = own.astype(np.int32, copy=False).view(np.float32)
        out = np.empty((1, int(counts.sum())), np.float32)
        ranges = consecutive_ranges(counts.tolist())
        return self._shards.begin_all_gather(carried.reshape(1, -1), ranges, label, out)


class HeldInputs:
    """The same for features that are all here: nothing travels.

    Parameters
    ----------
    dataset : Dataset
        With the features of all rows that this replica computes.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset

    def expect(self, rows: Rows, out: FloatArray | None) -> None:
        """Do nothing."""

    def inputs(self, rows: Rows, out: FloatArray | None = None) -> Features:
        """Return the features of rows; see `Dataset.inputs`."""
        return self._dataset.inputs(rows, out)

    def proceed(self) -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""


def _are_equal(rows: Rows, others: Rows) -> bool:
    if isinstance(rows, slice) or isinstance(others, slice):
        return rows == others if type(rows) is type(others) else False
    return np.array_equal(rows, others)
