"""The rows that a network trains on, as every shard holds them."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from scipy.sparse import issparse

from skdistmlp.nn.losses import Targets
from skdistmlp.nn.types import Features, FloatArray, Rows, aligned


class RemoteFeatures(ABC):
    """Features that lie elsewhere, as one knows them who only has to plan.

    Attributes
    ----------
    shape : tuple of int
        Rows and columns.
    dtype : dtype
        float32 or float64.
    nnz : int or None
        How many numbers sparse features store; None for dense ones.
    header : ndarray or DataFrame
        A row of zeros with the names of the columns, if they have any.
    client : object
        Through whom they can be reached.
    """

    shape: tuple[int, int]
    dtype: np.dtype[np.floating]
    nnz: int | None
    header: Any
    client: Any

    @property
    def nbytes(self) -> int:
        """Bytes of all features once they are at hand."""
        if self.nnz is None:
            return self.shape[0] * self.shape[1] * self.dtype.itemsize
        index = index_dtype(self.shape, self.nnz).itemsize
        stored = self.nnz * (self.dtype.itemsize + index)
        return stored + (self.shape[0] + 1) * index

    @abstractmethod
    def astype(self, dtype: np.dtype[np.floating]) -> Self:
        """Return the same features, to arrive in another dtype."""

    @abstractmethod
    def fetch(self) -> Features:
        """Return all features, in this process."""


def index_dtype(shape: tuple[int, int], nnz: int) -> np.dtype[np.signedinteger]:
    """Return the dtype of the indices of compressed rows, as SciPy chooses it."""
    wide = max(*shape, nnz) > np.iinfo(np.int32).max
    return np.dtype(np.int64 if wide else np.int32)


@dataclass(frozen=True)
class Dataset:
    """Rows to train on or to predict for.

    Attributes
    ----------
    X : ndarray, csr_array or csr_matrix of shape (n_samples, n_features)
        Features; where there is only planning to do, `RemoteFeatures`.
    y : ndarray of shape (n_samples, n_outputs), or None
        Targets, boolean for classes; None when there is only predicting to do.
    sample_weight : ndarray of shape (n_samples,), or None
        Weights of the samples.
    """

    X: Features
    y: Targets | None = None
    sample_weight: FloatArray | None = None

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(self.X.shape[0])

    @property
    def nnz_per_row(self) -> float | None:
        """How many numbers a row of sparse `X` stores; None for a dense one."""
        nnz: int | None = getattr(self.X, "nnz", None)
        return None if nnz is None else nnz / max(1, self.n_rows)

    @property
    def nbytes(self) -> int:
        """Bytes of all features, targets and weights."""
        X: Any = self.X
        sparse = issparse(self.X)
        arrays = [X.data, X.indices, X.indptr] if sparse else [X]
        arrays += [a for a in (self.y, self.sample_weight) if a is not None]
        return sum(array.nbytes for array in arrays)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if not issparse(self.X):
            self.__dict__["X"] = aligned(self.X)

    def prepared(self, dtype: np.dtype[np.floating]) -> "Dataset":
        """Return the same data, X in `dtype` and fit for taking rows out many times.

        ``np.take`` copies a whole array that is not C-contiguous at every call.
        """
        if isinstance(self.X, RemoteFeatures):
            return replace(self, X=self.X.astype(dtype))
        if issparse(self.X):
            X = self.X.astype(dtype, copy=False)
        else:
            X = aligned(np.ascontiguousarray(self.X, dtype))
        return replace(self, X=X)

    def to_local(self) -> "Dataset":
        """Return the same data, X in this process."""
        if not isinstance(self.X, RemoteFeatures):
            return self
        return replace(self, X=self.X.fetch())

    def inputs(self, rows: Rows, out: FloatArray | None = None) -> Features:
        """Return rows of `X`: a view for a slice, else a copy, in `out` if given.

        Rows of a sparse `X` are sparse, and always a copy.
        """
        if isinstance(rows, slice) and rows.indices(self.n_rows) == (0, self.n_rows, 1):
            return self.X
        if isinstance(rows, slice) or out is None or issparse(self.X):
            return self.X[rows]
        # mode="clip" writes straight into `out`; "raise" goes through a buffer.
        return np.take(self.X, rows, axis=0, out=out[: len(rows)], mode="clip")

    def targets(self, rows: Rows) -> Targets:
        """Return rows of `y`."""
        assert self.y is not None, "a data set to predict for has no targets"
        if isinstance(rows, slice):
            return self.y[rows]
        # A third of the time of an index.
        return self.y.take(rows, axis=0)

    def weights(self, rows: Rows) -> FloatArray | None:
        """Return the weights of `rows`, or None."""
        return None if self.sample_weight is None else self.sample_weight[rows]

    def batch_weight(self, rows: Rows) -> tuple[int, float]:
        """Return the number of `rows`, and the sum of their weights or again it."""
        n_rows = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
        weight = self.weights(rows)
        return n_rows, float(n_rows if weight is None else weight.sum())
