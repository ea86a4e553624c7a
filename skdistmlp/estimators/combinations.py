"""Refuse parameters that would be ignored, or that cannot be sent."""

from typing import Any

from skdistmlp.estimators.architecture import check_sendable, checked_dropout
from skdistmlp.nn.update_rules import UPDATE_RULES
from skdistmlp.training.schedules import EPOCH_SCHEDULES

NAMED_SCHEDULES = ", ".join(map(repr, EPOCH_SCHEDULES))


def check_combination(estimator: Any, incremental: bool) -> None:
    """Raise ValueError if a parameter has no meaning with the solver or the method.

    Where scikit-learn ignores one of its own parameters, it is ignored here too.

    Parameters
    ----------
    estimator : BaseDistributedMLP
        Its parameters are valid by themselves.
    incremental : bool
        Whether it trains by `partial_fit`.
    """
    for name in ("learning_rate", "scoring"):
        value = getattr(estimator, name)
        if callable(value):
            check_sendable(value, f"{name}={value!r}")
    by_steps = estimator.learning_rate not in EPOCH_SCHEDULES
    if estimator.solver not in UPDATE_RULES:
        rates = checked_dropout(estimator.dropout)
        unsupported = {
            "dropout": any(rates) if isinstance(rates, tuple) else rates > 0,
            "max_grad_norm": estimator.max_grad_norm is not None,
            "ema_decay": estimator.ema_decay is not None,
            "learning_rate": by_steps,
            "warmup_steps": estimator.warmup_steps > 0,
            "scoring": estimator.scoring is not None,
        }
        for name, is_set in unsupported.items():
            if is_set:
                raise ValueError(
                    f"{name}={getattr(estimator, name)!r} has no meaning with "
                    f"solver={estimator.solver!r}, which takes no steps over "
                    f"mini-batches. Use another solver, such as 'adam', or leave "
                    f"{name} out."
                )
    if incremental and by_steps:
        raise ValueError(
            f"learning_rate={estimator.learning_rate!r} needs to know where training "
            f"ends, which partial_fit does not. Expected one of {NAMED_SCHEDULES}. "
            f"Call fit instead, or use warmup_steps, which needs no end."
        )
