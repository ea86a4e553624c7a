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

import numpy as np
from distributed import Client, Future

from skdistmlp.cluster.client.rpc import submit_rpc, wait_while
from skdistmlp.cluster.client.scheduler import ask_scheduler
from skdistmlp.cluster.client.workers import worker_memory
from skdistmlp.cluster.peers import worker
from skdistmlp.cluster.peers.shard import ShardCopy
from skdistmlp.cluster.run.liveness import silent_workers
from skdistmlp.cluster.run.placement import Placement
from skdistmlp.settings import copies_max_share
from skdistmlp.timeouts import COPIES_ANSWER_S
from skdistmlp.training.job import TrainingJob
from skdistmlp.training.loop import Log, quiet
from skdistmlp.training.pace import Pace

LOG = logging.getLogger("skdistmlp")

ASSUMED_BYTES_PER_S = 1e8
"""Bytes of a shard's state that are taken to reach its buddy in a second, at first."""

N_COPIES = 4
"""Maximum number of copies on a worker: of its own shard and of another one, and the
previous copies of both."""


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

    Parameters
    ----------
    client : Client
        A connected client.
    tasks : Placement
        Of the run.
    n_bytes : int
        Bytes of the state of a shard, at most.
    log : callable, optional
        Takes lines for the user, if they want any.
    """

    def __init__(
        self, client: Client, tasks: Placement, n_bytes: int, log: Log = quiet
    ) -> None:
        self._client = client
        self._tasks = tasks
        self._n_bytes = n_bytes
        self._log = log
        self._last: Copies | None = None
        expected_s = n_bytes / ASSUMED_BYTES_PER_S
        self._pace = Pace(copies_max_share(), expected_s=expected_s)
        self._n_taken = 0
        self._is_noted = False

    @property
    def is_due(self) -> bool:
        """Whether the time since the last copies is worth what new ones will cost."""
        # A single shard has no buddy.
        return len(self._tasks.workers) > 1 and self._pace.is_due

    def take(self, shards: Sequence[Future[Any]]) -> None:
        """Copy the state of all shards; return when both copies of each are there.

        Without memory for them, those of before stay, and the next are tried when they
        are due.
        """
        with self._pace.timed():
            if worker := self._worker_without_room():
                self._note_failure(f"worker {worker} has no memory for them")
            else:
                self._take(shards)

    def _worker_without_room(self) -> str | None:
        """Return a worker that has too little memory for new copies, if any."""
        memory = worker_memory(self._client, self._tasks.workers)
        # What the previous ones take is not free any more.
        n_new = N_COPIES if self._last is None else N_COPIES // 2
        needed = n_new * self._n_bytes
        return next((at for at, its in memory.items() if its.free < needed), None)

    def _note_failure(self, why: str) -> None:
        """Say once what a lost worker would cost: it is no reason to end the fit."""
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

    def fetch(self) -> list[ShardCopy] | None:
        """Return the last copies, from workers that are still there; None without.

        There are none yet, or a shard's worker and its buddy's are both lost.

        Raises
        ------
        TimeoutError
            If they do not arrive in time.
        """
        # Longer for large ones, which go through the scheduler.
        slowly_s = 10 * len(self._tasks.workers) * self._n_bytes / ASSUMED_BYTES_PER_S
        deadline = time.monotonic() + COPIES_ANSWER_S + slowly_s

        # Again whenever a worker is lost that has one of them: another may have it too.
        while (chosen := self._choose()) is not None:
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

    def _choose(self) -> list[tuple[Future[Any], str]] | None:
        """Return a copy of each shard, and the worker that has it; None without."""
        if self._last is None:
            return None
        where = self._homes([future for futures in self._last for future in futures])
        # Not only those that they were made on: Dask moves what only a worker that is
        # being retired has, and so does a user who calls `Client.rebalance`.
        homes = {home for there in where.values() for home in there}
        silent = {*silent_workers(self._client, homes)}

        def risk_of_waiting(copy: tuple[Future[Any], str]) -> tuple[bool, bool]:
            future, home = copy
            # Of several homes, Dask asks any.
            return home in silent, not silent.isdisjoint(where[future.key])

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


def state_bytes(job: TrainingJob, n_rows: int) -> int:
    """Return the bytes of the state of a shard of a fit on some rows, at most."""
    layouts = [job.split.layout(shard) for shard in range(job.split.n_shards)]
    n_parameters = max(layout.n_parameters for layout in layouts)
    # Parameters, moments, and the best parameters; of the first shard, the order of the
    # rows and which of them are held out.
    parameters = n_parameters * job.dtype.itemsize * (2 + job.n_moments)
    return parameters + n_rows * np.dtype(np.intp).itemsize
