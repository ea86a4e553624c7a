"""The queue of fits for workers, on the scheduler of their cluster."""

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from distributed import SchedulerPlugin

from skdistmlp.cluster._dask import add_handler, last_heartbeat
from skdistmlp.timeouts import INTENTION_S, SCHEDULER_ASLEEP_S


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

    Fits that may lose workers also claim those on which they are: until they end, not
    only while a run has a reservation.

    Fits whose tasks wait for nobody share their workers instead: they are only counted.

    An adaptive cluster keeps all of these workers, though some are idle: those of a fit
    that places its rows, say, or waits for others in place of lost ones.

    Only the scheduler's event loop calls this, one call at a time: there is no lock.
    """

    name = "skdistmlp-worker-queue"
    idempotent = True

    def __init__(self) -> None:
        # In the order of arrival, as dicts are.
        self.reservations: dict[str, Reservation] = {}
        self.shared: dict[str, Reservation] = {}
        self.claims: dict[str, Reservation] = {}
        self.intentions: list[Intention] = []
        self.asked_at = self.awake_since = float("-inf")

    async def start(self, scheduler: Any) -> None:
        """Add the handlers that clients call; called by Dask, once per scheduler."""
        self._scheduler = scheduler
        add_handler(scheduler, "skdistmlp_reserve", self.reserve)
        add_handler(scheduler, "skdistmlp_borrow", self.borrow)
        add_handler(scheduler, "skdistmlp_share", self.share)
        add_handler(scheduler, "skdistmlp_leave", self.leave)
        add_handler(scheduler, "skdistmlp_choose", self.choose)
        add_handler(scheduler, "skdistmlp_withdraw", self.withdraw)
        add_handler(scheduler, "skdistmlp_unclaimed", self.unclaimed)
        add_handler(scheduler, "skdistmlp_claim", self.claim)

    def choose(self, workers: list[str], n_workers: int, intends: bool) -> list[str]:
        """Return the workers that fewest fits have or wait for, the freest first.

        Two fits that ask before either has arrived get different ones, if there are: a
        choice counts until its fit arrives or withdraws it, or for `INTENTION_S`, if
        one `intends` to.
        """
        load = self._count_fits() + _by_worker(self.shared.values())
        # Sorting keeps the order of those that are equally free.
        chosen = sorted(workers, key=lambda worker: load[worker])[:n_workers]
        if intends:
            until = time.time() + INTENTION_S
            self.intentions.append(Intention(frozenset(chosen), until))
        return chosen

    def withdraw(self, workers: list[str]) -> None:
        """Forget one choice of these workers: no fit will arrive for it."""
        self._forget_choice(frozenset(workers))

    def unclaimed(self, workers: list[str], name: str = "") -> list[str]:
        """Return those of the workers that no fit has; see `_count_fits`.

        Those that fewest fits share come first. A fit that gives the name of its claim
        also gets those that it claims itself.
        """
        n_fits, n_shared = self._count_fits(name), _by_worker(self.shared.values())
        free = [worker for worker in workers if not n_fits[worker]]
        return sorted(free, key=lambda worker: n_shared[worker])

    def claim(
        self,
        name: str,
        client: str,
        found: list[str],
        workers: list[str],
        silent_s: float,
    ) -> bool:
        """Claim the workers on which a fit is, or goes on after a loss of some.

        A fit that has lost workers has no reservation until its next run, and another
        may look for workers in the same moment. The claim says which ones it will
        reserve, in place of what it claimed before, until it leaves.

        Returns
        -------
        bool
            Whether it has them: not if another fit has one of those that were `found`
            meanwhile. Looking and claiming are one call, so no two fits get the same.
        """
        if len(self.unclaimed(found, name)) < len(found):
            return False
        self.claims[name] = Reservation(client, frozenset(workers), silent_s)
        return True

    def _count_fits(self, name: str = "") -> Counter[str]:
        """Return how many fits hold each worker, wait for it, have chosen or claim it.

        The claim with this name does not count.
        """
        self._note_question()
        # They are found dead otherwise only by a fit that waits for what they have.
        self._drop_dead()
        now = self.asked_at
        self.intentions = [each for each in self.intentions if each.until > now]
        n_fits = _by_worker([*self.reservations.values(), *self.intentions])
        # The larger of both, since a fit that runs has also reserved what it claims.
        return n_fits | _by_worker(
            each for other, each in self.claims.items() if other != name
        )

    def _drop_dead(self) -> None:
        """Give up the places of all clients that are dead."""
        for places in (self.reservations, self.shared, self.claims):
            for name, each in list(places.items()):
                if self._is_dead(each):
                    del places[name]

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
            self._forget_choice(frozenset(workers))
        # Assigned to a key that exists, it stays at its place in the order.
        self.reservations[name] = Reservation(client, frozenset(workers), silent_s)
        return (Standing.HELD if self._is_first(name) else Standing.QUEUED).value

    def borrow(
        self, name: str, client: str, workers: list[str], silent_s: float
    ) -> bool:
        """Reserve workers for a measurement, if nobody has, shares or waits for them.

        It never waits. And it leaves intentions as they are: the fit that it is for has
        chosen its workers, but arrives only later.
        """
        self._note_question()
        wanted = Reservation(client, frozenset(workers), silent_s)
        self.reservations[name] = wanted
        if self._are_shared(wanted) or not self._is_first(name):
            del self.reservations[name]
        return name in self.reservations

    def share(
        self, name: str, client: str, workers: list[str], silent_s: float
    ) -> None:
        """Note that a fit uses workers, which others may have too."""
        self._note_question()
        self._forget_choice(frozenset(workers))
        self.shared[name] = Reservation(client, frozenset(workers), silent_s)

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
            # Dead clients are found by those that they would block.
            if self._is_dead(before):
                del self.reservations[other]
            elif not before.workers.isdisjoint(workers):
                return False
        return True

    def _are_shared(self, wanted: Reservation) -> bool:
        """Say whether a fit that shares its workers has any that are wanted."""
        # As in the queue, the dead are found by those that they would hinder.
        for name, each in list(self.shared.items()):
            if not each.workers.isdisjoint(wanted.workers):
                if not self._is_dead(each):
                    return True
                del self.shared[name]
        return False

    def _forget_choice(self, workers: frozenset[str]) -> None:
        """Forget one choice of these workers: its fit is there, or will not come."""
        for place, intention in enumerate(self.intentions):
            if intention.workers == workers:
                del self.intentions[place]
                return

    def leave(self, name: str) -> None:
        """Give up a place or a claim, and the workers that came with it."""
        for places in (self.reservations, self.shared, self.claims):
            places.pop(name, None)

    def valid_workers_downscaling(
        self, scheduler: Any, workers: list[Any]
    ) -> list[Any]:
        """Return the workers that no fit needs; called by Dask, which may close them.

        The needs of dead clients do not count, but are dropped only by other fits: one
        that is merely silent may still go on.
        """
        self._note_question()
        places = (self.reservations, self.shared, self.claims)
        living = [
            place
            for each in places
            for place in each.values()
            if not self._is_dead(place)
        ]
        chosen = [each for each in self.intentions if each.until > self.asked_at]
        needed = _by_worker([*living, *chosen])
        return [worker for worker in workers if not needed[worker.address]]

    def remove_client(self, scheduler: Any, client: str) -> None:
        """Give up the places of a client that has gone; called by Dask."""
        for places in (self.reservations, self.shared, self.claims):
            for name, reservation in list(places.items()):
                if reservation.client == client:
                    del places[name]

    def _is_dead(self, reservation: Reservation) -> bool:
        """Say whether a client is gone, or was silent while the scheduler was awake."""
        heard_at = last_heartbeat(self._scheduler, reservation.client)
        if heard_at is None:
            return True
        since = max(heard_at, self.awake_since)
        return self.asked_at > since + reservation.silent_s


def _by_worker(taken: Iterable[Reservation | Intention]) -> Counter[str]:
    """Return how many of them have each worker."""
    return Counter(worker for each in taken for worker in each.workers)
