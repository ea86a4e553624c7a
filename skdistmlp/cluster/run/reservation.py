"""Reserve workers for one fit, so that no two wait for each other, or share them."""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, Self

from distributed import Client

from skdistmlp.cluster._dask import call_scheduler, heartbeat_s
from skdistmlp.cluster.client.errors import translate_dask_errors
from skdistmlp.cluster.client.rpc import check_open, submit_rpc, wait_while
from skdistmlp.cluster.client.scheduler import await_scheduler
from skdistmlp.cluster.client.workers import scheduler_id
from skdistmlp.cluster.run.worker_queue import Standing, WorkerQueue
from skdistmlp.exceptions import ClusterError
from skdistmlp.timeouts import (
    LEAVE_QUEUE_S,
    QUEUE_FIRST_POLL_S,
    QUEUE_POLL_S,
    SILENT_CLIENT_S,
)

SILENT_HEARTBEATS = 4
"""Heartbeats that a client may miss before it loses its workers: the scheduler makes
them rarer when there are many clients."""


_WITH_QUEUE: set[str] = set()
"""Schedulers, by id, to which this process has given their queue."""


def choose_free_workers(
    client: Client,
    workers: Sequence[str],
    n_workers: int,
    held: Mapping[str, int],
    intends: bool = True,
) -> tuple[str, ...]:
    """Return the workers that will be free soonest, in the order given.

    Of those that are equally free, the ones that have most of the rows.

    Parameters
    ----------
    client : Client
        A connected client.
    workers : sequence of str
        Addresses to choose from.
    n_workers : int
        How many.
    held : mapping of str to int
        Bytes of rows that each worker has already; of the others none.
    intends : bool
        Whether a fit will reserve or share them; otherwise it is only planned.
    """
    preferred = sorted(workers, key=lambda worker: -held.get(worker, 0))
    chosen = _ask_queue(
        client,
        "skdistmlp_choose",
        workers=preferred,
        n_workers=n_workers,
        intends=intends,
    )
    if chosen is None:
        chosen = preferred[:n_workers]
    return tuple(worker for worker in workers if worker in chosen)


def freest_first(client: Client, workers: Sequence[str]) -> list[str]:
    """Return workers in the order of how few fits have them or wait for them."""
    ordered = _ask_queue(
        client,
        "skdistmlp_choose",
        workers=list(workers),
        n_workers=len(workers),
        intends=False,
    )
    return list(workers if ordered is None else ordered)


def withdraw_choice(client: Client, workers: Sequence[str]) -> None:
    """Have it known that no fit will come for workers that were chosen for one."""
    # If it fails, the choice counts for a few seconds more.
    _tell_queue(client, "skdistmlp_withdraw", workers=list(workers))


def unclaimed_workers(client: Client, workers: Sequence[str]) -> list[str]:
    """Return those of the workers that no fit holds, waits for, has chosen or claims.

    Those that fewest fits share come first.
    """
    unclaimed = _ask_queue(client, "skdistmlp_unclaimed", workers=list(workers))
    return list(workers) if unclaimed is None else unclaimed


class _PlaceOfFit:
    """A place in the queue until a fit ends, from run to run; a context manager.

    Parameters
    ----------
    client : Client
        A connected client.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._name = uuid.uuid4().hex
        self._workers: frozenset[str] = frozenset()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._workers:
            # Not waited for: the last run has waited for its place to be given up, and
            # a scheduler that hangs would take that time twice. Should a fit ask before
            # this arrives, it chooses other workers if it can.
            with suppress(Exception):
                _send(self._client, "skdistmlp_leave", name=self._name)


class WorkerClaim(_PlaceOfFit):
    """What a fit that may lose workers claims, until it ends; a context manager.

    Its reservations end with each run. Without a claim, another fit that looks for
    workers at that moment, probably since the same machine has failed, could take the
    same spare worker, or one that this fit still has; the second to reserve it would
    wait until the first ends.

    Parameters
    ----------
    client : Client
        A connected client.
    """

    def unclaimed(self, workers: Sequence[str]) -> list[str]:
        """Return those that no other fit has, as `unclaimed_workers` does."""
        unclaimed = _ask_queue(
            self._client, "skdistmlp_unclaimed", workers=list(workers), name=self._name
        )
        return list(workers) if unclaimed is None else unclaimed

    def claim(self, found: Sequence[str], workers: Sequence[str]) -> bool:
        """Claim workers in place of those before; see `WorkerQueue.claim`."""
        # Also if the answer does not arrive: the queue may have noted it.
        before, self._workers = self._workers, frozenset(workers)
        has_them = _ask_queue(
            self._client,
            "skdistmlp_claim",
            name=self._name,
            client=self._client.id,
            found=list(found),
            workers=list(workers),
            silent_s=_silent_s(self._client),
        )
        if has_them is False:
            self._workers = before
        return has_them is not False


class WorkerShare(_PlaceOfFit):
    """Has it known which workers a fit uses, until it ends; a context manager.

    Other fits may use them too. But they are not measured meanwhile, fits that can
    choose take others, and an adaptive cluster keeps them.

    Parameters
    ----------
    client : Client
        A connected client.
    """

    def share(self, workers: Sequence[str]) -> None:
        """Use workers in place of those before."""
        # Also if the answer does not arrive: they may be noted.
        self._workers = frozenset(workers)
        _ask_queue(
            self._client,
            "skdistmlp_share",
            name=self._name,
            client=self._client.id,
            workers=list(workers),
            silent_s=_silent_s(self._client),
        )

    def give_up(self) -> None:
        """Use no workers any more, and wait until that is known."""
        if self._workers:
            _leave(self._client, self._name)
        # Only now: if the wait is interrupted, the end of the context tries again.
        self._workers = frozenset()


def _ask_queue(client: Client, question: str, /, **arguments: Any) -> Any:
    """Return what the queue answers; None if the scheduler has none after all."""
    with translate_dask_errors(client, (), "asking which workers are free"):
        # Asked for what it does not know yet, a scheduler logs an error.
        if (scheduler := scheduler_id(client)) not in _WITH_QUEUE:
            registering = submit_rpc(client, client.register_plugin, WorkerQueue())
            await_scheduler(client, registering)
            _WITH_QUEUE.add(scheduler)
        asked = submit_rpc(client, call_scheduler, client, question, **arguments)
        return await_scheduler(client, asked)


@contextmanager
def borrow_workers(
    client: Client, workers: Sequence[str], check: Callable[[], None]
) -> Iterator[bool]:
    """Reserve workers for a measurement while the context lasts, if they are free.

    Parameters
    ----------
    client : Client
        A connected client.
    workers : sequence of str
        Addresses.
    check : callable
        Called every few seconds until the scheduler has answered; ends that wait by
        raising.

    Yields
    ------
    bool
        Whether they are reserved: not if a fit, or another measurement, has any of
        them, shares it or waits for it.
    """
    name = uuid.uuid4().hex
    try:
        registering = submit_rpc(client, client.register_plugin, WorkerQueue())
        wait_while(check, [registering])
        registering.result()
        asked = submit_rpc(
            client,
            call_scheduler,
            client,
            "skdistmlp_borrow",
            name=name,
            client=client.id,
            workers=list(workers),
            silent_s=_silent_s(client),
        )
        wait_while(check, [asked])
        yield bool(asked.result())
    finally:
        # Also if the answer was not waited for: they may be reserved.
        _leave(client, name)


@contextmanager
def reserve_workers(
    client: Client, workers: Sequence[str], check: Callable[[], None]
) -> Iterator[Callable[[], None]]:
    """Reserve workers for one fit while the context lasts; wait until they are free.

    The shards of a fit wait for each other. If two fits shared a worker with one
    thread, each could have the thread that the other waits for.

    Parameters
    ----------
    client : Client
        A connected client.
    workers : sequence of str
        Addresses.
    check : callable
        Called every few seconds during the wait; ends it by raising.

    Yields
    ------
    callable
        Raises `ClusterError` if this fit no longer has its workers, and
        `CancelledError` if that is so because the client is closed.
    """
    name = uuid.uuid4().hex
    call = partial(submit_rpc, client, call_scheduler, client)

    def arrive() -> bool:
        # Each time: the client may have found another scheduler at the same address.
        registering = submit_rpc(client, client.register_plugin, WorkerQueue())
        await_scheduler(client, registering)
        return ask(arrives=True) is Standing.HELD

    def ask(arrives: bool) -> Standing:
        asked = call(
            "skdistmlp_reserve",
            name=name,
            client=client.id,
            workers=list(workers),
            silent_s=_silent_s(client),
            arrives=arrives,
        )
        wait_while(check, [asked])
        standing: str | None = asked.result()
        # A scheduler that has replaced another has no such handler, and returns None.
        return Standing.LOST if standing is None else Standing(standing)

    def check_held() -> None:
        if ask(arrives=False) is not Standing.HELD:
            # The scheduler takes the workers away from a client that is being closed.
            check_open(client)
            raise ClusterError(
                "this fit has lost its workers: the scheduler was replaced, or did not "
                "hear from this process for too long. Call again to start over."
            )

    try:
        has_workers, wait_s = arrive(), QUEUE_FIRST_POLL_S
        while not has_workers:
            check()
            time.sleep(wait_s)
            # Short at first, for the next fit of a search; then rare, for long fits.
            wait_s = min(QUEUE_POLL_S, 1.5 * wait_s)
            standing = ask(arrives=False)
            has_workers = standing is Standing.HELD or (
                standing is Standing.LOST and arrive()
            )
        yield check_held
    finally:
        # Also if `arrive` was interrupted: the scheduler may have queued this fit.
        _leave(client, name)


def _silent_s(client: Client) -> float:
    """Return the seconds without a heartbeat after which a client counts as dead."""
    return max(SILENT_CLIENT_S, SILENT_HEARTBEATS * heartbeat_s(client))


def _leave(client: Client, name: str) -> None:
    """Give up a place in the queue."""
    _tell_queue(client, "skdistmlp_leave", name=name)


def _tell_queue(client: Client, message: str, /, **arguments: Any) -> None:
    """Tell the queue something, if it can be: whatever has ended is worth more."""
    with suppress(Exception):
        _send(client, message, **arguments).result(LEAVE_QUEUE_S)


def _send(client: Client, message: str, /, **arguments: Any) -> Future[Any]:
    """Send the queue a message; return a future of the answer."""
    # A closed client has no place any more.
    check_open(client)
    return submit_rpc(client, call_scheduler, client, message, **arguments)
