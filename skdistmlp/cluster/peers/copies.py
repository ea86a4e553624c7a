"""In-memory copies of the training state, from which a fit recovers.

Each shard has a copy of its state on its own worker, and another on that of its
*buddy*, the next shard: any single worker may be lost. The copies count once all have
arrived, and only then are those before them given up.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import CancelledError
from typing import Any, NamedTuple

from distributed import Client, Future

from skdistmlp.cluster.client.rpc import submit_rpc, wait_while
from skdistmlp.cluster.client.scheduler import ask_scheduler
from skdistmlp.cluster.client.workers import worker_memory
from skdistmlp.cluster.peers import worker
from skdistmlp.cluster.peers.shard import ShardCopy
from skdistmlp.cluster.run.liveness import silent_workers
from skdistmlp.cluster.run.placement import Placement
from skdistmlp.planning.copies import GENERATIONS
from skdistmlp.planning.memory import shortage_for_copies
from skdistmlp.planning.plan import Plan
from skdistmlp.planning.rates import TASK_S
from skdistmlp.settings import copies_max_share
from skdistmlp.timeouts import COPIES_ANSWER_S
from skdistmlp.training.loop import Log, quiet
from skdistmlp.training.pace import Pace

LOG = logging.getLogger("skdistmlp")

ASSUMED_BYTES_PER_S = 1e8
"""Bytes of a shard's state that are taken to reach its buddy in a second, until copies
have been timed, where the link has not been measured or is faster."""

EARLY = 5
"""How many times as early the first copies are taken as their share of the time allows.
Those after them wait until the sum is within it: until then, they may have taken up to
a tenth of the training time by default, instead of 2%."""

N_CHAINED = 2
"""Tasks one after the other: one takes a copy, another fetches it."""

N_COPIES = 2 * GENERATIONS
"""Copies of a shard's state that are held at once, at most: on its own worker and on
that of its buddy, and the previous ones of both."""


class Copies(NamedTuple):
    """The copies of all shards, from one pause between rounds.

    Attributes
    ----------
    own, buddies : list of Future
        Of each shard: on its own worker, and on that of its buddy.
    """

    own: list[Future[Any]]
    buddies: list[Future[Any]]


class StateCopies:
    """Takes the copies of one run, as often as their cost allows.

    The first ones come early, and are timed; see `Pace`.

    Parameters
    ----------
    client : Client
        A connected client.
    tasks : Placement
        Of the run.
    plan : Plan
        Of the run, with the bytes of its copies.
    log : callable, optional
        Takes lines for the user, if they want any.

    Attributes
    ----------
    missing : str
        Why the workers have no room for copies, as long as there are none.
    """

    def __init__(
        self, client: Client, tasks: Placement, plan: Plan, log: Log = quiet
    ) -> None:
        self._client = client
        self._tasks = tasks
        self._plan = plan
        self.missing = ""
        self._log = log
        self._last: Copies | None = None
        self._pace: Pace | None = None
        self._n_taken = 0
        self._is_noted = False

    @property
    def plan(self) -> Plan:
        """The plan; without copies if there are none since memory is short."""
        if self.missing and self._last is None:
            return self._plan.without_copies(self.missing)
        return self._plan

    def begin(self, trained_s: float) -> None:
        """Note that training began, this number of seconds ago."""
        share = copies_max_share()
        earned_s = self._expected_s / share if share > 0 else 0.0
        self._pace = Pace(share, first_after_s=earned_s / EARLY, passed_s=trained_s)

    @property
    def _expected_s(self) -> float:
        """Seconds that the first copies are expected to take."""
        bytes_per_s, forecast = ASSUMED_BYTES_PER_S, self._plan.forecast
        if forecast is not None and forecast.bits_per_s is not None:
            bytes_per_s = min(bytes_per_s, forecast.bits_per_s / 8)
        # All shards send at the same time.
        largest = max(self._plan.bytes_of_copies, default=0) / N_COPIES
        return N_CHAINED * TASK_S + largest / bytes_per_s

    @property
    def is_due(self) -> bool:
        """Whether what has been trained is worth what new copies will cost."""
        if self._pace is None or not self._plan.bytes_of_copies:
            return False
        return self._pace.is_due

    def take(self, shards: Sequence[Future[Any]]) -> None:
        """Copy the state of all shards; return when both copies of each are there.

        Without memory for them, those of before stay, and the next are tried when they
        are due.
        """
        assert self._pace is not None
        with self._pace.timed():
            if shortage := self._shortage():
                self._note_failure(shortage)
            else:
                # There was perhaps no room for them when the run began.
                self._tasks.note_memory(self._plan)
                self._take(shards)

    def _shortage(self) -> str | None:
        """Say which worker has too little memory for new copies, if any."""
        workers = self._tasks.workers
        memory = worker_memory(self._client, workers)
        room = {worker: its.free for worker, its in memory.items()}
        needed = self._plan.bytes_of_copies
        if self._last is not None:
            # What the previous ones take is not free any more.
            needed = tuple(n_bytes // GENERATIONS for n_bytes in needed)
        return shortage_for_copies(workers, needed, room)

    def _note_failure(self, why: str) -> None:
        """Say once what a lost worker would cost: it is no reason to end the fit."""
        self.missing = why
        if self._is_noted:
            return
        self._is_noted = True
        then = "start over" if self._last is None else "resume from earlier copies"
        line = (
            f"the state of the shards cannot be copied for now: {why}. If a worker is "
            f"lost, the fit will {then}"
        )
        LOG.info("%s", line)
        self._log(line)

    def _take(self, shards: Sequence[Future[Any]]) -> None:
        tasks, ranks = self._tasks, range(len(shards))
        tasks.phase = "copying the state of the shards"
        tasks.begin()
        number, self._n_taken = self._n_taken, self._n_taken + 1
        add = tasks.add
        copies = [
            add(rank, "copy", worker.copy_of, shards[rank], number) for rank in ranks
        ]
        # Both depend on a copy that is released then, not one on the other: Dask would
        # take that to the buddy too, and later drop one of them, maybe not the one
        # there. The buddy could be the only one that has the state.
        own = [add(rank, "own-copy", worker.keep, copies[rank]) for rank in ranks]
        buddies = [
            add((rank + 1) % len(shards), "buddy-copy", worker.keep, copies[rank])
            for rank in ranks
        ]
        futures = tasks.submit([*own, *buddies])
        tasks.wait_for(*futures)
        errors = [error for future in futures if (error := tasks.error_of(future))]
        if any(isinstance(error, MemoryError) for error in errors):
            # There was less room than it seemed.
            self._note_failure("a worker ran out of memory")
            return
        if errors:
            raise errors[0]
        if any(future.status != "finished" for future in futures):
            raise CancelledError
        # The ones before are released with the last reference to them.
        self._last = Copies(futures[: len(own)], futures[len(own) :])

    def fetch(self, silent: Collection[str] = ()) -> list[ShardCopy] | None:
        """Return the last copies, from workers that are still there; None without.

        There are none yet, or a shard's worker and its buddy's are both lost.

        Parameters
        ----------
        silent : collection of str
            Those workers of the run that do not answer.

        Raises
        ------
        TimeoutError
            If they do not arrive in time.
        """
        # Longer for large ones, which go through the scheduler.
        n_bytes = sum(self._plan.bytes_of_copies) / N_COPIES
        slowly_s = 10 * n_bytes / ASSUMED_BYTES_PER_S
        deadline = time.monotonic() + COPIES_ANSWER_S + slowly_s

        # Again whenever a worker is lost that has one of them: another may have it too.
        while (chosen := self._choose(silent)) is not None:
            try:
                return self._gather(chosen, deadline)
            except Exception:
                # Also the error of a shard that Dask has asked for a lost copy again.
                if time.monotonic() > deadline or self._are_there(chosen):
                    raise
        return None

    def _gather(
        self, chosen: Sequence[tuple[Future[Any], str]], deadline: float
    ) -> list[ShardCopy]:
        """Return copies; raise as soon as one is not there any more."""

        def check() -> None:
            if time.monotonic() > deadline:
                raise TimeoutError
            if not self._are_there(chosen):
                raise CancelledError

        last = [future for future, _ in chosen]
        gathering = submit_rpc(self._client, self._client.gather, last, direct=False)
        wait_while(check, [gathering])
        copies: list[ShardCopy] = gathering.result()
        return copies

    def _choose(self, silent: Collection[str]) -> list[tuple[Future[Any], str]] | None:
        """Return a copy of each shard, and the worker that has it; None without."""
        if self._last is None:
            return None
        where = self._homes([future for futures in self._last for future in futures])
        # Not only those that they were made on: Dask moves what only a worker that is
        # being retired has, and so does a user who calls `Client.rebalance`.
        homes = {home for there in where.values() for home in there}
        elsewhere = homes.difference(self._tasks.workers)
        avoided = {*silent, *silent_workers(self._client, elsewhere)}

        def risk_of_waiting(copy: tuple[Future[Any], str]) -> tuple[bool, bool]:
            future, home = copy
            # Of several homes, Dask asks any.
            return home in avoided, not avoided.isdisjoint(where[future.key])

        chosen = []
        for pair in zip(*self._last, strict=True):
            # Not simply gathered: of a copy that is lost Dask would run the task again,
            # on a shard that knows nothing any more, and of one on a worker that hangs
            # it would wait for the answer.
            there = [(f, home) for f in pair for home in where.get(f.key, ())]
            if not there:
                return None
            chosen.append(min(there, key=risk_of_waiting))
        return chosen

    def _are_there(self, chosen: Sequence[tuple[Future[Any], str]]) -> bool:
        """Say whether copies are still where they were."""
        where = self._homes([future for future, _ in chosen])
        return all(home in where.get(future.key, ()) for future, home in chosen)

    def _homes(self, futures: Sequence[Future[Any]]) -> Mapping[Any, Collection[str]]:
        """Return the workers that have copies, by key."""
        # Not `Client.who_has`: it raises if Dask has given up one of them.
        keys = [future.key for future in futures]
        where: Mapping[Any, Collection[str]] = ask_scheduler(
            self._client, "who_has", keys=keys
        )
        return where
