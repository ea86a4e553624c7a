"""What runs on the workers to measure them: exchanges, and steps of a job."""

import math
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import median
from threading import Thread
from typing import NamedTuple, NoReturn
from weakref import ref

import numpy as np
from distributed import get_worker

from skdistmlp.cluster._dask import result_dropped
from skdistmlp.cluster.peers.busy_share import FLOAT_BYTES, ROWS, measure_busy_share
from skdistmlp.cluster.peers.pairs import MIN_PAIR_ROUNDS, PairRounds
from skdistmlp.cluster.peers.shard import Roster
from skdistmlp.cluster.peers.worker import open_listener, tls_of
from skdistmlp.cluster.run.garbage import collect_until_gone
from skdistmlp.cluster.run.task_context import own_blas_threads, task_cancellation
from skdistmlp.exceptions import ExchangeError
from skdistmlp.nn.types import FloatArray
from skdistmlp.parallel.communicators import Collectives
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.split import consecutive_ranges
from skdistmlp.planning.calibration import equal_links
from skdistmlp.timeouts import CONNECT_PROBE_S, MEETING_S
from skdistmlp.training.trial import StepSeconds, Trial
from skdistmlp.wire.collectives import SocketCollectives
from skdistmlp.wire.communicator import SocketCommunicator
from skdistmlp.wire.handshake import Address, Credentials, Tls, meet
from skdistmlp.wire.transfers import Link

SIZES = [0, 16_000, 128_000, 1_000_000, 4_000_000]
"""Bytes that each worker sends in the exchanges that are timed: what those of networks
send, from small to large. Larger ones follow the line through the last two."""

LINK_S = 0.1
"""Seconds for exchanges: no larger size is begun that is expected to end later."""

MIN_SIZES = 3
"""Sizes that are measured however slow the link is, unless it is far: see
`FAR_BYTES`."""

N_EXCHANGES = 3
"""Exchanges of each size that are timed, after one that is not: a gather and a scatter
each."""

LONG_S = 0.03
"""Seconds from which these are too long for one size. Then there are two or three, the
fastest of which counts: on a slow link, bytes take longer than whatever else may hold
them up."""

THRICE_S = 0.06
"""Seconds that three may take, for which there is time at 1 Gbit/s: of 1 MB, the third
took a sixth less than the two before it."""

TWICE_S = 0.2
"""Seconds from which even two are too long, and there is one."""

FAR_BYTES = 128_000
"""What each worker sends the others, besides a few bytes, if two exchanges of these
take more than `LONG_S`, for the latency. 16 kB would take as long as a few bytes, and
more would leave no time for whatever else is measured. Twice, of which the faster
counts: in the first, TCP still waits for acknowledgements."""

MAX_FASTER = 2
"""How often exchanges are timed again without the workers whose links are the slowest:
for three kinds of links."""

LINKS_S = 0.5
"""Seconds of all exchanges from which no third kind of links is looked for."""

PAIRS_S = 0.1
"""Seconds for exchanges in pairs: no round of them is begun that is expected to end
later, but for the first `MIN_PAIR_ROUNDS`."""

PAIR_BYTES = 16_000, 128_000, 512_000
"""Bytes that each of a pair sends: the largest of these of which an exchange among all
takes no longer than `PAIR_S`, or the smallest."""

PAIR_S = 4e-3
"""See `PAIR_BYTES`."""

N_PAIR_EXCHANGES = 2
"""Exchanges of each pair, of which the faster counts; a single one if these would take
more than `LONG_S`."""


class ExchangeTimes(NamedTuple):
    """What exchanges of some workers took.

    Attributes
    ----------
    sizes : list of float
        Bytes that each worker sent.
    seconds : list of float
        Of the exchanges of each size, median.
    is_far : bool
        Whether a few bytes take so long that each exchange counts; see `FAR_BYTES`. All
        of the workers find the same.
    busy_share : float or None
        See `skdistmlp.planning.machines.Link`.
    """

    sizes: list[float]
    seconds: list[float]
    is_far: bool = False
    busy_share: float | None = None


@dataclass(frozen=True)
class ProbeReport:
    """What one worker has measured.

    Attributes
    ----------
    exchanges : list of ExchangeTimes
        Among all; then without those whose links are the slowest, as long as this
        worker is none of them.
    own_s, step_s : list of float
        Seconds of a step on each grid, without exchanges: until this worker has
        computed, and until all have.
    """

    exchanges: list[ExchangeTimes]
    own_s: list[float]
    step_s: list[float]


class MeetingError(ExchangeError):
    """A worker could not connect to the others."""


class Probe:
    """One worker of a measurement, from the opening of its socket to the end.

    The result of a Dask task, as `PeerShard` is, and no more than that may it be moved.

    Parameters
    ----------
    credentials : Credentials
        Those of the measurement.
    rank : int
        Number of the worker.
    listener : socket
        Where to take connections.
    tls : Tls or None
        How connections are encrypted.
    """

    def __init__(
        self,
        credentials: Credentials,
        rank: int,
        listener: socket.socket,
        tls: Tls | None,
    ) -> None:
        self._credentials = credentials
        self._rank = rank
        self._listener = listener
        self._tls = tls
        self.address: Address = listener.getsockname()[:2]

    def __reduce__(self) -> NoReturn:
        raise TypeError("a measurement stays on its worker")

    def __del__(self) -> None:
        self._listener.close()

    def measure(
        self,
        roster: Roster,
        trial: Trial,
        grids: Sequence[Grid],
        is_abandoned: Callable[[], bool],
    ) -> ProbeReport:
        """Measure together with the others; all do the same at the same time.

        Parameters
        ----------
        roster : Roster
            Who takes part.
        trial : Trial
            The job of which steps are timed.
        grids : sequence of Grid
            Grids, of whose first processes the steps are.
        is_abandoned : callable
            Says whether Dask has cancelled the task.
        """
        links = self._meet(roster, is_abandoned)
        communicator = SocketCommunicator(
            self._rank, links, self._credentials.run, roster.timeout_s, is_abandoned
        )
        try:
            exchanges = _time_links(communicator)
            each = _time_steps(communicator, exchanges[0], trial, grids)
            own_s, step_s = map(list, zip(*each, strict=True))
            return ProbeReport(exchanges, own_s, step_s)
        finally:
            communicator.close()

    def _meet(
        self, roster: Roster, is_abandoned: Callable[[], bool]
    ) -> dict[int, Link]:
        """Connect to the others, who have all just been there."""
        deadline = time.monotonic() + MEETING_S
        missing = set(range(len(roster.addresses))) - {self._rank}
        try:
            return meet(
                self._rank,
                self._listener,
                roster.addresses,
                roster.names,
                self._credentials,
                lambda: is_abandoned() or time.monotonic() > deadline,
                self._tls,
                missing.discard,
            )
        except ExchangeError as error:
            if time.monotonic() <= deadline:
                if not error.apart:
                    # Somebody went away, or nobody wants this any more.
                    raise
                raise MeetingError(str(error)) from error
            # Whoever listens can be reached, but has not begun.
            if all(_listens(roster.addresses[rank]) for rank in missing):
                late = ", ".join(roster.names[rank] for rank in sorted(missing))
                raise ExchangeError(
                    f"{late} did not begin within {MEETING_S:g} s: other tasks keep "
                    f"the worker busy"
                ) from error
            raise MeetingError(
                f"{roster.names[self._rank]} could not connect to the others within "
                f"{MEETING_S:g} s"
            ) from error
        finally:
            self._listener.close()


def _listens(address: Address) -> bool:
    """Say whether a connection can be made to an address."""
    try:
        with socket.create_connection(address, CONNECT_PROBE_S):
            return True
    except OSError:
        return False


def _time_steps(
    communicator: SocketCommunicator,
    times: ExchangeTimes,
    trial: Trial,
    grids: Sequence[Grid],
) -> list[StepSeconds]:
    """Return the seconds of steps; see `Trial.steps_seconds`.

    Parameters
    ----------
    communicator : SocketCommunicator
        With all others.
    times : ExchangeTimes
        Of exchanges among all.
    trial : Trial
        The job.
    grids : sequence of Grid
        Its grids.
    """
    if times.is_far:
        # To wait for each other after each of a dozen steps would take longer than all
        # of them, and workers that are so far apart share no memory. Those that are
        # near each other begin together all the same: they end their exchanges so.
        return trial.steps_seconds(grids)
    # At the same time, step by step: workers of one machine share its memory, and in a
    # fit each step waits for the slowest.
    goes_on = partial(_all_go_on, communicator)
    waits_s = times.seconds[0] if times.seconds else 0.0
    return trial.steps_seconds(grids, goes_on, waits_s)


def _all_go_on(communicator: SocketCommunicator, wants_more: bool) -> bool:
    """Wait for all; return whether one of them would time another step."""
    wanted = np.array([float(wants_more)])
    return bool(communicator.all_reduce(wanted, 0, np.empty(1))[0])


def _time_links(communicator: SocketCommunicator) -> list[ExchangeTimes]:
    """Time exchanges among all, then without those whose links are the slowest.

    They wait meanwhile. So the others learn what their exchanges would take.
    """
    begun = time.perf_counter()
    members = list(range(communicator.n_ranks))
    found: list[ExchangeTimes] = []
    while communicator.rank in members:
        group = communicator.among(members)
        times = _time_exchanges(group)
        if not times.is_far:
            share = measure_busy_share(group, times.sizes, times.seconds)
            times = times._replace(busy_share=share)
        found.append(times)
        if len(members) <= 2 or len(found) > MAX_FASTER:
            break
        if len(found) > 1:
            taken_s = np.array([time.perf_counter() - begun])
            # The first decides.
            if group.broadcast(taken_s, 0)[0] > LINKS_S:
                break
        link_s = _link_seconds(communicator, members, group, times)
        # All of them know the same numbers.
        *faster, _ = equal_links(link_s)
        members = sorted(members[place] for places in faster for place in places)
        if len(members) < 2:
            break
    return found


def _link_seconds(
    communicator: SocketCommunicator,
    members: Sequence[int],
    group: SocketCollectives,
    times: ExchangeTimes,
) -> list[float]:
    """Return what the link of each member takes; see `PairRounds`.

    With a rate or a latency that make every exchange long, there are fewer rounds.
    """
    n_bytes, n_exchanges = _pair_exchanges(group, times)
    own, whole = (np.zeros((1, n * n_bytes // FLOAT_BYTES), np.float32) for n in (1, 2))
    rounds = PairRounds(len(members))
    begun, longest_s, ended_s = time.perf_counter(), 0.0, 0.0
    while partners := rounds.next_partners():
        own_s = [math.inf] * n_exchanges
        if (partner := partners[group.rank]) != group.rank:
            pair = sorted((communicator.rank, members[partner]))
            own_s = _pair_seconds(communicator.among(pair), own, whole, n_exchanges)
        # They begin the next round together, too.
        gathered = _gathered(group, [time.perf_counter() - begun, *own_s])
        # One that was held up before it began finds everything there already, but the
        # other has waited for it.
        each_s = np.maximum(gathered[:, 1:], gathered[partners, 1:])
        rounds.note(partners, each_s.min(axis=1).tolist())
        # Of whoever is the last to end it: all know the same numbers.
        now_s = float(gathered[:, 0].max())
        longest_s, ended_s = max(longest_s, now_s - ended_s), now_s
        is_late = ended_s + longest_s > PAIRS_S
        if is_late and rounds.n_played >= MIN_PAIR_ROUNDS:
            break
    return rounds.link_s


def _pair_exchanges(group: SocketCollectives, times: ExchangeTimes) -> tuple[int, int]:
    """Return how many bytes each of a pair sends, and how often; the same for all."""
    if times.is_far:
        # A few bytes tell who is far, and all know that they are to.
        return FLOAT_BYTES, 1
    sizes, seconds = times.sizes, times.seconds
    # Sizes are rounded, down among many workers.
    affordable = [
        n
        for n in PAIR_BYTES[1:]
        if n <= 1.1 * sizes[-1] and np.interp(n, sizes, seconds) <= PAIR_S
    ]
    n_bytes = max(affordable, default=PAIR_BYTES[0])
    is_long = N_PAIR_EXCHANGES * np.interp(n_bytes, sizes, seconds) > LONG_S
    n_exchanges = 1 if is_long else N_PAIR_EXCHANGES
    # The first decides: the others may have taken a little longer. They gather it, so
    # that all begin the first round together.
    n_bytes, n_exchanges = map(int, _gathered(group, [n_bytes, n_exchanges])[0])
    return n_bytes, n_exchanges


def _gathered(group: Collectives, numbers: Sequence[float]) -> FloatArray:
    """Return the numbers of all: one row for each of a group, in order."""
    n_ranks, n_numbers = group.n_ranks, len(numbers)
    whole = np.empty((1, n_ranks * n_numbers))
    ranges = consecutive_ranges([n_numbers] * n_ranks)
    group.all_gather(np.array([numbers], float), ranges, 0, whole)
    return whole.reshape(n_ranks, n_numbers)


def _pair_seconds(
    exchanges: SocketCollectives, own: FloatArray, whole: FloatArray, n_exchanges: int
) -> list[float]:
    """Return what it takes to exchange an array with another worker.

    Parameters
    ----------
    exchanges : SocketCollectives
        With the other one.
    own : array of shape (1, width)
        What is sent.
    whole : array of shape (1, 2 * width)
        Overwritten with what both send.
    n_exchanges : int
        How often.
    """
    ranges = consecutive_ranges([own.size] * 2)
    seconds: list[float] = []
    for number in range(n_exchanges):
        if number:
            # They begin together, however long one has waited for the other.
            _gathered(exchanges, [0.0])
        begun = time.perf_counter()
        exchanges.all_gather(own, ranges, 0, whole)
        seconds.append(time.perf_counter() - begun)
    return seconds


def _time_exchanges(communicator: Collectives) -> ExchangeTimes:
    """Return bytes sent, and the seconds that gathering or scattering them takes.

    All do the same, as long as links may make that: one that left out an exchange would
    leave the others waiting for it. So whatever is left out follows from numbers that
    all have gathered, or one decides for all.
    """
    n_ranks = communicator.n_ranks
    sizes: list[float] = []
    seconds: list[float] = []
    if n_ranks == 1:
        return ExchangeTimes(sizes, seconds)
    begun = time.perf_counter()
    row_bytes = ROWS * FLOAT_BYTES * (n_ranks - 1)
    # Of a few bytes: whoever was there first has waited for the others besides. The
    # least of these is none of that, and no less than it takes: each has received what
    # others sent in answer to what it had sent. Twice, since on a busy machine the
    # first may take long on any link.
    empty_s = float(_gathered(communicator, [_exchange_s(communicator, 1, 2)]).min())
    if 2 * 2 * empty_s > LONG_S:
        # All waits that follow are as long: there is one other size, and no question
        # whether there is time for more.
        width = max(2, FAR_BYTES // row_bytes)
        far_s = _exchange_s(communicator, width, 2)
        found = [1.0 * row_bytes, 1.0 * width * row_bytes], [empty_s, far_s]
        return ExchangeTimes(*found, is_far=True)
    for size in SIZES:
        width = max(1, size // row_bytes)
        n_bytes = float(width * row_bytes)
        if n_bytes in sizes:
            # Among many workers, a number for each is more than the smallest sizes.
            continue
        times = 1 + N_EXCHANGES
        if times * 2 * empty_s > LONG_S:
            times = 2
        # The first size says nothing of what bytes take.
        if len(sizes) > 1:
            each_s = 2 * seconds[-1] * n_bytes / sizes[-1]
            if times * each_s > LONG_S:
                if 3 * each_s <= THRICE_S:
                    times = 3
                else:
                    times = 2 if 2 * each_s <= TWICE_S else 1
            is_late = time.perf_counter() + times * each_s > begun + LINK_S
            if is_late and len(sizes) >= MIN_SIZES:
                times = 0
            # The first decides: the others may have begun a little later.
            times = int(communicator.broadcast(np.array([float(times)]), 0)[0])
            if times == 0:
                break
        sizes.append(n_bytes)
        seconds.append(_exchange_s(communicator, width, times))
    return ExchangeTimes(sizes, seconds)


def _exchange_s(communicator: Collectives, width: int, times: int) -> float:
    """Return the mean of the seconds of a gather and of a scatter: see `LONG_S`."""
    n_ranks = communicator.n_ranks
    ranges = consecutive_ranges([width] * n_ranks)
    whole = np.zeros((ROWS, width * n_ranks), np.float32)
    own = np.zeros((ROWS, width), np.float32)
    each_s = []
    for _ in range(times):
        begun = time.perf_counter()
        communicator.all_gather(own, ranges, 0, whole)
        communicator.reduce_scatter(whole, ranges, 0, own)
        each_s.append(time.perf_counter() - begun)
    return (median(each_s[1:]) if times > N_EXCHANGES else min(each_s)) / 2


def load_kernels(trial: Trial, _address: Address) -> None:
    """Load the compiled code that a worker measures with, once it has its address."""
    trial.load_kernels()


def prepare(trial: Trial) -> None:
    """Import what a worker measures with, and begin to load it, before it has to."""
    # Called on the event loop, also of workers on which other fits train: code that has
    # to be compiled takes seconds, in which they would answer nobody.
    thread = Thread(
        target=trial.load_kernels, name="skdistmlp-load-kernels", daemon=True
    )
    thread.start()


def piece_of(n_bytes: int, _address: Address) -> np.ndarray:
    """Return bytes to be sent to the process that measures, which nothing compresses.

    Once this worker has its address, for which the others wait.

    An array, as what training sends: Dask copies it less often than an object.
    """
    return np.frombuffer(np.random.default_rng(0).bytes(n_bytes), np.uint8)


def open_probe(credentials: Credentials, rank: int) -> Probe:
    """Create the part of a measurement that one worker takes."""
    worker = get_worker()
    probe = Probe(credentials, rank, open_listener(worker), tls_of(worker))
    collect_until_gone(worker, ref(probe), result_dropped(worker))
    return probe


def address_of(probe: Probe) -> Address:
    """Return where a worker takes connections."""
    return probe.address


def measure(
    probe: Probe, roster: Roster, trial: Trial, grids: Sequence[Grid]
) -> ProbeReport:
    """Measure one worker, with its threads, together with the others."""
    with own_blas_threads():
        return probe.measure(roster, trial, grids, task_cancellation())
