"""Whether a fit should move to another plan before it ends: only if that pays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

from skdistmlp.exceptions import counted
from skdistmlp.parallel.grid import Grid
from skdistmlp.planning.candidates import MARGIN, forecast_of
from skdistmlp.planning.cost import StepCost
from skdistmlp.planning.machines import Speed
from skdistmlp.planning.offer import Offer
from skdistmlp.planning.plan import Plan
from skdistmlp.planning.rates import REFERENCE
from skdistmlp.planning.step_time import computations_s, step_time

SLOW = 1.5
"""How many times as long as the others a worker computes, for as much of the network
and the rows and without its exchanges, from which it counts as slow."""

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


def slowness(
    plan: Plan, cost: StepCost, computed_s: Sequence[float]
) -> dict[str, float]:
    """Return the workers that are slow, and how many times as long they compute.

    For what they have of the network and the rows: on a plan that gives a slow worker
    less than the others, it computes as long as they do, and is as slow as before.

    Parameters
    ----------
    plan : Plan
        Where the fit is.
    cost : StepCost
        What its steps cost.
    computed_s : sequence of float
        Seconds for which each process has computed in the same steps, without its
        exchanges.

    Returns
    -------
    dict of str to float
        By address, the seconds for equal parts over the median of the others, if above
        `SLOW`.
    """
    for_equal_s = _for_equal_parts(plan, cost, computed_s)
    found = {}
    for rank, seconds in enumerate(for_equal_s):
        usual_s = _median_of_others(for_equal_s, rank)
        if 0 < SLOW * usual_s < seconds:
            found[plan.workers[rank]] = seconds / usual_s
    return found


def expected_slowness(plan: Plan, cost: StepCost) -> dict[str, float]:
    """Return the workers that a plan was made to be slow on; see `slowness`.

    They have less of the network or the rows than the others, so that all compute for
    as long as each other: those with fewer threads, for one.

    Parameters
    ----------
    plan : Plan
        The plan.
    cost : StepCost
        What a step costs.

    Returns
    -------
    dict of str to float
        By address, how many times as long as the others each would compute for as much.
    """
    return slowness(plan, cost, [1.0] * plan.n_workers)


def _for_equal_parts(
    plan: Plan, cost: StepCost, seconds: Sequence[float]
) -> list[float]:
    """Return the seconds of each process over what equal ones would take there."""
    speeds = [Speed(REFERENCE)] * plan.n_workers
    expected_s = computations_s(plan.split, cost, plan.grid, speeds, plan.rows)
    return [s / expected for s, expected in zip(seconds, expected_s, strict=True)]


def _median_of_others(seconds: Sequence[float], rank: int) -> float:
    """Return the median without that of one process; 0 if there is no other."""
    others = [*seconds[:rank], *seconds[rank + 1 :]]
    return median(others) if others else 0.0


def as_slow_as_seen(offer: Offer, plan: Plan, seen: Mapping[str, float]) -> Offer:
    """Return an offer in which workers are as slow as they were while they trained.

    What is measured are a few steps, of which the fastest count. That misses whatever
    stops a process again and again, such as the CPU quota of a container: in between,
    it is as fast as the others.

    Parameters
    ----------
    offer : Offer
        What was measured, with the workers of the plan among its own.
    plan : Plan
        Where the fit is.
    seen : mapping of str to float
        Those of its workers that are slow; see `slowness`. On a plan of one worker
        there is nothing to compare it with, so it counts as measured.
    """
    if plan.n_workers == 1:
        return offer
    speeds = dict(zip(offer.workers, offer.machines.workers, strict=True))
    measured_s = computations_s(
        plan.split,
        offer.cost,
        plan.grid,
        [speeds[worker] for worker in plan.workers],
        plan.rows,
    )
    for_equal_s = _for_equal_parts(plan, offer.cost, measured_s)
    for worker, times in seen.items():
        rank = plan.workers.index(worker)
        # What was measured of it stays: it may be slow in the trials too.
        as_measured = for_equal_s[rank] / _median_of_others(for_equal_s, rank)
        more = max(1.0, times / as_measured)
        corrections = speeds[worker].corrections or {Grid(1): 1.0}
        speeds[worker] = replace(
            speeds[worker],
            corrections={grid: more * ratio for grid, ratio in corrections.items()},
        )
    machines = replace(offer.machines, workers=tuple(speeds.values()))
    return replace(offer, machines=machines)


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
    places = [offer.workers.index(worker) for worker in plan.workers]
    now = step_time(
        plan.split,
        offer.cost,
        plan.grid,
        offer.machines.of(places).workers,
        offer.machines.link_among(places),
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
        forecast=forecast_of(candidates, offer),
        fixed=plan.fixed,
        recoveries=plan.recoveries,
    )
    return Move(moved, why)
