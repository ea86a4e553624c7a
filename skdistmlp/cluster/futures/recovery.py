"""Go on with a fit by tasks after a loss of workers, from a copy in this process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial

from distributed import Client

from skdistmlp.cluster.futures import tasks
from skdistmlp.cluster.futures.driver import open_futures_network
from skdistmlp.cluster.recovery.announced import Announced
from skdistmlp.cluster.recovery.recovering_fit import RecoveringFit
from skdistmlp.cluster.recovery.replacement import Spares
from skdistmlp.cluster.run.reservation import WorkerShare, unclaimed_workers
from skdistmlp.exceptions import ClusterError
from skdistmlp.parallel.data import Dataset
from skdistmlp.planning.plan import Plan
from skdistmlp.settings import copies_max_share
from skdistmlp.training.job import Checkpoint, Offer, OnEpochEnd, TrainingJob
from skdistmlp.training.pace import Pace
from skdistmlp.training.progress import Outcome
from skdistmlp.training.run import TrainingRun
from skdistmlp.training.state import TrainingState


def train_with_recovery(
    client: Client,
    plan: Plan,
    job: TrainingJob,
    dataset: Dataset,
    on_epoch_end: OnEpochEnd | None,
    note_plan: Callable[[Plan], None],
    checkpoint: Checkpoint | None = None,
) -> tuple[TrainingState, float]:
    """Train to the end; whenever workers are lost, resume from the last copy.

    Parameters
    ----------
    client : Client
        A connected client.
    plan : Plan
        Where to begin.
    job : TrainingJob
        What to train, with the split of the plan.
    dataset : Dataset
        All rows.
    on_epoch_end : callable, optional
        Called once for each epoch, also if some are repeated.
    note_plan : callable
        Called with each plan on which training resumes.
    checkpoint : Checkpoint, optional
        Offered the state after each epoch.

    Returns
    -------
    state : TrainingState
        Of the whole network.
    training_s : float
        Seconds that the last run has trained.

    Raises
    ------
    WorkerLostError
        If workers are lost more often than the setting allows, or none are left.
    """
    announced = Announced()
    # Those that other fits by tasks have, too: they share them. But on one that a fit
    # among peers has reserved, the tasks would wait for its rounds.
    share = WorkerShare(client)

    def use(_found: Sequence[str], workers: Sequence[str]) -> bool:
        # Already between two runs, so that an adaptive cluster keeps them.
        share.share(workers)
        return True

    spares = Spares(partial(unclaimed_workers, client), use, tasks.__name__)
    fit = RecoveringFit(client, plan, job, dataset, spares, announced, checkpoint)
    # The last one only: each has a copy of the state.
    runs: deque[FuturesRun] = deque(maxlen=1)

    def run_of(plan: Plan, job: TrainingJob) -> FuturesRun:
        note_plan(plan)
        run = FuturesRun(
            client,
            plan,
            job,
            dataset,
            on_epoch_end,
            announced,
            fit.offer,
            keeps_copies=fit.recovers,
            share=share,
        )
        runs.append(run)
        return run

    with share:
        return fit.train(run_of), sum(run.training_s for run in runs)


class FuturesRun:
    """One run of a job, and the copy from which another may go on; see `Run`.

    The copy is in this process, where the loop runs: nothing goes on if it is lost.

    Parameters
    ----------
    client : Client
        A connected client.
    plan : Plan
        Which worker holds which neurons.
    job : TrainingJob
        The job, with its split.
    dataset : Dataset
        All rows.
    on_epoch_end : callable, optional
        See `train_with_recovery`.
    announced : Announced
        What the user has been told before.
    offer : callable or None
        Takes the state after each epoch, too; see `Checkpoint.offer`.
    keeps_copies : bool
        Whether to copy the state between epochs, as often as
        ``skdistmlp.copies.max-share`` allows.
    share : WorkerShare
        Has it known which workers the run uses, also after it if it fails.

    Attributes
    ----------
    is_interrupted : bool
        Whether the user has interrupted it. An interrupt is an outcome of training,
        also while the network is released after that, unless it cannot be fetched any
        more, and raised before training.
    is_interrupted_late : bool
        Whether that was only after its training had ended, or failed.
    n_iter : int
        See `Run`.
    training_s : float
        Seconds that its steps took, once it has ended.
    """

    def __init__(
        self,
        client: Client,
        plan: Plan,
        job: TrainingJob,
        dataset: Dataset,
        on_epoch_end: OnEpochEnd | None,
        announced: Announced,
        offer: Offer | None,
        keeps_copies: bool,
        share: WorkerShare,
    ) -> None:
        self._client = client
        self._plan = plan
        self._job = job
        self._dataset = dataset
        self._on_epoch_end = on_epoch_end
        self._announced = announced
        self._offer_too = offer
        self._keeps_copies = keeps_copies
        self._share = share
        self._pace = Pace(copies_max_share())
        self._n_lines = announced.n_lines_before(job.initial.progress)
        self.is_interrupted = self.is_interrupted_late = False
        self.training_s = 0.0
        self.n_iter = 0 if job.initial.progress is None else job.initial.progress.n_iter

    @property
    def departure(self) -> None:
        """None: a worker that accepts no tasks ends it with an error."""

    def train(self, on_placed: Callable[[], None]) -> TrainingState:
        """Train to the end; see `Run`."""
        state = self._start()
        job = replace(self._job, initial=state.without_arrays())
        if self._announced.stops_at(state.progress):
            return replace(state, outcome=Outcome.STOPPED).as_if_ended()
        report: OnEpochEnd | None = None
        if (on_epoch_end := self._on_epoch_end) is not None:

            def report(
                state: TrainingState, snapshot: Callable[[], TrainingState]
            ) -> bool:
                assert state.progress is not None
                return self._announced.epoch(
                    state.progress.n_iter, lambda: on_epoch_end(state, snapshot)
                )

        trained: TrainingState | None = None
        failed: ClusterError | None = None
        try:
            self._share.share(self._plan.workers)
            with open_futures_network(
                self._client,
                self._plan.workers,
                job.network,
                job.split,
                state.network,
                self._dataset,
                plan=self._plan,
                log=job.log,
            ) as network:
                on_placed()
                run = TrainingRun(job, network, self._dataset, state, self._log)
                offers = self._keeps_copies or self._offer_too is not None
                try:
                    trained = run.train(report, self._offer if offers else None)
                except ClusterError as error:
                    failed = error
                    raise
                finally:
                    self.training_s = run.training_s
                    # Also if the workers are lost before it can be fetched.
                    self.is_interrupted = run.state.outcome is Outcome.INTERRUPTED
            self._share.give_up()
            assert trained is not None
            return trained
        except KeyboardInterrupt:
            # While all is released, if training has ended. A second one is raised.
            if self.is_interrupted or (trained is None and failed is None):
                raise
            self.is_interrupted = self.is_interrupted_late = True
            if failed is not None:
                raise failed from failed.__cause__
            assert trained is not None
            return trained
        finally:
            # In a cycle with its traceback, the rows would be held until Python
            # collects garbage.
            failed = None

    def _start(self) -> TrainingState:
        """Return the state that this run begins with, in arrays of its own."""
        # Drawn from a copy: another run may have to draw the same.
        initial = self._job.initial
        initial = replace(initial, random_state=deepcopy(initial.random_state))
        job = replace(self._job, initial=initial)
        return job.start(job.split.unsplit_layout())

    def _offer(
        self, state: TrainingState, snapshot: Callable[[], TrainingState]
    ) -> None:
        """Copy a state between two epochs, if it is time; see `Checkpoint`."""
        assert state.progress is not None
        self.n_iter = state.progress.n_iter
        self._announced.note_epoch(state.progress, self._n_lines)
        if self._keeps_copies and self._pace.is_due:
            with self._pace.timed():
                # In place of the one before, also of the one that this run began with.
                self._job = replace(self._job, initial=snapshot())
        if self._offer_too is not None:
            self._offer_too(state, snapshot)

    def job_to_resume(self) -> TrainingJob:
        """Return the job that goes on from the last copy, or begins again."""
        return self._job

    def _log(self, line: str) -> None:
        number, self._n_lines = self._n_lines, self._n_lines + 1
        self._announced.line(number, line, self._job.log)
