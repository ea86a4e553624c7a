"""The state of a fitted estimator as plain data, for pickles that outlive our modules.

A pickle names the classes of what it holds by their modules. Users keep pickles, so
those of estimators name public paths only: the inner values among the attributes are
replaced by tuples, dicts and arrays when an estimator is pickled, and rebuilt exactly
when it is loaded. This module alone knows which attributes that concerns.
"""

from collections.abc import Mapping
from typing import Any

from skdistmlp._version import __version__
from skdistmlp.nn.activations import ACTIVATIONS
from skdistmlp.nn.optimizers import OptimizerState
from skdistmlp.nn.update_rules import UPDATE_RULES
from skdistmlp.requirements import release_numbers
from skdistmlp.training.schedules import LearningRateSchedule

VERSION = "_skdistmlp_version"
"""Where the plain data say which version of this package has saved them."""


def to_plain(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return attributes of an estimator with plain data in place of inner values."""
    plain = attributes | {VERSION: __version__}
    if plain.get("_optimizer_state") is not None:
        plain["_optimizer_state"] = _plain_optimizer(plain["_optimizer_state"])
    if plain.get("_schedule") is not None:
        plain["_schedule"] = dict(vars(plain["_schedule"]))
    return plain


def from_plain(plain: dict[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Return the attributes that `to_plain` was given.

    Parameters
    ----------
    plain : dict
        Plain data of this version or another.
    defaults : mapping
        Values of the parameters that an older version may not have had.

    Raises
    ------
    ValueError
        If a newer version has saved what this one does not know.
    """
    attributes = {**defaults, **plain}
    if "n_workers_" in attributes:
        # Versions without replicas had one.
        attributes.setdefault("n_replicas_", 1)
    version = attributes.pop(VERSION, "before 0.1")
    is_newer = release_numbers(version) > release_numbers(__version__)
    if is_newer and (unknown := _unknown_parameters(attributes, defaults)):
        raise _unreadable(version, f"its parameters {', '.join(unknown)}")
    try:
        if attributes.get("_optimizer_state") is not None:
            attributes["_optimizer_state"] = _optimizer(
                **attributes["_optimizer_state"]
            )
        if attributes.get("_schedule") is not None:
            attributes["_schedule"] = LearningRateSchedule(**attributes["_schedule"])
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(version, "the state of its optimiser") from error
    return attributes


def _unknown_parameters(
    attributes: Mapping[str, Any], parameters: Mapping[str, Any]
) -> list[str]:
    """Return the parameters, with their values, that this version does not know."""
    known = {"solver": [*UPDATE_RULES, "lbfgs"], "activation": [*ACTIVATIONS]}
    return [
        f"{name}={value!r}"
        for name, value in attributes.items()
        if not (name.startswith("_") or name.endswith("_"))
        and (
            name not in parameters
            or not _names(value) <= set(known.get(name, _names(value)))
        )
    ]


def _names(value: Any) -> set[str]:
    """Return the names in a parameter, which may be one or a sequence of values."""
    values = value if isinstance(value, list | tuple) else [value]
    return {name for name in values if isinstance(name, str)}


def _unreadable(version: str, what: str) -> ValueError:
    return ValueError(
        f"this estimator was saved by skdistmlp {version}, and {__version__}, which is "
        f"installed, does not know {what}. Install version {version}, or export the "
        f"estimator by to_sklearn() where that is installed."
    )


def _plain_optimizer(state: OptimizerState) -> dict[str, Any]:
    rule = state.rule
    solver = next((s for s, cls in UPDATE_RULES.items() if type(rule) is cls), None)
    if solver is None:
        raise TypeError(
            f"the optimiser {type(rule).__name__} is not in UPDATE_RULES, so an "
            f"estimator that uses it cannot be saved. Enter it there."
        )
    return {
        "solver": solver,
        "hyperparameters": dict(vars(rule)),
        "moments": tuple(state.moments),
        "n_steps": state.n_steps,
        "ema_decay": state.ema_decay,
        "average": state.average,
    }


def _optimizer(
    solver: str,
    hyperparameters: dict[str, Any],
    moments: Any,
    n_steps: int,
    # Not there in files of version 0.1.
    ema_decay: float | None = None,
    average: Any = None,
) -> OptimizerState:
    rule = UPDATE_RULES[solver](**hyperparameters)
    return OptimizerState(rule, tuple(moments), n_steps, ema_decay, average)
