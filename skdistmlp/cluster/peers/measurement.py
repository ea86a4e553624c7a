"""Measure workers, the link between them, and this process, for a job.

Nothing is measured while another fit holds one of the workers, and nobody waits for
longer than `MEASURING_TIMEOUT_S`: a fit can do without.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

from distributed import Client, Future

from skdistmlp.cluster.peers import probe
from skdistmlp.cluster.peers.probe import ProbeReport
from skdistmlp.cluster.peers.reservation import reserve_workers
from skdistmlp.cluster.peers.worker import Roster
from skdistmlp.cluster.run.placement import Placement
from skdistmlp.exceptions import ClusterError, ExchangeError
from skdistmlp.parallel.grid import Grid
from skdistmlp.planning.calibration import Timings
from skdistmlp.settings import MEASURING_POLL_S, MEASURING_TIMEOUT_S, exchange_timeout_s
from skdistmlp.training.trial import Trial
from skdistmlp.wire.handshake import Credentials

MAX_CACHED = 64
"""Measurements that are kept per client."""

_LOCK = threading.Lock()
"""Held while something is measured: the fits of a search that runs in threads all want
the same, and those that come later find it in the cache."""

_CACHE: WeakKeyDictionary[Client, OrderedDict[Any, Timings]] = WeakKeyDictionary()
"""What was measured, by workers and job, the oldest first."""


class MeasurementError(ClusterError):
    """Nothing was measured; says why. Never raised to users."""


class UnreachableError(MeasurementError):
    """The workers cannot connect to each other."""


def measure_machines(
    client: Client, workers: tuple[str, ...], trial: Trial, grids: Sequence[Grid]
) -> Timings:
    """Measure steps of a job on workers and in this process, and exchanges.

    Taken from the cache if the same was measured before.

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
        If the workers are busy, too slow, or cannot reach each other.
    """
    key = workers, trial.key, tuple(grids)
    with _LOCK:
        cache = _CACHE.setdefault(client, OrderedDict())
        found = cache.get(key)
        if found is None:
            found = cache[key] = _measure(client, workers, trial, grids)
            while len(cache) > MAX_CACHED:
                cache.popitem(last=False)
    return found


def forget_machines() -> None:
    """Have all workers measured again."""
    _CACHE.clear()


def _measure(
    client: Client, workers: tuple[str, ...], trial: Trial, grids: Sequence[Grid]
) -> Timings:
    deadline = time.monotonic() + MEASURING_TIMEOUT_S
    try:
        with reserve_workers(client, workers, _refuse_to_wait):
            reports = _probe(client, workers, trial, grids, deadline)
        # Not at the same time: alone, this process has the machine to itself.
        here_s = trial.step_s(grids[0])
    except ExchangeError as error:
        raise UnreachableError(str(error)) from error
    except MeasurementError:
        raise
    except Exception as error:
        # Whatever it is: the fit meets it too, or can do without.
        raise MeasurementError(f"{type(error).__name__}: {error}") from error
    first = reports[0]
    slowest = map(max, zip(*(report.exchange_s for report in reports), strict=True))
    return Timings(
        tuple(grids),
        here_s,
        tuple(tuple(report.step_s) for report in reports),
        tuple(first.sizes),
        tuple(slowest),
    )


def _refuse_to_wait() -> None:
    raise MeasurementError("other fits hold the workers")


def _probe(
    client: Client,
    workers: tuple[str, ...],
    trial: Trial,
    grids: Sequence[Grid],
    deadline: float,
) -> list[ProbeReport]:
    """Run a probe on every worker; return what each has measured."""
    ranks = range(len(workers))
    names = [f"probe {rank} on {worker}" for rank, worker in enumerate(workers)]
    credentials = Credentials.new()
    with Placement(client, workers, lambda rank: f"probe{rank}") as tasks:
        tasks.phase = "measuring the workers"
        tasks.begin()
        opened = [
            tasks.add(rank, "open", probe.open_probe, credentials, rank)
            for rank in ranks
        ]
        listening = [
            tasks.add(rank, "address", probe.address_of, opened[rank]) for rank in ranks
        ]
        # The probes are held until they have measured.
        futures = tasks.submit([*opened, *listening])
        probes, addresses = futures[: len(workers)], futures[len(workers) :]
        _wait(addresses, deadline)
        roster = Roster(tasks.fetch(*addresses), names, exchange_timeout_s())
        tasks.begin()
        keys = [
            tasks.add(
                rank, "measure", probe.measure, probes[rank], roster, trial, grids
            )
            for rank in ranks
        ]
        measuring = tasks.submit(keys)
        _wait(measuring, deadline)
        return tasks.fetch(*measuring)


def _wait(futures: Sequence[Future[Any]], deadline: float) -> None:
    # Polled: Dask's own waits do not end when one of many fails.
    while not all(future.done() for future in futures):
        if any(future.status == "error" for future in futures):
            return
        if time.monotonic() > deadline:
            raise MeasurementError(
                f"the workers did not answer within {MEASURING_TIMEOUT_S:g} s"
            )
        time.sleep(MEASURING_POLL_S)
