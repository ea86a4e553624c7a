"""The state of a fitted estimator as plain data, for pickles that outlive our modules.

A pickle names the classes of what it holds by their modules. Users keep pickles, so
those of estimators name public paths only: the inner values among the attributes are
replaced by tuples, dicts and arrays when an estimator is pickled, and rebuilt exactly
when it is loaded. This module alone knows which attributes that concerns.
"""

from typing import Any

from skdistmlp.nn.optimizers import UPDATE_RULES, OptimizerState
from skdistmlp.training.progress import LearningRateSchedule


def to_plain(attributes: dict[str, Any]) -> dict[str, Any]:
    """Return attributes of an estimator with plain data in place of inner values."""
    plain = dict(attributes)
    if plain.get("_optimizer_state") is not None:
        plain["_optimizer_state"] = _plain_optimizer(plain["_optimizer_state"])
    if plain.get("_schedule") is not None:
        plain["_schedule"] = dict(vars(plain["_schedule"]))
    return plain


def from_plain(plain: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes that `to_plain` was given."""
    attributes = dict(plain)
    if attributes.get("_optimizer_state") is not None:
        attributes["_optimizer_state"] = _optimizer(**attributes["_optimizer_state"])
    if attributes.get("_schedule") is not None:
        attributes["_schedule"] = LearningRateSchedule(**attributes["_schedule"])
    return attributes


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
    }


def _optimizer(
    solver: str, hyperparameters: dict[str, Any], moments: Any, n_steps: int
) -> OptimizerState:
    rule = UPDATE_RULES[solver](**hyperparameters)
    return OptimizerState(rule, tuple(moments), n_steps)
