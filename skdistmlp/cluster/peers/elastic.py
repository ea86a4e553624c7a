"""Look for a faster plan while a fit trains: for `skdistmlp.elastic`.

Looking takes a question to the scheduler, after some rounds. Only if a worker has
joined, or one has become slow, are workers measured, and then less and less often.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

from distributed import Client

from skdistmlp.cluster.client.rpc import run_on_workers
from skdistmlp.cluster.client.workers import worker_memory, workers_of
from skdistmlp.cluster.peers import worker as module_of_fits
from skdistmlp.cluster.peers.measured import HeldError, MeasurementError
from skdistmlp.cluster.peers.measurement import (
    NoRoomError,
    check_room_for_trial,
    measure_again,
)
from skdistmlp.cluster.peers.probe import prepare
from skdistmlp.cluster.peers.shard import Report
from skdistmlp.cluster.recovery.departure import Departure
from skdistmlp.cluster.run.loaded import room_for
from skdistmlp.parallel.data import BaseDataset
from skdistmlp.planning.calibration import corners, machines_of
from skdistmlp.planning.candidates import FitLength
from skdistmlp.planning.cost import cost_of_training
from skdistmlp.planning.memory import WorkerMemory
from skdistmlp.planning.moves import (
    PAYS,
    SLOW,
    as_slow_as_seen,
    expected_slowness,
    move_that_pays,
    slowness,
)
from skdistmlp.planning.offer import Offer, bytes_allocated_here
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

    It does not go back and forth: a move has to save twice what it costs, the time
    until workers are measured again doubles each time, whether or not the fit moves, a
    worker that is slow in training counts as slow, whatever trials find, and one that
    the fit has left for that stays left, unless it takes the place of a lost one.

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
        # Workers outside of the plan that were asked to prepare.
        self._prepared: set[str] = set()
        # Those that were measured since the fit came to its plan.
        self._measured: set[str] = set()
        # Slow workers, as two rounds in a row have shown them: one may be an accident.
        # On the plans that follow, too. See `slowness`.
        self._slow: dict[str, float] = {}
        # Those of the last round on this plan; None before there was one.
        self._slow_in_last: dict[str, float] | None = None
        # Those for which the last plan was chosen here.
        self._chosen_for: dict[str, float] = {}
        # Those, and others that the shares of the present plan expect to be slow: for
        # the first plan, and for one after a loss, workers were not seen before.
        self._planned_for: dict[str, float] = {}
        # Those that the fit has left since they were slow. Whether they still are, only
        # training would show: see `as_slow_as_seen`.
        self._left_as_slow: set[str] = set()
        # The plan to which the fit is to move, and who was slow then. Kept apart until
        # the fit is there: the move may be refused.
        self._chosen: tuple[Plan, dict[str, float]] | None = None
        self._plan: Plan | None = None
        self._n_steps = 0

    def begin(self, plan: Plan, progress: Progress | None) -> None:
        """Note on which plan the fit goes on, and from where."""
        if self._chosen is not None and _are_same(self._chosen[0], plan):
            _, self._chosen_for = self._chosen
            self._left_as_slow |= {*self._chosen_for} - {*plan.workers}
        expected = expected_slowness(plan, self._cost)
        self._planned_for = {
            worker: max(expected.get(worker, 1.0), self._chosen_for.get(worker, 1.0))
            for worker in plan.workers
        }
        self._chosen, self._slow_in_last = None, None
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
        if n_steps <= 0:
            return None
        self._note_slow([report.computed_s for report in reports])
        if now < self._next_look_at:
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
        is_news = any(
            times > SLOW * self._planned_for.get(worker, 1.0)
            for worker, times in self._seen.items()
        )
        if not is_news and {*spare} <= self._measured:
            return None
        if new := {*spare} - self._prepared:
            # They import this package and load what is compiled while the next round is
            # trained. Not waited for: one that has not will do so when it is measured.
            run_on_workers(self._client, new, prepare, self._trial)
            self._prepared |= new
            self._next_look_at = now
            return None
        return self._move(spare, length, step_s, placing_s)

    def _note_slow(self, computed_s: Sequence[float]) -> None:
        """Note which workers a round has shown to be slow, or not to be any more."""
        assert self._plan is not None
        now, before = slowness(self._plan, self._cost, computed_s), self._slow_in_last
        self._slow_in_last = now
        if before is None:
            return
        for worker in self._plan.workers:
            if worker in now and worker in before:
                self._slow[worker] = min(now[worker], before[worker])
            elif worker not in now and worker not in before:
                self._slow.pop(worker, None)

    @property
    def _seen(self) -> dict[str, float]:
        """Those workers of the plan that are slow; see `slowness`.

        None if it has only one: it may have lost those that were faster.
        """
        assert self._plan is not None
        if self._plan.n_workers == 1:
            return {}
        return {w: s for w, s in self._slow.items() if w in self._plan.workers}

    def _move(
        self,
        spare: Sequence[str],
        length: FitLength,
        step_s: float,
        placing_s: float,
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
        offer = as_slow_as_seen(offer, plan, self._seen)
        move = move_that_pays(plan, offer, step_s, placing_s + self._measuring_s)
        if move is None:
            return None
        self._chosen = move.plan, self._seen
        left = tuple(w for w in plan.workers if w not in move.plan.workers)
        return Departure("moved", left, move.why, move.plan)

    def move_refused(self) -> None:
        """Measure workers again at the next look: they may be free by then."""
        self._chosen = None
        self._measured.clear()

    def _offer(self, workers: tuple[str, ...], length: FitLength) -> Offer:
        """Return what there is to choose from, as measured now."""
        assert self._plan is not None
        held = self._plan.workers
        memory = room_for(
            self._trial,
            self._client,
            worker_memory(self._client, workers),
            bytes_allocated_here(self._units, self._cost, on_cluster=True),
            module_of_fits.__name__,
        )
        units = self._trial.network.layer_units
        grids = corners(len(workers), units, self._cost.n_rows)
        try:
            check_room_for_trial(self._cost, self._trial, grids, memory)
        except NoRoomError as error:
            short = {each.worker for each in error.left_out}
            if not short or not short.isdisjoint(held):
                raise
            # They may have room at the next look.
            self._measured -= short
            others = tuple(worker for worker in workers if worker not in short)
            # Only spare ones, which the fit can do without.
            return self._offer(others, length)
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


def _are_same(chosen: Plan, plan: Plan) -> bool:
    """Say whether a plan is the one that was chosen, whatever it recovered from."""
    return (chosen.workers, chosen.split, chosen.grid) == (
        plan.workers,
        plan.split,
        plan.grid,
    )


def without_plan(
    memory: Mapping[str, WorkerMemory], plan: Plan
) -> dict[str, WorkerMemory]:
    """Return the memory of workers when those of a plan have given up what it holds."""
    # Without copies, which there may be none of: a plan that does not fit after all
    # would end the fit.
    held = dict(zip(plan.workers, plan.bytes_needed, strict=False))
    return {
        worker: replace(its, taken=max(0, its.taken - held.get(worker, 0)))
        for worker, its in memory.items()
    }
