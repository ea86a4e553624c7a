"""Workers that a fit takes for itself, so that two fits do not wait for each other."""

import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from distributed import Client, SchedulerPlugin

from skdistmlp.exceptions import ClusterError

NAME = "skdistmlp-gangs"

FIRST_LOOK_S, LOOK_S = 0.01, 0.5
"""Seconds until a fit that has to wait asks again, at first and in the end."""

SILENT_S = 40.0
"""Seconds without a heartbeat (they come every 5) after which a client is given up. The
scheduler learns of one that dies when its connection closes, mostly at once."""


@dataclass(frozen=True)
class Place:
    """A fit in the queue.

    Attributes
    ----------
    client : str
        The client's id.
    workers : frozenset of str
        Addresses of the workers that it wants.
    """

    client: str
    workers: frozenset[str]


class Gangs(SchedulerPlugin):
    """The queue of all fits of a cluster, on its scheduler, in the order of arrival.

    A fit has its workers when nobody before it wants any of them: it gets all or none,
    nobody is overtaken, and no two wait for each other. A client that is gone has no
    place any more.
    """

    name = NAME

    def __init__(self) -> None:
        self.places: dict[str, Place] = {}

    def ask(self, scheduler: Any, name: str, place: Place, arrives: bool) -> bool:
        """Return whether a fit has its workers; one that arrives gets its place.

        Raises
        ------
        KeyError
            If it lost its place: its client was silent for too long.
        """
        if arrives:
            self.places.setdefault(name, place)
        if name not in self.places:
            raise KeyError(name)
        oldest = time.time() - SILENT_S
        clients = scheduler.clients
        for other, before in list(self.places.items()):
            if other == name:
                return True
            seen = clients.get(before.client)
            if seen is None or seen.last_seen < oldest:
                del self.places[other]
            elif before.workers & place.workers:
                return False
        return True

    def leave(self, name: str) -> None:
        """Give up a place, and the workers that came with it."""
        self.places.pop(name, None)

    def remove_client(self, scheduler: Any, client: str) -> None:
        """Give up the places of a client that is gone."""
        for name, place in list(self.places.items()):
            if place.client == client:
                del self.places[name]


@contextmanager
def gang(
    client: Client, workers: Sequence[str], check: Callable[[], None]
) -> Iterator[Callable[[], object]]:
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
    place = Place(client.id, frozenset(workers))

    def ask(arrives: bool) -> bool:
        try:
            has_workers: bool = client.run_on_scheduler(_ask, name, place, arrives)
        except KeyError:
            raise ClusterError(
                f"this process stood still for more than {SILENT_S:g} s, and its place "
                f"was given to other fits. Call again to start over."
            ) from None
        return has_workers

    try:
        has_workers, wait_s = ask(arrives=True), FIRST_LOOK_S
        while not has_workers:
            check()
            time.sleep(wait_s)
            has_workers, wait_s = ask(arrives=False), min(LOOK_S, 1.5 * wait_s)
        yield partial(ask, arrives=False)
    finally:
        # Of a client that is closed the scheduler has no place any more.
        with suppress(Exception):
            client.run_on_scheduler(_leave, name)


def _gangs(scheduler: Any) -> Gangs:
    """Return the queue of a scheduler, made when it is first asked for."""
    scheduler.add_plugin(Gangs(), name=NAME, idempotent=True)
    found: Gangs = scheduler.plugins[NAME]
    return found


def _ask(name: str, place: Place, arrives: bool, dask_scheduler: Any) -> bool:
    return _gangs(dask_scheduler).ask(dask_scheduler, name, place, arrives)


def _leave(name: str, dask_scheduler: Any) -> None:
    _gangs(dask_scheduler).leave(name)
