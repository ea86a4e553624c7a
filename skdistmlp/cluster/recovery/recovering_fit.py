"""Go on with a fit elsewhere, after a loss of workers or before one.

A run ends with the state of the network, which was handed over, or of which copies are
left; and the fit resumes from that state on another plan. What a run is, each engine
says; nothing in one knows of others before and after it.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import NoReturn, Protocol

from distributed import Client

from skdistmlp.cluster.client.errors import translate_dask_errors
from skdistmlp.cluster.client.workers import (
    known_workers,
    retired_among,
    worker_statuses,
)
from skdistmlp.cluster.recovery.abandoned import (
    AbandonedWorkers,
    Process,
    lost_among,
    processes_of,
)
from skdistmlp.cluster.recovery.announced import Announced
from skdistmlp.cluster.recovery.departure import Departure, departure_named
from skdistmlp.cluster.recovery.replacement import (
    Spares,
    await_workers,
    left_behind,
    plan_on,
    recovery_of,
    replacements,
)
from skdistmlp.cluster.recovery.unchanged import UnchangedRows
from skdistmlp.cluster.run.versions import arithmetic_of
from skdistmlp.exceptions import (
    ClusterError,
    ExchangeError,
    WorkerLostError,
    what_happened,
)
from skdistmlp.parallel.data import BaseDataset
from skdistmlp.planning.plan import Plan
from skdistmlp.settings import max_recoveries, recovery_wait_s
from skdistmlp.training.job import Checkpoint, Offer, TrainingJob
from skdistmlp.training.progress import Outcome, Progress
from skdistmlp.training.state import TrainingState

LOG = logging.getLogger("skdistmlp")

RECOVERABLE = (WorkerLostError, ExchangeError)
"""What a lost worker ends a run with: workers that hear nothing of one that hangs give
up before anybody knows that it does."""

WAITING = "waiting for workers in place of those that were lost"
"""The phase, for errors."""

INTERRUPTED_TOO = (
    "training was interrupted, and its parameters are lost: {} A terminal or notebook "
    "sends Ctrl-C (SIGINT) to all processes that were started from it, most likely "
    "also to these workers. Make the cluster by Client() or LocalCluster(), whose "
    "workers ignore it during a fit, or start `dask worker` in another terminal or by "
    "`setsid`."
)
"""What to say of an interrupt that has probably ended workers, if no state is left."""


class FitInterruptedError(Exception):
    """The user has interrupted a fit, and the result is the last state of the job."""


class Run(Protocol):
    """One run of a job on the workers of a plan."""

    @property
    def departure(self) -> Departure | None:
        """Why it has ended before training has, though nothing was lost."""

    @property
    def is_interrupted(self) -> bool:
        """Whether the user has interrupted it."""

    @property
    def is_interrupted_late(self) -> bool:
        """Whether that was only after its training had ended, or failed."""

    @property
    def n_iter(self) -> int:
        """The last epoch or iteration that it is known to have ended."""

    def train(self, on_placed: Callable[[], None]) -> TrainingState:
        """Train to the end or to a departure; leave nothing on the cluster.

        Parameters
        ----------
        on_placed : callable
            Called once the shards and the rows are on their workers.
        """

    def job_to_resume(self) -> TrainingJob:
        """Return the job that goes on from the last state, or begins again."""


@dataclass
class RecoveringFit:
    """A fit, from its first run to its last.

    Attributes
    ----------
    client : Client
        A connected client.
    plan : Plan
        Where the fit is: at first, where to begin.
    job : TrainingJob
        What to train, from where it is.
    dataset : BaseDataset
        All rows.
    spares : Spares
        How to find workers in place of lost ones.
    announced : Announced
        What the user has been told.
    checkpoint : Checkpoint or None
        Has the last state, if a run ends with an error.
    """

    client: Client
    plan: Plan
    job: TrainingJob
    dataset: BaseDataset
    spares: Spares
    announced: Announced
    checkpoint: Checkpoint | None = None
    _begun: float = field(default_factory=time.monotonic)
    # Read before anything is lost: they may be wrong.
    _allowed: int = field(default_factory=max_recoveries)
    _wait_s: float = field(default_factory=recovery_wait_s)
    _abandoned: AbandonedWorkers = field(default_factory=AbandonedWorkers)
    # After which epoch an exchange of the last run failed, if that is what ended it.
    _broke_at: int | None = None
    # How often each worker was one of two that could not connect to each other.
    _n_apart: Counter[str] = field(default_factory=Counter)
    # Whether the job goes on from a state that this fit has trained.
    _has_trained: bool = False
    # Whether one of its runs may have taken a step.
    _may_have_begun: bool = False
    # The plan before a move, until all is placed where the fit has moved to.
    _plan_before_move: Plan | None = None
    # None in a fit that does not recover: it places its rows once.
    _rows: UnchangedRows | None = None

    def __post_init__(self) -> None:
        # A run that begins again has to draw the same, though it may be NumPy's own
        # generator, from which a callback draws too.
        initial = self.job.initial
        initial = replace(initial, random_state=deepcopy(initial.random_state))
        self.job = replace(self.job, initial=initial)
        if self.recovers:
            self._rows = UnchangedRows(self.dataset)

    @property
    def recovers(self) -> bool:
        """Whether it goes on after anything at all."""
        return self._allowed > 0

    @property
    def offer(self) -> Offer | None:
        """What takes the states of a run between two epochs, if anything does."""
        offer = None if self.checkpoint is None else self.checkpoint.offer
        # What the first run is sent, the rows are compared with.
        return self._checked_rows.checked(offer) if self.plan.recoveries else offer

    @property
    def check_s(self) -> float:
        """Seconds in which its rows are checked before they are placed again."""
        return self._checked_rows.digest_s

    def spare_for(self, workers: Sequence[str]) -> Sequence[str]:
        """Return workers that could take the place of some of the plan, if there are.

        As `train` would find them now. If they are as many, the fit claims them, in
        place of what it has claimed by this before.
        """
        ranks = [self.plan.workers.index(worker) for worker in workers]
        found = replacements(
            self.client,
            self.plan,
            ranks,
            self._abandoned,
            self.spares,
            known_workers(self.client) if ranks else {},
        )
        spare = tuple(found.values())
        claimed = spare if len(spare) == len(workers) else ()
        has_them = self.spares.claim(claimed, (*self.plan.workers, *claimed))
        return spare if has_them else ()

    def may_move(self, departure: Departure) -> bool:
        """Claim the workers to which the fit would move; return whether it may.

        Not if another fit has one of them, nor if the rows have changed, which have to
        be placed there: where it is, it can go on with those of before.
        """
        assert departure.plan is not None
        rows = self._checked_rows
        rows.look_again()
        if rows.have_changed():
            LOG.info("no move to a faster plan: the rows in this process have changed")
            return False
        workers = departure.plan.workers
        found = [worker for worker in workers if worker not in self.plan.workers]
        return self.spares.claim(found, (*self.plan.workers, *found))

    def train(self, run_of: Callable[[Plan, TrainingJob], Run]) -> TrainingState:
        """Train to the end; resume elsewhere whenever workers are lost or leave.

        Parameters
        ----------
        run_of : callable
            Returns the run of a job on a plan.

        Returns
        -------
        TrainingState
            Of the whole network; the last one that is known, if the user interrupts it
            between two runs, or in one that then ends with an error.

        Raises
        ------
        WorkerLostError
            If workers are lost more often than the setting allows, or none are left.
        """
        try:
            return self._train(run_of)
        except FitInterruptedError:
            last = replace(self.job.initial, outcome=Outcome.INTERRUPTED)
            return last.as_if_ended()
        except ClusterError as error:
            self._note_recoveries(error)
            raise

    def _train(self, run_of: Callable[[Plan, TrainingJob], Run]) -> TrainingState:
        # Of all that were seen: one may be gone again before the next run begins.
        processes: dict[str, Process] = {}
        while True:
            with (
                self._ends_if_interrupted(),
                translate_dask_errors(self.client, (), "looking for workers"),
            ):
                processes |= processes_of(self.client)
                if self.recovers:
                    self.spares.claim((), self.plan.workers)
            run = run_of(self.plan, self.job)
            try:
                state = self._train_run(run)
                if run.departure is None:
                    return self._checked(state)
                left_at = time.monotonic()
                departure = run.departure
                self._may_have_begun = True
                self._keep_newest(run)
                # Before a move, that was done while the fit could still stay.
                if departure.kind != "moved":
                    self._checked_rows.look_again()
                self._abandoned.add(departure, processes, handed_over=True)
                others = self._others(departure)
                if not others:
                    raise WorkerLostError(
                        f"{departure.why}. What was trained was handed over, but no "
                        f"other worker came to go on. Start workers, and call again."
                    )
            except ClusterError as error:
                left_at = time.monotonic()
                self._note_begun(error)
                if not self._may_recover(error, run):
                    raise
                self._keep_newest(run)
                # While it waits for workers.
                self._checked_rows.look_again()
                found = self._departure_after(error, processes, run.n_iter)
                if found is None:
                    raise
                departure = found
                self._abandoned.add(departure, processes, handed_over=False)
                others = self._others_after_loss(departure)
                if not others:
                    raise
            # What the run has on the cluster goes with it.
            del run
            with self._ends_if_interrupted():
                self._check_rows(departure)
                self._resume_on(departure, others, left_at, processes)

    def _train_run(self, run: Run) -> TrainingState:
        """Train one run; an interrupt while it places is one between two runs."""
        is_placed = False

        def note_placed() -> None:
            nonlocal is_placed
            is_placed = True
            self._plan_before_move = None
            if self.plan.recoveries:
                self._checked_rows.note_placed()
            # From now on the run has the state, and says from which to resume.
            self.job = replace(self.job, initial=self.job.initial.without_arrays())

        try:
            state = run.train(note_placed)
        except ClusterError as error:
            # An error that is no loss ends the fit, whatever the user does after it.
            is_loss = isinstance(error, RECOVERABLE)
            if run.is_interrupted and (is_loss or not run.is_interrupted_late):
                self._end_interrupted(run, error)
            raise
        except KeyboardInterrupt as interrupt:
            if is_placed:
                # The user does not want to wait for the end of a step, or of a release.
                if run.is_interrupted:
                    raise
                self._end_interrupted(run, interrupt)
            if not self._has_result:
                raise
            raise FitInterruptedError from None
        if run.is_interrupted:
            # Maybe only while it was released.
            if run.departure is not None:
                self._end_interrupted(run, KeyboardInterrupt())
            state = _as_interrupted(state)
        return state

    def _end_interrupted(
        self, run: Run, error: ClusterError | KeyboardInterrupt
    ) -> NoReturn:
        """End a fit that was interrupted before its run failed, or was released.

        A caller that tries again after a lost worker would do so although the user
        wants to stop. And an interrupt before the error has probably caused it: in a
        terminal, Ctrl-C reaches all processes that were started there, and workers that
        are not shielded from it end.

        Parameters
        ----------
        run : Run
            The run, which has ended.
        error : ClusterError or KeyboardInterrupt
            What has ended it; the interrupt itself, if nothing else has.
        """
        # Other workers may have copies of the state.
        self._keep_newest(run)
        line = f"the interrupted fit ends with its state after epoch {self._n_iter}"
        if isinstance(error, ClusterError):
            if not self._has_result:
                if run.is_interrupted_late:
                    raise KeyboardInterrupt from error
                raise KeyboardInterrupt(INTERRUPTED_TOO.format(error)) from error
            line = f"{line}: {what_happened(error)}"
        elif not self._has_result:
            raise error
        LOG.info("%s", line)
        self.job.log(line)
        raise FitInterruptedError from error

    def _checked(self, state: TrainingState) -> TrainingState:
        """Return the state at the end, once it is known which rows it is of."""
        try:
            self._check_placed()
        except KeyboardInterrupt:
            # All is trained. As after any interrupt, the checkpoint stays: its state is
            # one of rows that were checked.
            return _as_interrupted(state)
        return state

    def _note_begun(self, error: ClusterError) -> None:
        """Note whether a run may have taken a step; say so for all in its error."""
        if not isinstance(error, ExchangeError):
            self._may_have_begun = True
            return
        self._may_have_begun |= not error.before_training
        error.before_training = not self._may_have_begun

    def _may_recover(self, error: ClusterError, run: Run) -> bool:
        """Say whether it makes sense to go on elsewhere after an error."""
        if self._plan_before_move is not None:
            return True
        if not isinstance(error, RECOVERABLE):
            return False
        # After a departure, nobody was there to go on.
        return self.recovers and run.departure is None

    def _keep_newest(self, run: Run) -> None:
        """Go on from the newest state that there is, of the run or of the checkpoint.

        The checkpoint has it too from then on: nobody may come to go on with it.

        Raises
        ------
        ClusterError
            If the run was sent other rows than the first.
        """
        n_before = self._n_iter
        self.job = run.job_to_resume()
        self._has_trained |= self._n_iter > n_before
        with self._ends_if_interrupted():
            self._check_placed()
            if self.checkpoint is None:
                return
            if (newer := self.checkpoint.newer_than(self._n_iter)) is not None:
                self.job = replace(self.job, initial=newer)
                self._has_trained = True
            elif self._n_iter > 0:
                self.checkpoint.keep(self.job.initial)

    @property
    def _n_iter(self) -> int:
        """Epochs after which the job goes on."""
        progress = self.job.initial.progress
        return 0 if progress is None else int(progress.n_iter)

    def _departure_after(
        self, error: ClusterError, processes: Mapping[str, Process], n_iter: int
    ) -> Departure | None:
        """Return what an error means: which workers the fit does without, and why.

        None if the same error would come again.

        Parameters
        ----------
        error : ClusterError
            What ended a run.
        processes : mapping of str to Process
            See `processes_of`; as of the beginning of the run.
        n_iter : int
            The last epoch or iteration that had ended by then.
        """
        if not isinstance(error, RECOVERABLE):
            return self._return_after(error)
        broke_at, self._broke_at = self._broke_at, None
        with (
            self._ends_if_interrupted(),
            translate_dask_errors(self.client, (), WAITING),
        ):
            if isinstance(error, WorkerLostError):
                # Before anything was trained, or while its state could not be handed
                # over.
                now = processes_of(self.client)
                statuses = {
                    worker: status
                    for worker, status in worker_statuses(self.client).items()
                    # Not of one that was restarted at its address since.
                    if now.get(worker) == processes.get(worker)
                }
                departure = departure_named(error, statuses)
                if departure is not None:
                    return departure
            lost = lost_among(self.client, self.plan, processes, error)
            if not lost:
                self._broke_at = n_iter
                ranks = self._ranks_apart(error)
                if ranks and isinstance(error, ExchangeError) and error.before_training:
                    # They have never reached each other: a firewall, say. Where a
                    # connection broke while they met, they may the next time.
                    return None
                if broke_at == n_iter:
                    lost = self._to_replace(ranks)
                    if not lost:
                        return None
        return Departure("lost" if lost else "broken", lost, what_happened(error))

    def _return_after(self, error: ClusterError) -> Departure:
        """Return the departure to the plan before a move, where all had room."""
        plan = self._plan_before_move
        assert plan is not None
        left = tuple(w for w in self.plan.workers if w not in plan.workers)
        why = f"the move to a faster plan failed: {what_happened(error)}"
        return Departure("moved", left, why, replace(plan, row_ranges=()))

    def _ranks_apart(self, error: ClusterError) -> set[int]:
        """Return the shards of which an error says that they could not connect."""
        pairs = error.apart if isinstance(error, ExchangeError) else ()
        ranks = [rank for pair in pairs for rank in pair]
        self._n_apart.update(self.plan.workers[rank] for rank in ranks)
        return set(ranks)

    def _to_replace(self, ranks: Iterable[int]) -> tuple[str, ...]:
        """Return the worker of one of these shards that another could replace.

        None if there is none. Whose fault it is that two cannot connect, nobody knows:
        probably of the one of which that was said most often, also before.
        """
        workers = [self.plan.workers[rank] for rank in sorted(ranks, reverse=True)]
        workers.sort(key=lambda worker: -self._n_apart[worker])
        return next(((each,) for each in workers if self.spare_for((each,))), ())

    def _others_after_loss(self, departure: Departure) -> tuple[str, ...]:
        """Wait for workers, unless too many were lost before."""
        # The others are somebody's wish, or leave for good; and nothing was lost.
        faults = "lost", "broken"
        n_faults = sum(recovery.kind in faults for recovery in self.plan.recoveries)
        if departure.kind in faults and n_faults >= self._allowed:
            return ()
        return self._others(departure)

    def _others(self, departure: Departure) -> tuple[str, ...]:
        """Wait for workers to go on with.

        None is reserved while this waits: other fits may use them.
        """
        if departure.plan is not None:
            return departure.plan.workers
        if departure.kind == "broken":
            return self.plan.workers
        with (
            self._ends_if_interrupted(),
            translate_dask_errors(self.client, (), WAITING),
        ):
            return await_workers(
                self.client, self.plan, self._abandoned, self._wait_s, self.spares
            )

    def _check_rows(self, departure: Departure) -> None:
        """Raise if the next run would begin with other rows than the first."""
        try:
            self._checked_rows.check()
        except ClusterError as error:
            error.add_note(f"It had to resume, since {departure.why}.")
            raise

    def _check_placed(self) -> None:
        """Raise if the run was sent other rows than the first."""
        if self._rows is not None:
            self._rows.check_placed()

    @property
    def _checked_rows(self) -> UnchangedRows:
        assert self._rows is not None, "only a fit that recovers has a departure"
        return self._rows

    @contextmanager
    def _ends_if_interrupted(self) -> Iterator[None]:
        """Have an interrupt end the fit with its last state, if that is a result."""
        try:
            yield
        except KeyboardInterrupt:
            if not self._has_result:
                raise
            raise FitInterruptedError from None

    @property
    def _has_result(self) -> bool:
        """Whether it has trained, and its state is a result: not with L-BFGS."""
        last = self.job.initial
        return self._has_trained and isinstance(last.progress, Progress)

    def _resume_on(
        self,
        departure: Departure,
        workers: tuple[str, ...],
        left_at: float,
        processes: Mapping[str, Process],
    ) -> None:
        """Plan how to go on, and take note of it."""
        waited_s = time.monotonic() - left_at
        before, job = self.plan, self.job
        with translate_dask_errors(self.client, (), WAITING):
            plan = departure.plan or plan_on(
                self.client, before, workers, job, self.dataset, self.spares.module
            )
            processes_now = processes_of(self.client)
            retired: Sequence[str] = ()
            if departure.plan is None:
                left = left_behind(before, plan, departure)
                retired = retired_among(self.client, left)
        self.job = replace(job, split=plan.split, n_replicas=plan.n_replicas)
        recovery = recovery_of(
            departure,
            left_at - self._begun,
            waited_s,
            before,
            plan,
            self.job,
            self.dataset,
            processes,
            processes_now,
            arithmetic_of(self.client),
            retired,
        )
        LOG.info("%s", recovery)
        # If it cannot be placed there again either, that is an error.
        may_return = departure.kind == "moved" and self._plan_before_move is None
        self._plan_before_move = before if may_return else None
        self.plan = replace(plan, recoveries=(*before.recoveries, recovery))

    def _note_recoveries(self, error: ClusterError) -> None:
        """Note in an error what the fit had recovered from before."""
        if self.plan.recoveries:
            before = ". ".join(map(str, self.plan.recoveries))
            error.add_note(
                f"Before that, the fit recovered (at most skdistmlp.max-recoveries "
                f"times): {before}."
            )


def _as_interrupted(state: TrainingState) -> TrainingState:
    """Return the state at the end of training as that of an interrupted fit.

    Raises
    ------
    KeyboardInterrupt
        With L-BFGS: as in scikit-learn, an interrupt keeps nothing of it.
    """
    if not isinstance(state.outcome, Outcome):
        raise KeyboardInterrupt
    return replace(state, outcome=Outcome.INTERRUPTED)
