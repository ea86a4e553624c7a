"""Look up the workers of a cluster and their state."""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from ipaddress import ip_address
from typing import Any
from weakref import WeakKeyDictionary

import dask
from distributed import Client

from skdistmlp.cluster._dask import host_and_port_of, says_retired
from skdistmlp.cluster.client.allocator import return_freed_memory
from skdistmlp.cluster.client.errors import translate_dask_errors
from skdistmlp.cluster.client.lookup import scheduler_address
from skdistmlp.cluster.client.lost import await_lost_workers, note_number
from skdistmlp.cluster.client.rpc import run_on_workers
from skdistmlp.cluster.client.scheduler import ask_scheduler
from skdistmlp.exceptions import ClusterError, counted
from skdistmlp.planning.memory import WorkerMemory
from skdistmlp.timeouts import (
    CONNECT_PROBE_S,
    CONNECT_PROBE_VALID_S,
    RESUME_POLL_S,
    RESUME_S,
)
from skdistmlp.training.loop import Log, quiet

_PROBES: WeakKeyDictionary[Client, dict[str, float]] = WeakKeyDictionary()
"""Until when a client need not try again whether it can connect to a worker, infinite
if it could not."""


def choose_workers(
    client: Client,
    n_workers: int | None,
    n_replicas: int | None = None,
    log: Log = quiet,
) -> tuple[str, ...]:
    """Return the addresses of the workers that will share a network.

    Parameters
    ----------
    client : Client
        A connected client.
    n_workers : int or None
        The number of workers; None for all.
    n_replicas : int or None
        With it, a multiple of this number, if `n_workers` is None.
    log : callable
        Takes a line if workers that were lost are waited for.

    Returns
    -------
    tuple of str
        Addresses.

    Raises
    ------
    ClusterError
        If the cluster has fewer, or none.
    """
    n_replicas = n_replicas or 1
    wanted = n_replicas if n_workers is None else n_workers
    statuses = _statuses(client)
    present = _accepting(statuses)
    is_paused = "paused" in statuses.values()
    if is_paused and (n_workers is None or len(present) < wanted):
        resume_paused(client)
        present = workers_of(client)
    # Workers that are paused are there: others may not come in their place.
    if len(present) < wanted and len(statuses) < wanted:
        await_lost_workers(client, wanted, lambda: len(workers_of(client)), log)
        present = workers_of(client)
    if len(present) < wanted:
        asked_for, at_least = f"n_workers={n_workers}", ""
        if n_workers is None:
            at_least = "at least "
            if n_replicas > 1:
                asked_for = f"n_replicas={n_replicas}"
        needs = (
            f"{asked_for} needs {at_least}{counted(wanted, 'worker')}, but the cluster "
            f"at {scheduler_address(client)} has {len(present)}"
        )
        if why := why_too_few(client, len(present), wanted):
            raise ClusterError(f"{needs} {why}")
        lowered = asked_for.partition("=")[0]
        raise ClusterError(
            f"{needs}. Start more workers"
            f"{f', or lower {lowered}' if wanted > 1 else ''}."
        )
    n_used = len(present) // n_replicas * n_replicas
    return present[: n_used if n_workers is None else n_workers]


def resume_paused(client: Client, workers: Sequence[str] | None = None) -> list[str]:
    """Have paused workers return the memory that they have freed; wait a little.

    An earlier fit may have left them paused.

    Parameters
    ----------
    client : Client
        A connected client.
    workers : sequence of str, optional
        Addresses of those to wait for; by default all.

    Returns
    -------
    list of str
        Those among them that are still paused after `RESUME_S`.
    """
    deadline = time.monotonic() + RESUME_S
    asked: dict[str, Future[Any]] = {}
    while paused := [
        worker
        for worker in _paused_workers(client)
        if workers is None or worker in workers
    ]:
        if not asked:
            asked = run_on_workers(client, paused, return_freed_memory)
        if time.monotonic() > deadline:
            break
        time.sleep(RESUME_POLL_S)
    # Whatever they have answered: the versions of the workers are still unknown.
    for answer in asked.values():
        answer.cancel()
    return paused


PAUSED_ADVICE = (
    "A paused worker resumes when memory is freed: release what it holds, such as "
    "persisted collections, or use workers with more memory."
)
"""What to do about paused workers."""


def why_too_few(client: Client, n_present: int, n_wanted: int) -> str:
    """Say that workers are paused, and what to do; nothing if none is.

    Parameters
    ----------
    client : Client
        A connected client.
    n_present : int
        Number of workers that accept tasks, which the text continues.
    n_wanted : int
        How many it takes.
    """
    n_paused = len(_paused_workers(client))
    if n_paused == 0:
        return ""
    accept = "accepts" if n_present == 1 else "accept"
    advice = PAUSED_ADVICE
    if n_present + n_paused < n_wanted:
        them = "it" if n_paused == 1 else "them"
        advice += f" Also start more workers: {n_wanted} are needed, and with {them} "
        advice += f"there would be {n_present + n_paused}."
    return f"that {accept} tasks: {_paused(n_paused)}. {advice}"


def describe_paused(client: Client) -> str:
    """Say how many workers of a cluster are paused; nothing if none is."""
    n_paused = len(_paused_workers(client))
    return _paused(n_paused) if n_paused else ""


def _paused_workers(client: Client) -> list[str]:
    found = _statuses(client).items()
    return [worker for worker, status in found if status == "paused"]


def _paused(n_paused: int) -> str:
    is_or_are = "is" if n_paused == 1 else "are"
    return f"{n_paused} {is_or_are} paused for using too much memory"


def workers_of(client: Client) -> tuple[str, ...]:
    """Return the addresses of all workers of a cluster that accept tasks."""
    return _accepting(_statuses(client))


def _accepting(statuses: dict[str, str]) -> tuple[str, ...]:
    return tuple(w for w, status in statuses.items() if accepts_tasks(status))


def _statuses(client: Client) -> dict[str, str]:
    with translate_dask_errors(client, (), "looking for workers"):
        return worker_statuses(client)


def accepts_tasks(status: str) -> bool:
    """Say whether a worker with a status that Dask names accepts tasks."""
    # A list of those that are excluded: a worker that has just joined is "init" for a
    # moment, which is not excluded.
    return status not in ("paused", "closing_gracefully", "closing", "closed")


def worker_statuses(client: Client) -> dict[str, str]:
    """Return the status of each worker, as Dask names it, by its address."""
    return {address: info["status"] for address, info in known_workers(client).items()}


def retired_among(client: Client, workers: Iterable[str]) -> list[str]:
    """Return those of the workers that are being retired, or that were and have left.

    Of the last worker at each address.
    """
    return [
        w for w in workers if says_retired(ask_scheduler(client, "events", topic=w))
    ]


def known_workers(client: Client) -> dict[str, dict[str, Any]]:
    """Return what the scheduler knows about each worker, by its address.

    Not `Client.scheduler_info`: it returns the last answer that the client has
    received, and every other second the client asks for the totals only, so that answer
    may be without workers.
    """
    identity = ask_scheduler(client, "identity")
    workers: dict[str, dict[str, Any]] = identity["workers"]
    note_number(client, len(workers))
    return workers


def scheduler_id(client: Client) -> str:
    """Return what no other scheduler is called, not even at the same address."""
    with translate_dask_errors(client, (), "asking for the scheduler's name"):
        return str(ask_scheduler(client, "identity")["id"])


def scheduler_and_threads(
    client: Client, workers: Sequence[str]
) -> tuple[str, tuple[int, ...]]:
    """Return a scheduler's id, see `scheduler_id`, and the threads of some workers.

    0 for workers that are not there.
    """
    with translate_dask_errors(client, (), "asking for the threads of the workers"):
        identity = ask_scheduler(client, "identity")
    known = identity["workers"]
    threads = (known[w]["nthreads"] if w in known else 0 for w in workers)
    return str(identity["id"]), tuple(threads)


def threads_of(client: Client, workers: tuple[str, ...]) -> list[int]:
    """Return the number of threads of each worker; 1 for one that has just left."""
    with translate_dask_errors(client, (), "looking for workers"):
        known = known_workers(client)
    return [known[w]["nthreads"] if w in known else 1 for w in workers]


def can_connect(client: Client, worker: str) -> bool:
    """Say whether this process can connect to a worker directly.

    Otherwise arrays go through the scheduler, which takes twice as long. A worker that
    did not answer once is not tried again: behind a firewall, each attempt would cost
    `CONNECT_PROBE_S`. One that did is tried again after `CONNECT_PROBE_VALID_S`: each
    attempt is a line in its log.
    """
    probes = _PROBES.setdefault(client, {})
    valid_until = probes.get(worker, 0.0)
    if time.monotonic() < valid_until:
        return valid_until < math.inf
    try:
        address = host_and_port_of(worker)
        with socket.create_connection(address, CONNECT_PROBE_S):
            probes[worker] = time.monotonic() + CONNECT_PROBE_VALID_S
            return True
    except (OSError, ValueError):
        probes[worker] = math.inf
        return False


def note_unreachable(client: Client, worker: str) -> None:
    """Have arrays for a worker go through the scheduler from now on."""
    _PROBES.setdefault(client, {})[worker] = math.inf


def worker_memory(client: Client, workers: Sequence[str]) -> dict[str, WorkerMemory]:
    """Return what the scheduler knows of the memory of each worker that has a limit.

    What their processes take is as of their last heartbeat. What fraction of the limit
    a worker may use, only that worker knows: here it is as in this process's
    configuration. `skdistmlp.cluster.run.free_memory` asks the workers.
    """
    with translate_dask_errors(client, (), "asking for the workers' memory"):
        return memory_of(known_workers(client), workers)


def memory_of(
    known: Mapping[str, Mapping[str, Any]], workers: Sequence[str]
) -> dict[str, WorkerMemory]:
    """Return what `worker_memory` does, of what `known_workers` has returned."""
    return {
        worker: WorkerMemory(
            info["memory_limit"],
            usable=usable_fraction(has_nanny=bool(info["nanny"])),
            taken=_taken_at_heartbeat(worker, info["metrics"]),
        )
        for worker in workers
        if (info := known.get(worker)) and info["memory_limit"]
    }


def usable_fraction(has_nanny: bool) -> float:
    """Return the fraction of its memory limit that a worker can use and still work.

    Above it Dask gives it no more tasks, or its nanny restarts it. As this process is
    configured.
    """
    names = ["pause", "terminate"] if has_nanny else ["pause"]
    found = [dask.config.get(f"distributed.worker.memory.{name}", 0) for name in names]
    return min((fraction for fraction in found if fraction), default=1.0)


def _taken_at_heartbeat(worker: str, metrics: Mapping[str, Any]) -> int:
    if "memory" not in metrics:
        # It has just joined.
        return 0
    return bytes_taken(
        worker,
        metrics["memory"],
        metrics["managed_bytes"],
        metrics["spilled_bytes"]["memory"],
    )


def bytes_taken(worker: str, n_bytes: int, managed: int, spilled: int) -> int:
    """Return what a worker's process takes besides values that Dask manages.

    Parameters
    ----------
    worker : str
        Its address.
    n_bytes : int
        All that the process takes.
    managed : int
        Of values that Dask manages.
    spilled : int
        Of those among them that it has written to disk.
    """
    # Workers that are threads of one process share what it takes.
    if worker.startswith("inproc://"):
        return 0
    return max(0, n_bytes - (managed - spilled))


def is_on_loopback(worker: str) -> bool:
    """Return whether the address of a worker can be reached on its machine only."""
    try:
        host, _ = host_and_port_of(worker)
    except ValueError:
        # A thread of this process.
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        # A name.
        return False
