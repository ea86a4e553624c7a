"""Look up the workers of a cluster and their state."""

import socket
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

from distributed import (
    Client,
)
from distributed.comm.addressing import get_address_host_port

from skdistmlp.cluster.client.errors import translate_dask_errors
from skdistmlp.cluster.client.lookup import scheduler_address
from skdistmlp.cluster.client.rpc import check_open, submit_rpc, wait_while
from skdistmlp.exceptions import ClusterError

CONNECT_PROBE_S = 0.5
"""Seconds in which a worker answers a client that may connect to it."""


_UNREACHABLE: WeakKeyDictionary[Client, set[str]] = WeakKeyDictionary()


def choose_workers(client: Client, n_workers: int | None) -> tuple[str, ...]:
    """Return the addresses of the workers that are to share a network.

    Parameters
    ----------
    client : Client
        A connected client.
    n_workers : int or None
        How many; None for all.

    Returns
    -------
    tuple of str
        Addresses.

    Raises
    ------
    ClusterError
        If the cluster has fewer, or none.
    """
    present = workers_of(client)
    wanted = 1 if n_workers is None else n_workers
    if len(present) < wanted:
        raise ClusterError(
            f"n_workers={n_workers} needs {'at least ' if n_workers is None else ''}"
            f"{wanted} worker{'s' if wanted > 1 else ''}, but the cluster at "
            f"{scheduler_address(client)} has {len(present)}. Start more workers"
            f"{', or lower n_workers' if wanted > 1 else ''}."
        )
    return present if n_workers is None else present[:n_workers]


def workers_of(client: Client) -> tuple[str, ...]:
    """Return the addresses of all workers of a cluster that take tasks."""
    with translate_dask_errors(client, (), "looking for workers"):
        # One that has just come is "init" for a moment.
        return tuple(
            worker
            for worker, status in worker_statuses(client).items()
            if status not in ("paused", "closing_gracefully", "closing", "closed")
        )


def worker_statuses(client: Client) -> dict[str, str]:
    """Return what Dask calls the status of each worker, by its address."""
    return {address: info["status"] for address, info in known_workers(client).items()}


def known_workers(client: Client) -> dict[str, dict[str, Any]]:
    """Return what the scheduler knows of each worker, by its address.

    `Client.scheduler_info` returns what the client heard last, and every other second
    the client asks for the totals alone: its answer may be without any workers.
    """
    assert client.scheduler is not None, "a connected client has a scheduler"
    answer = submit_rpc(client, client.scheduler.identity, n_workers=-1)
    wait_while(partial(check_open, client), [answer])
    workers: dict[str, dict[str, Any]] = answer.result()["workers"]
    return workers


def threads_of(client: Client, workers: tuple[str, ...]) -> list[int]:
    """Return the number of threads of each worker; 1 for one that has just left."""
    with translate_dask_errors(client, (), "looking for workers"):
        n_threads = client.nthreads()
    return [n_threads.get(worker, 1) for worker in workers]


def can_connect(client: Client, worker: str) -> bool:
    """Say whether arrays can go between this process and a worker directly.

    Dask's own way round is through the scheduler, which takes twice as long. A
    worker that did not answer once is not tried again.
    """
    beyond = _UNREACHABLE.setdefault(client, set())
    if worker in beyond:
        return False
    try:
        address = get_address_host_port(worker)
        with socket.create_connection(address, CONNECT_PROBE_S):
            return True
    except (OSError, ValueError):
        beyond.add(worker)
        return False


def memory_limits(client: Client, workers: tuple[str, ...]) -> dict[str, int]:
    """Return the bytes that each of some workers may use, where there is a limit.

    Parameters
    ----------
    client : Client
        A connected client.
    workers : tuple of str
        Addresses; one that has left has no limit.
    """
    with translate_dask_errors(client, (), "asking for the workers' memory"):
        known = known_workers(client)
    limits = {
        worker: known[worker]["memory_limit"] for worker in workers if worker in known
    }
    return {worker: limit for worker, limit in limits.items() if limit}
