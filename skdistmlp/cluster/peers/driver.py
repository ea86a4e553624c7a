"""The "peers" engine: shards that train by themselves, one Dask task per round.

The client places the shards and the rows, starts rounds of a few seconds each, and
collects the parameters at the end. During a round, the shards exchange their values
directly.
"""

from __future__ import annotations

import concurrent.futures
import queue
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Any, Self

from distributed import Client, Future

from skdistmlp.cluster.client.errors import CONNECTION_ERRORS
from skdistmlp.cluster.client.rpc import answers_in_time
from skdistmlp.cluster.data.streaming import place_rows
from skdistmlp.cluster.peers import worker
from skdistmlp.cluster.peers.copies import StateCopies
from skdistmlp.cluster.peers.departures import Departures
from skdistmlp.cluster.peers.failure import raise_cause
from skdistmlp.cluster.peers.handover import HandOver, join_training_states
from skdistmlp.cluster.peers.messages import (
    Message,
    Messages,
    ProgressLine,
    TaskEnded,
    messages_of,
)
from skdistmlp.cluster.peers.nested_fits import calling_back, check_not_nested
from skdistmlp.cluster.peers.round_log import RoundLog
from skdistmlp.cluster.peers.round_start import RoundStart
from skdistmlp.cluster.peers.shard import Report, Roster, ShardCopy
from skdistmlp.cluster.recovery.announced import Announced
from skdistmlp.cluster.recovery.departure import Departure
from skdistmlp.cluster.run.placement import Placement
from skdistmlp.cluster.run.reservation import reserve_workers
from skdistmlp.cluster.run.scatter import THREAD_NAME
from skdistmlp.exceptions import ExchangeError, WorkerLostError
from skdistmlp.parallel.data import BaseDataset
from skdistmlp.parallel.rows import RowRange, RowsInRanges
from skdistmlp.planning.plan import Plan
from skdistmlp.settings import exchange_timeout_s
from skdistmlp.timeouts import ROUND_S, WORKER_CHECK_S
from skdistmlp.training.job import Offer, OnEpochEnd, TrainingJob
from skdistmlp.training.progress import Outcome, Progress
from skdistmlp.training.state import TrainingState
from skdistmlp.wire.handshake import Credentials


class PeersRun:
    """One fit on the workers of a plan.

    A context manager: entering it places shards and rows on their workers, leaving
    it removes everything from the cluster.

    Parameters
    ----------
    client : Client
        A connected client.
    plan : Plan
        Which worker holds which neurons.
    job : TrainingJob
        What to train, with the network's split. It is not changed: the caller takes
        the random state over from what `train` returns.
    dataset : BaseDataset
        All rows.
    on_epoch_end : callable, optional
        Called in this process; a round is one epoch or iteration then.
    announced : Announced, optional
        What the user has been told before, if this run goes on with a fit.
    offer : callable, optional
        Takes the state after each round; see `Checkpoint.offer`.
    departures : Departures, optional
        Says when the fit should go on elsewhere: then this run ends between two rounds.
        Without it, the fit does not recover: no copies are taken, and a worker that
        accepts no more tasks counts as lost.

    Attributes
    ----------
    departure : Departure or None
        Why this run has ended before training has.
    training_s : float
        Seconds that the first shard has trained in all rounds.
    """

    def __init__(
        self,
        client: Client,
        plan: Plan,
        job: TrainingJob,
        dataset: BaseDataset,
        on_epoch_end: OnEpochEnd | None = None,
        announced: Announced | None = None,
        offer: Offer | None = None,
        departures: Departures | None = None,
    ) -> None:
        self._client = client
        self._plan = plan
        self._workers = plan.workers
        self._job = job
        self._dataset = dataset
        self._on_epoch_end = on_epoch_end
        self._announced = announced or Announced()
        self._offer = offer
        self._departures = departures
        self.departure: Departure | None = None
        self._stop = self._announced.stops_at(job.initial.progress)
        self._n_lines = self._announced.n_lines_before(job.initial.progress)
        self._n_rounds = 0
        self._ranks = range(plan.n_workers)
        self._credentials = Credentials.new()
        self._run = self._credentials.run
        self._tasks = Placement(
            client, plan.workers, name=plan.grid.task_name, log=job.log
        )
        self._copies = StateCopies(client, self._tasks, plan, job.log)
        self._hand_over = HandOver(client, self._tasks, self._run)
        self._context = ExitStack()
        self._messages: Messages = queue.SimpleQueue()
        self._round_start: RoundStart | None = None
        self._shards: list[Future[Any]] = []
        self._addresses: list[Future[Any]] = []
        self._rows: list[Any] = []
        self._row_ranges: tuple[RowRange, ...] = ()
        self.training_s = 0.0
        self._roster: Roster | None = None
        self._check_held: Callable[[], None] = lambda: None
        self._in_flight: concurrent.futures.Future[list[Future[Any]]] | None = None
        self._submitting = ThreadPoolExecutor(1, THREAD_NAME)
        self._interrupted = self._interrupted_late = False
        self._started_at = self._next_check_at = float("inf")
        self._placing_since = self._placing_s = 0.0
        self._state = job.initial
        self._names = [
            f"{plan.grid.title(rank)} on {worker}"
            for rank, worker in enumerate(plan.workers)
        ]
        self._log = RoundLog(self._names, job.initial.progress)

    def __enter__(self) -> Self:
        check_not_nested(self._workers)
        try:
            enter = self._context.enter_context
            with self._tasks.translate_dask_errors():
                self._tasks.phase = "subscribing to the messages of shards"
                enter(messages_of(self._client, self._run.hex(), self._messages))
                self._tasks.open()
                self._tasks.phase = "waiting for workers that other fits hold"
                # Not a method: in a cycle with this run, the rows would be held until
                # Python collects garbage.
                check = partial(_check_queue, self._tasks, self._workers)
                self._check_held = enter(
                    reserve_workers(self._client, self._workers, check)
                )
                # On the stack above the reservation: the workers are given back after
                # everything on them is released, and even if an interrupt arrives in
                # the middle of that.
                self._context.callback(self._tasks.close)
                # What they hold is no other fit's now.
                fitting = self._tasks.check_memory(self._plan, worker.__name__)
                self._copies.missing = fitting.copies_missing
                self._placing_since = time.monotonic()
                self._tasks.phase = "placing the network"
                self._place()
        except BaseException as error:
            try:
                self._note_failure(error)
            finally:
                # Even if an interrupt arrives meanwhile.
                self._release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.finish(self._release)

    @property
    def plan(self) -> Plan:
        """The plan, with the rows and the copies that its workers have."""
        return replace(self._copies.plan, row_ranges=self._row_ranges)

    @property
    def is_interrupted(self) -> bool:
        """Whether the user has interrupted it."""
        return self._interrupted

    @property
    def is_interrupted_late(self) -> bool:
        """Whether that was only after training had ended, or failed."""
        return self._interrupted_late

    @property
    def n_iter(self) -> int:
        """Epochs or iterations after which the last round has ended."""
        progress = self._state.progress
        return 0 if progress is None else progress.n_iter

    def last_copies(self, silent: Collection[str]) -> list[ShardCopy] | None:
        """Return the last copies of the state of all shards; None if there are none.

        Not from silent workers, as far as others have them.
        """
        try:
            return self._copies.fetch(silent)
        except (*CONNECTION_ERRORS, TimeoutError):
            # Of a cluster that goes on losing workers.
            return None

    def train(self) -> TrainingState:
        """Train to the end, round after round, or until the fit goes on elsewhere.

        Returns
        -------
        TrainingState
            State of the whole network: at the end of training, with the best parameters
            if any were kept; or without an outcome, between two rounds, if there is a
            `departure`.
        """
        try:
            return self._train_in_rounds()
        except (WorkerLostError, ExchangeError) as error:
            self.finish(partial(self._note_failure, error))
            raise

    def finish(self, step: Callable[[], None]) -> None:
        """Take a step that ends this run; note an interrupt, and take it again then.

        Without it, what was trained would be lost. A second interrupt is raised.
        """
        try:
            step()
        except KeyboardInterrupt:
            if self._interrupted:
                raise
            self._interrupted = self._interrupted_late = True
            step()

    def _note_failure(self, error: BaseException) -> None:
        """Note in an error what is known only here, for whoever goes on after it.

        Which workers are silent; and for one of an exchange, whether this run took a
        step before it.
        """
        if isinstance(error, WorkerLostError | ExchangeError):
            self._tasks.note_silent(error)
        if not isinstance(error, ExchangeError):
            return
        # The message that a shard has met the others may come after the error of
        # another, but hardly by the seconds that `raise_cause` waits. If it does, the
        # fit may begin again elsewhere: nobody but the shards knows of its steps.
        self._note_messages()
        begun = self._round_start is not None and self._round_start.have_met
        error.before_training = not (begun or self._n_rounds > 0)

    def _train_in_rounds(self) -> TrainingState:
        while True:
            try:
                reports = self._round(self._n_rounds)
            except KeyboardInterrupt:
                self._interrupt()
                continue
            except WorkerLostError as error:
                try:
                    departure = self._departure_after(error)
                    if departure is not None and self._withhold(departure):
                        return self._leave(departure)
                except KeyboardInterrupt:
                    self._interrupt()
                continue
            self._in_flight = None
            self._n_rounds += 1
            # From now on the shards have what they were sent.
            self._rows = [None for _ in self._ranks]
            self._state = replace(self._state, progress=reports[0].progress)
            states = [report.state for report in reports if report.state is not None]
            if states:
                return self._joined(states)
            if self._on_epoch_end is not None:
                try:
                    self._stop = self._call_back(self._on_epoch_end)
                except KeyboardInterrupt:
                    self._interrupt()
            try:
                if departure := self._departure_after_round(reports):
                    return self._leave(departure)
                self._offer_state()
                self._copy_state()
            except KeyboardInterrupt:
                self._interrupt()
            except WorkerLostError as error:
                try:
                    if departure := self._departure_after(error):
                        return self._leave(departure)
                except KeyboardInterrupt:
                    self._interrupt()

    def _departure_after_round(self, reports: Sequence[Report]) -> Departure | None:
        """Say whether the fit should go on elsewhere, between two rounds."""
        if self._stop or self._departures is None:
            # The next round is the last, and takes no step.
            return None
        with self._tasks.translate_dask_errors():
            self._tasks.phase = "looking whether to go on elsewhere"
            return self._departures.after_round(reports, self._placing_s)

    def _departure_after(self, error: WorkerLostError) -> Departure | None:
        """Return the departure from workers that accept no tasks but are still there.

        None if they accept tasks again. The error is raised if one is lost, and in the
        first round: where it began, the client knows.
        """
        if self._n_rounds == 0 or self._departures is None:
            raise error
        with self._tasks.translate_dask_errors():
            return self._departures.after_error(error)

    def _withhold(self, departure: Departure) -> bool:
        """Have a round that is in flight never begin; return whether that is so.

        The task of a shard that is to leave was queued a moment ago. If it has begun
        since, the round goes on.
        """
        rank = self._workers.index(departure.workers[0])
        return self._hand_over.withhold(rank, self._n_rounds)

    def _leave(self, departure: Departure) -> TrainingState:
        """End this run; return the state of the whole network between two rounds."""
        copies = self._hand_over.copies()
        whole = join_training_states(self._job.split, [copy.state for copy in copies])
        if self._interrupted or self._stop:
            # It was to end here anyway.
            reason = Outcome.INTERRUPTED if self._interrupted else Outcome.STOPPED
            return replace(whole, outcome=reason).as_if_ended()
        self.departure = departure
        self._announced.note_epoch(whole.progress, copies[0].n_lines)
        return whole

    def _offer_state(self) -> None:
        """Offer the state, to a checkpoint for one."""
        # Where the fit stops, nothing goes on.
        if self._offer is not None and not self._stop:
            # All lines of the round have arrived with its end.
            self._announced.note_epoch(self._state.progress, self._n_lines)
            self._offer(self._state, self._snapshot)

    def _copy_state(self) -> None:
        """Copy the state of all shards, if it is time and the fit would recover."""
        if self._stop or self._departures is None:
            return
        with self._tasks.translate_dask_errors():
            if self._copies.is_due:
                self._copies.take(self._shards)

    def _interrupt(self) -> None:
        """Have training end after a step, or at the next round if none is in flight.

        A second interrupt is raised: it does not wait for the shards.
        """
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        if self._in_flight is None:
            self._stop = True
        else:
            request = worker.request_stop
            answers_in_time(self._client, self._workers, request, self._run)

    def _joined(self, states: Sequence[TrainingState]) -> TrainingState:
        """Return the state of the whole network at the end."""
        first = states[0]
        outcome = first.outcome
        if self._interrupted and isinstance(outcome, Outcome):
            if not isinstance(first.progress, Progress):
                # L-BFGS: as scikit-learn's, it does not end in the middle.
                raise KeyboardInterrupt
            # It may have come too late to make a difference.
            outcome = Outcome.INTERRUPTED
        whole = join_training_states(self._job.split, states)
        return replace(whole, outcome=outcome).as_if_ended()

    def _place(self) -> None:
        """Open the shards, and send everything that they begin with."""
        jobs: list[Any] = [self._job.for_rank(rank) for rank in self._ranks]
        if self._job.initial.network is not None:
            jobs = self._tasks.scatter("job", jobs)
        add, open_shard = self._tasks.add, worker.open_shard
        self._tasks.begin()
        arguments = [(self._credentials, rank, jobs[rank]) for rank in self._ranks]
        opened = [
            add(rank, "open", open_shard, *arguments[rank], self._n_lines)
            for rank in self._ranks
        ]
        listening = [
            add(rank, "address", worker.address_of, opened[rank])
            for rank in self._ranks
        ]
        # In another thread, so that an interrupt does not lose the futures.
        submitted = self._submitting.submit(self._tasks.submit, opened + listening)
        futures = submitted.result()
        self._shards, self._addresses = futures[: len(opened)], futures[len(opened) :]
        self._rows, distribution = place_rows(
            self._dataset, self._tasks, self._plan.grid, self._plan.rows
        )
        if isinstance(distribution, RowsInRanges):
            self._row_ranges = distribution.ranges
        self._roster = Roster(
            self._tasks.fetch(*self._addresses),
            self._names,
            exchange_timeout_s(),
        )

    def _round(self, number: int) -> list[Report]:
        """Start a round and wait for it; after an interrupt, keep waiting for it."""
        if self._in_flight is None:
            assert self._roster is not None
            self._round_start = RoundStart(self._roster, self._workers, number)
            # In another thread, so that an interrupt does not lose the futures.
            self._in_flight = self._submitting.submit(self._start_round, number)
            self._started_at = time.monotonic()
            self._next_check_at = self._started_at + WORKER_CHECK_S
        with self._tasks.translate_dask_errors():
            self._tasks.phase = "training"
            # After an interrupt this is entered again, for the same round.
            futures = self._in_flight.result()
            self._watch(futures)
            self._tasks.phase = "collecting the results of a round"
            reports: list[Report] = self._tasks.fetch(*futures)
        self._log.write(number, reports)
        self.training_s += reports[0].training_s
        if number == 0:
            # Rows may arrive, and shards connect, until the first step.
            placed_s = time.monotonic() - self._placing_since
            self._placing_s = placed_s - reports[0].training_s
            self._copies.begin(reports[0].training_s)
        return reports

    def _start_round(self, number: int) -> list[Future[Any]]:
        # Right before the tasks are submitted: on workers that another fit has got
        # meanwhile, the shards of both could wait for each other. The rest of the race,
        # until the tasks run, `_check_round` covers.
        self._check_held()
        roster = self._roster if number == 0 else None
        round_s = ROUND_S if self._on_epoch_end is None else 0.0
        arguments = [
            (self._shards[rank], number, self._rows[rank], roster, round_s, self._stop)
            for rank in self._ranks
        ]
        futures = self._submit("train", worker.train_round, arguments)
        # Not earlier: Dask batches a client's messages for 10 ms, and the release would
        # delay the round that follows it by that.
        self._addresses = []
        return futures

    def _call_back(self, on_epoch_end: OnEpochEnd) -> bool:
        """Report the end of an epoch; return whether to stop."""

        def report() -> bool:
            with calling_back(self._workers):
                return on_epoch_end(self._state, self._snapshot)

        return self._announced.epoch(self._state.progress.n_iter, report)

    def _snapshot(self) -> TrainingState:
        """Return a copy of the state of the whole network, between rounds."""
        self._tasks.phase = "collecting the parameters"
        arguments = [(shard,) for shard in self._shards]
        futures = self._submit("parameters", worker.snapshot_of, arguments)
        try:
            states: list[TrainingState] = self._tasks.pop_results(*futures)
        except WorkerLostError as error:
            self._departure_after(error)
            # It is still there, though it may accept no tasks. Then it is left after
            # the callback.
            states = [copy.state for copy in self._hand_over.copies()]
        return join_training_states(self._job.split, states)

    def _watch(self, futures: Sequence[Future[Any]]) -> None:
        """Wait for a round to end; print the progress lines of shard 0."""
        for future in futures:
            # Wakes the wait below, from the client's event loop.
            future.add_done_callback(lambda _: self._messages.put(TaskEnded()))
        while not all(future.done() for future in futures):
            # Bounded, since a lost or hanging worker sends no message.
            self._take_messages(WORKER_CHECK_S)
            if any(future.status in ("error", "cancelled") for future in futures):
                raise_cause(self._tasks, futures)
        # What was sent before the end of the round and has not been read yet.
        self._take_messages(0)
        if any(future.status != "finished" for future in futures):
            raise_cause(self._tasks, futures)

    def _take_messages(self, timeout_s: float) -> None:
        """Take the messages that are there; wait for one or the end of a shard."""
        assert self._round_start is not None
        with suppress(queue.Empty):
            self._note_message(self._messages.get(timeout=timeout_s))
        self._note_messages()
        if self._round_start.timed_out():
            ask = worker.missing_shards
            missing = answers_in_time(self._client, self._workers, ask, self._run)
            raise self._round_start.error(missing)
        if time.monotonic() > self._next_check_at:
            self._check_round()

    def _note_messages(self) -> None:
        """Note all messages that are there."""
        with suppress(queue.Empty):
            while True:
                self._note_message(self._messages.get_nowait())

    def _note_message(self, message: Message) -> None:
        if self._round_start is not None:
            self._round_start.note(message)
        if isinstance(message, ProgressLine):
            self._n_lines = message.number + 1
            self._announced.line(message.number, message.text, self._job.log)

    def _check_round(self) -> None:
        """See whether it makes sense to wait for this round."""
        assert self._round_start is not None
        assert self._in_flight is not None
        self._next_check_at = time.monotonic() + WORKER_CHECK_S
        queued = self._round_start.waiting_workers
        if queued and self._n_rounds > 0 and self._departures is not None:
            # Before the watch, which has more patience with a worker that is paused.
            self._departures.check(queued)
        # While all run, each waits for all others in every step. One that has failed is
        # not for the watch: its own error says more.
        in_flight = self._in_flight.result()
        has_ended = any(future.status == "finished" for future in in_flight)
        are_watched = len(self._ranks) > 1 and not queued and not has_ended
        self._tasks.watch.check(queued, are_watched)
        if queued:
            # Once all tasks run, nobody else can take their workers' threads.
            self._check_held()
            self._tasks.notice.check(self._tasks.phase, queued, self._started_at)

    def _submit(
        self,
        operation: str,
        function: Callable[..., Any],
        arguments: Sequence[tuple[Any, ...]],
    ) -> list[Future[Any]]:
        """Submit a task on every shard, with its own arguments."""
        self._tasks.begin()
        return self._tasks.submit(
            [
                self._tasks.add(rank, operation, function, *arguments[rank])
                for rank in self._ranks
            ]
        )

    def _release(self) -> None:
        """Release everything on the cluster."""
        # Not waited for: a round that is still being submitted finds the run closed,
        # and its futures are released at once.
        self._submitting.shutdown(wait=False)
        try:
            self._context.close()
        finally:
            # Again, for an `__enter__` that failed before it put this on the stack.
            self._tasks.close()


def _check_queue(tasks: Placement, workers: Sequence[str]) -> None:
    """See whether it makes sense to wait for other fits."""
    tasks.watch.check()
    tasks.notice.check_reserved(workers)
