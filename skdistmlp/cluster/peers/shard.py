"""A shard of a fit with the "peers" engine, from round to round."""

import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, NoReturn

from skdistmlp.cluster.peers.messages import Sender
from skdistmlp.exceptions import ExchangeError
from skdistmlp.parallel.communicators import StopRequested
from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.local_network import open_local_network
from skdistmlp.parallel.ops import Leader
from skdistmlp.training.job import TrainingJob
from skdistmlp.training.loop import Log, quiet
from skdistmlp.training.progress import LbfgsProgress, Outcome, Progress
from skdistmlp.training.run import TrainingRun
from skdistmlp.training.state import TrainingState
from skdistmlp.wire.communicator import SocketCommunicator
from skdistmlp.wire.handshake import Address, Credentials, Tls, meet


@dataclass(frozen=True)
class Roster:
    """Who takes part in a fit.

    Attributes
    ----------
    addresses : sequence of (str, int)
        Where each shard takes connections.
    names : sequence of str
        What to call each shard in messages.
    timeout_s : float
        How long an exchange waits for the slowest shard.
    """

    addresses: Sequence[Address]
    names: Sequence[str]
    timeout_s: float


@dataclass(frozen=True)
class Report:
    """Where a shard stands at the end of a round.

    Attributes
    ----------
    progress : Progress, LbfgsProgress or None
        How far training has come, as in `TrainingState`.
    state : TrainingState or None
        The shard's state, once training has ended.
    training_s, exchanging_s : float
        Duration of this round in seconds, and the part of it spent in exchanges.
    alone_s : float
        The part in which this shard computed while the others waited for it in an
        exchange: for the score of an epoch.
    """

    progress: Progress | LbfgsProgress | None
    state: TrainingState | None
    training_s: float
    exchanging_s: float
    alone_s: float = 0.0

    @property
    def computed_s(self) -> float:
        """The part in which it computed what every shard does in each step."""
        return self.training_s - self.exchanging_s - self.alone_s


class ShardCopy(NamedTuple):
    """A copy of the state of a shard, between rounds.

    Attributes
    ----------
    state : TrainingState
        The state; the order of the rows only with the first shard.
    n_lines : int
        Lines that the shard has sent.
    """

    state: TrainingState
    n_lines: int


class PeerShard:
    """One shard of one fit, on its worker from the first round to the last.

    It is the result of a Dask task and lives as long: when Dask drops the result, its
    connections are closed and its memory is freed. It cannot be pickled, so it never
    moves to another worker.

    Parameters
    ----------
    credentials : Credentials
        Those of the fit.
    rank : int
        Number of the shard.
    listener : socket
        Where to take connections.
    tls : Tls or None
        How connections are encrypted.
    job : TrainingJob
        What to train, with the network's split; its start, if it has one, is this
        shard's.
    n_lines : int
        Lines that were sent before that start.
    """

    def __init__(
        self,
        credentials: Credentials,
        rank: int,
        listener: socket.socket,
        tls: Tls | None,
        job: TrainingJob,
        n_lines: int = 0,
    ) -> None:
        self._credentials = credentials
        self._sender = Sender(credentials.run.hex(), rank, n_lines)
        self._tls = tls
        self._rank = rank
        self._listener: socket.socket | None = listener
        self.address: Address = listener.getsockname()[:2]
        self._communicator: SocketCommunicator | None = None
        self._is_abandoned: Callable[[], bool] = lambda: False
        self._stop_wanted = False
        self._missing: set[int] = set()
        self._n_rounds = 0
        self._is_withheld = False
        # Held while a round begins, or is refused from another thread.
        self._beginning = threading.Lock()
        self._n_copies = 0
        self._progress: Progress | LbfgsProgress | None = None
        self._run: TrainingRun | None = None
        self._dataset: Dataset | None = None
        self._leader: Leader | None = None
        # Parameters are drawn here, while the rows are on their way.
        grid = job.grid
        layout = job.split.layout(grid.shard(rank))
        self._start: TrainingState | None = job.start(layout, grid.replica(rank))
        # Without what it begins with, which it would hold to the end.
        self._job = replace(job, initial=job.initial.without_arrays())

    def __reduce__(self) -> NoReturn:
        raise TypeError("a shard in training stays on its worker")

    def __del__(self) -> None:
        self.close()

    def train(
        self,
        number: int,
        dataset: Dataset | None,
        roster: Roster | None,
        round_s: float,
        stop: bool,
        is_abandoned: Callable[[], bool],
    ) -> Report:
        """Train for one round; round 0 also connects to the other shards.

        Parameters
        ----------
        number : int
            Number of the round. A round cannot be repeated.
        dataset : Dataset or None
            The rows that it needs; for round 0.
        roster : Roster or None
            Who takes part; for round 0.
        round_s : float
            Seconds after which to report, at the end of an epoch or iteration: 0 for
            each of them.
        stop : bool
            Whether to end training before another step.
        is_abandoned : callable
            Says whether Dask has cancelled this round's task: the shard then ends.
        """
        # When a worker is lost, Dask runs its tasks again, on a shard that is opened
        # again and knows nothing of earlier rounds.
        with self._beginning:
            if number != self._n_rounds or self._is_withheld:
                raise ExchangeError(
                    f"{self._job.grid.title(self._rank)} is asked for round {number}, "
                    f"but has done {self._n_rounds}: its worker was lost or the fit "
                    f"has ended"
                )
            self._n_rounds += 1
        # Each round is another task, whose cancellation ends the waits of this round.
        self._is_abandoned = is_abandoned
        if self._communicator is not None:
            self._communicator.cancel_if(is_abandoned)
        try:
            self._sender.running(number)
            if dataset is not None and roster is not None:
                self._begin(dataset, roster)
            elif self._communicator is not None:
                # Any time: another shard's task may be queued behind other work, and
                # the timeout of exchanges must not count that.
                self._communicator.wait_for_all()
            self._sender.met(number)
            return self._train_round(round_s, stop)
        except BaseException:
            # Whoever waits for this shard sees its connection break, and fails at once
            # instead of after a timeout.
            self.close()
            raise

    def snapshot(self) -> TrainingState:
        """Return a copy of the state, between rounds."""
        return self._trained_run().snapshot()

    def copy(self) -> ShardCopy:
        """Return a copy of what would be lost with this shard, between rounds."""
        run = self._trained_run()
        # L-BFGS begins again at the parameters of the shards. Its iterate,
        # of the whole network, is left out before anything is copied.
        state = run.snapshot(replace(run.state, iterate=None))
        if self._rank > 0:
            # All have the same.
            state = replace(state, row_order=None, held_out=None)
        return ShardCopy(state, self._sender.n_lines)

    def numbered_copy(self, number: int) -> ShardCopy:
        """Return a copy, unless one of this number was returned before.

        When a worker is lost, Dask makes the copies there again, of shards that have
        trained on meanwhile, or even do so while this runs.
        """
        if number < self._n_copies:
            raise ExchangeError(
                f"{self._job.grid.title(self._rank)} is asked for copy {number} of its "
                f"state again: the worker that had it was lost"
            )
        self._n_copies = number + 1
        return self.copy()

    def withhold(self, n_rounds: int) -> bool:
        """Begin no further round, if this shard has begun this number of them.

        Called from any thread. No shard takes a step before all have begun a round: as
        long as one does not begin it, the state of all is that of the round before.

        Returns
        -------
        bool
            Whether it is withheld; otherwise it has begun another round just now.
        """
        with self._beginning:
            if self._n_rounds == n_rounds:
                self._is_withheld = True
            return self._is_withheld

    def request_stop(self) -> None:
        """Ask all shards to stop after a step; called from any thread.

        It runs outside of tasks, and races with `_begin`, which makes the communicator.
        This sets the flag and then looks for the communicator; `_begin` sets the
        communicator and then looks at the flag: one of the two always sees the other.
        """
        self._stop_wanted = True
        # Once: `close` may set the attribute to None at any moment.
        communicator = self._communicator
        if communicator is not None:
            communicator.request_stop()

    @property
    def epoch(self) -> str | None:
        """What to show of its last epoch or iteration, if it knows one.

        Read by any thread. With "lbfgs", only the shard that leads knows.
        """
        progress = self._progress
        if progress is None or progress.loss is None:
            return None
        return f"{progress.n_iter} (loss {progress.loss:.4g})"

    def missing(self) -> list[int]:
        """Return the shards that this one has yet to find; called from any thread."""
        # A copy first: the thread of the task may find one meanwhile.
        return sorted(self._missing.copy())

    def close(self) -> None:
        """Close all connections, and release all memory."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._communicator is not None:
            self._communicator.close()
        if self._run is not None:
            self._run.close()
        if self._dataset is not None:
            # Now: an error of Dask's may keep this shard for a while.
            self._dataset.close()
        self._dataset = None
        self._run = self._start = self._communicator = None

    def _trained_run(self) -> TrainingRun:
        """Return the run, between rounds."""
        if self._run is None:
            # One that Dask has opened again, as in `train`.
            raise ExchangeError(
                f"{self._job.grid.title(self._rank)} has no state to copy: its worker "
                f"was lost or the fit has ended"
            )
        return self._run

    def _begin(self, dataset: Dataset, roster: Roster) -> None:
        """Connect to the other shards, and prepare the first step."""
        assert self._listener is not None
        assert self._start is not None
        self._missing = set(range(len(roster.addresses))) - {self._rank}
        links = meet(
            self._rank,
            self._listener,
            roster.addresses,
            roster.names,
            self._credentials,
            self._is_abandoned,
            self._tls,
            self._missing.discard,
        )
        self._listener.close()
        self._listener = None
        self._communicator = SocketCommunicator(
            self._rank,
            links,
            self._credentials.run,
            roster.timeout_s,
            self._is_abandoned,
            self._job.grid,
        )
        # After the communicator is set; see `request_stop`.
        if self._stop_wanted:
            self._communicator.request_stop()
        job = self._job
        network = open_local_network(
            job.network,
            job.split,
            self._start.network,
            dataset,
            self._communicator,
            job.max_rows(dataset),
        )
        log: Log = quiet
        if job.verbose and self._rank == 0:
            # A method of the sender, not of the shard: in a cycle with its run, the
            # shard would live, with its memory and connections, until Python collects
            # garbage.
            log = self._sender.progress
        self._leader = network.leader
        self._dataset = dataset
        self._run = TrainingRun(job, network, dataset, self._start, log)
        self._start = None

    def _train_round(self, round_s: float, stop: bool) -> Report:
        """Train until a round is over; the leader says when."""
        run, leader, communicator = self._run, self._leader, self._communicator
        assert run is not None
        assert leader is not None
        assert communicator is not None
        started_at, exchanged_s = time.monotonic(), communicator.exchanging_s
        alone_s = leader.alone_s

        def is_round_over(state: TrainingState) -> bool:
            self._progress = state.progress
            return bool(leader.decides(time.monotonic() >= started_at + round_s))

        try:
            state = run.stop() if stop else run.advance(is_round_over)
        except StopRequested:
            # L-BFGS cannot be cut short. Not raised: an interrupt that left a task
            # would end its worker.
            state = replace(run.state, outcome=Outcome.INTERRUPTED)
        ended = state.outcome is not None
        report = Report(
            state.progress,
            state if ended else None,
            time.monotonic() - started_at,
            communicator.exchanging_s - exchanged_s,
            leader.alone_s - alone_s,
        )
        if ended:
            self.close()
        return report
