"""Reserve workers for one fit, so that no two fits wait for each other."""

import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

from distributed import Client, SchedulerPlugin

from skdistmlp.cluster._dask import (
    add_handler,
    call_scheduler,
    heartbeat_s,
    last_heartbeat,
)
from skdistmlp.cluster.client.rpc import check_open, submit_rpc, wait_while
from skdistmlp.cluster.client.scheduler import await_scheduler
from skdistmlp.cluster.client.workers import scheduler_id
from skdistmlp.exceptions import ClusterError
from skdistmlp.timeouts import (
    INTENTION_S,
    LEAVE_QUEUE_S,
    QUEUE_FIRST_POLL_S,
    QUEUE_POLL_S,
    SCHEDULER_ASLEEP_S,
    SILENT_CLIENT_S,
)

SILENT_HEARTBEATS = 4
"""Heartbeats that a client may miss before it loses its workers: the scheduler makes
them rarer when there are many clients."""


class Standing(Enum):
    """How a fit stands in the queue. Its value travels: Dask's RPC takes no enums."""

    HELD = "held"
    """It has its workers."""
    QUEUED = "queued"
    """It waits for them."""
    LOST = "lost"
    """The queue has never seen it, or has dropped it."""


@dataclass(frozen=True)
class Reservation:
    """The place of a fit in the queue.

    Attributes
    ----------
    client : str
        The client's id.
    workers : frozenset of str
        Addresses of the workers that it wants.
    silent_s : float
        Seconds without a heartbeat after which the client counts as dead.
    """

    client: str
    workers: frozenset[str]
    silent_s: float


@dataclass(frozen=True)
class Intention:
    """Workers that a fit has chosen, and has not reserved yet.

    Attributes
    ----------
    workers : frozenset of str
        Addresses.
    until : float
        Time at which it no longer counts.
    """

    workers: frozenset[str]
    until: float


class WorkerQueue(SchedulerPlugin):
    """The FIFO queue of all fits of a cluster, on its scheduler.

    A fit has its workers when no fit before it wants any of them. So it gets all or
    none, nobody is overtaken, and no two fits can each hold what the other waits for. A
    client that has gone loses its reservations.

    Only the scheduler's event loop calls this, one call at a time: there is no lock.
    """

    name = "skdistmlp-worker-queue"
    idempotent = True

    def __init__(self) -> None:
        # In the order of arrival, as dicts are.
        self.reservations: dict[str, Reservation] = {}
        self.intentions: list[Intention] = []
        self.asked_at = self.awake_since = float("-inf")

    async def start(self, scheduler: Any) -> None:
        """Add the handlers that clients call; called by Dask, once per scheduler."""
        self._scheduler = scheduler
        add_handler(scheduler, "skdistmlp_reserve", self.reserve)
        add_handler(scheduler, "skdistmlp_borrow", self.borrow)
        add_handler(scheduler, "skdistmlp_leave", self.leave)
        add_handler(scheduler, "skdistmlp_choose", self.choose)
        add_handler(scheduler, "skdistmlp_unclaimed", self.unclaimed)

    def choose(self, workers: list[str], n_workers: int, intends: bool) -> list[str]:
        """Return the workers that fewest fits hold or wait for, in the order given.

        Two fits that ask before either has arrived get different ones, if there are: a
        choice counts until its fit arrives, or for `INTENTION_S`, if one `intends` to.
        """
        load = self._load()
        # Sorting keeps the order of those that are equally free.
        chosen = frozenset(sorted(workers, key=lambda w: load[w])[:n_workers])
        if intends:
            self.intentions.append(Intention(chosen, time.time() + INTENTION_S))
        return [worker for worker in workers if worker in chosen]

    def unclaimed(self, workers: list[str]) -> list[str]:
        """Return those of the workers that no fit holds, waits for or has chosen."""
        load = self._load()
        return [worker for worker in workers if not load[worker]]

    def _load(self) -> Counter[str]:
        """Return how many fits hold each worker, wait for it or have chosen it."""
        now = time.time()
        self.intentions = [each for each in self.intentions if each.until > now]
        taken: list[Reservation | Intention] = [
            *self.reservations.values(),
            *self.intentions,
        ]
        return Counter(worker for each in taken for worker in each.workers)

    def reserve(
        self, name: str, client: str, workers: list[str], silent_s: float, arrives: bool
    ) -> str:
        """Return the `Standing` of a fit, its value; one that arrives joins the queue.

        Clients ask again and again. One that does not arrive and is not known has lost
        its place, to a new scheduler or by its own silence, and must not get it back
        unnoticed: another fit may have its workers.
        """
        self._note_question()
        if not arrives and name not in self.reservations:
            return Standing.LOST.value
        if arrives:
            self._has_arrived(frozenset(workers))
        # Assigned to a key that exists, it stays at its place in the order.
        self.reservations[name] = Reservation(client, frozenset(workers), silent_s)
        return (Standing.HELD if self._is_first(name) else Standing.QUEUED).value

    def borrow(
        self, name: str, client: str, workers: list[str], silent_s: float
    ) -> bool:
        """Reserve workers for a measurement, if nobody has them or waits for them.

        It never waits. And it leaves intentions as they are: the fit that it is for has
        chosen its workers, but arrives only later.
        """
        self._note_question()
        self.reservations[name] = Reservation(client, frozenset(workers), silent_s)
        if not self._is_first(name):
            del self.reservations[name]
        return name in self.reservations

    def _note_question(self) -> None:
        """Note that a client has asked, and whether the scheduler was asleep before."""
        # The clock by which Dask notes heartbeats. It goes on while a laptop sleeps,
        # and whoever waits has not asked meanwhile: a gap, or a clock that was set
        # back, means that the heartbeats of all clients may be still on their way.
        now = time.time()
        if not 0 <= now - self.asked_at < SCHEDULER_ASLEEP_S:
            self.awake_since = now
        self.asked_at = now

    def _is_first(self, name: str) -> bool:
        """Say whether nobody before wants any of the workers of a reservation."""
        workers = self.reservations[name].workers
        for other, before in list(self.reservations.items()):
            if other == name:
                break
            # Dead clients are found only here, by those that they would block.
            if self._is_dead(before):
                del self.reservations[other]
            elif not before.workers.isdisjoint(workers):
                return False
        return True

    def _has_arrived(self, workers: frozenset[str]) -> None:
        """Forget one choice of these workers: its fit is in the queue now."""
        for place, intention in enumerate(self.intentions):
            if intention.workers == workers:
                del self.intentions[place]
                return

    def leave(self, name: str) -> None:
        """Give up a place, and the workers that came with it."""
        self.reservations.pop(name, None)

    def remove_client(self, scheduler: Any, client: str) -> None:
        """Give up the places of a client that has gone; called by Dask."""
        for name, reservation in list(self.reservations.items()):
            if reservation.client == client:
                del self.reservations[name]

    def _is_dead(self, reservation: Reservation) -> bool:
        """Say whether a client is gone, or was silent while the scheduler was awake."""
        heard_at = last_heartbeat(self._scheduler, reservation.client)
        if heard_at is None:
            return True
        since = max(heard_at, self.awake_since)
        return self.asked_at > since + reservation.silent_s


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
        Whether a fit will reserve them; otherwise it is only planned.
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


def unclaimed_workers(client: Client, workers: Sequence[str]) -> list[str]:
    """Return those of the workers that no fit holds, waits for or has chosen."""
    unclaimed = _ask_queue(client, "skdistmlp_unclaimed", workers=list(workers))
    return list(workers) if unclaimed is None else unclaimed


def _ask_queue(client: Client, question: str, **arguments: Any) -> list[str] | None:
    """Return workers as the queue says; None if the scheduler has none after all."""
    # Asked for what it does not know yet, a scheduler logs an error.
    if (scheduler := scheduler_id(client)) not in _WITH_QUEUE:
        registering = submit_rpc(client, client.register_plugin, WorkerQueue())
        await_scheduler(client, registering)
        _WITH_QUEUE.add(scheduler)
    asked = submit_rpc(client, call_scheduler, client, question, **arguments)
    await_scheduler(client, asked)
    workers: list[str] | None = asked.result()
    return workers


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
        them or waits for it.
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
    # A closed client has no place any more.
    if client.status in ("closing", "closed"):
        return
    with suppress(Exception):
        left = submit_rpc(client, call_scheduler, client, "skdistmlp_leave", name=name)
        left.result(LEAVE_QUEUE_S)
