"""Workers that a fit takes for itself, so that two fits do not wait for each other."""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from distributed import Client, SchedulerPlugin

from skdistmlp.cluster.client.rpc import submit_rpc, wait_while
from skdistmlp.exceptions import ClusterError

FIRST_POLL_S, QUEUE_POLL_S = 0.01, 0.5
"""Seconds until a fit that has to wait asks again, at first and in the end."""

SILENT_S, SILENT_HEARTBEATS = 40.0, 4
"""A client is given up after so many seconds without a heartbeat, and no fewer of its
heartbeats: they come every 5 s, rarer if there are many clients. The scheduler learns
of one that dies when its connection closes, mostly at once."""

ASLEEP_S = 15.0
"""Seconds without a question after which the scheduler may have been suspended, and
judge the silence of others anew. Whoever waits asks every `QUEUE_POLL_S`."""

LEAVES_WITHIN_S = 5.0
"""Seconds in which a scheduler that is there answers."""

HELD, QUEUED, LOST = "held", "queued", "lost"
"""How a fit stands: it has its workers; it waits for them; it was given up."""


@dataclass(frozen=True)
class Reservation:
    """A fit in the queue.

    Attributes
    ----------
    client : str
        The client's id.
    workers : frozenset of str
        Addresses of the workers that it wants.
    silent_s : float
        Seconds without a heartbeat after which the client is given up.
    """

    client: str
    workers: frozenset[str]
    silent_s: float


class WorkerQueue(SchedulerPlugin):
    """The queue of all fits of a cluster, on its scheduler, in the order of arrival.

    A fit has its workers when nobody before it wants any of them: it gets all or none,
    nobody is overtaken, and no two wait for each other. A client that is gone has no
    place any more.
    """

    name = "skdistmlp-gangs"
    idempotent = True

    def __init__(self) -> None:
        self.places: dict[str, Reservation] = {}
        self.asked_at = self.awake_since = float("-inf")

    async def start(self, scheduler: Any) -> None:
        """Take requests from clients; called by Dask, once on a scheduler."""
        self._clients = scheduler.clients
        scheduler.handlers["skdistmlp_ask"] = self.ask
        scheduler.handlers["skdistmlp_leave"] = self.leave

    def ask(
        self, name: str, client: str, workers: list[str], silent_s: float, arrives: bool
    ) -> str:
        """Return how a fit stands; one that arrives gets its place.

        It has lost its place if its client was silent for too long.
        """
        # The clock that Dask notes heartbeats by; it goes on while a laptop sleeps.
        now = time.time()
        if not 0 <= now - self.asked_at < ASLEEP_S:
            self.awake_since = now
        self.asked_at = now
        if not arrives and name not in self.places:
            return LOST
        self.places[name] = Reservation(client, frozenset(workers), silent_s)
        for other, before in list(self.places.items()):
            if other == name:
                break
            if self._is_given_up(before):
                del self.places[other]
            elif not before.workers.isdisjoint(workers):
                return QUEUED
        return HELD

    def _is_given_up(self, place: Reservation) -> bool:
        """Say whether a client is gone, or silent while the scheduler was awake."""
        client = self._clients.get(place.client)
        if client is None:
            return True
        heard_at = max(client.last_seen, self.awake_since)
        return bool(self.asked_at > heard_at + place.silent_s)

    def leave(self, name: str) -> None:
        """Give up a place, and the workers that came with it."""
        self.places.pop(name, None)

    def remove_client(self, scheduler: Any, client: str) -> None:
        """Give up the places of a client that is gone; called by Dask."""
        for name, place in list(self.places.items()):
            if place.client == client:
                del self.places[name]


@contextmanager
def reserve_workers(
    client: Client, workers: Sequence[str], check: Callable[[], None]
) -> Iterator[Callable[[], None]]:
    """Hold workers: one fit of shards that wait for each other on each.

    Parameters
    ----------
    client : Client
        A connected client.
    workers : sequence of str
        Addresses.
    check : callable
        Called now and then while waiting; ends the wait if it raises.

    Yields
    ------
    callable
        Raises `ClusterError` if this fit no longer holds its workers.
    """
    name = uuid.uuid4().hex
    scheduler = client.scheduler
    assert scheduler is not None, "a connected client has a scheduler"

    def arrive() -> bool:
        # Each time: the client may have found another scheduler at the same address.
        client.register_plugin(WorkerQueue())
        return ask(arrives=True) == HELD

    def ask(arrives: bool) -> str | None:
        silent_s = max(SILENT_S, SILENT_HEARTBEATS * heartbeat_s(client))
        asked = submit_rpc(
            client,
            scheduler.skdistmlp_ask,
            name=name,
            client=client.id,
            workers=list(workers),
            silent_s=silent_s,
            arrives=arrives,
        )
        wait_while(check, [asked])
        # A scheduler that has taken the place of another answers nothing.
        standing: str | None = asked.result()
        return standing

    def check_held() -> None:
        if ask(arrives=False) != HELD:
            raise ClusterError(
                "this fit has lost its workers: the scheduler was replaced, or did not "
                "hear of this process for too long. Call again to start over."
            )

    try:
        has_workers, wait_s = arrive(), FIRST_POLL_S
        while not has_workers:
            check()
            time.sleep(wait_s)
            wait_s = min(QUEUE_POLL_S, 1.5 * wait_s)
            standing = ask(arrives=False)
            has_workers = standing == HELD or (standing != QUEUED and arrive())
        yield check_held
    finally:
        # Of a client that is closed the scheduler has no place any more.
        if client.status not in ("closing", "closed"):
            with suppress(Exception):
                left = submit_rpc(client, scheduler.skdistmlp_leave, name=name)
                left.result(LEAVES_WITHIN_S)


def heartbeat_s(client: Client) -> float:
    """Return the seconds between heartbeats of a client, as they are at present.

    The scheduler changes them with the number of clients.
    """
    milliseconds: float = client._periodic_callbacks["heartbeat"].callback_time
    return milliseconds / 1000
