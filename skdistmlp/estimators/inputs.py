"""X, y and sample_weight, validated as scikit-learn does, Dask collections included."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import DataConversionWarning
from sklearn.utils.validation import validate_data

from skdistmlp.nn.losses import Targets
from skdistmlp.nn.types import FloatArray
from skdistmlp.parallel.class_codes import ClassCodes
from skdistmlp.parallel.data import BaseDataset, Dataset
from skdistmlp.training.loop import Log, quiet

if TYPE_CHECKING:
    from distributed import Client

    from skdistmlp.cluster._dask import Cluster


class InputFeatures(Protocol):
    """Features as `fit` gets them: an array-like, or blocks on the workers."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """Dtype of the features; once validated, float32 or float64."""

    def validated(
        self, estimator: BaseEstimator, y: Any, reset: bool, **checks: Any
    ) -> tuple[Self, np.ndarray]:
        """Return features and targets as scikit-learn validates them.

        Parameters
        ----------
        estimator : BaseEstimator
            The estimator to train.
        y : array-like
            Targets.
        reset : bool
            Whether to set number and names of the features on the estimator, rather
            than compare them with those of its first fit.
        **checks
            Passed on to ``check_X_y``.
        """

    def with_targets(
        self, y: Targets | ClassCodes, sample_weight: FloatArray | None
    ) -> BaseDataset:
        """Return the data set of these features, once they are validated."""


@dataclass(frozen=True)
class ArrayFeatures:
    """Features in this process; see `InputFeatures`.

    Attributes
    ----------
    X : array-like or sparse matrix
        As the user passed them; once validated, an array or compressed rows.
    """

    X: Any

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.X.shape

    @property
    def dtype(self) -> np.dtype[np.floating]:
        """Dtype of the features."""
        return self.X.dtype

    def validated(
        self, estimator: BaseEstimator, y: Any, reset: bool, **checks: Any
    ) -> tuple["ArrayFeatures", np.ndarray]:
        """Return features and targets as scikit-learn validates them."""
        X, y = validate_data(
            estimator,
            self.X,
            y,
            accept_sparse="csr",
            multi_output=True,
            dtype=(np.float64, np.float32),
            reset=reset,
            **checks,
        )
        return ArrayFeatures(X), y

    def with_targets(
        self, y: Targets | ClassCodes, sample_weight: FloatArray | None
    ) -> Dataset:
        """Return the data set of these features."""
        return Dataset(self.X, y, sample_weight)


COLUMN_STACKLEVEL = 6
"""Frames from `ravel_column` to the line that called `fit`."""


def ravel_column(y: np.ndarray) -> np.ndarray:
    """Return targets in a single column as a vector, with scikit-learn's warning.

    Its `column_or_1d` would have the warning point to a line of this package.
    """
    if y.ndim != 2 or y.shape[1] != 1:
        return y
    warnings.warn(
        "A column-vector y was passed when a 1d array was expected. Please change the "
        "shape of y to (n_samples, ), for example using ravel().",
        DataConversionWarning,
        stacklevel=COLUMN_STACKLEVEL,
    )
    return y.ravel()


def is_collection(value: Any) -> bool:
    """Say whether a value is a Dask collection; Dask is imported if it may be one."""
    if not hasattr(type(value), "__dask_graph__"):
        return False
    from skdistmlp.cluster.data import dask_collections

    return dask_collections.is_collection(value)


@contextmanager
def resolve_inputs(
    client: "Client | Cluster | str | None",
    estimator_name: str,
    X: Any,
    y: Any,
    weight: Any,
    log: Log = quiet,
) -> Iterator[tuple[InputFeatures, Any, Any]]:
    """Resolve Dask collections, while the context lasts.

    Parameters
    ----------
    client : Client, Cluster, str or None
        The estimator's parameter.
    estimator_name : str
        For messages.
    X, y, weight : array-like, sparse matrix, Dask collection or None
        What the user passed to `fit`.
    log : callable
        Takes lines for the user, if they want any.

    Yields
    ------
    X : InputFeatures
        Features, on the cluster if they are a collection and there is a cluster.
    y, weight : array-like or None
        Targets and sample weights, in this process.
    """
    if not any(is_collection(value) for value in (X, y, weight)):
        yield ArrayFeatures(X), y, weight
        return
    from skdistmlp.cluster.data import dask_inputs, remote_dataset

    with dask_inputs.resolve_inputs(
        client, estimator_name, X, y, weight, log
    ) as resolved:
        features, y, weight = resolved
        if not isinstance(features, remote_dataset.RemoteFeatures):
            features = ArrayFeatures(features)
        yield features, y, weight


def compute_collections(
    client: "Client | Cluster | str | None", *values: Any
) -> tuple[Any, ...]:
    """Return values, the Dask collections among them computed together."""
    if not any(is_collection(value) for value in values):
        return values
    from skdistmlp.cluster.data import dask_collections

    return dask_collections.compute(client, *values)
