"""The trainings that are compared with scikit-learn's, each by a name."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import pairwise, product
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier, MLPRegressor

from skdistmlp import DistributedMLPClassifier, DistributedMLPRegressor
from skdistmlp.parallel.rows import COPIES, RowHolding
from tests.engines.thread_engine import in_threads

N_ROWS = 240

ESTIMATORS: dict[str, tuple[type, type]] = {
    "classifier": (DistributedMLPClassifier, MLPClassifier),
    "regressor": (DistributedMLPRegressor, MLPRegressor),
}
"""Ours and scikit-learn's."""


@dataclass(frozen=True)
class Configuration:
    """One comparison with scikit-learn.

    Attributes
    ----------
    params : dict
        Parameters that ours and scikit-learn's have.
    target : str
        Key of `TARGETS`, for classifiers, or of `NUMBERS`, for regressors.
    weighted : bool
        Whether the samples have weights.
    converges : bool
        Whether training ends before `max_iter`; a comparison of stopping rules
        that never stops would show nothing.
    features : str
        Key of `FORMATS`.
    """

    params: dict[str, Any] = field(default_factory=dict)
    target: str = "ten classes"
    weighted: bool = False
    converges: bool = False
    features: str = "dense"


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
    "several labels, sparse": lambda y: sparse.csr_matrix(_some_labels(y)),
    "several labels, sparse array": lambda y: sparse.csr_array(_some_labels(y)),
    "several labels, sparse columns": lambda y: sparse.csc_matrix(_some_labels(y)),
}
"""From ten digits to the classes of a classifier."""

NUMBERS: dict[str, Callable[[np.ndarray], Any]] = {
    "numbers": lambda y: 0.3 * y - 1,
    "integers": lambda y: y - 3,
    "numbers in float32": lambda y: (0.3 * y - 1).astype(np.float32),
    "a column": lambda y: (0.3 * y - 1)[:, np.newaxis],
    "a constant": lambda y: np.full(len(y), 2.5),
    "two columns": lambda y: np.column_stack([0.3 * y - 1, np.cos(y)]),
    "counts": lambda y: y,
    "rates": lambda y: 0.2 * y,
    "two columns of counts": lambda y: np.column_stack([y, y % 3]),
}
"""From ten digits to the targets of a regressor."""


def _unsorted(X: np.ndarray) -> sparse.csr_matrix:
    """Store each row from its last column to its first."""
    rows = sparse.csr_matrix(X)
    columns, values = rows.indices.copy(), rows.data.copy()
    for start, stop in pairwise(rows.indptr):
        columns[start:stop] = columns[start:stop][::-1]
        values[start:stop] = values[start:stop][::-1]
    return sparse.csr_matrix((values, columns, rows.indptr), X.shape)


def _duplicates(X: np.ndarray) -> sparse.csr_matrix:
    """Store each number as two halves, in two entries of one place."""
    rows = sparse.csr_matrix(X)
    return sparse.csr_matrix(
        (np.repeat(rows.data / 2, 2), np.repeat(rows.indices, 2), 2 * rows.indptr),
        X.shape,
    )


def _stored_zeros(X: np.ndarray) -> sparse.csr_matrix:
    """Store every number, zeros too."""
    columns = np.tile(np.arange(X.shape[1]), len(X))
    bounds = np.arange(len(X) + 1) * X.shape[1]
    return sparse.csr_matrix((X.ravel(), columns, bounds), X.shape)


def _wide_indices(X: np.ndarray) -> sparse.csr_matrix:
    """Store the places of numbers in int64."""
    rows = sparse.csr_matrix(X)
    rows.indices = rows.indices.astype(np.int64)
    rows.indptr = rows.indptr.astype(np.int64)
    return rows


FORMATS: dict[str, Callable[[np.ndarray], Any]] = {
    "dense": lambda X: X,
    **{
        f"{name}_{kind}": getattr(sparse, f"{name}_{kind}")
        for name, kind in product(("csr", "csc", "coo"), ("matrix", "array"))
    },
    "unsorted": _unsorted,
    "duplicates": _duplicates,
    "stored zeros": _stored_zeros,
    "wide indices": _wide_indices,
}
"""From an array to the features that an estimator is given."""

_STOPS = {"max_iter": 60, "tol": 0.05, "n_iter_no_change": 2}
_SGD = {"solver": "sgd", "learning_rate_init": 0.05}
_LBFGS = {"solver": "lbfgs"}
_POISSON = {"loss": "poisson"}
_ACTIVATIONS = ("identity", "logistic", "tanh", "relu")
_SOLVERS = ("adam", "sgd", "lbfgs")

CONFIGURATIONS: dict[str, Configuration] = {
    "defaults": Configuration(),
    **{
        f"{activation}, {solver}, {target}": Configuration(
            {"activation": activation, "solver": solver}, target
        )
        for activation, solver, target in product(
            _ACTIVATIONS,
            _SOLVERS,
            ("ten classes", "two classes", "several labels", "numbers", "two columns"),
        )
    },
    **{
        f"poisson, {activation}, {solver}, {target}": Configuration(
            _POISSON | {"activation": activation, "solver": solver}, target
        )
        for activation, solver, target in product(
            ("relu", "tanh"), _SOLVERS, ("counts", "two columns of counts")
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
            ("ten classes", "two strings", "several labels", "numbers", "two columns"),
            (False, True),
        )
    },
    "early stopping, poisson": Configuration(
        _POISSON | {"early_stopping": True, "tol": 0.0}, "counts", weighted=True
    ),
    "early stopping, a constant": Configuration({"early_stopping": True}, "a constant"),
    "early stopping, numbers, which stops": Configuration(
        _STOPS | {"early_stopping": True}, "numbers", converges=True
    ),
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
    "loss, numbers, which stops": Configuration(_STOPS, "numbers", converges=True),
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
    "no hidden layer, numbers": Configuration({"hidden_layer_sizes": ()}, "numbers"),
    "an int for the hidden layer, numbers": Configuration(
        {"hidden_layer_sizes": 7}, "numbers"
    ),
    "a random state": Configuration({"random_state": np.random.RandomState(3)}),
    "strong penalty, weighted, numbers": Configuration(
        {"alpha": 10.0}, "two columns", weighted=True
    ),
    "weighted, sgd, numbers": Configuration(_SGD, "numbers", weighted=True),
    "weighted, poisson": Configuration(_POISSON, "counts", weighted=True),
    "lbfgs, weighted": Configuration(_LBFGS | {"alpha": 1.0}, weighted=True),
    "lbfgs, weighted, several labels": Configuration(
        _LBFGS, "several labels", weighted=True
    ),
    "lbfgs, weighted, numbers": Configuration(
        _LBFGS | {"alpha": 1.0}, "two columns", weighted=True
    ),
    "lbfgs, strings": Configuration(_LBFGS, "strings"),
    "lbfgs, no hidden layer": Configuration(_LBFGS | {"hidden_layer_sizes": ()}),
    "lbfgs, no hidden layer, numbers": Configuration(
        _LBFGS | {"hidden_layer_sizes": ()}, "numbers"
    ),
    "lbfgs, an int for the hidden layer": Configuration(
        _LBFGS | {"hidden_layer_sizes": 7}
    ),
    "lbfgs, with parameters of other solvers": Configuration(
        _LBFGS
        | {
            "early_stopping": True,
            "shuffle": False,
            "batch_size": 7,
            "learning_rate": "adaptive",
            "verbose": True,
        }
    ),
    "lbfgs, a large batch size": Configuration(_LBFGS | {"batch_size": 2 * N_ROWS}),
    "lbfgs, which stops": Configuration(
        _LBFGS | {"tol": 0.1, "max_iter": 60}, converges=True
    ),
    "lbfgs, numbers, which stops": Configuration(
        _LBFGS | {"tol": 0.2, "max_iter": 60}, "numbers", converges=True
    ),
    "lbfgs, out of evaluations": Configuration(
        _LBFGS | {"max_fun": 3, "max_iter": 60}, converges=True
    ),
    **{
        f"{features}, {target}": Configuration({}, target, features=features)
        for features, target in product(
            [name for name in FORMATS if name != "dense"], ("ten classes", "numbers")
        )
    },
    **{
        f"{features}, {target}, lbfgs": Configuration(_LBFGS, target, features=features)
        for features, target in product(
            ("csr_matrix", "csc_array"), ("two classes", "two columns")
        )
    },
    "sparse on both sides": Configuration(
        {}, "several labels, sparse", features="csr_array"
    ),
    "sparse, in order": Configuration(
        _SGD | {"shuffle": False, "batch_size": 77}, features="csc_matrix"
    ),
    "sparse, early stopping, weighted": Configuration(
        {"early_stopping": True, "tol": 0.0}, weighted=True, features="csr_matrix"
    ),
    "sparse, early stopping, numbers": Configuration(
        {"early_stopping": True, "tol": 0.0}, "numbers", features="csr_array"
    ),
    "sparse, no hidden layer": Configuration(
        {"hidden_layer_sizes": ()}, features="csr_matrix"
    ),
    "sparse, poisson": Configuration(
        _POISSON, "counts", weighted=True, features="csc_matrix"
    ),
    **{target: Configuration({}, target) for target in [*TARGETS, *NUMBERS]},
}
"""Configurations by what is particular about them; the rest is in `Case`."""

_COMMON = {"hidden_layer_sizes": (12, 7), "max_iter": 4, "batch_size": 60}


@dataclass(frozen=True)
class Case:
    """A configuration made ready: what `assert_parity` takes."""

    params: dict[str, Any]
    X: Any
    y: Any
    sample_weight: np.ndarray | None = None
    kind: str = "classifier"

    @classmethod
    def of(cls, name: str, n_rows: int = N_ROWS, **params: Any) -> "Case":
        """Make ready a configuration, perhaps with other parameters or more rows."""
        configuration = CONFIGURATIONS[name]
        X, digits = load_digits(return_X_y=True)
        X, digits = X[:n_rows] / 16, digits[:n_rows]
        weight = np.linspace(0.1, 3, n_rows) if configuration.weighted else None
        targets = TARGETS | NUMBERS
        return cls(
            _COMMON | configuration.params | params,
            FORMATS[configuration.features](X),
            targets[configuration.target](digits),
            weight,
            "regressor" if configuration.target in NUMBERS else "classifier",
        )

    def pair(self, **engine_params: Any) -> tuple[Any, Any]:
        """Return our estimator and scikit-learn's; see `pair`."""
        return pair(self.params, self.kind, **engine_params)

    def float32(self) -> "Case":
        """Return the same with features in float32."""
        return replace(self, X=self.X.astype(np.float32))


def pair(
    params: dict[str, Any],
    kind: str = "classifier",
    shares: Sequence[float] | None = None,
    n_replicas: int = 1,
    rows: RowHolding = COPIES,
    **engine_params: Any,
) -> tuple[Any, Any]:
    """Return our estimator and scikit-learn's; a random state is not shared.

    With `shares`, ours trains in threads: one for each share in each of `n_replicas`,
    which have `rows`. Without, `n_replicas` is the estimator's parameter.
    """
    params = {"random_state": 0} | params
    ours, theirs = ESTIMATORS[kind]
    if shares is not None:
        ours = in_threads(ours, shares, n_replicas, rows)
    elif n_replicas > 1:
        engine_params["n_replicas"] = n_replicas
    return ours(**deepcopy(params), **engine_params), theirs(**deepcopy(params))
