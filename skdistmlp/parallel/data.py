"""The rows that a network trains on, as every shard holds them."""

from dataclasses import dataclass, replace

import numpy as np

from skdistmlp.nn.losses import Targets
from skdistmlp.nn.types import FloatArray, Rows


@dataclass(frozen=True)
class Dataset:
    """Rows to train on or to predict for.

    Attributes
    ----------
    X : ndarray of shape (n_samples, n_features)
        Features.
    y : ndarray of bool, shape (n_samples, n_outputs), or None
        Targets; None when there is only predicting to do.
    sample_weight : ndarray of shape (n_samples,), or None
        Weights of the samples.
    """

    X: FloatArray
    y: Targets | None = None
    sample_weight: FloatArray | None = None

    def prepared(self, dtype: np.dtype[np.floating]) -> "Dataset":
        """Return the same data, fit for taking rows out of it many times.

        ``np.take`` copies a whole array that is unaligned, as arrays that
        came through Dask are, or not C-contiguous, at every call.
        """
        X = np.require(self.X, dtype, ["C_CONTIGUOUS", "ALIGNED"])
        return replace(self, X=X)

    def inputs(self, rows: Rows, out: FloatArray | None = None) -> FloatArray:
        """Return rows of `X`: a view for a slice, else a copy, in `out` if given."""
        if isinstance(rows, slice) or out is None:
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
