"""Look for a faster plan while a fit trains: for `skdistmlp.elastic`.

Looking takes a question to the scheduler, after some rounds. Only if a worker has
joined, or one has become slow, are workers measured, and then less and less often.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

from distributed import Client

from skdistmlp.cluster.client.rpc import run_on_workers
from skdistmlp.cluster.client.workers import worker_memory, workers_of
from skdistmlp.cluster.peers.measured import HeldError, MeasurementError
from skdistmlp.cluster.peers.measurement import check_room_for_trial, measure_again
from skdistmlp.cluster.peers.probe import prepare
from skdistmlp.cluster.peers.shard import Report
from skdistmlp.cluster.recovery.departure import Departure
from skdistmlp.parallel.data import BaseDataset
from skdistmlp.planning.calibration import corners, machines_of
from skdistmlp.planning.candidates import FitLength, Offer
from skdistmlp.planning.cost import cost_of_training
from skdistmlp.planning.memory import WorkerMemory
from skdistmlp.planning.moves import (
    PAYS,
    as_slow_as_seen,
    move_that_pays,
    slowness,
)
from skdistmlp.planning.plan import Plan
from skdistmlp.settings import rows_memory_share
from skdistmlp.timeouts import MOVE_LOOK_S
from skdistmlp.training.job import EpochTraining, TrainingJob
from skdistmlp.training.progress import Progress
from skdistmlp.training.trial import Trial

LOG = logging.getLogger("skdistmlp")

FIRST_MEASURING_S = 1.0
"""Seconds that measuring is expected to take, until it was done once."""


class Elastic:
    """Says after a round whether the fit should move, from its first run to its last.

    It cannot go back and forth: a move has to save twice what it costs, the time until
    workers are measured again doubles each time, whether or not the fit moves, and a
    worker that it has left since it was slow stays left.

    Parameters
    ----------
    client : Client
        A connected client.
    job : TrainingJob
        What is trained, in epochs.
    dataset : BaseDataset
        All rows.
    """

    def __init__(self, client: Client, job: TrainingJob, dataset: BaseDataset) -> None:
        self._client = client
        self._units = job.network.layer_units
        self._cost = cost_of_training(job, dataset)
        length = FitLength.of(job, dataset)
        self._steps_per_epoch = length.n_steps
        assert isinstance(job.method, EpochTraining)
        self._max_epochs = job.method.options.max_epochs
        self._trial = Trial.of(job, dataset, self._cost.n_rows, length.total)
        self._on_cluster = dataset.client is not None
        self._measuring_s = FIRST_MEASURING_S
        self._wait_s = MOVE_LOOK_S
        self._next_look_at = time.monotonic() + self._wait_s
        # Workers outside of the plan that were prepared, and that were measured since
        # the fit came to its plan.
        self._prepared: set[str] = set()
        self._measured: set[str] = set()
        # Those that the fit has left since they were slow. Whether they still are, only
        # training would show: see `as_slow_as_seen`.
        self._left_as_slow: set[str] = set()
        self._plan: Plan | None = None
        self._n_steps = 0

    def begin(self, plan: Plan, progress: Progress | None) -> None:
        """Note on which plan the fit goes on, and from where."""
        self._plan = plan
        self._n_steps = 0 if progress is None else progress.n_steps
        self._measured.clear()

    def look(self, reports: Sequence[Report], placing_s: float) -> Departure | None:
        """Say whether to move to another plan.

        Parameters
        ----------
        reports : sequence of Report
            Of all shards, of the round that has just ended.
        placing_s : float
            Seconds in which the present run got its shards and rows, and in which these
            are checked before they are placed again.
        """
        progress = reports[0].progress
        assert isinstance(progress, Progress)
        n_steps = progress.n_steps - self._n_steps
        self._n_steps = progress.n_steps
        now = time.monotonic()
        if n_steps <= 0 or now < self._next_look_at:
            return None
        self._next_look_at = now + MOVE_LOOK_S
        step_s = reports[0].training_s / n_steps
        # Of the whole fit, as `n_iter` is too: this one may have been resumed.
        length = FitLength(self._steps_per_epoch, self._max_epochs - progress.n_iter)
        cost_s = placing_s + self._measuring_s
        if length.total * step_s < PAYS * cost_s:
            # Not even a plan without any step would pay.
            return None
        assert self._plan is not None
        of_no_use = {*self._plan.workers, *self._left_as_slow}
        spare = [w for w in workers_of(self._client) if w not in of_no_use]
        n_workers, _ = self._plan.fixed
        if n_workers is not None and n_workers > self._plan.n_workers + len(spare):
            # The fit has lost some, and nobody has come in their place.
            return None
        computed_s = [report.training_s - report.exchanging_s for report in reports]
        if not slowness(computed_s) and {*spare} <= self._measured:
            return None
        if new := {*spare} - self._prepared:
            # They import this package and load what is compiled while the next round is
            # trained. Not waited for.
            run_on_workers(self._client, new, prepare, self._trial)
            self._prepared |= new
            self._next_look_at = now
            return None
        return self._move(spare, length, step_s, placing_s, computed_s)

    def _move(
        self,
        spare: Sequence[str],
        length: FitLength,
        step_s: float,
        placing_s: float,
        computed_s: Sequence[float],
    ) -> Departure | None:
        """Measure, and return the move that pays; None if none does."""
        plan = self._plan
        assert plan is not None
        begun = time.monotonic()
        self._measured |= {*spare}
        try:
            offer = self._offer((*plan.workers, *spare), length)
        except MeasurementError as error:
            LOG.info("no look for a faster plan: %s", error)
            if isinstance(error, HeldError):
                self.move_refused()
            return None
        finally:
            ended = time.monotonic()
            self._measuring_s = ended - begun
            self._wait_s *= 2
            self._next_look_at = ended + self._wait_s
        offer = as_slow_as_seen(offer, plan, computed_s)
        move = move_that_pays(plan, offer, step_s, placing_s + self._measuring_s)
        if move is None:
            return None
        left = tuple(w for w in plan.workers if w not in move.plan.workers)
        slow = {plan.workers[rank] for rank in slowness(computed_s)}
        self._left_as_slow |= slow.intersection(left)
        return Departure("moved", left, move.why, move.plan)

    def move_refused(self) -> None:
        """Measure workers again at the next look: they may be free by then."""
        self._measured.clear()

    def _offer(self, workers: tuple[str, ...], length: FitLength) -> Offer:
        """Return what there is to choose from, as measured now."""
        assert self._plan is not None
        held = self._plan.workers
        memory = worker_memory(self._client, workers)
        units = self._trial.network.layer_units
        grids = corners(len(workers), units, self._cost.n_rows)
        # Those that are spare have loaded compiled code when they were prepared.
        check_room_for_trial(self._cost, self._trial, grids, memory, have_loaded=memory)
        timings = measure_again(self._client, workers, held, self._trial, grids)
        n_workers, n_replicas = self._plan.fixed
        return Offer(
            self._units,
            self._cost,
            length,
            workers,
            machines_of(timings, self._cost),
            without_plan(memory, self._plan),
            rows_memory_share(),
            local=False,
            n_workers=n_workers,
            n_replicas=n_replicas,
            on_cluster=self._on_cluster,
        )


def without_plan(
    memory: dict[str, WorkerMemory], plan: Plan
) -> dict[str, WorkerMemory]:
    """Return the memory of workers when those of a plan have given up what it holds."""
    # Without copies, which there may be none of: a plan that does not fit after all
    # would end the fit.
    held = dict(zip(plan.workers, plan.bytes_needed, strict=False))
    return {
        worker: replace(its, taken=max(0, its.taken - held.get(worker, 0)))
        for worker, its in memory.items()
    }
