"""Find the client that an estimator uses, or connect to a scheduler by its address."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import dask
from dask.utils import parse_timedelta
from distributed import Client, Status, get_client

from skdistmlp.cluster._dask import (
    UNKNOWN,
    Cluster,
    can_lend_thread,
    dask_version_at,
    event_loop_runs_here,
    host_and_port_of,
    identity_at,
    is_on_event_loop,
    is_reconnecting,
)
from skdistmlp.cluster._dask import scheduler_address as address_now
from skdistmlp.cluster.client.calling_thread import (
    check_thread,
    default_client,
    is_left_behind,
    lend_thread,
)
from skdistmlp.cluster.client.dask_release import check_dask_release
from skdistmlp.exceptions import ClusterError
from skdistmlp.timeouts import DIAGNOSE_S, RECONNECT_POLL_S, REFUSED_S

WEB_SERVER = (
    "that is a web server, perhaps the dashboard; the scheduler prints its own "
    "address, which begins with tcp:// or tls:// and ends with :8786 by default"
)

NO_DASK = (
    "what answers there is no Dask scheduler, but perhaps a mail, database or SSH "
    "server; the address of a scheduler ends with :8786 by default"
)

_FOR_ONE_CALL: WeakSet[Client] = WeakSet()
"""Clients that this module has made; weak, since they are closed after the call."""

_ADDRESSES: WeakKeyDictionary[Client, str] = WeakKeyDictionary()
"""Addresses of schedulers by client: a client that is closed does not know its own."""


def scheduler_address(client: Client) -> str:
    """Return the address of a client's scheduler, or that before it was closed."""
    address = address_now(client)
    if address == UNKNOWN:
        return _ADDRESSES.get(client, UNKNOWN)
    _ADDRESSES[client] = address
    return address


@contextmanager
def connected(client: Client | Cluster | str | None) -> Iterator[Client | None]:
    """Yield the client to use; a context that closes it if it was made here.

    Parameters
    ----------
    client : Client, Cluster, str or None
        A client; a cluster or the address of a scheduler, for which a client is made
        that lives for this one call; or None for the active client, which inside a
        task is its worker's own.

    Yields
    ------
    Client or None
        None where no client is active, also in a process that was forked from that of
        the client: it cannot be used there.

    Raises
    ------
    ClusterError
        If the address does not answer within Dask's connection timeout, the client is
        closed or asynchronous, or this thread cannot wait: see `check_thread`.
    """
    if is_left_behind(client):
        yield None
        return
    check_thread(client if isinstance(client, Client) else None, address_of(client))
    with lend_thread():
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
    return default_client() is not None


@contextmanager
def _connection(address: str) -> Iterator[Client]:
    try:
        # In another thread: this one may be running an event loop, as in a notebook.
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
    """Say whether a client is the user's, so that it may outlive this call.

    One that was made from an address or a cluster is closed when the call ends.
    """
    return client not in _FOR_ONE_CALL


async def _greet(address: str) -> None:
    """Exchange a message with a scheduler within Dask's connection timeout.

    Dask's own timeout covers the connection only: a client would wait forever for a
    server that accepts connections and never answers. And Dask tries again for all of
    that time, whatever the cause.
    """
    if address.startswith(("http://", "https://")):
        raise ValueError(WEB_SERVER)
    _check_port(address)
    timeout_s = parse_timedelta(dask.config.get("distributed.comm.timeouts.connect"))
    begun = time.monotonic()
    asking = asyncio.ensure_future(identity_at(address))
    try:
        while not (await asyncio.wait([asking], timeout=min(timeout_s, DIAGNOSE_S)))[0]:
            waited_s = time.monotonic() - begun
            if waited_s >= timeout_s:
                raise TimeoutError(f"no answer within {timeout_s:g} s")
            cause = await asyncio.to_thread(_cause_of_silence, address)
            # A scheduler that is just being started refuses connections at first.
            if isinstance(cause, ConnectionRefusedError) and waited_s < REFUSED_S:
                continue
            if cause is not None:
                raise cause
        kind = _kind_of(asking, address)
    except ValueError as error:
        if str(error) == NO_DASK:
            # Some web servers answer that they do not understand.
            cause = await asyncio.to_thread(_cause_of_silence, address)
            if isinstance(cause, ValueError):
                raise cause from error.__cause__
        raise
    finally:
        asking.cancel()
    if kind != "Scheduler":
        raise ValueError(f"that is the address of a {kind}, not of a scheduler")
    try:
        left_s = begun + timeout_s - time.monotonic()
        version = await asyncio.wait_for(dask_version_at(address), left_s)
    except TimeoutError:
        raise TimeoutError(f"no answer within {timeout_s:g} s") from None
    check_dask_release(f"the scheduler at client={address!r}", version)


def _check_port(address: str) -> None:
    """Refuse a port that cannot be, which connecting takes for another or for none."""
    try:
        _, port = host_and_port_of(address)
    except ValueError:
        if _is_tcp(address):
            raise
        # Dask says what is wrong; or it has no port, as inproc:// does not.
        return
    if not 0 < port < 65536:
        raise ValueError(f"there is no port {port}, only ports 1 to 65535")


def _is_tcp(address: str) -> bool:
    return address.startswith("tcp://") or "://" not in address


def _kind_of(answer: asyncio.Future[Mapping[str, Any]], address: str) -> Any:
    """Return the kind of server that has answered.

    Raises
    ------
    OSError, ValueError or TypeError
        If there is no connection, or what answers is no server of Dask.
    """
    try:
        return answer.result()["type"]
    except OSError:
        raise
    except RuntimeError as error:
        # Dask's configuration requires encryption, and this address has none.
        raise ValueError(*error.args) from error
    except Exception as error:
        # No certificate for tls://, or a scheme that Dask does not know.
        if isinstance(error, ValueError | TypeError) and not _is_tcp(address):
            raise
        # Dask takes the first bytes for lengths and then for msgpack, whatever they
        # are: those of an SSH server make it allocate exabytes (MemoryError).
        raise ValueError(NO_DASK) from error


def _cause_of_silence(address: str) -> Exception | None:
    """Return why a server that has not answered never will; None if it may yet."""
    scheme = address.partition("://")[0]
    if "://" in address and scheme not in ("tcp", "tls"):
        return None
    try:
        host, port = host_and_port_of(address)
        with socket.create_connection((host, port), DIAGNOSE_S) as connection:
            connection.sendall(b"HEAD / HTTP/1.0\r\n\r\n")
            if connection.recv(5) != b"HTTP/":
                return None
    except (ConnectionRefusedError, socket.gaierror) as error:
        return error
    except (OSError, ValueError):
        return None
    return ValueError(WEB_SERVER)


def active_client() -> Client | None:
    """Return the active client; inside a task, its worker's own; else None."""
    try:
        # A coroutine would leave its worker an asynchronous client.
        client = get_client() if can_lend_thread() else Client.current()
    except ValueError:
        return None
    return client if event_loop_runs_here(client) else None


def usable_client(client: Client | Cluster | str | None) -> Client | None:
    """Return the given or the active client if this thread can use it, else None."""
    live = client if isinstance(client, Client) else active_client()
    if live is None or not event_loop_runs_here(live) or is_on_event_loop(live):
        return None
    return None if live.asynchronous or live.status != "running" else live


def _checked(client: Client | None) -> Client | None:
    if client is None:
        return None
    if isinstance(client, type):
        raise ClusterError(
            f"client={client.__name__} is a class, expected a client, a cluster or the "
            f"address of a scheduler. Pass an instance, such as {client.__name__}()."
        )
    if client.asynchronous:
        raise ClusterError(
            "the Dask client is asynchronous, but an estimator waits for its results. "
            "Pass a client made without asynchronous=True."
        )
    # While a client reconnects, a new scheduler does not know it yet: values sent now
    # would belong to nobody and be dropped. The wait is bounded by Dask, which closes a
    # client that does not get through.
    while is_reconnecting(client):
        time.sleep(RECONNECT_POLL_S)
    if client.status == "connecting":
        raise ClusterError(
            "the Dask client has lost its scheduler and failed to connect to it again. "
            "Make a new one, or pass the address of the scheduler as client=."
        )
    if client.status in ("closing", "closed"):
        raise ClusterError(
            f"the Dask client is {client.status}. Make a new one, or pass the address "
            f"of the scheduler as client=."
        )
    return client
