"""Define the valid values of the estimators' parameters."""

from collections.abc import Mapping
from numbers import Integral, Real
from os import PathLike
from types import MappingProxyType
from typing import Any

import numpy as np
from sklearn.metrics import get_scorer_names

from skdistmlp.engines.choice import ENGINES
from skdistmlp.estimators._sklearn import HasMethods, Interval, Options, StrOptions
from skdistmlp.nn.activations import ACTIVATIONS, Activation
from skdistmlp.nn.update_rules import UPDATE_RULES
from skdistmlp.training.schedules import EPOCH_SCHEDULES, STEP_SCHEDULES

PARAMETER_CONSTRAINTS: Mapping[str, list[Any]] = MappingProxyType(
    {
        "hidden_layer_sizes": [
            "array-like",
            Interval(Integral, 1, None, closed="left"),
        ],
        "activation": [StrOptions(set(ACTIVATIONS)), "array-like", Activation],
        "solver": [StrOptions({"lbfgs", *UPDATE_RULES})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
        ],
        "learning_rate": [StrOptions({*EPOCH_SCHEDULES, *STEP_SCHEDULES}), callable],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [
            Interval(Integral, 1, None, closed="left"),
            Options(Real, {np.inf}),
        ],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "dropout": [Interval(Real, 0, 1, closed="left"), "array-like"],
        "weight_decay": [Interval(Real, 0, None, closed="left")],
        "rho": [Interval(Real, 0, 1, closed="left")],
        "max_grad_norm": [None, Interval(Real, 0, None, closed="neither")],
        "warmup_steps": [Interval(Integral, 0, None, closed="left")],
        "ema_decay": [None, Interval(Real, 0, 1, closed="left")],
        "scoring": [None, StrOptions({"loss", *get_scorer_names()}), callable],
        "client": [
            None,
            str,
            HasMethods(["scatter", "gather", "nthreads"]),  # a client
            HasMethods(["get_client", "scale"]),  # a cluster
        ],
        "n_workers": [None, Interval(Integral, 1, None, closed="left")],
        "n_replicas": [None, Interval(Integral, 1, None, closed="left")],
        "parameter_threshold": [
            None,
            Interval(Integral, 0, None, closed="left"),
            StrOptions({"auto"}),
        ],
        "checkpoint": [None, str, PathLike],
        "engine": [StrOptions({"auto", *ENGINES})],
    }
)
"""In scikit-learn's notation; the first twenty-three parameters are its own."""


ENGINE_PARAMETERS = frozenset(
    {
        "client",
        "n_workers",
        "n_replicas",
        "parameter_threshold",
        "engine",
        "checkpoint",
    }
)
"""Parameters that scikit-learn lacks and that do not change the answer."""


def solver_has_epochs(estimator: Any) -> bool:
    """Return whether the solver trains in epochs, which `partial_fit` requires."""
    if estimator.solver not in UPDATE_RULES:
        raise AttributeError(
            "partial_fit is only available for stochastic optimizers. "
            f"{estimator.solver} is not stochastic."
        )
    return True
