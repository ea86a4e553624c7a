"""Whether the shards of a round find each other, and why not."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from skdistmlp.cluster.client import retiring
from skdistmlp.cluster.shard_run import MET, RUNNING, Roster
from skdistmlp.exceptions import ExchangeError, WorkerLostError


class Meeting:
    """How far the shards have come in beginning a round, as they tell it.

    One whose task has not begun is queued behind other work, and is waited for. When
    all have begun, they have the time of an exchange to find each other.

    Parameters
    ----------
    roster : Roster
        Who takes part.
    workers : sequence of str
        Address of the worker of each shard.
    number : int
        Number of the round.
    """

    def __init__(self, roster: Roster, workers: Sequence[str], number: int) -> None:
        self._roster = roster
        self._workers = workers
        self._number = number
        self._missing = set(range(len(workers)))
        self._queued = set(self._missing)
        self._deadline = float("inf")
        self._paused_since: dict[int, float] = {}

    @property
    def is_waiting(self) -> bool:
        """Whether the task of a shard has not begun."""
        return bool(self._queued)

    def note(self, message: Mapping[str, Any]) -> None:
        """Note what a shard says of itself."""
        if message.get("round") != self._number:
            return
        if message["state"] == RUNNING:
            self._queued.discard(message["rank"])
            if not self._queued:
                self._deadline = _now() + self._roster.timeout_s
        elif message["state"] == MET:
            self._missing.discard(message["rank"])

    def check_queued(self, statuses: Mapping[str, str]) -> None:
        """See that the workers of the shards in question take tasks at all.

        Parameters
        ----------
        statuses : mapping of str to str
            What Dask calls the status of each worker, by address.

        Raises
        ------
        WorkerLostError
            If one is being retired, or was paused for longer than an exchange may
            take: its shard is a part of the memory that would have to come free.
        """
        for rank in sorted(self._queued):
            worker = self._workers[rank]
            status = statuses.get(worker, "gone")
            if status == "closing_gracefully":
                raise WorkerLostError(retiring(worker))
            if status != "paused":
                self._paused_since.pop(rank, None)
            elif self._is_late_since(self._paused_since.setdefault(rank, _now())):
                raise WorkerLostError(
                    f"worker {worker} is paused while training, for more than "
                    f"{self._roster.timeout_s:g} s: it uses too much memory to take "
                    f"new tasks. Use more workers, or workers with more memory."
                )

    def is_late(self) -> bool:
        """Say whether some shards do not find the others."""
        return bool(self._missing) and _now() > self._deadline

    def error(self, answering: set[str]) -> ExchangeError:
        """Return an error that names the shards that do not answer, if there are.

        Parameters
        ----------
        answering : set of str
            Workers that do.
        """
        silent = [r for r in sorted(self._missing) if self._workers[r] not in answering]
        named = ", ".join(
            self._roster.names[r] for r in silent or sorted(self._missing)
        )
        return ExchangeError(
            f"the shards could not meet within {self._roster.timeout_s:g} s "
            f"(skdistmlp.exchange-timeout): waited in vain for {named}"
        )

    def _is_late_since(self, when: float) -> bool:
        return _now() > when + self._roster.timeout_s


def _now() -> float:
    return time.monotonic()
