"""Which cluster an estimator uses, which of its workers, and what went wrong."""

import asyncio
import time
from collections.abc import (
    Iterator,
)
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from weakref import WeakSet

import dask
from dask.utils import parse_timedelta
from distributed import (
    Client,
    Security,
    get_client,
    get_worker,
    rejoin,
    rpc,
    secede,
)
from distributed.core import Status
from distributed.deploy.cluster import Cluster

from skdistmlp.exceptions import ClusterError

RECONNECTED_LOOK_S = 0.05
"""Seconds between looks whether a client has found its scheduler again."""

_FOR_ONE_CALL: WeakSet[Client] = WeakSet()


@contextmanager
def connected(client: Client | Cluster | str | None) -> Iterator[Client | None]:
    """Give the client to use, for as long as the context lasts.

    Parameters
    ----------
    client : Client, Cluster, str or None
        A client, a cluster, the address of a scheduler, or None for the active
        client; inside a task, that is its worker's own.

    Yields
    ------
    Client or None
        None where no client is active.

    Raises
    ------
    ClusterError
        If the address does not answer within Dask's connection timeout, or
        the client is closed or asynchronous.
    """
    with _thread_lent():
        if isinstance(client, str):
            with _connection(client) as connection:
                yield connection
        elif isinstance(client, Cluster):
            with _client_of(client) as connection:
                yield connection
        else:
            yield _checked(active_client() if client is None else client)


@contextmanager
def _client_of(cluster: Cluster) -> Iterator[Client]:
    """Give a client of a `LocalCluster`, or another, for one call."""
    if cluster.asynchronous:
        raise ClusterError(
            "the Dask cluster is asynchronous, but an estimator waits for its results. "
            "Pass a cluster made without asynchronous=True."
        )
    if cluster.status != Status.running:
        raise ClusterError(
            f"the Dask cluster is {cluster.status.name}. Make a new one, or pass the "
            f"address of another scheduler as client=."
        )
    client = Client(cluster, set_as_default=False)
    _FOR_ONE_CALL.add(client)
    with client:
        yield client


def address_of(client: Client | Cluster | str | None) -> str | None:
    """Return the address that a parameter `client` names; None if it is a client."""
    if isinstance(client, Cluster):
        return str(client.scheduler_address)
    return client if isinstance(client, str) else None


def has_active_client() -> bool:
    """Say whether a client is active, without making one inside a task."""
    try:
        Client.current()
    except ValueError:
        return False
    return True


@contextmanager
def _connection(address: str) -> Iterator[Client]:
    try:
        # A thread, since this one may be running an event loop, as notebooks do.
        with ThreadPoolExecutor(1) as thread:
            thread.submit(asyncio.run, _greet(address)).result()
        client = Client(address, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise ClusterError(
            f"no Dask scheduler answers at client={address!r}: {error}. Start one with "
            f"`dask scheduler`, or correct the address."
        ) from error
    _FOR_ONE_CALL.add(client)
    with client:
        yield client


def is_for_many_calls(client: Client) -> bool:
    """Say whether a client is the user's; one made from an address is for one call."""
    return client not in _FOR_ONE_CALL


async def _greet(address: str) -> None:
    """Exchange a message with a scheduler within Dask's connection timeout.

    Dask's own deadline ends when a connection is open: a client would wait
    without end for somebody who accepts it and then says nothing.
    """
    timeout_s = parse_timedelta(dask.config.get("distributed.comm.timeouts.connect"))
    security = Security().get_connection_args("client")
    try:
        async with (
            asyncio.timeout(timeout_s),
            rpc(address, connection_args=security) as scheduler,
        ):
            kind = (await scheduler.identity())["type"]
    except TimeoutError:
        raise TimeoutError(f"no answer within {timeout_s:g} s") from None
    if kind != "Scheduler":
        raise ValueError(f"that is the address of a {kind}, not of a scheduler")


@contextmanager
def _thread_lent() -> Iterator[None]:
    """Inside a task, give the worker its thread back meanwhile.

    An estimator waits for tasks, which may have no other thread to run on.
    """
    try:
        get_worker()
        secede()
    except (ValueError, KeyError):
        # Not in a task; or the task has left the worker's threads already.
        yield
        return
    try:
        yield
    finally:
        rejoin()


def active_client() -> Client | None:
    """Return the active client; inside a task, its worker's own; else None."""
    try:
        return get_client()
    except ValueError:
        return None


def _checked(client: Client | None) -> Client | None:
    if client is None:
        return None
    if client.asynchronous:
        raise ClusterError(
            "the Dask client is asynchronous, but an estimator waits for its results. "
            "Pass a client made without asynchronous=True."
        )
    # A new scheduler would take what it is sent before it knows the client for that of
    # nobody. Dask closes a client that does not get through.
    while client.status == "connecting":
        time.sleep(RECONNECTED_LOOK_S)
    if client.status in ("closing", "closed"):
        raise ClusterError(
            f"the Dask client is {client.status}. Make a new one, or pass the address "
            f"of the scheduler as client=."
        )
    return client


def scheduler_address(client: Client) -> str:
    """Return the address of a client's scheduler."""
    return str(client.scheduler.address if client.scheduler is not None else "unknown")
