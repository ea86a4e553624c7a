"""The rows that a network trains on or predicts, in this process or elsewhere."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol, Self

import numpy as np
from scipy.sparse import issparse

from skdistmlp.nn.losses import Targets
from skdistmlp.nn.types import Features, FloatArray, Rows, aligned
from skdistmlp.parallel.class_codes import ClassCodes
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.rows import (
    ALL_ROWS,
    RowDistribution,
    RowHolding,
    dealt_rows,
    holders,
)


class BatchTotals(NamedTuple):
    """Divisors of the mean loss of a mini-batch, with and without sample weights.

    Attributes
    ----------
    n_rows : int
        Number of rows.
    weight_sum : float
        Sum of their sample weights; the number of rows if they have none.
    """

    n_rows: int
    weight_sum: float


PIECE_BYTES = 32 * 2**20
"""Bytes of features that reach a worker together, where they come in pieces."""


class PlacedRows(NamedTuple):
    """Rows on the workers of a grid.

    Attributes
    ----------
    futures : list of Future
        A `Dataset` on the worker of each rank.
    distribution : RowDistribution
        Who computes and has which rows.
    """

    futures: list[Any]
    distribution: RowDistribution


class RowPlacement(Protocol):
    """What a data set needs in order to put its rows on the workers of a run."""

    def scatter_cached(
        self, name: str, values: Sequence[Any], sizes: Sequence[int]
    ) -> list[Any]:
        """Send each shard its own value, unless its worker has it already."""


class RowStore(ABC):
    """Features in this process that are no single array in memory.

    Attributes
    ----------
    shape : tuple of int
        Rows and columns.
    dtype : dtype
        float32 or float64.
    nnz : int or None
        Number of stored values of sparse features; None for dense ones.
    nbytes : int
        Bytes in memory.
    """

    shape: tuple[int, int]
    dtype: np.dtype[np.floating]
    nnz: int | None
    nbytes: int

    @abstractmethod
    def take(self, places: Rows, out: FloatArray | None = None) -> Features:
        """Return some rows, in the order of `places`; dense ones in `out` if given."""

    @abstractmethod
    def close(self) -> None:
        """Give back what they take outside of memory, if anything."""


class BaseDataset(ABC):
    """Rows for training, wherever their features are.

    Targets and sample weights are always in this process.

    Attributes
    ----------
    y : ndarray of shape (n_samples, n_outputs), ClassCodes or None
        Targets, boolean for yes or no; None for rows that are only predicted.
    sample_weight : ndarray of shape (n_samples,), or None
        Weights of the samples.
    """

    y: Targets | ClassCodes | None
    sample_weight: FloatArray | None

    @property
    def client(self) -> Any:
        """Dask client that reaches the features; None if they are in this process."""
        return None

    @property
    def is_in_blocks(self) -> bool:
        """Whether rows stay together in blocks, each of which one worker may have."""
        return False

    def bytes_on_workers(self) -> Mapping[str, int]:
        """Return the bytes of blocks of features that each worker has, by address."""
        return {}

    @property
    def fits_here(self) -> bool:
        """Whether this process has, or has memory for, all features."""
        return True

    @property
    def piece_bytes(self) -> int:
        """Bytes of the largest piece in which features reach a file on a worker."""
        return min(self.features_nbytes, PIECE_BYTES)

    @property
    @abstractmethod
    def n_rows(self) -> int:
        """Number of rows."""

    @property
    @abstractmethod
    def nnz_per_row(self) -> float | None:
        """Mean number of stored values per row of sparse features; None for dense."""

    @property
    @abstractmethod
    def features_nbytes(self) -> int:
        """Bytes of all features in one process's memory."""

    @property
    def nbytes(self) -> int:
        """Bytes of features, targets and sample weights in one process's memory."""
        arrays = [a for a in (self.y, self.sample_weight) if a is not None]
        return self.features_nbytes + sum(array.nbytes for array in arrays)

    @abstractmethod
    def content(self) -> Sequence[Any]:
        """Return values that other rows hardly share, the same in every process."""

    def arrays(self) -> list[np.ndarray]:
        """Return the numbers that are in this process."""
        y = self.y.codes if isinstance(self.y, ClassCodes) else self.y
        return [array for array in (y, self.sample_weight) if array is not None]

    @abstractmethod
    def prepared(self, dtype: np.dtype[np.floating]) -> Self:
        """Return the same data with features in `dtype`, laid out for fast access."""

    @abstractmethod
    def to_local(self) -> "Dataset":
        """Return the same data with its features in this process."""

    @abstractmethod
    def place_on(
        self, placement: RowPlacement, grid: Grid, holding: RowHolding
    ) -> PlacedRows:
        """Put the rows on the workers of a grid.

        Parameters
        ----------
        placement : Placement
            Of the run that needs the rows.
        grid : Grid
            The workers.
        holding : RowHolding
            Which features a worker gets. Targets and weights it gets in any case.

        Returns
        -------
        PlacedRows
            As futures.
        """

    def targets(self, rows: Rows) -> Targets:
        """Return rows of `y`, with a column per output."""
        assert self.y is not None, "rows that are only predicted have no targets"
        if isinstance(self.y, ClassCodes):
            return self.y.columns(rows)
        if isinstance(rows, slice):
            return self.y[rows]
        # `take` needs a third of the time of an index.
        return self.y.take(rows, axis=0)

    def weights(self, rows: Rows) -> FloatArray | None:
        """Return the sample weights of `rows`, or None if there are none."""
        return None if self.sample_weight is None else self.sample_weight[rows]

    def batch_totals(self, rows: Rows) -> BatchTotals:
        """Return the number of `rows` and the sum of their sample weights."""
        n_rows = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
        weight = self.weights(rows)
        return BatchTotals(n_rows, float(n_rows if weight is None else weight.sum()))


@dataclass(frozen=True)
class Dataset(BaseDataset):
    """Rows in the memory of this process.

    Attributes
    ----------
    X : ndarray, csr_array, csr_matrix or RowStore of shape (n_samples, n_features)
        Features of the rows that are here.
    y : ndarray of shape (n_samples, n_outputs), ClassCodes or None
        Targets, boolean for yes or no; None for rows that are only predicted.
    sample_weight : ndarray of shape (n_samples,), or None
        Weights of the samples.
    distribution : RowDistribution
        Who computes which rows, and who has their features.
    is_whole : bool
        Whether `X` has all rows, whatever the distribution says. `y` and
        `sample_weight` always do.
    """

    X: Features | RowStore
    y: Targets | ClassCodes | None = None
    sample_weight: FloatArray | None = None
    distribution: RowDistribution = ALL_ROWS
    is_whole: bool = True

    @property
    def n_rows(self) -> int:
        """Number of rows, whichever of them are here."""
        return int(self.X.shape[0] if self.y is None else self.y.shape[0])

    @property
    def nnz_per_row(self) -> float | None:
        """Mean number of stored values per row of sparse features; None for dense."""
        nnz: int | None = getattr(self.X, "nnz", None)
        return None if nnz is None else nnz / max(1, self.X.shape[0])

    @property
    def features_nbytes(self) -> int:
        """Bytes of the features that are here."""
        X: Any = self.X
        arrays = [X.data, X.indices, X.indptr] if issparse(X) else [X]
        return sum(array.nbytes for array in arrays)

    def __sizeof__(self) -> int:
        # What Dask takes the value to be, and its dashboard shows. Features that are no
        # array are in a file, or in blocks that are values of their own.
        in_store = self.features_nbytes if isinstance(self.X, RowStore) else 0
        return super().__sizeof__() + self.nbytes - in_store

    def content(self) -> Sequence[Any]:
        """Return the arrays themselves."""
        return self._array, self.y, self.sample_weight

    def arrays(self) -> list[np.ndarray]:
        """Return the numbers of all rows."""
        X: Any = self._array
        features = [X.data, X.indices, X.indptr] if issparse(X) else [X]
        return [*features, *super().arrays()]

    def part(
        self, distribution: RowDistribution, replica: int, shard: int = 0
    ) -> "Dataset":
        """Return the same data with the features that one process has of them."""
        if distribution == ALL_ROWS:
            return self
        X = self._array[distribution.held(replica, shard, self.n_rows)]
        if not issparse(X):
            # A view with gaps would be pickled as a copy within a copy.
            X = np.ascontiguousarray(X)
        return replace(self, X=X, distribution=distribution, is_whole=False)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if isinstance(self.X, np.ndarray):
            self.__dict__["X"] = aligned(self.X)

    @property
    def _array(self) -> Features:
        """The features, where they are one array: in every process but a worker."""
        assert not isinstance(self.X, RowStore)
        return self.X

    def prepared(self, dtype: np.dtype[np.floating]) -> "Dataset":
        """Return the same data, X in `dtype` and in rows that are fast to take.

        ``np.take`` copies a whole array that is not C-contiguous at every call.
        """
        X = self._array
        if issparse(X):
            X = X.astype(dtype, copy=False)
        else:
            X = aligned(np.ascontiguousarray(X, dtype))
        return replace(self, X=X)

    def to_local(self) -> "Dataset":
        """Return this data set: it is in this process already."""
        return self

    def place_on(
        self, placement: RowPlacement, grid: Grid, holding: RowHolding
    ) -> PlacedRows:
        """Send rows to each worker that does not have them yet; see `BaseDataset`.

        Rows that are to be in files are sent in pieces, by
        `skdistmlp.cluster.data.streaming`.
        """
        assert not holding.on_disk
        of_ranks = self.parts(grid, holding)
        sizes = [part.nbytes for part in of_ranks]
        futures = placement.scatter_cached("rows", of_ranks, sizes)
        return PlacedRows(futures, of_ranks[0].distribution)

    def parts(self, grid: Grid, holding: RowHolding) -> list["Dataset"]:
        """Return what each process of a grid gets of the data."""
        distribution = dealt_rows(grid, holding)
        processes = holders(grid, holding.form)
        if holding.form == "all":
            # One object for all, which is then hashed once.
            return [replace(self, distribution=distribution)] * len(processes)
        made = {one: self.part(distribution, *one) for one in set(processes)}
        return [made[one] for one in processes]

    def close(self) -> None:
        """Give back what the features take outside of memory."""
        if isinstance(self.X, RowStore):
            self.X.close()

    def inputs(self, rows: Rows, out: FloatArray | None = None) -> Features:
        """Return rows of `X`: a view for a slice, else a copy, in `out` if given.

        Rows of a sparse `X` are sparse, and always a copy. If only some rows are here,
        `rows` are among them.
        """
        if not self.is_whole:
            rows = self.distribution.places(rows)
        X, n_rows = self.X, self.X.shape[0]
        if isinstance(X, RowStore):
            return X.take(rows, out)
        if isinstance(rows, slice) and rows.indices(n_rows) == (0, n_rows, 1):
            return X
        if isinstance(rows, slice) or out is None or issparse(X):
            return X[rows]
        # mode="clip" writes straight into `out`; "raise" goes through a buffer.
        return np.take(X, rows, axis=0, out=out[: len(rows)], mode="clip")
