"""What an estimator is given: validated as scikit-learn does, Dask collections too."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_X_y
from sklearn.utils.validation import validate_data

from skdistmlp.nn.types import Features
from skdistmlp.parallel.data import RemoteFeatures

if TYPE_CHECKING:
    from distributed import Client


def is_collection(value: Any) -> bool:
    """Say whether a value is a Dask collection; Dask is imported if it may be one."""
    if not hasattr(type(value), "__dask_graph__"):
        return False
    from skdistmlp.cluster.data import dask_inputs as collections

    return collections.is_collection(value)


@contextmanager
def resolve_inputs(
    client: "Client | str | None", estimator_name: str, X: Any, y: Any, weight: Any
) -> Iterator[tuple[Any, Any, Any]]:
    """Give features, targets and weights such that none of them is a collection.

    See `skdistmlp.cluster.data.dask_inputs.resolve_inputs`.
    """
    if not any(is_collection(value) for value in (X, y, weight)):
        yield X, y, weight
        return
    from skdistmlp.cluster.data import dask_inputs as collections

    with collections.resolve_inputs(client, estimator_name, X, y, weight) as arrays:
        yield arrays


def validated(
    estimator: BaseEstimator, X: Any, y: Any, reset: bool, **checks: Any
) -> tuple[Features, np.ndarray]:
    """Return X and y as scikit-learn takes them.

    Parameters
    ----------
    estimator : BaseEstimator
        What is to be trained.
    X : array-like, sparse matrix or RemoteFeatures
        Features, `brought`.
    y : array-like
        Targets.
    reset : bool
        Whether to take over number and names of the features, or to compare them.
    **checks
        Passed on to ``check_X_y``.
    """
    if not isinstance(X, RemoteFeatures):
        return validate_data(
            estimator,
            X,
            y,
            accept_sparse="csr",
            multi_output=True,
            dtype=(np.float64, np.float32),
            reset=reset,
            **checks,
        )
    # Their numbers have been checked where they are.
    validate_data(estimator, X.header, reset=reset, skip_check_array=True)
    rows = np.zeros((X.shape[0], 1))
    _, y = check_X_y(rows, y, multi_output=True, estimator=estimator, **checks)
    return cast("Features", X), y


def computed(client: "Client | str | None", *values: Any) -> tuple[Any, ...]:
    """Return values, the Dask collections among them computed in one go."""
    if not any(is_collection(value) for value in values):
        return values
    from skdistmlp.cluster.data import dask_inputs as collections

    return collections.compute(client, *values)
