"""Whether a fit should move to another plan before it ends: only if that pays."""

from dataclasses import dataclass, replace

from skdistmlp.exceptions import counted
from skdistmlp.planning.candidates import MARGIN, Offer, forecast_of
from skdistmlp.planning.plan import Plan
from skdistmlp.planning.step_time import step_time

PAYS = 2.0
"""By how much more than it costs a move has to save: what is predicted may be wrong,
and a fit may end early."""


@dataclass(frozen=True)
class Move:
    """A plan that is worth moving to, and why.

    Attributes
    ----------
    plan : Plan
        The plan.
    why : str
        What was predicted.
    """

    plan: Plan
    why: str


def move_that_pays(
    plan: Plan, offer: Offer, step_s: float, cost_s: float
) -> Move | None:
    """Return the move that saves most; None if the fit should stay where it is.

    Parameters
    ----------
    plan : Plan
        Where the fit is.
    offer : Offer
        What there is to choose from, among it the workers of the plan; its length is
        that of the rest of the fit.
    step_s : float
        Seconds that a step takes there, as measured.
    cost_s : float
        Seconds that a move costs.
    """
    candidates = offer.candidates()
    if not candidates:
        return None
    best = candidates[0]
    speeds = dict(zip(offer.workers, offer.machines.workers, strict=True))
    now = step_time(
        plan.split,
        offer.cost,
        plan.grid,
        [speeds[worker] for worker in plan.workers],
        offer.machines.link,
        plan.rows,
    )
    # What favours staying: the model knows nothing of what else slows the fit down.
    now_s, then_s = min(now.seconds, step_s), best.step.seconds
    saved_s = (now_s - then_s) * offer.length.total
    if saved_s < PAYS * cost_s or now_s < (1 + MARGIN) * then_s:
        return None
    n_before, n_after = len(plan.workers), len(best.plan.workers)
    reason = (
        f"{counted(n_after, 'worker')} should train {now_s / then_s:.2f} times as fast "
        f"as {counted(n_before, 'worker')} did before"
    )
    why = (
        f"a step should take {1e3 * then_s:.3g} ms there instead of {1e3 * now_s:.3g} "
        f"ms, which saves {saved_s:.0f} s until the end, for {cost_s:.1f} s"
    )
    moved = replace(
        best.plan,
        reason=reason,
        forecast=forecast_of(candidates, offer.machines.link),
        fixed=plan.fixed,
        recoveries=plan.recoveries,
    )
    return Move(moved, why)
