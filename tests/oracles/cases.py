"""Trainings that are compared with torch: data, and parameters of the estimators.

Both sides read this file: `make_torch_reference` trains the cases with torch, and
`test_torch` with the estimators. It needs NumPy alone, so that the script runs where
neither scikit-learn nor this package is installed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

SEED = 18
N_ROWS, N_FEATURES = 16, 5
HIDDEN = (7, 6)
N_STEPS = 20
"""Every step is an epoch: a mini-batch has all rows."""

DEFAULTS = {
    "activation": "tanh",
    "solver": "adam",
    "alpha": 0.0,
    "learning_rate": "constant",
    "learning_rate_init": 0.02,
    "momentum": 0.9,
    "nesterovs_momentum": True,
    "beta_1": 0.9,
    "beta_2": 0.999,
    "epsilon": 1e-8,
    "weight_decay": 0.01,
    "rho": 0.99,
    "warmup_steps": 0,
    "max_grad_norm": None,
    "ema_decay": None,
    "label_smoothing": 0.0,
    "loss": "squared_error",
    "huber_delta": 1.0,
}
"""What the script takes a parameter to be that a case does not mention."""


@dataclass(frozen=True)
class Case:
    """One training.

    Attributes
    ----------
    params : dict
        Parameters of the estimator; `DEFAULTS` has the others.
    target : str
        Name of the targets in `make_data`. Classes and labels are for the classifier.
    weighted : bool
        Whether the rows have sample weights.
    clipped : str
        In how many steps the gradient must exceed `max_grad_norm`: "never", "sometimes"
        or "always". The script checks it.
    """

    params: Mapping[str, Any] = field(default_factory=dict)
    target: str = "classes"
    weighted: bool = False
    clipped: str = "never"

    @property
    def classifies(self) -> bool:
        """Whether the estimator is the classifier."""
        return self.target in ("classes", "two classes", "labels")


def make_data() -> dict[str, np.ndarray]:
    """Draw features, the targets of every kind, and sample weights."""
    # NumPy promises the same numbers in every version only for this generator.
    rng = np.random.RandomState(SEED)
    X = rng.normal(size=(N_ROWS, N_FEATURES))
    return {
        "X": X,
        "classes": np.arange(N_ROWS) % 3,
        "two classes": (X[:, 0] + rng.normal(size=N_ROWS) > 0).astype(int),
        "labels": (rng.uniform(size=(N_ROWS, 3)) < 0.5).astype(int),
        "number": 2 * rng.normal(size=N_ROWS),
        "numbers": 2 * rng.normal(size=(N_ROWS, 2)),
        "counts": rng.poisson(2.0, (N_ROWS, 2)).astype(float),
        "sample_weight": rng.uniform(0.2, 3, N_ROWS),
    }


def make_initial(n_outputs: int) -> np.ndarray:
    """Draw the parameters that training begins with: see `views`."""
    units = (N_FEATURES, *HIDDEN, n_outputs)
    size = sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(units))
    return np.random.RandomState(SEED + n_outputs).uniform(-0.8, 0.8, size)


def count_outputs(case: Case, y: np.ndarray) -> int:
    """Return the number of outputs of the network of `case`, whose targets are `y`."""
    if case.target == "classes":
        return 3
    return 1 if y.ndim == 1 else y.shape[1]


def views(flat: np.ndarray, n_outputs: int) -> tuple[list[np.ndarray], ...]:
    """Return coefficients and intercepts of each layer, stored in this order."""
    units = (N_FEATURES, *HIDDEN, n_outputs)
    shapes = list(pairwise(units))
    stops = np.cumsum([a * b for a, b in shapes] + [b for _, b in shapes])
    parts = np.split(flat, stops[:-1])
    coefs = [part.reshape(s) for part, s in zip(parts[:3], shapes, strict=True)]
    return coefs, parts[3:]


def falling(fraction: float) -> float:
    """Return a factor of the learning rate, as a callable schedule does."""
    return 1 / (1 + 3 * fraction)


OLD_ACTIVATIONS = ("identity", "logistic", "tanh", "relu")
NEW_ACTIVATIONS = (
    "leaky_relu",
    "elu",
    "selu",
    "gelu",
    "silu",
    "mish",
    "softplus",
)

SOLVERS: Mapping[str, Mapping[str, Any]] = {
    "sgd": {
        "solver": "sgd",
        "momentum": 0.0,
        "nesterovs_momentum": False,
        "learning_rate_init": 0.2,
    },
    "momentum": {
        "solver": "sgd",
        "momentum": 0.8,
        "nesterovs_momentum": False,
        "learning_rate_init": 0.1,
    },
    "nesterov": {"solver": "sgd", "momentum": 0.8, "learning_rate_init": 0.1},
    "adam": {"solver": "adam"},
    "adamw": {"solver": "adamw", "weight_decay": 0.05},
    "rmsprop": {"solver": "rmsprop", "learning_rate_init": 0.005},
    "nadam": {"solver": "nadam"},
}

SCHEDULES: Mapping[str, Mapping[str, Any]] = {
    "warmup": {"learning_rate": "constant", "warmup_steps": 5},
    "cosine": {"learning_rate": "cosine"},
    "one_cycle": {"learning_rate": "one_cycle"},
    "callable": {"learning_rate": falling},
    "cosine warmup": {"learning_rate": "cosine", "warmup_steps": 5},
}

FOLLOWS_SCHEDULES = ("sgd", "adam", "adamw", "rmsprop", "nadam")
"""Not those with momentum. scikit-learn keeps the rate in the velocity,
``v <- momentum v - rate g``, as Sutskever et al. (2013) have it, and torch applies the
rate of the step to the whole velocity, ``w <- w - rate v``. At a constant rate they are
the same; when the rate changes, they are two algorithms."""

HYPERPARAMETERS: Mapping[str, Mapping[str, Any]] = {
    "adam": {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3},
    "adamw": {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3, "weight_decay": 1.5},
    "rmsprop": {"rho": 0.8, "epsilon": 1e-3},
    "nadam": {"beta_1": 0.8, "beta_2": 0.95, "epsilon": 1e-3},
}

LOSSES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "smoothed softmax": ("classes", {"label_smoothing": 0.1}),
    "logistic": ("labels", {}),
    "smoothed logistic": ("labels", {"label_smoothing": 0.1}),
    "one logistic": ("two classes", {}),
    "smoothed one logistic": ("two classes", {"label_smoothing": 0.1}),
    # Of several outputs, scikit-learn's versions differ in the loss that they report.
    "squared_error": ("number", {"loss": "squared_error"}),
    "absolute_error": ("numbers", {"loss": "absolute_error"}),
    "huber": ("numbers", {"loss": "huber", "huber_delta": 0.7}),
    "poisson": ("counts", {"loss": "poisson"}),
}


def _make_cases() -> dict[str, Case]:
    cases: dict[str, Case] = {}
    for name in (*OLD_ACTIVATIONS, *NEW_ACTIVATIONS):
        cases[f"activation {name}"] = Case({"activation": name})
    for pair in (("gelu", "relu"), ("tanh", "mish")):
        cases[f"activations {' '.join(pair)}"] = Case({"activation": pair})
    for name, params in SOLVERS.items():
        cases[f"solver {name}"] = Case({**params, "activation": ("tanh", "logistic")})
        cases[f"alpha {name}"] = Case({**params, "alpha": 0.1})
        cases[f"always clipped {name}"] = Case(
            {**params, "max_grad_norm": 0.05}, clipped="always"
        )
        cases[f"average {name}"] = Case({**params, "ema_decay": 0.9})
    for name, params in HYPERPARAMETERS.items():
        cases[f"hyperparameters {name}"] = Case({**SOLVERS[name], **params})
    for solver in FOLLOWS_SCHEDULES:
        for name, params in SCHEDULES.items():
            cases[f"{name} {solver}"] = Case({**SOLVERS[solver], **params})
    for name, (target, params) in LOSSES.items():
        cases[f"loss {name}"] = Case(params, target)
        cases[f"weighted loss {name}"] = Case(
            {**params, "alpha": 0.1}, target, weighted=True
        )
    cases["weighted loss softmax"] = Case({"alpha": 0.1}, weighted=True)
    cases["sometimes clipped sgd"] = Case(
        {**SOLVERS["sgd"], "max_grad_norm": 0.5}, clipped="sometimes"
    )
    cases["sometimes clipped adam"] = Case({"max_grad_norm": 0.5}, clipped="sometimes")
    cases["always clipped alpha"] = Case(
        {**SOLVERS["sgd"], "alpha": 10.0, "max_grad_norm": 0.05}, clipped="always"
    )
    cases["everything"] = Case(
        {
            **SOLVERS["adamw"],
            "activation": ("gelu", "silu"),
            "learning_rate": "one_cycle",
            "warmup_steps": 3,
            "max_grad_norm": 0.5,
            "ema_decay": 0.8,
            "alpha": 0.1,
            "label_smoothing": 0.1,
        },
        weighted=True,
        clipped="sometimes",
    )
    return cases


CASES = _make_cases()
