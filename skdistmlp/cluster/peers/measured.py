"""What was measured of workers before, and which of them could not be measured."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, TypeAlias

from distributed import Client

from skdistmlp.cluster.client.workers import scheduler_and_threads, scheduler_id
from skdistmlp.exceptions import ClusterError
from skdistmlp.locks import ForkSafeLock
from skdistmlp.parallel.grid import Grid
from skdistmlp.planning.calibration import Timings
from skdistmlp.planning.machines import Machines
from skdistmlp.timeouts import MEASURING_RETRY_S
from skdistmlp.training.trial import Trial

MAX_KEPT = 64
"""Measurements that are kept."""

MISS_FROM_S = 2.0
"""Seconds that the steps of a job's fits took or should have taken, where they missed
what was expected, from which it is measured again: that takes a fraction of them, and a
few steps vary for other reasons."""

_TABLES = ForkSafeLock()
"""Held while the tables below are read or changed, and never while waiting, not even
for an answer of a scheduler, which may hang: predictions and fits that end need them
while others measure, also on other clusters."""

Members: TypeAlias = tuple[tuple[str, int], ...]
"""Workers, by address and number of threads: one that was started again at the same
address may have others, and another speed."""

_TIMINGS: OrderedDict[
    tuple[str, Members, tuple[object, ...], tuple[Grid, ...]], Timings
] = OrderedDict()
"""What was measured, by scheduler, workers, job and grids, what was used last at the
end. Not by client: one that is made from an address lives for a single fit."""

_MACHINES: OrderedDict[tuple[str, Members, tuple[int, ...]], Machines] = OrderedDict()
"""What followed, by scheduler, workers and network, the oldest first."""

_MISSED_S: OrderedDict[
    tuple[str, tuple[str, ...], tuple[object, ...], tuple[int, ...]], float
] = OrderedDict()
"""Seconds of fits whose steps have missed what was expected, one after the other, since
their job was measured: by scheduler, workers that have trained, job and network, what
was added to last at the end."""


class MeasurementError(ClusterError):
    """Nothing was measured; says why. Never raised to users."""


class HeldError(MeasurementError):
    """Other fits hold or measure the workers."""


class UnreachableError(MeasurementError):
    """The workers cannot connect to each other."""


_FAILED: dict[
    tuple[str, tuple[str, ...]], tuple[float, type[MeasurementError], str]
] = {}
"""Workers that could not be measured, by scheduler, until when, and why: the kind of
error and its text. The error itself would keep what its frames hold, such as the user's
X. Not by job: the candidates of a search would each wait for the same busy workers. If
they could not connect to each other, neither can any workers that they are among."""


def measured_before(
    client: Client, workers: tuple[str, ...], trial: Trial, grids: Sequence[Grid]
) -> Timings | None:
    """Return what was measured of workers for a job; None if nothing was.

    The parameters are those of `measure_machines`.

    Raises
    ------
    MeasurementError
        If these workers could not be measured a moment ago.
    """
    with _TABLES:
        # Then the scheduler need not be asked who is there.
        if not _TIMINGS and not _FAILED:
            return None
    scheduler, members = _who_is_there(client, workers)
    with _TABLES:
        key = scheduler, members, trial.key, tuple(grids)
        found = _TIMINGS.get(key)
        if found is None:
            _raise_again(scheduler, workers)
        else:
            _TIMINGS.move_to_end(key)
    return found


def _who_is_there(client: Client, workers: Sequence[str]) -> tuple[str, Members]:
    """Ask a scheduler for its id, and for the threads of workers."""
    scheduler, threads = scheduler_and_threads(client, workers)
    return scheduler, tuple(zip(workers, threads, strict=True))


def keep_timings(
    client: Client,
    workers: tuple[str, ...],
    trial: Trial,
    grids: Sequence[Grid],
    found: Timings,
) -> None:
    """Keep what was measured of workers for a job."""
    scheduler, members = _who_is_there(client, workers)
    with _TABLES:
        for of_fits in list(_MISSED_S):
            of_scheduler, have_trained, of_job, _ = of_fits
            is_same = (of_scheduler, of_job) == (scheduler, trial.key)
            if is_same and {*have_trained} <= {*workers}:
                del _MISSED_S[of_fits]
        key = scheduler, members, trial.key, tuple(grids)
        _TIMINGS[key] = found
        _TIMINGS.move_to_end(key)
        while len(_TIMINGS) > MAX_KEPT:
            _TIMINGS.popitem(last=False)


def note_failure(
    client: Client, workers: tuple[str, ...], error: MeasurementError
) -> None:
    """Have it known for a while that workers cannot be measured."""
    scheduler = scheduler_id(client)
    until = time.monotonic() + MEASURING_RETRY_S
    with _TABLES:
        _FAILED[scheduler, workers] = until, type(error), str(error)


def keep_machines(
    client: Client,
    workers: tuple[str, ...],
    layer_units: tuple[int, ...],
    machines: Machines,
) -> None:
    """Keep what follows from a measurement, for predictions: they measure nothing."""
    scheduler, members = _who_is_there(client, workers)
    with _TABLES:
        key = scheduler, members, layer_units
        _MACHINES[key] = machines
        _MACHINES.move_to_end(key)
        while len(_MACHINES) > MAX_KEPT:
            _MACHINES.popitem(last=False)


def known_machines(
    client: Client, workers: Sequence[str], layer_units: tuple[int, ...]
) -> Machines | None:
    """Return what was measured last of these workers on a network; None if nothing."""
    with _TABLES:
        # Then the scheduler need not be asked who is there.
        if not _MACHINES:
            return None
    scheduler, members = _who_is_there(client, workers)
    with _TABLES:
        for (other, measured, units), machines in reversed(_MACHINES.items()):
            is_same = (other, units) == (scheduler, layer_units)
            if is_same and {*members} <= {*measured}:
                return machines.of([measured.index(member) for member in members])
    return None


def is_known(trial: Trial, layer_units: tuple[int, ...]) -> bool:
    """Return whether any workers were measured for a job, or on its network.

    Parameters
    ----------
    trial : Trial
        The job.
    layer_units : tuple of int
        Of its network.
    """
    with _TABLES:
        jobs = {of_job for _, _, of_job, _ in _TIMINGS}
        networks = {units for _, _, units in _MACHINES}
    return trial.key in jobs or layer_units in networks


def note_unreachable(client: Client, workers: tuple[str, ...], reason: str) -> None:
    """Have it known for a while that workers cannot connect, as a fit has found out."""
    note_failure(client, workers, UnreachableError(reason))


def unreachable_before(client: Client, workers: tuple[str, ...]) -> str | None:
    """Return why some of the workers could not connect to each other a moment ago.

    None if they could, or have not tried.
    """
    with _TABLES:
        if not _FAILED:
            return None
    scheduler = scheduler_id(client)
    with _TABLES:
        try:
            _raise_again(scheduler, workers)
        except UnreachableError as error:
            return str(error)
        except MeasurementError:
            pass
    return None


def note_steps(
    client: Client,
    workers: tuple[str, ...],
    trial: Trial,
    layer_units: tuple[int, ...],
    missed_s: float,
) -> None:
    """Have a job measured again once its steps have missed what was expected for long.

    Of one fit, or of many short ones together, without one in between that has met it.
    What is known of other networks, workers and clusters stays, and so does who cannot
    be measured.

    Parameters
    ----------
    client : Client
        A connected client.
    workers : tuple of str
        Addresses of those that have trained, which may be some of those that were
        measured; none of them if this process has.
    trial : Trial
        The job.
    layer_units : tuple of int
        Of its network.
    missed_s : float
        Seconds of a fit's steps, 0 if they took what was expected; see
        `Forecast.missed_s`.
    """
    with _TABLES:
        # Then the scheduler need not be asked for its id.
        if missed_s == 0 and not _MISSED_S:
            return
    scheduler = scheduler_id(client)
    tables: list[tuple[OrderedDict[Any, Any], object]] = [
        (_TIMINGS, trial.key),
        (_MACHINES, layer_units),
    ]
    # By workers too: one of several may have become slow.
    of_fits = scheduler, tuple(sorted(workers)), trial.key, layer_units
    with _TABLES:
        total_s = _MISSED_S.pop(of_fits, 0.0) + missed_s
        if missed_s == 0:
            return
        if total_s < MISS_FROM_S:
            _MISSED_S[of_fits] = total_s
            while len(_MISSED_S) > MAX_KEPT:
                _MISSED_S.popitem(last=False)
            return
        for table, job in tables:
            for key in list(table):
                of_scheduler, measured, of_job, *_ = key
                have_trained = {*workers} <= {worker for worker, _ in measured}
                if (of_scheduler, of_job) == (scheduler, job) and have_trained:
                    del table[key]


def forget_machines() -> None:
    """Have everything measured again, and tried that has failed."""
    with _TABLES:
        _TIMINGS.clear()
        _MACHINES.clear()
        _MISSED_S.clear()
        _FAILED.clear()


def _raise_again(scheduler: str, workers: tuple[str, ...]) -> None:
    """Raise what a measurement of workers has failed with a moment ago, if it has."""
    now = time.monotonic()
    for other, (until, *_) in list(_FAILED.items()):
        if until <= now:
            _FAILED.pop(other, None)
    found = [
        (kind, text)
        for (other_scheduler, others), (_, kind, text) in _FAILED.items()
        if other_scheduler == scheduler
        and (
            others == workers
            or (issubclass(kind, UnreachableError) and {*others} <= {*workers})
        )
    ]
    # Whatever else has failed: workers that cannot connect cannot be peers.
    found.sort(key=lambda failure: not issubclass(failure[0], UnreachableError))
    if found:
        kind, text = found[0]
        raise kind(text)
