"""What the tests of the estimators share: scikit-learn as the yardstick."""

import re
import warnings
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_matrix
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from skdistmlp import DistributedMLPClassifier

N_ROWS = 240


@dataclass(frozen=True)
class Configuration:
    """One comparison with scikit-learn.

    Attributes
    ----------
    params : dict
        Parameters that both classifiers have.
    target : str
        Key of `TARGETS`.
    weighted : bool
        Whether the samples have weights.
    converges : bool
        Whether training ends before `max_iter`; a comparison of stopping rules
        that never stops would show nothing.
    """

    params: dict[str, Any] = field(default_factory=dict)
    target: str = "ten classes"
    weighted: bool = False
    converges: bool = False


def _some_labels(y: np.ndarray) -> np.ndarray:
    return np.column_stack([y % 2 == 0, y > 4, np.isin(y, (1, 2))]).astype(int)


TARGETS: dict[str, Callable[[np.ndarray], Any]] = {
    "ten classes": lambda y: y,
    "two classes": lambda y: (y > 4).astype(int),
    "one class": np.zeros_like,
    "strings": lambda y: np.array(["low", "middle", "high"])[y // 4],
    "two strings": lambda y: np.where(y > 4, "high", "low"),
    "floats": lambda y: y / 1.0 - 3,
    "booleans": lambda y: y > 4,
    "several labels": _some_labels,
    "several labels, sparse": lambda y: csr_matrix(_some_labels(y)),
}

_STOPS = {"max_iter": 60, "tol": 0.05, "n_iter_no_change": 2}
_SGD = {"solver": "sgd", "learning_rate_init": 0.05}

CONFIGURATIONS: dict[str, Configuration] = {
    "defaults": Configuration(),
    **{
        f"{activation}, {solver}, {target}": Configuration(
            {"activation": activation, "solver": solver}, target
        )
        for activation, solver, target in product(
            ("identity", "logistic", "tanh", "relu"),
            ("adam", "sgd"),
            ("ten classes", "two classes", "several labels"),
        )
    },
    **{
        f"{schedule}, momentum {momentum}, nesterov {nesterov}": Configuration(
            _SGD
            | {
                "learning_rate": schedule,
                "momentum": momentum,
                "nesterovs_momentum": nesterov,
            }
        )
        for schedule, momentum, nesterov in product(
            ("constant", "invscaling", "adaptive"), (0.0, 0.7), (True, False)
        )
    },
    **{
        f"early stopping, {target}{', weighted' * weighted}": Configuration(
            {"early_stopping": True, "validation_fraction": 0.3, "tol": 0.0},
            target,
            weighted,
        )
        for target, weighted in product(
            ("ten classes", "two strings", "several labels"), (False, True)
        )
    },
    "early stopping, which stops": Configuration(
        _STOPS | {"early_stopping": True}, converges=True
    ),
    "early stopping, adaptive, which stops": Configuration(
        _STOPS
        | _SGD
        | {"early_stopping": True, "learning_rate": "adaptive", "n_iter_no_change": 1},
        converges=True,
    ),
    "loss, which stops": Configuration(_STOPS | {"tol": 0.2}, converges=True),
    "adaptive, which stops": Configuration(
        _STOPS | _SGD | {"learning_rate": "adaptive", "tol": 0.2}, converges=True
    ),
    "adaptive, rate too small at once": Configuration(
        _STOPS | _SGD | {"learning_rate": "adaptive", "learning_rate_init": 1e-6},
        converges=True,
    ),
    "endless patience": Configuration({"n_iter_no_change": np.inf, "tol": 100.0}),
    "least patience": Configuration(
        {"n_iter_no_change": 1, "tol": 100.0}, converges=True
    ),
    "inverse scaling, power 0.1": Configuration(
        _SGD | {"learning_rate": "invscaling", "power_t": 0.1}
    ),
    "Adam's constants": Configuration({"beta_1": 0.5, "beta_2": 0.8, "epsilon": 1e-3}),
    "Adam without memory": Configuration({"beta_1": 0.0, "beta_2": 0.0}),
    "no penalty": Configuration({"alpha": 0.0}),
    "strong penalty, weighted": Configuration({"alpha": 10.0}, weighted=True),
    "weighted, sgd": Configuration(_SGD, "two classes", weighted=True),
    "weighted, several labels": Configuration({}, "several labels", weighted=True),
    "batches of one row": Configuration({"batch_size": 1, "max_iter": 1}),
    "a short last batch": Configuration({"batch_size": 77}),
    "one batch": Configuration({"batch_size": N_ROWS}),
    "in order": Configuration({"shuffle": False, "batch_size": 77}),
    "in order, early stopping": Configuration(
        {"shuffle": False, "early_stopping": True, "tol": 0.0}
    ),
    "an int for the hidden layer": Configuration({"hidden_layer_sizes": 7}),
    "no hidden layer": Configuration({"hidden_layer_sizes": ()}),
    "no hidden layer, two classes": Configuration(
        {"hidden_layer_sizes": []}, "two classes"
    ),
    "three hidden layers": Configuration({"hidden_layer_sizes": (9, 2, 5)}),
    "sizes in an array": Configuration({"hidden_layer_sizes": np.array([6, 4])}),
    "a hidden layer of one": Configuration({"hidden_layer_sizes": (1,)}),
    "a random state": Configuration({"random_state": np.random.RandomState(3)}),
    **{f"{target}": Configuration({}, target) for target in TARGETS},
}
"""Configurations by what is particular about them; the rest is in `Case`."""

_COMMON = {"hidden_layer_sizes": (12, 7), "max_iter": 4, "batch_size": 60}


@dataclass(frozen=True)
class Case:
    """A configuration made ready: what `assert_parity` takes."""

    clf_params: dict[str, Any]
    X: np.ndarray
    y: Any
    sample_weight: np.ndarray | None = None

    @classmethod
    def of(cls, name: str, n_rows: int = N_ROWS, **params: Any) -> "Case":
        """Make ready a configuration, perhaps with other parameters or more rows."""
        configuration = CONFIGURATIONS[name]
        X, digits = load_digits(return_X_y=True)
        X, digits = X[:n_rows] / 16, digits[:n_rows]
        weight = np.linspace(0.1, 3, n_rows) if configuration.weighted else None
        return cls(
            _COMMON | configuration.params | params,
            X,
            TARGETS[configuration.target](digits),
            weight,
        )


def quiet(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call, with leave to end at `max_iter`; every other warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return call(*args, **kwargs)


def fit(clf: Any, *args: Any, **kwargs: Any) -> Any:
    """Fit, with leave to end at `max_iter`."""
    return quiet(clf.fit, *args, **kwargs)


@dataclass(frozen=True)
class Result:
    """What a call led to; class names are left out of messages."""

    value: Any
    error: tuple[type, str] | None
    warnings: list[tuple[type, str]]


def result_of(call: Callable[[], Any]) -> Result:
    """Call, and record the value or the error, and the warnings."""
    value, error = None, None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            value = call()
        except Exception as raised:
            error = type(raised), _anonymous(str(raised))
    return Result(
        value, error, [(w.category, _anonymous(str(w.message))) for w in caught]
    )


def _anonymous(message: str) -> str:
    """Leave out our name, and the order of sets, which changes from run to run."""
    message = message.replace("DistributedMLPClassifier", "MLPClassifier")
    return re.sub(r"\{(.*?)\}", lambda part: str(sorted(part[1].split(", "))), message)


def pair(
    clf_params: dict[str, Any], **engine_params: Any
) -> tuple[DistributedMLPClassifier, MLPClassifier]:
    """Return our classifier and scikit-learn's; a random state is not shared."""
    clf_params = {"random_state": 0} | clf_params
    return (
        DistributedMLPClassifier(**deepcopy(clf_params), **engine_params),
        MLPClassifier(**deepcopy(clf_params)),
    )


def assert_parity(
    clf_params: dict[str, Any],
    X: Any,
    y: Any,
    sample_weight: Any = None,
    **engine_params: Any,
) -> DistributedMLPClassifier:
    """Fit both classifiers; all they say and know afterwards must be the same.

    To rtol 1e-6 in float64, and to atol 1e-5 in float32. Returns ours.
    """
    ours, theirs = pair(clf_params, **engine_params)
    results = [
        result_of(lambda clf=clf: clf.fit(X, y, sample_weight=sample_weight))
        for clf in (ours, theirs)
    ]
    assert results[0].error == results[1].error
    assert results[0].warnings == results[1].warnings
    if results[1].error is None:
        assert_same_network(ours, theirs)
        assert_same_answers(ours, theirs, X, y, sample_weight)
    return ours


def assert_same_network(ours: DistributedMLPClassifier, theirs: MLPClassifier) -> None:
    """Compare every fitted attribute that scikit-learn's classifier has."""
    close = tolerance(theirs.coefs_[0].dtype)
    assert_array_equal(ours.classes_, theirs.classes_)
    for name in ("coefs_", "intercepts_"):
        pairs = zip(getattr(ours, name), getattr(theirs, name), strict=True)
        for layer, (our_array, their_array) in enumerate(pairs):
            assert our_array.dtype == their_array.dtype
            assert_allclose(our_array, their_array, err_msg=f"{name}[{layer}]", **close)
    for name in (
        "loss_",
        "best_loss_",
        "loss_curve_",
        "validation_scores_",
        "best_validation_score_",
    ):
        value = getattr(theirs, name)
        if value is None:
            assert getattr(ours, name) is None, name
        else:
            assert_allclose(getattr(ours, name), value, err_msg=name, **close)
    for name in (
        "n_iter_",
        "t_",
        "n_layers_",
        "n_outputs_",
        "n_features_in_",
        "out_activation_",
    ):
        assert getattr(ours, name) == getattr(theirs, name), name


def assert_same_answers(
    ours: DistributedMLPClassifier,
    theirs: MLPClassifier,
    X: Any,
    y: Any,
    sample_weight: Any = None,
) -> None:
    """Compare what both classifiers predict."""
    close = tolerance(theirs.coefs_[0].dtype)
    our_labels, their_labels = ours.predict(X), theirs.predict(X)
    assert our_labels.dtype == their_labels.dtype
    assert_array_equal(_dense(our_labels), _dense(their_labels))
    with np.errstate(divide="ignore"):
        for name in ("predict_proba", "predict_log_proba"):
            our_values, their_values = getattr(ours, name)(X), getattr(theirs, name)(X)
            assert our_values.dtype == their_values.dtype
            assert_allclose(our_values, their_values, err_msg=name, **close)
    assert ours.score(X, y, sample_weight) == theirs.score(X, y, sample_weight)


def tolerance(dtype: np.dtype[Any]) -> dict[str, float]:
    """Return how close is close enough for networks of `dtype`."""
    if dtype == np.float32:
        return {"rtol": 0.0, "atol": 1e-5}
    return {"rtol": 1e-6, "atol": 1e-9}


def _dense(labels: Any) -> np.ndarray:
    return labels.toarray() if hasattr(labels, "toarray") else labels
