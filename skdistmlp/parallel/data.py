"""The rows that a network trains on, as every shard holds them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.sparse import issparse

from skdistmlp.nn.losses import Targets
from skdistmlp.nn.types import Features, FloatArray, Rows, aligned


@dataclass(frozen=True)
class Dataset:
    """Rows to train on or to predict for.

    Attributes
    ----------
    X : ndarray, csr_array or csr_matrix of shape (n_samples, n_features)
        Features.
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
    def values_per_row(self) -> float | None:
        """How many numbers a row of sparse `X` stores; None for a dense one."""
        return self.X.nnz / max(1, self.n_rows) if issparse(self.X) else None  # type: ignore[union-attr]

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
        if issparse(self.X):
            X = self.X.astype(dtype, copy=False)
        else:
            X = aligned(np.ascontiguousarray(self.X, dtype))
        return replace(self, X=X)

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
        return self.y[rows]

    def weights(self, rows: Rows) -> FloatArray | None:
        """Return the weights of `rows`, or None."""
        return None if self.sample_weight is None else self.sample_weight[rows]

    def counts(self, rows: Rows) -> tuple[int, float]:
        """Return the number of `rows`, and the sum of their weights or again it."""
        n_rows = rows.stop - rows.start if isinstance(rows, slice) else len(rows)
        weight = self.weights(rows)
        return n_rows, float(n_rows if weight is None else weight.sum())
