"""A plan that a fit could follow, what it would take, and which of several is best."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from skdistmlp.exceptions import counted
from skdistmlp.parallel.data import BaseDataset
from skdistmlp.planning.forecast import Forecast, ForecastRow
from skdistmlp.planning.left_out import left_out_lines, slow_links, slow_workers
from skdistmlp.planning.machines import Link
from skdistmlp.planning.plan import Plan
from skdistmlp.planning.step_time import StepTime
from skdistmlp.training.job import EpochTraining, LbfgsTraining, TrainingJob

if TYPE_CHECKING:
    from skdistmlp.planning.offer import Offer

MARGIN = 0.1
"""By how much more machines have to be faster than fewer ones to be taken."""

EVALUATIONS_PER_ITERATION = 1.1
"""Of L-BFGS: nearly always the first step that it tries is long enough."""


class FitLength(NamedTuple):
    """How many steps a fit has, if it does not stop early.

    Attributes
    ----------
    n_steps : float
        Steps of an epoch; for "lbfgs", evaluations of an iteration.
    n_epochs : int
        Epochs or iterations.
    """

    n_steps: float
    n_epochs: int

    @property
    def total(self) -> float:
        """Steps of the whole fit."""
        return self.n_steps * self.n_epochs

    @classmethod
    def of(cls, job: TrainingJob, dataset: BaseDataset) -> FitLength:
        """Return the length of a job on a data set, or of what is left of it."""
        method, progress = job.method, job.initial.progress
        n_done = 0 if progress is None else progress.n_iter
        # At least one is always trained.
        if isinstance(method, EpochTraining):
            n_rows = dataset.n_rows
            if method.hold_out is not None:
                n_rows -= method.hold_out.n_rows(dataset)
            n_steps = math.ceil(n_rows / method.options.batch_size)
            return cls(n_steps, max(1, method.options.max_epochs - n_done))
        assert isinstance(method, LbfgsTraining)
        n_left = max(1, method.options.max_iter - n_done)
        return cls(EVALUATIONS_PER_ITERATION, n_left)


@dataclass(frozen=True)
class Candidate:
    """A plan that a fit could follow, and what it would take.

    Attributes
    ----------
    plan : Plan
        The plan.
    step : StepTime
        Of a step.
    fixed_s : float
        Seconds of a fit besides its steps.
    length : FitLength
        Of the fit.
    bytes_here : int
        Bytes that this process holds, if it trains.
    messages_sent : int
        Messages that the first worker sends the others in a step.
    link : Link or None
        Between its workers; None if there are fewer than two.
    """

    plan: Plan
    step: StepTime
    fixed_s: float
    length: FitLength
    bytes_here: int = 0
    messages_sent: int = 0
    link: Link | None = None

    @property
    def epoch_s(self) -> float:
        """Seconds of an epoch."""
        return self.step.seconds * self.length.n_steps

    @property
    def fit_s(self) -> float:
        """Seconds of a fit that does not stop early."""
        return self.fixed_s + self.epoch_s * self.length.n_epochs


def ranked(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return candidates with the best one first, and the others by their time.

    The best one is the fastest, unless one on fewer machines is nearly as fast: this
    process counts as none. Of candidates on the same grid, which differ only in their
    workers, there is the fastest.
    """
    of_grids: dict[tuple[str, int, int], Candidate] = {}
    for candidate in sorted(candidates, key=lambda candidate: candidate.fit_s):
        plan = candidate.plan
        key = plan.engine, len(plan.workers), plan.n_replicas
        of_grids.setdefault(key, candidate)
    by_time = list(of_grids.values())
    if not by_time:
        return []
    nearly = [c for c in by_time if c.fit_s <= (1 + MARGIN) * by_time[0].fit_s]
    best = min(nearly, key=lambda candidate: len(candidate.plan.workers))
    return [best, *(other for other in by_time if other is not best)]


def forecast_of(candidates: Sequence[Candidate], offer: Offer) -> Forecast:
    """Return what ranked candidates of an offer would take, in plain numbers."""
    rows = tuple(
        ForecastRow(
            candidate.plan.engine,
            len(candidate.plan.workers),
            candidate.plan.n_replicas,
            candidate.step.seconds,
            candidate.epoch_s,
            candidate.fit_s,
            max(candidate.plan.bytes_held, default=candidate.bytes_here),
            candidate.plan.bytes_exchanged,
            candidate.messages_sent,
            candidate.plan.features_held - candidate.plan.features_in_memory,
            candidate.fixed_s,
        )
        for candidate in candidates
    )
    first, *_ = candidates
    machines = offer.machines
    left_out = (
        *slow_workers(first.plan.workers, offer.workers, machines.workers),
        *slow_links(first.link, offer.workers, machines.links),
    )
    forecast = Forecast(rows, left_out=left_out)
    link = next((c.link for c in candidates if c.link is not None), None)
    if link is None:
        return forecast
    return replace(forecast, latency_s=link.latency_s, bits_per_s=link.bits_per_s)


def chosen_plan(candidates: Sequence[Candidate], offer: Offer) -> Plan:
    """Return the plan of the first of ranked candidates, with why and what it takes.

    Parameters
    ----------
    candidates : sequence of Candidate
        Of the offer, the best first.
    offer : Offer
        What there was to choose from.
    """
    first, *others = candidates
    forecast = forecast_of(candidates, offer)
    n_workers = len(first.plan.workers)
    alone = next((c for c in candidates if not c.plan.workers), None)
    next_best = ""
    ratio = others[0].fit_s / first.fit_s if others else math.inf
    if others:
        next_best = (
            f"{forecast.rows[1].name} is expected to take {ratio:.2f} times as long"
        )
    if ratio < 1:
        next_best += (
            f", but more machines are taken only if they are more than {MARGIN:.0%} "
            f"faster"
        )
    if n_workers == 0:
        reason = next_best or "no workers have enough memory"
    elif alone is not None:
        reason = (
            f"{counted(n_workers, 'worker')} should train "
            f"{alone.fit_s / first.fit_s:.2f} times as fast as this process"
        )
        reason += f"; {next_best}" if ratio < 1 else ""
    elif ratio < 1:
        reason = next_best
    else:
        reason = "the fastest plan that is expected to fit into memory"
    if (fewer := offer.reason_for_fewer(n_workers)) is not None:
        reason = f"{reason}; {fewer}"
    reason = "; ".join([reason, *left_out_lines(forecast.left_out)])
    return replace(first.plan, reason=reason, forecast=forecast)
