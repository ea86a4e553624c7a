"""Which workers have loaded compiled code, and the room that it leaves or will leave.

A plan has to count what the code takes, and only once: before it is loaded, the memory
of a worker does not show it, and neither does what the scheduler knows of it, for a
moment longer.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from distributed import Client

from skdistmlp.cluster.client.workers import scheduler_and_threads
from skdistmlp.nn import compiled
from skdistmlp.planning.memory import WorkerMemory
from skdistmlp.training.trial import Trial

HEARTBEAT_S = 5.0
"""Seconds after which the scheduler knows what code takes that a worker has loaded. Up
to 200 workers send it their memory every two seconds or more often, as of half a second
before."""

MAX_WORKERS = 4096
"""Workers that are remembered. Any others count as having loaded nothing."""

_TABLE = threading.Lock()
"""Held while the table below is read or changed, and never while waiting."""


class _Loaded(NamedTuple):
    """What is remembered of a worker.

    Attributes
    ----------
    since : float
        When it had loaded compiled code, by ``time.monotonic``.
    taken : int
        Bytes that its process took then.
    """

    since: float
    taken: int


_LOADED: OrderedDict[tuple[str, str, int], _Loaded] = OrderedDict()
"""By scheduler, address and number of threads, the oldest first: a worker that was
started again at the same address may have others, and has loaded nothing."""


class Room(NamedTuple):
    """The memory of workers, by address; one that is missing has no limit.

    Attributes
    ----------
    now : mapping of str to WorkerMemory
        What they have.
    in_fit : mapping of str to WorkerMemory
        What they will have once they have loaded the compiled code of a fit.
    have_loaded : frozenset of str
        Those that have loaded it already: what they have now counts it.
    """

    now: Mapping[str, WorkerMemory]
    in_fit: Mapping[str, WorkerMemory]
    have_loaded: frozenset[str] = frozenset()


def room_for(
    trial: Trial | None, client: Client, memory: Mapping[str, WorkerMemory]
) -> Room:
    """Return the memory of workers before and after they load the code of a fit.

    Parameters
    ----------
    trial : Trial or None
        Of the fit; None if nothing is known of it: then it counts as loading nothing.
    client : Client
        A connected client.
    memory : mapping of str to WorkerMemory
        Of each worker that has a limit, as the scheduler knows it.
    """
    if trial is None or not trial.runs_compiled:
        return Room(memory, memory)
    remembered = _remembered(client, memory)
    now = {**memory}
    for worker, (since, taken) in remembered.items():
        if time.monotonic() < since + HEARTBEAT_S:
            its = memory[worker]
            now[worker] = replace(its, taken=max(its.taken, taken))
    in_fit = {
        worker: its
        if worker in remembered
        else replace(its, taken=its.taken + compiled.LOADED_BYTES)
        for worker, its in now.items()
    }
    return Room(now, in_fit, frozenset(remembered))


def note_loaded(trial: Trial, client: Client, room: Room) -> None:
    """Remember that workers have loaded the compiled code of a trial, if it has any.

    Parameters
    ----------
    trial : Trial
        What they have run.
    client : Client
        A connected client.
    room : Room
        What `room_for` returned before.
    """
    if not trial.runs_compiled:
        return
    loaded = [worker for worker in room.now if worker not in room.have_loaded]
    if not loaded:
        return
    scheduler, threads = scheduler_and_threads(client, loaded)
    now = time.monotonic()
    with _TABLE:
        for worker, n_threads in zip(loaded, threads, strict=True):
            taken = room.in_fit[worker].taken
            # Another thread may have noted it before, by what was taken before that.
            _LOADED.setdefault((scheduler, worker, n_threads), _Loaded(now, taken))
        while len(_LOADED) > MAX_WORKERS:
            _LOADED.popitem(last=False)


def _remembered(
    client: Client, memory: Mapping[str, WorkerMemory]
) -> dict[str, _Loaded]:
    """Return what is remembered of workers, of those that have loaded something."""
    with _TABLE:
        # Then the scheduler need not be asked who is there.
        if not _LOADED:
            return {}
    workers = list(memory)
    scheduler, threads = scheduler_and_threads(client, workers)
    with _TABLE:
        found = {
            worker: _LOADED.get((scheduler, worker, n_threads))
            for worker, n_threads in zip(workers, threads, strict=True)
        }
    return {worker: its for worker, its in found.items() if its is not None}
