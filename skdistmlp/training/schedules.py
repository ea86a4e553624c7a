"""Schedules of the learning rate: from epoch to epoch, and from step to step."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from types import MappingProxyType

Factor = Callable[[float], float]
"""From the fraction of training that is done to a factor on the initial rate."""


def cosine(step: int, n_steps: int) -> float:
    """Return half a cosine: from 1 to almost 0 (Loshchilov and Hutter, 2017).

    torch's ``CosineAnnealingLR`` over all steps.
    """
    return (1 + math.cos(math.pi * step / n_steps)) / 2


RISE = 0.3
"""Share of the steps in which the rate of "one_cycle" rises."""

START, END = 1 / 25, 1 / 25 / 1e4
"""What "one_cycle" begins and ends with, as factors."""


def one_cycle(step: int, n_steps: int) -> float:
    """Return a cosine up from `START` to 1, and another down to `END`.

    Smith and Topin (2018), as torch's ``OneCycleLR`` with its defaults.
    """
    peak, last = RISE * n_steps - 1, n_steps - 1
    if step <= peak:
        return _between(START, 1.0, step / peak)
    return _between(1.0, END, (step - peak) / (last - peak))


def _between(start: float, end: float, done: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * done))


STEP_SCHEDULES: Mapping[str, Callable[[int, int], float]] = MappingProxyType(
    {"cosine": cosine, "one_cycle": one_cycle}
)
"""Factors on the initial rate, from the number of the step and that of all steps."""

EPOCH_SCHEDULES = "constant", "invscaling", "adaptive"
"""scikit-learn's schedules; all but "constant" are for "sgd" only."""


@dataclass(frozen=True)
class LearningRateSchedule:
    """How the learning rate changes.

    Attributes
    ----------
    name : str
        In `EPOCH_SCHEDULES` or `STEP_SCHEDULES`, or "callable".
    initial : float
        Rate of the first epoch.
    power_t : float
        Exponent of "invscaling".
    n_steps : int or None
        Number of the steps of a whole training, which the schedules from step to step
        need.
    warmup_steps : int
        Number of steps in which the rate rises linearly to what it would be.
    factor : callable or None
        For "callable": from the fraction of training done to a factor.
    """

    name: str
    initial: float
    power_t: float = 0.5
    n_steps: int | None = None
    warmup_steps: int = 0
    factor: Factor | None = None

    def after_epoch(self, rate: float, n_samples_seen: int) -> float:
        """Return the rate of the next epoch."""
        if self.name == "invscaling":
            return self.initial / (n_samples_seen + 1) ** self.power_t
        return rate

    def after_stall(self, rate: float) -> float | None:
        """Return the rate to continue with when nothing improves, None to stop."""
        if self.name == "adaptive" and rate > 1e-6:
            return rate / 5.0
        return None

    def at_step(self, rate: float, step: int) -> float:
        """Return the rate of one step, from 0, in an epoch that has `rate`."""
        if step < self.warmup_steps:
            rate *= (step + 1) / self.warmup_steps
        if self.name in EPOCH_SCHEDULES:
            return rate
        assert self.n_steps is not None
        if self.factor is not None:
            factor = self.factor(step / self.n_steps)
            if not isinstance(factor, Real) or not 0 <= float(factor) < math.inf:
                raise ValueError(
                    f"learning_rate({step / self.n_steps:.4f}) returned {factor!r}, "
                    f"expected a factor on learning_rate_init that is not negative."
                )
            return rate * float(factor)
        return rate * STEP_SCHEDULES[self.name](step, self.n_steps)
