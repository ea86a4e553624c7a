"""Which cluster an estimator uses, which of its workers, and what went wrong."""

import asyncio
import socket
import time
from collections.abc import (
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
)
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import dask
from dask.utils import parse_timedelta
from distributed import (
    Client,
    KilledWorker,
    Security,
    get_client,
    get_worker,
    rejoin,
    rpc,
    secede,
)
from distributed.comm.addressing import get_address_host_port
from distributed.comm.core import CommClosedError

from skdistmlp.exceptions import ClusterError, ExchangeError, WorkerLostError

WORKER_CHECK_S = 2.0
"""Seconds between looks at the cluster while something there is waited for."""

REACHES_WITHIN_S = 0.5
"""Seconds in which a worker answers a client that may connect to it."""

RECONNECTED_LOOK_S = 0.05
"""Seconds between looks whether a client has found its scheduler again."""

_FOR_ONE_CALL: WeakSet[Client] = WeakSet()

_BEYOND_REACH: WeakKeyDictionary[Client, set[str]] = WeakKeyDictionary()


TRACES_OF_LOSS = (CancelledError, KilledWorker, CommClosedError, OSError, KeyError)
"""What Dask raises when a worker or the scheduler is gone, among other reasons."""


@contextmanager
def connected(client: Client | str | None) -> Iterator[Client | None]:
    """Give the client to use, for as long as the context lasts.

    Parameters
    ----------
    client : Client, str or None
        A client, the address of a scheduler, or None for the active client;
        inside a task, that is its worker's own.

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
        else:
            yield _checked(active_client() if client is None else client)


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
    with explained(client, (), "looking for workers"):
        # One that has just come is "init" for a moment.
        return tuple(
            worker
            for worker, status in worker_statuses(client).items()
            if status not in ("paused", "closing_gracefully", "closing", "closed")
        )


def begin(
    client: Client, method: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Future[Any]:
    """Begin a call of a method of a client, where it can be waited for and cancelled.

    Called by itself it would wait, for some workers without end. On the client's event
    loop it gives a coroutine instead.
    """
    loop: Any = client.loop
    call = _Call(lambda: method(*args, **kwargs))
    return asyncio.run_coroutine_threadsafe(call, loop.asyncio_loop)


class _Call(Coroutine[Any, Any, Any]):
    """A coroutine that is made with its first step.

    One that never takes it, because its client is closed that moment, would have
    Python warn.

    Parameters
    ----------
    make : callable
        Makes what is to be awaited.
    """

    def __init__(self, make: Callable[[], Awaitable[Any]]) -> None:
        self._make = make
        self._steps: Generator[Any, Any, Any] | None = None

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from self._make().__await__())

    def send(self, value: Any) -> Any:
        """Take a step; ends with StopIteration, which has the result."""
        if self._steps is None:
            self._steps = self.__await__()
        return self._steps.send(value)

    def throw(self, *error: Any) -> Any:
        """Raise an error where the last step ended."""
        if self._steps is None:
            self._steps = self.__await__()
        return self._steps.throw(*error)

    def close(self) -> None:
        """End it, wherever it is."""
        if self._steps is not None:
            self._steps.close()


def wait_while(going_well: Callable[[], None], answers: Iterable[Future[Any]]) -> None:
    """Wait for answers; cancel what is missing when the wait ends.

    Parameters
    ----------
    going_well : callable
        Called now and then meanwhile; ends the wait if it raises.
    answers : iterable of Future
        What `begin` returned.
    """
    answers = list(answers)
    try:
        while wait(answers, WORKER_CHECK_S).not_done:
            going_well()
    finally:
        for answer in answers:
            answer.cancel()


def worker_statuses(client: Client) -> dict[str, str]:
    """Return what Dask calls the status of each worker, by its address."""
    return {address: info["status"] for address, info in known_workers(client).items()}


def known_workers(client: Client) -> dict[str, dict[str, Any]]:
    """Return what the scheduler knows of each worker, by its address.

    `Client.scheduler_info` returns what the client heard last, and every other second
    the client asks for the totals alone: its answer may be without any workers.
    """
    assert client.scheduler is not None, "a connected client has a scheduler"
    answer = begin(client, client.scheduler.identity, n_workers=-1)
    wait_while(partial(check_open, client), [answer])
    workers: dict[str, dict[str, Any]] = answer.result()["workers"]
    return workers


def check_open(client: Client) -> None:
    """Raise CancelledError for a client that is closed: it answers nothing."""
    if client.status in ("closing", "closed"):
        raise CancelledError


def threads_of(client: Client, workers: tuple[str, ...]) -> list[int]:
    """Return the number of threads of each worker; 1 for one that has just left."""
    with explained(client, (), "looking for workers"):
        n_threads = client.nthreads()
    return [n_threads.get(worker, 1) for worker in workers]


def reaches(client: Client, worker: str) -> bool:
    """Say whether arrays can go between this process and a worker directly.

    Dask's own way round is through the scheduler, which takes twice as long. A
    worker that did not answer once is not tried again.
    """
    beyond = _BEYOND_REACH.setdefault(client, set())
    if worker in beyond:
        return False
    try:
        address = get_address_host_port(worker)
        with socket.create_connection(address, REACHES_WITHIN_S):
            return True
    except (OSError, ValueError):
        beyond.add(worker)
        return False


@contextmanager
def explained(client: Client, workers: tuple[str, ...], phase: str) -> Iterator[None]:
    """Say which worker went away when Dask reports that something did.

    Parameters
    ----------
    client : Client
        The client in use.
    workers : tuple of str
        Workers that hold something that this phase needs.
    phase : str
        What is going on, as a gerund.

    Raises
    ------
    WorkerLostError
        In place of a cancelled future or a failed transfer.
    ClusterError
        In place of a lost connection to the scheduler, or when Dask gave up a task
        since every worker that it ran on died.
    """
    address = scheduler_address(client)
    try:
        yield
    except Exception as error:
        if not isinstance(error, TRACES_OF_LOSS) and client.status == "running":
            note = f"This was while {phase}."
            if isinstance(error, ExchangeError | WorkerLostError):
                error.add_note(f"{note} Call again to start over.")
            elif isinstance(error, MemoryError):
                error.add_note(f"{note} Use more workers, or smaller batches.")
            elif hasattr(error, "__notes__"):
                # A task of ours failed by itself.
                error.add_note(note)
            raise
        try:
            present = set(client.nthreads())
        except Exception:
            raise ClusterError(
                f"the client has lost its connection to the scheduler at {address} "
                f"while {phase}, or was closed. Check that the scheduler is running, "
                f"and call again with an open client."
            ) from error
        lost = [worker for worker in workers if worker not in present]
        if lost:
            raise WorkerLostError(
                f"worker {', '.join(lost)} went away while {phase}, and with it its "
                f"part of the network. The cluster has {len(present)} workers left; "
                f"call again to start over on them."
            ) from error
        if isinstance(error, CancelledError):
            there = f"; {', '.join(workers)} are still there" if workers else ""
            raise WorkerLostError(
                f"the cluster dropped what it held while {phase}{there}. Was the "
                f"cluster restarted, or the work cancelled? Call again to start over."
            ) from error
        if isinstance(error, KilledWorker):
            raise ClusterError(
                f"workers died while {phase}, one after another, most likely because "
                f"their memory did not suffice: {error} Use workers with more memory, "
                f"more workers, or smaller blocks."
            ) from error
        # A task of ours failed by itself.
        raise


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


def memory_limits(client: Client, workers: tuple[str, ...]) -> dict[str, int]:
    """Return the bytes that each of some workers may use, where there is a limit.

    Parameters
    ----------
    client : Client
        A connected client.
    workers : tuple of str
        Addresses; one that has left has no limit.
    """
    with explained(client, (), "asking for the workers' memory"):
        known = known_workers(client)
    limits = {
        worker: known[worker]["memory_limit"] for worker in workers if worker in known
    }
    return {worker: limit for worker, limit in limits.items() if limit}


def scheduler_address(client: Client) -> str:
    """Return the address of a client's scheduler."""
    return str(client.scheduler.address if client.scheduler is not None else "unknown")
