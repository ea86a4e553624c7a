"""Measure workers, the link between them, and this process, for a job.

Nothing is measured while another fit holds one of the workers. Nobody waits for longer
than `MEASURING_TIMEOUT_S`, for other threads that measure and for the workers together,
and where compiled code has to be loaded, for `LOADING_TIMEOUT_S` more: a fit can do
without.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from statistics import median_low
from typing import Any

from distributed import Client, Future

from skdistmlp.cluster.client.workers import can_connect, is_on_loopback
from skdistmlp.cluster.peers import probe
from skdistmlp.cluster.peers.measured import (
    HeldError,
    MeasurementError,
    UnreachableError,
    keep_timings,
    measured_before,
    note_failure,
)
from skdistmlp.cluster.peers.probe import MeetingError, ProbeReport
from skdistmlp.cluster.peers.shard import Roster
from skdistmlp.cluster.run.graph import MEASURE, Key
from skdistmlp.cluster.run.placement import Placement
from skdistmlp.cluster.run.reservation import borrow_workers
from skdistmlp.exceptions import ExchangeError
from skdistmlp.locks import ForkSafeLock
from skdistmlp.nn.layers import Network
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.calibration import FasterExchanges, Timings, are_equal
from skdistmlp.planning.cost import StepCost, bytes_held, numbers_per_row
from skdistmlp.planning.left_out import LeftOut
from skdistmlp.planning.memory import WorkerMemory
from skdistmlp.planning.rates import DASK_BYTE_S
from skdistmlp.settings import exchange_timeout_s
from skdistmlp.timeouts import LOADING_TIMEOUT_S, MEASURING_POLL_S, MEASURING_TIMEOUT_S
from skdistmlp.training.trial import FIRST_ROWS, Trial
from skdistmlp.wire.handshake import Credentials

PIECES = 32_000, 256_000, 1_000_000
"""Bytes that the workers together send this process, one after the other, to measure
the link to it. On a fast link, the largest follows the smallest."""

FETCHED_S = 0.05
"""Seconds that a larger piece may be expected to take."""

FETCHED_LATENCIES = 15
"""Or this many times what the fewest bytes take: over a long distance, a connection
begins slowly, and small pieces say little of its rate."""

FAR_S = 0.03
"""Seconds that the fewest bytes take from which the largest piece is not sent: until a
connection is at full speed, it takes several times as long."""

_MEASURING = ForkSafeLock()
"""Held while something is measured: the fits of a search that runs in threads all want
the same, and those that come later find it kept."""


class _Deadline:
    """A number of seconds from now on, in which something has to happen.

    Parameters
    ----------
    seconds : float
        The seconds.
    message : str
        What has not happened after them.
    """

    def __init__(self, seconds: float, message: str) -> None:
        self._at = time.monotonic() + seconds
        self._kind: type[MeasurementError] = MeasurementError
        self._message = f"{message} within {seconds:g} s"

    @classmethod
    def of_measurement(cls) -> _Deadline:
        """Return the deadline of a measurement, but for the loading of code."""
        return cls(MEASURING_TIMEOUT_S, "the cluster did not answer")

    def check(self) -> None:
        """Raise `MeasurementError` if the time is over."""
        if time.monotonic() > self._at:
            raise self._kind(self._message)

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Do not count the seconds that the context takes."""
        begun = time.monotonic()
        yield
        self._at += time.monotonic() - begun

    @contextmanager
    def holding(self, lock: ForkSafeLock) -> Iterator[None]:
        """Hold a lock, unless other threads do until the time is over."""
        if not lock.acquire(blocking=False):
            # Also if it is over later: the workers may have had too little of it.
            self._kind = HeldError
            self._message = "other fits of this process measure their workers"
            if not lock.acquire(timeout=max(0.0, self._at - time.monotonic())):
                raise self._kind(self._message)
        try:
            yield
        finally:
            lock.release()


def measure_machines(
    client: Client, workers: tuple[str, ...], trial: Trial, grids: Sequence[Grid]
) -> Timings:
    """Measure steps of a job on workers and in this process, and exchanges.

    What was measured before is not measured again.

    Parameters
    ----------
    client : Client
        A connected client.
    workers : tuple of str
        Addresses.
    trial : Trial
        The job.
    grids : sequence of Grid
        Grids of which steps are timed; the first is a single process.

    Raises
    ------
    MeasurementError
        If the workers are busy, too slow, or cannot reach each other, or other threads
        of this process have measured for too long.
    """
    deadline = _Deadline.of_measurement()
    with deadline.holding(_MEASURING):
        # Another thread may just have measured it.
        if (found := measured_before(client, workers, trial, grids)) is not None:
            return found
        try:
            found = _measure(client, workers, trial, grids, deadline)
        except HeldError:
            raise
        except MeasurementError as error:
            note_failure(client, workers, error)
            raise
        keep_timings(client, workers, trial, grids, found)
        return found


def measure_again(
    client: Client,
    workers: tuple[str, ...],
    held: Sequence[str],
    trial: Trial,
    grids: Sequence[Grid],
) -> Timings:
    """Measure workers for a fit that holds some of them, between two of its rounds.

    Also if they were measured before: one may have become slow since.

    Parameters
    ----------
    client : Client
        A connected client.
    workers : tuple of str
        Addresses.
    held : sequence of str
        Those among them that the fit has reserved.
    trial : Trial
        The job.
    grids : sequence of Grid
        As in `measure_machines`.

    Raises
    ------
    MeasurementError
        If others hold the rest, or the workers are too slow or cannot reach each other.
    """
    deadline = _Deadline.of_measurement()
    return _measure(client, workers, trial, grids, deadline, held)


class NoRoomError(MeasurementError):
    """Some workers, or this process, have no room for the steps that are timed.

    Attributes
    ----------
    left_out : tuple of LeftOut
        The workers; empty if it is this process.
    """

    def __init__(self, message: str, left_out: Sequence[LeftOut] = ()) -> None:
        super().__init__(message)
        self.left_out = tuple(left_out)


def check_room_for_trial(
    cost: StepCost,
    trial: Trial,
    grids: Sequence[Grid],
    memory: Mapping[str, WorkerMemory],
) -> None:
    """Raise `NoRoomError` unless each process has room for the steps it times.

    One of them is of the whole network, whatever share a process would have in the fit.

    Parameters
    ----------
    cost : StepCost
        Of a step of the fit.
    trial : Trial
        The job.
    grids : sequence of Grid
        Grids of which steps are timed; the first is a single process, and the only one
        that this process times.
    memory : mapping of str to WorkerMemory
        Of each worker that is measured and has a limit, once it has loaded the compiled
        code of the fit: see `room_for`.
    """
    from skdistmlp.cluster.data.remote_dataset import available_memory

    needed = [_bytes_of_trial(cost, trial, grid) for grid in grids]
    memory_here = max(0, available_memory() - trial.bytes_to_load)
    if needed[0] > memory_here:
        raise NoRoomError(_no_room(needed[0], "this process", memory_here))
    left_out = LeftOut.short_of_memory(dict.fromkeys(memory, max(needed)), memory)
    if left_out:
        first = left_out[0].worker
        message = _no_room(max(needed), first, memory[first].free)
        raise NoRoomError(message, left_out)


def _no_room(needed: int, where: str, free: int) -> str:
    return f"steps that are timed take {needed:,} bytes, and {where} has {free:,}"


def _bytes_of_trial(cost: StepCost, trial: Trial, grid: Grid) -> int:
    """Return the bytes that the first process of a grid takes for its steps."""
    timed = [
        (trial.network, trial.n_rows_timed([grid])[0]),
        (trial.network_updated(grid), FIRST_ROWS * grid.n_replicas),
    ]

    def n_bytes(network: Network, n_rows: int) -> int:
        split = NetworkSplit.even(network.layer_units, grid.n_shards)
        feature_bytes = n_rows * numbers_per_row(split, cost) * cost.itemsize
        of_trial = replace(
            cost,
            n_rows=n_rows,
            buffer_rows=None,
            data_bytes=feature_bytes + n_rows * split.layer_units[-1] * cost.itemsize,
            feature_bytes=feature_bytes,
            n_ordered_rows=0,
            moves_parameters=False,
        )
        return bytes_held(split.layout(0), of_trial, grid.n_replicas)

    return max(n_bytes(network, n_rows) for network, n_rows in timed)


def _measure(
    client: Client,
    workers: tuple[str, ...],
    trial: Trial,
    grids: Sequence[Grid],
    deadline: _Deadline,
    held: Sequence[str] = (),
) -> Timings:
    others = [worker for worker in workers if worker not in held]
    try:
        with borrow_workers(client, others, deadline.check) as are_free:
            if not are_free:
                raise HeldError("other fits hold or measure the workers")
            reports, rates = _probe(client, workers, trial, grids, deadline)
        # Not at the same time: alone, this process has the machine to itself.
        here_s = trial.steps_seconds(grids[:1])[0].own
    except MeetingError as error:
        raise UnreachableError(str(error)) from error
    except MeasurementError:
        raise
    except Exception as error:
        # Whatever it is: the fit meets it too, or can do without.
        raise MeasurementError(f"{type(error).__name__}: {error}") from error
    exchanges = zip(_exchanges(reports), rates, strict=True)
    of_all, *faster = (replace(its, here_bits_per_s=rate) for its, rate in exchanges)
    return Timings(
        trial.network.layer_units,
        tuple(grids),
        here_s,
        _worker_seconds(reports),
        of_all.sizes,
        of_all.exchange_s,
        tuple(trial.n_rows_timed(grids)),
        of_all.here_bits_per_s,
        of_all.busy_share,
        tuple(faster),
    )


def _exchanges(reports: Sequence[ProbeReport]) -> Iterator[FasterExchanges]:
    """Yield what exchanges took among all, and among fewer whose links are faster."""
    for number in range(max(len(report.exchanges) for report in reports)):
        took_part = {
            worker: report.exchanges[number]
            for worker, report in enumerate(reports)
            if len(report.exchanges) > number
        }
        first, *_ = took_part.values()
        # All wait for the last one.
        each_s = zip(*(times.seconds for times in took_part.values()), strict=True)
        exchange_s = tuple(map(max, each_s))
        yield FasterExchanges(
            tuple(took_part),
            tuple(first.sizes),
            exchange_s,
            busy_share=first.busy_share,
        )


def _worker_seconds(reports: Sequence[ProbeReport]) -> tuple[tuple[float, ...], ...]:
    """Return what steps take each worker.

    Equal workers wait for whichever is the slowest of them in a step, as in a fit, but
    not if one process has the network alone. If one is always slower, what the others
    take to wait for it says nothing of them.
    """
    own_s = [report.own_s[0] for report in reports]
    typical_s = median_low(own_s)
    if all(are_equal(s, typical_s) for s in own_s):
        return tuple((report.own_s[0], *report.step_s[1:]) for report in reports)
    return tuple(tuple(report.own_s) for report in reports)


def _probe(
    client: Client,
    workers: tuple[str, ...],
    trial: Trial,
    grids: Sequence[Grid],
    deadline: _Deadline,
) -> tuple[list[ProbeReport], list[float]]:
    """Run a probe on every worker; return what each has measured.

    And the rate of the link between them and this process, in bits per second: of all
    workers, and of those of each of the faster exchanges. Infinite on one machine,
    where what Dask takes for the bytes is all that there is.
    """
    ranks = range(len(workers))
    names = [f"probe {rank} on {worker}" for rank, worker in enumerate(workers)]
    credentials = Credentials.new()
    check = deadline.check
    with Placement(client, workers, MEASURE, "probe{}".format, check=check) as tasks:
        tasks.phase = "measuring the workers"
        tasks.begin()
        opened = [
            tasks.add(rank, "open", probe.open_probe, credentials, rank)
            for rank in ranks
        ]
        listening = [
            tasks.add(rank, "address", probe.address_of, opened[rank]) for rank in ranks
        ]
        # Asked for at once, and done while the addresses are on their way.
        loading = [
            tasks.add(rank, "load", probe.load_kernels, trial, listening[rank])
            for rank in ranks
            if trial.runs_compiled
        ]
        is_near = _is_on_one_machine(client, workers)
        pieces = [] if is_near else _add_pieces(tasks, ranks, listening)
        # The probes are held until they have measured.
        futures = tasks.submit([*opened, *listening, *pieces, *loading])
        probes, addresses, *of_sizes = _in_parts(futures, len(workers))
        roster = Roster(_results(tasks, addresses, check), names, exchange_timeout_s())
        if loading:
            # Not before all have answered: a worker that is busy with other tasks is
            # not waited for as long as one that compiles.
            with deadline.stopped():
                _load_kernels(tasks, of_sizes.pop(), trial)
        tasks.begin()
        keys = [
            tasks.add(
                rank, "measure", probe.measure, probes[rank], roster, trial, grids
            )
            for rank in ranks
        ]
        reports = _results(tasks, tasks.submit(keys), check)
        groups = [exchanges.workers for exchanges in _exchanges(reports)]
        if is_near:
            return reports, [math.inf] * len(groups)
        # Afterwards, when the workers are idle and send nothing else.
        _wait_for(tasks, futures, check)
        rates = [_rate_of(tasks, addresses, of_sizes)]
        for group in groups[1:]:
            # Larger pieces than among all, since there are fewer workers.
            few = [addresses[rank] for rank in group]
            tasks.begin()
            futures = tasks.submit(_add_pieces(tasks, group, addresses))
            _wait_for(tasks, futures, check)
            rates.append(_rate_of(tasks, few, _in_parts(futures, len(group))))
        return reports, rates


def _add_pieces(
    tasks: Placement, ranks: Sequence[int], listening: Sequence[Any]
) -> list[Key]:
    """Note the tasks of workers that together send this process `PIECES`.

    By size, and then by rank. Each waits for the address of its worker.
    """
    return [
        tasks.add(
            rank,
            f"{size:,} bytes",
            probe.piece_of,
            size // len(ranks),
            listening[rank],
        )
        for size in PIECES
        for rank in ranks
    ]


def _in_parts(futures: Sequence[Future[Any]], n: int) -> list[Sequence[Future[Any]]]:
    """Return futures in parts of this length."""
    return [futures[start : start + n] for start in range(0, len(futures), n)]


def _rate_of(
    tasks: Placement,
    addresses: Sequence[Future[Any]],
    pieces: Sequence[Sequence[Future[Any]]],
) -> float:
    """Return the rate at which some workers send this process their pieces.

    Parameters
    ----------
    tasks : Placement
        Those of the measurement.
    addresses : sequence of Future
        Of the workers: a few bytes.
    pieces : sequence of sequence of Future
        Of the same workers, for each of `PIECES`.
    """
    by_size = dict(zip((0, *PIECES), (addresses, *pieces), strict=True))

    def fetched_s(n_bytes: int) -> float:
        begun = time.perf_counter()
        tasks.fetch(*by_size[n_bytes])
        return time.perf_counter() - begun

    return rate_here(fetched_s)


def _load_kernels(
    tasks: Placement, loading: Sequence[Future[Any]], trial: Trial
) -> None:
    """Load the compiled code that is timed, here and on all workers at once."""
    deadline = _Deadline(LOADING_TIMEOUT_S, "compiled code was not loaded")
    trial.load_kernels()
    _wait_for(tasks, loading, deadline.check)


def _is_on_one_machine(client: Client, workers: Sequence[str]) -> bool:
    """Return whether this process reaches all workers by the loopback interface.

    If it reaches none at these addresses, the scheduler may be behind a tunnel.
    """
    return all(is_on_loopback(w) and can_connect(client, w) for w in workers)


def rate_here(fetched_s: Callable[[int], float]) -> float:
    """Return the rate of the link to this process, in bits per second.

    Without what Dask takes for the bytes, which it takes on any link.

    Parameters
    ----------
    fetched_s : callable
        Fetches that many bytes, one of `PIECES` or 0 for a few; returns the seconds.
    """
    empty_s = min(fetched_s(0), fetched_s(0))
    may_take_s = max(FETCHED_S, FETCHED_LATENCIES * empty_s)
    pieces = PIECES if empty_s < FAR_S else PIECES[:-1]
    size = pieces[0]
    taken_s = fetched_s(size)
    while True:
        larger = _next_piece(pieces, size, taken_s - empty_s, may_take_s)
        if larger is None:
            # Before this is final: if something else held it up, the link would seem
            # slow.
            taken_s = min(taken_s, fetched_s(size))
            larger = _next_piece(pieces, size, taken_s - empty_s, may_take_s)
        if larger is None:
            break
        size, taken_s = larger, fetched_s(larger)
    byte_s = (taken_s - empty_s) / size - DASK_BYTE_S
    return 8 / byte_s if byte_s > 0 else math.inf


def _next_piece(
    pieces: Sequence[int], size: int, carried_s: float, may_take_s: float
) -> int | None:
    """Return the largest piece after one that took so long, if there is time for any.

    A connection begins slowly, so that it may turn out to take less than expected.
    """
    affordable = [
        larger
        for larger in pieces
        if larger > size and carried_s * larger / size <= may_take_s
    ]
    return max(affordable, default=None)


def _results(
    tasks: Placement, futures: Sequence[Future[Any]], check: Callable[[], None]
) -> list[Any]:
    """Wait for tasks; return their results, or raise what explains that one failed."""
    _wait_for(tasks, futures, check)
    return tasks.fetch(*futures)


def _wait_for(
    tasks: Placement, futures: Sequence[Future[Any]], check: Callable[[], None]
) -> None:
    """Wait for tasks, or raise what explains that one failed."""
    # Polled: Dask's own waits do not end when one of many fails. The others may wait
    # for a worker that is busy, and so would whoever fetches the results of all.
    while not any(future.status == "error" for future in futures):
        if all(future.done() for future in futures):
            return
        check()
        time.sleep(MEASURING_POLL_S)
    errors = [error for future in futures if (error := tasks.error_of(future))]
    raise min(errors, key=_remoteness)


def _remoteness(error: BaseException) -> int:
    """Return how far an error may be from the cause.

    A probe that ends breaks its connections to the others; and one that begins after
    they have given up finds nobody, as if they were out of reach.
    """
    return isinstance(error, ExchangeError) + isinstance(error, MeetingError)
