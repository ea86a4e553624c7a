"""Fits among peers that go on with other workers; see `RecoveringFit`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial

from distributed import Client

from skdistmlp.cluster.peers import worker
from skdistmlp.cluster.peers.departures import Departures
from skdistmlp.cluster.peers.driver import PeersRun
from skdistmlp.cluster.peers.elastic import Elastic
from skdistmlp.cluster.peers.handover import join_training_states
from skdistmlp.cluster.peers.shard import Report
from skdistmlp.cluster.recovery.announced import Announced
from skdistmlp.cluster.recovery.departure import Departure
from skdistmlp.cluster.recovery.recovering_fit import RECOVERABLE, RecoveringFit
from skdistmlp.cluster.recovery.replacement import Spares
from skdistmlp.cluster.run.reservation import WorkerClaim
from skdistmlp.parallel.data import BaseDataset
from skdistmlp.planning.plan import Plan
from skdistmlp.settings import elastic
from skdistmlp.training.job import Checkpoint, OnEpochEnd, TrainingJob
from skdistmlp.training.progress import Progress
from skdistmlp.training.state import TrainingState


def train_with_recovery(
    client: Client,
    plan: Plan,
    job: TrainingJob,
    dataset: BaseDataset,
    on_epoch_end: OnEpochEnd | None,
    note_plan: Callable[[Plan], None],
    checkpoint: Checkpoint | None = None,
) -> tuple[TrainingState, float]:
    """Train to the end; resume elsewhere whenever workers are lost or leave.

    Parameters
    ----------
    client : Client
        A connected client.
    plan : Plan
        Where to begin.
    job : TrainingJob
        What to train, with the split of the plan.
    dataset : BaseDataset
        All rows.
    on_epoch_end : callable, optional
        See `PeersRun`; it is called once for each epoch, also if some are repeated.
    note_plan : callable
        Called with each plan before the rows are placed by it, once they are, and when
        its run has ended. It says which rows and copies each worker has, and what was
        lost so far.
    checkpoint : Checkpoint, optional
        Offered the state after each round.

    Returns
    -------
    state : TrainingState
        Of the whole network.
    training_s : float
        Seconds that the first shard has trained.

    Raises
    ------
    WorkerLostError
        If workers are lost more often than the setting allows, or none are left.
    """
    announced = Announced()
    claim = WorkerClaim(client)
    # Another fit may hold spare workers for long.
    spares = Spares(claim.unclaimed, claim.claim, worker.__name__)
    fit = RecoveringFit(client, plan, job, dataset, spares, announced, checkpoint)
    better_plans: Elastic | None = None
    # L-BFGS begins again: a move may cost it more than it saves.
    if fit.recovers and elastic() and isinstance(job.initial.progress, Progress):
        better_plans = Elastic(client, job, dataset)
    training_s = 0.0

    def note_time(seconds: float) -> None:
        nonlocal training_s
        training_s += seconds

    def run_of(plan: Plan, job: TrainingJob) -> _Run:
        # Before it is there: an interrupt may end the fit until then.
        note_plan(plan)
        departures: Departures | None = None
        if fit.recovers:
            look = None
            if better_plans is not None:
                better_plans.begin(plan, job.initial.progress)
                look = partial(_look_for_move, better_plans, fit)
            departures = Departures(client, plan.workers, fit.spare_for, look)
        run = PeersRun(
            client,
            plan,
            job,
            dataset,
            on_epoch_end,
            announced,
            fit.offer,
            departures,
        )
        return _Run(run, job, announced, note_plan, note_time)

    with claim:
        return fit.train(run_of), training_s


def _look_for_move(
    better_plans: Elastic,
    fit: RecoveringFit,
    reports: Sequence[Report],
    placing_s: float,
) -> Departure | None:
    """Say whether to move, unless the fit may not: see `RecoveringFit.may_move`."""
    # The rows are checked before they are placed again.
    move = better_plans.look(reports, placing_s + fit.check_s)
    if move is None or fit.may_move(move):
        return move
    better_plans.move_refused()
    return None


class _Run:
    """One run, and the state that is left of it; see `Run`."""

    def __init__(
        self,
        run: PeersRun,
        job: TrainingJob,
        announced: Announced,
        note_plan: Callable[[Plan], None],
        note_time: Callable[[float], None],
    ) -> None:
        self._run = run
        self._job = job
        self._announced = announced
        self._note_plan = note_plan
        self._note_time = note_time

    @property
    def departure(self) -> Departure | None:
        """See `PeersRun`."""
        return self._run.departure

    @property
    def is_interrupted(self) -> bool:
        """See `PeersRun`."""
        return self._run.is_interrupted

    @property
    def is_interrupted_late(self) -> bool:
        """See `PeersRun`."""
        return self._run.is_interrupted_late

    @property
    def n_iter(self) -> int:
        """See `Run`."""
        return self._run.n_iter

    def train(self, on_placed: Callable[[], None]) -> TrainingState:
        """Train to the end or to a departure; see `Run`."""
        run = self._run
        with run:
            on_placed()
            self._note_plan(run.plan)
            try:
                state = run.train()
            except RECOVERABLE as error:
                run.finish(partial(self._take_copies, error.silent or ()))
                raise
            finally:
                self._note_time(run.training_s)
                # There may have been room for copies since, or none any more.
                self._note_plan(run.plan)
        if run.departure is not None:
            self._job = replace(self._job, initial=state)
        return state

    def _take_copies(self, silent: Collection[str]) -> None:
        """Fetch the last copies of the state, if there are any."""
        copies = self._run.last_copies(silent)
        if copies is None:
            return
        states = [copy.state for copy in copies]
        whole = join_training_states(self._job.split, states)
        self._job = replace(self._job, initial=whole)
        self._announced.note_epoch(whole.progress, copies[0].n_lines)

    def job_to_resume(self) -> TrainingJob:
        """Return the job that goes on from the last state, or begins again."""
        return self._job
