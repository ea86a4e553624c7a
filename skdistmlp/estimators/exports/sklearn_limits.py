"""What scikit-learn lacks of a network that is exported to it."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from skdistmlp.estimators.fitted_state import HELD_OUT, watched_by
from skdistmlp.training.schedules import EPOCH_SCHEDULES

SKLEARN_CHOICES: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "activation": frozenset({"identity", "logistic", "tanh", "relu"}),
        "solver": frozenset({"lbfgs", "sgd", "adam"}),
        "learning_rate": frozenset(EPOCH_SCHEDULES),
        "loss": frozenset({"squared_error", "poisson"}),
    }
)
"""Parameters of which scikit-learn knows fewer values than we do, and those values."""

SKLEARN_OUTPUTS = frozenset({"softmax", "logistic", "identity", "exp"})
"""Output activations that scikit-learn's networks have."""


def replacements(estimator: Any, mlp: Any) -> dict[str, Any]:
    """Return the parameters whose values scikit-learn lacks, with those it gets.

    Raises
    ------
    ValueError
        If scikit-learn cannot predict with the network.
    """
    replaced = {
        name: getattr(mlp, name)
        for name, known in SKLEARN_CHOICES.items()
        if name != "activation"
        and hasattr(estimator, name)
        and not is_among(getattr(estimator, name), known)
    }
    used = [layer.activation for layer in estimator._fitted_network().layers[:-1]]
    known = SKLEARN_CHOICES["activation"]
    for activation in used:
        if not is_among(activation, known):
            raise ValueError(
                f"scikit-learn lacks the activation {activation!r}, "
                f"expected one of {', '.join(sorted(known))}. Export the network by "
                f"to_onnx() or to_torch()."
            )
    if any(activation != used[0] for activation in used):
        raise ValueError(
            f"scikit-learn lacks different activations per layer, expected the same "
            f"one in all, but they are {', '.join(map(repr, used))}. Export the "
            f"network by to_onnx() or to_torch()."
        )
    if estimator.out_activation_ not in SKLEARN_OUTPUTS:
        raise ValueError(
            f"scikit-learn lacks the output activation "
            f"{estimator.out_activation_!r} of several quantiles, expected one of "
            f"{', '.join(sorted(SKLEARN_OUTPUTS))}. Export the network by to_onnx() or "
            f"to_torch()."
        )
    if used:
        replaced["activation"] = used[0]
    elif not is_among(estimator.activation, known):
        replaced["activation"] = mlp.activation  # without hidden layers, no effect
    return replaced


def is_among(value: Any, names: frozenset[str]) -> bool:
    """Return whether a value is one of some names; it may be of any type."""
    return isinstance(value, str) and value in names


def watches_something_else(estimator: Any, replaced: Mapping[str, Any]) -> bool:
    """Return whether losses or scores have another meaning than in scikit-learn."""
    return (
        "loss" in replaced
        or watched_by(estimator) != HELD_OUT
        or getattr(estimator, "label_smoothing", 0) != 0
    )


def reset_watch(mlp: Any) -> None:
    """Forget the best value so far, which a warm start could not compare with."""
    if hasattr(mlp, "_no_improvement_count"):
        mlp._no_improvement_count = 0
    if getattr(mlp, "best_loss_", None) is not None:
        mlp.best_loss_ = np.inf
    if getattr(mlp, "best_validation_score_", None) is not None:
        mlp.best_validation_score_ = -np.inf
