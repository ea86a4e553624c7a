"""Rows for validation that the user gives: checked, and joined to those of training.

They become the last rows of the data set. So they go wherever the others go, and every
engine forwards them as it does rows that it has held out itself.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from scipy.sparse import csr_array, issparse, vstack
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_array, check_consistent_length, validate_data

from skdistmlp.estimators._sklearn import check_sample_weight
from skdistmlp.estimators.inputs import (
    ArrayFeatures,
    InputFeatures,
    compute_collections,
    is_collection,
    resolve_inputs,
)
from skdistmlp.exceptions import counted
from skdistmlp.nn.types import Features, FloatArray
from skdistmlp.training.loop import Log


@dataclass(frozen=True)
class ValidationData:
    """What ``fit`` was given as ``X_val``, ``y_val`` and ``sample_weight_val``.

    Attributes
    ----------
    X, y : array-like, sparse matrix or Dask collection
        Features and targets; `y` in this process after `resolved`.
    sample_weight : array-like, Dask collection or None
        Weights; likewise.
    """

    X: Any
    y: Any
    sample_weight: Any = None

    @classmethod
    def given(cls, X: Any, y: Any, sample_weight: Any) -> Self | None:
        """Return the data, or None if there are none.

        Raises
        ------
        ValueError
            If some, but not all, of what belongs together was passed.
        """
        if X is None and y is None and sample_weight is None:
            return None
        for name, value in {"X_val": X, "y_val": y}.items():
            if value is None:
                others = "X_val" if name == "y_val" else "y_val or sample_weight_val"
                raise ValueError(
                    f"{others} was passed without {name}. Pass both X_val and y_val, "
                    f"features and targets of the rows for validation."
                )
        return cls(X, y, sample_weight)

    def resolved(self, client: Any) -> Self:
        """Return the same with targets and weights in this process."""
        y, weight = compute_collections(client, self.y, self.sample_weight)
        n_rows = _length(y, "y_val")
        if n_rows == 0:
            raise ValueError(
                "X_val and y_val have no rows. Pass some, or leave both out."
            )
        return type(self)(self.X, y, weight)

    @property
    def n_rows(self) -> int:
        """Number of rows, once resolved."""
        return _length(self.y, "y_val")

    def joined_collection(self, X: Any) -> Any:
        """Return a Dask collection of the rows `X` and, after them, these."""
        from skdistmlp.cluster.data.dask_collections import concatenate_rows

        return concatenate_rows(X, self.X)

    def joined_features(
        self, estimator: BaseEstimator, features: InputFeatures, client: Any
    ) -> InputFeatures:
        """Return validated features followed by these.

        Those of a Dask collection have been joined before; see `joined_collection`.
        """
        if not isinstance(features, ArrayFeatures):
            return features
        (X_val,) = compute_collections(client, self.X)
        try:
            X_val = validate_data(
                estimator,
                X_val,
                accept_sparse="csr",
                dtype=features.dtype,
                reset=False,
            )
            check_consistent_length(X_val, self.y)
        except ValueError as error:
            raise ValueError(f"X_val does not fit X and y_val: {error}") from error
        return ArrayFeatures(_stacked(features.X, X_val))

    def checked_targets(self) -> np.ndarray:
        """Return targets as an array, if they are valid by themselves."""
        y = check_array(
            self.y, ensure_2d=False, dtype=None, accept_sparse=True, input_name="y_val"
        )
        column = not issparse(y) and y.ndim == 2 and y.shape[1] == 1
        return y.ravel() if column else y

    def weights_after(
        self, weight: FloatArray | None, y: np.ndarray, y_val: np.ndarray
    ) -> FloatArray | None:
        """Return the weights of all rows; None if no row has one."""
        if weight is None and self.sample_weight is None:
            return None
        weight = np.ones(len(y)) if weight is None else weight
        of_these = np.ones(len(y_val), weight.dtype)
        if self.sample_weight is not None:
            of_these = check_sample_weight(self.sample_weight, y_val)
        return np.concatenate([weight, of_these]).astype(weight.dtype, copy=False)


def _stacked(X: Features, X_val: Features) -> Features:
    """Return the rows of both in the format of the first."""
    if issparse(X):
        return vstack([X, csr_array(X_val)], format="csr", dtype=X.dtype)
    dense: Any = X_val
    return np.concatenate([X, dense.toarray() if issparse(dense) else dense])


def _length(values: Any, name: str) -> int:
    try:
        return int(values.shape[0] if hasattr(values, "shape") else len(values))
    except (TypeError, IndexError) as error:
        raise ValueError(
            f"{name} is {values!r}, expected one value for each row of X_val."
        ) from error


def _check_lengths(
    validation: ValidationData, X: Any, features: InputFeatures, y: Any, weight: Any
) -> None:
    """Raise ValueError unless both collections have as many rows as their targets.

    Parameters
    ----------
    validation : ValidationData
        Resolved.
    X : Dask collection
        The features for training, whose rows come first in `features`.
    features : InputFeatures
        Those of both.
    y, weight : array-like or None
        Targets and weights for training.
    """
    from skdistmlp.cluster.data.dask_collections import count_rows, n_blocks

    blocks = getattr(features, "blocks", None)
    if blocks is None:
        n_rows = count_rows(X)
    else:
        n_rows = sum(block.shape[0] for block in blocks[: n_blocks(X)])
    n_val = features.shape[0] - n_rows
    for name, values, of, expected in (
        ("y", y, "X", n_rows),
        ("sample_weight", weight, "X", n_rows),
        ("y_val", validation.y, "X_val", n_val),
    ):
        if values is not None and _length(values, name) != expected:
            raise ValueError(
                f"{of} has {counted(expected, 'row')}, but {name} has "
                f"{_length(values, name):,}. Pass one value of {name} for each row of "
                f"{of}."
            )


@contextmanager
def resolve_with_validation(
    estimator: Any,
    X: Any,
    y: Any,
    weight: Any,
    validation: ValidationData | None,
    log: Log,
) -> Iterator[tuple[InputFeatures, Any, Any, ValidationData | None]]:
    """Resolve Dask collections, those for validation too, while the context lasts.

    Parameters
    ----------
    estimator : BaseDistributedMLP
        Says which client is used.
    X, y, weight : array-like, sparse matrix, Dask collection or None
        What the user passed to `fit`.
    validation : ValidationData or None
        Likewise.
    log : callable
        Takes lines for the user, if they want any.

    Yields
    ------
    X : InputFeatures
        Features, on the cluster if they are a collection and there is a cluster; those
        for validation then follow.
    y, weight : array-like or None
        Targets and sample weights, in this process.
    validation : ValidationData or None
        Its targets and weights in this process.
    """
    client, name = estimator.client, type(estimator).__name__
    if validation is None or not is_collection(X):
        if validation is not None:
            validation = validation.resolved(client)
        with resolve_inputs(client, name, X, y, weight, log) as resolved:
            yield *resolved, validation
        return
    validation = validation.resolved(client)
    # The features of both are resolved together, and have other lengths than targets.
    joined = validation.joined_collection(X)
    y, weight = compute_collections(client, y, weight)
    with resolve_inputs(client, name, joined, None, None, log) as (features, _, _):
        _check_lengths(validation, X, features, y, weight)
        if isinstance(features, ArrayFeatures):
            # There is no cluster.
            n_rows = features.shape[0] - validation.n_rows
            validation = replace(validation, X=features.X[n_rows:])
            features = ArrayFeatures(features.X[:n_rows])
        yield features, y, weight, validation
