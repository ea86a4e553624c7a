"""Fits of the same network with scikit-learn and on each plan, to be compared."""

import inspect
import math
import reprlib
from collections.abc import Mapping
from copy import deepcopy
from numbers import Integral
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from sklearn.base import is_classifier
from sklearn.utils import check_array

from skdistmlp.estimators._sklearn import refused_parameters
from skdistmlp.estimators.base import BaseDistributedMLP
from skdistmlp.estimators.constraints import ENGINE_PARAMETERS
from skdistmlp.estimators.uninterrupted import fit_uninterrupted

if TYPE_CHECKING:
    from distributed import Client

DEFAULT_SEED = 0
"""Taken where the estimator has no random state, so that all fits draw the same."""


class FitData(NamedTuple):
    """What a fit is given."""

    X: Any
    y: Any
    fit_params: Mapping[str, Any]


class Answer(NamedTuple):
    """What a fit has come to, as far as it is compared."""

    n_workers: int
    n_replicas: int
    layers: list[np.ndarray]
    losses: dict[str, np.ndarray]
    predictions: np.ndarray


class Fits:
    """Fits of an estimator's copies, with scikit-learn and on each plan.

    Parameters
    ----------
    estimator : DistributedMLPClassifier or DistributedMLPRegressor
        The estimator to copy.
    n_epochs : int
        Number of epochs.
    here, given : FitData
        The data in this process, and as the user passed them.
    client : Client or None
        The connected client.
    """

    def __init__(
        self,
        estimator: BaseDistributedMLP,
        n_epochs: int,
        here: FitData,
        given: FitData,
        client: "Client | None",
    ) -> None:
        self.estimator, self.n_epochs = estimator, n_epochs
        self.here, self.given, self.client = here, given, client
        self.seed = _seed(estimator.random_state)
        params = estimator.get_params(deep=False)
        self._params = {
            **{k: v for k, v in params.items() if k not in ENGINE_PARAMETERS},
            "max_iter": n_epochs,
            "random_state": self.seed,
            "verbose": False,
        }

    @property
    def dtype(self) -> str:
        """The dtype of training: that of the features, as `fit` converts them."""
        X = check_array(
            self.here.X,
            accept_sparse=True,
            dtype=(np.float64, np.float32),
            ensure_all_finite=False,
        )
        return str(X.dtype)

    def match_targets(self) -> bool:
        """Convert the targets of a regressor to float32 features; say if it had to.

        scikit-learn computes gradients in the dtype of the targets, this package in
        that of the features: docs/differences.md.
        """
        if self.dtype != "float32" or is_classifier(self.estimator):
            return False
        if getattr(self.here.y, "dtype", None) == np.float32:
            return False
        self.here = self.here._replace(y=_as_float32(self.here.y))
        self.given = self.given._replace(y=_as_float32(self.given.y))
        return True

    def without_counterpart(self) -> tuple[str, ...]:
        """Return what scikit-learn lacks, or refuses, and is not at its default."""
        theirs = self.estimator._sklearn_class
        signature = inspect.signature(type(self.estimator)).parameters
        shared = inspect.signature(theirs).parameters
        lacking = {
            name: value
            for name, value in self._params.items()
            if name not in shared
            and not _is_same(value, signature[name].default)
            and _has_effect(name, value, self._params)
        }
        given = self._their_params()
        refused = {k: given[k] for k in refused_parameters(theirs, given)}
        fit_names = inspect.signature(theirs.fit).parameters
        return (
            *(f"{k}={reprlib.repr(self._params[k])}" for k in (*refused, *lacking)),
            *(name for name in self.here.fit_params if name not in fit_names),
        )

    def of_scikit_learn(self) -> Answer:
        """Train with scikit-learn."""
        theirs = self.estimator._sklearn_class
        return self._answer(theirs(**deepcopy(self._their_params())), self.here)

    def _their_params(self) -> dict[str, Any]:
        """Return the parameters of scikit-learn's estimator."""
        names = inspect.signature(self.estimator._sklearn_class).parameters
        params = {k: v for k, v in self._params.items() if k in names}
        activation = params.get("activation")
        if isinstance(activation, list | tuple) and activation:
            first = activation[0]
            # The same one in each hidden layer is what scikit-learn has.
            if all(other == first for other in activation):
                params["activation"] = first
        return params

    def of(
        self, engine: str, n_workers: int = 1, n_replicas: int | None = None
    ) -> Answer:
        """Train with an engine, on a number of workers, in replicas."""
        is_local = engine == "local"
        ours = type(self.estimator)(
            **deepcopy(self._params),
            engine=engine,
            client=None if is_local else self.client,
            n_workers=None if is_local else n_workers,
            n_replicas=n_replicas,
        )
        answer = self._answer(ours, self.here if is_local else self.given)
        if ours.engine_ != engine:
            # What was not trained as asked for has not been checked.
            raise RuntimeError(
                f"engine={engine!r} was asked for, but {ours.engine_} trained: "
                f"{ours.plan_.reason}. Check that the client stays connected."
            )
        return answer

    def _answer(self, fitted: Any, data: FitData) -> Answer:
        fit_uninterrupted(fitted, data.X, data.y, **data.fit_params)
        predict = fitted.predict_proba if is_classifier(fitted) else fitted.predict
        # lbfgs has no curve.
        losses = {
            name: np.atleast_1d(np.asarray(getattr(fitted, name), float))
            for name in (
                *("loss_", "loss_curve_"),
                *("validation_loss_curve_", "validation_scores_"),
            )
            if getattr(fitted, name, None) is not None
        }
        return Answer(
            getattr(fitted, "n_workers_", 1),
            getattr(fitted, "n_replicas_", 1),
            [
                np.concatenate([coef.ravel(), intercept])
                for coef, intercept in zip(
                    fitted.coefs_, fitted.intercepts_, strict=True
                )
            ],
            losses,
            np.asarray(predict(self.here.X)),
        )


def _as_float32(y: Any) -> Any:
    # A frame or a Dask collection remains one.
    return y.astype("float32") if hasattr(y, "astype") else np.asarray(y, np.float32)


def _seed(random_state: Any) -> int:
    if random_state is None:
        return DEFAULT_SEED
    if isinstance(random_state, Integral):
        return int(random_state)
    # From a copy: a check does not change the estimator.
    return int(deepcopy(random_state).randint(2**31 - 1))


def _is_same(value: Any, default: Any) -> bool:
    try:
        return bool(value == default)
    except ValueError:  # an array
        return False


def differences(
    answer: Answer, expected: Answer, are_probabilities: bool
) -> tuple[float, float, float]:
    """Return how far parameters, losses and predictions are apart, each relative.

    Parameters are compared by the norm of each layer: Adam divides a gradient by its
    size, so where that is next to nothing, a rounding error moves this one parameter
    by up to the learning rate. The larger the network, the larger the largest of these.
    """
    layers = zip(answer.layers, expected.layers, strict=True)
    losses = answer.losses.keys() & expected.losses.keys()
    return (
        max(_distance(ours, theirs) for ours, theirs in layers),
        max(_difference(answer.losses[k], expected.losses[k]) for k in losses),
        _difference(
            answer.predictions,
            expected.predictions,
            scale=1.0 if are_probabilities else None,
        ),
    )


def _distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the norm of the difference, relative to that of the reference."""
    theirs = theirs.astype(float)
    with np.errstate(invalid="ignore"):
        distance = float(np.linalg.norm(ours - theirs))
    relative = distance / (float(np.linalg.norm(theirs)) or 1.0)
    return math.inf if math.isnan(relative) else relative


def _difference(
    ours: np.ndarray, theirs: np.ndarray, scale: float | None = None
) -> float:
    """Return the largest difference, by default relative to the largest of a column."""
    if ours.shape != theirs.shape:
        # Of loss curves: they have ended after different epochs.
        return math.inf
    theirs = theirs.astype(float)
    with np.errstate(invalid="ignore"):
        difference = np.abs(ours - theirs)
    largest = np.abs(theirs).max(axis=0) if scale is None else np.asarray(scale)
    relative = (difference / np.where(largest > 0, largest, 1.0)).max()
    return math.inf if np.isnan(relative) else float(relative)


_USED_WITH = {
    "weight_decay": ("solver", "adamw"),
    "rho": ("solver", "rmsprop"),
    "huber_delta": ("loss", "huber"),
    "quantile": ("loss", "quantile"),
}
"""Parameters that only one value of another one uses."""


def _has_effect(name: str, value: Any, params: Mapping[str, Any]) -> bool:
    """Say whether a parameter changes what is trained, given the others."""
    if name == "dropout":
        return bool(np.any(np.asarray(value, dtype=float)))
    if name in _USED_WITH:
        other, user = _USED_WITH[name]
        return bool(params.get(other) == user)
    return True
