"""Whether the shards of a round find each other, and why not."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from skdistmlp.cluster.peers.worker import MET, RUNNING, Roster
from skdistmlp.exceptions import ExchangeError


class RoundStart:
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

    @property
    def waiting_workers(self) -> list[str]:
        """Workers on which the task of a shard has not begun."""
        return [self._workers[rank] for rank in sorted(self._queued)]

    def note(self, message: Mapping[str, Any]) -> None:
        """Note what a shard says of itself."""
        if message.get("round") != self._number:
            return
        if message["state"] == RUNNING:
            self._queued.discard(message["rank"])
            if not self._queued:
                self._deadline = time.monotonic() + self._roster.timeout_s
        elif message["state"] == MET:
            self._missing.discard(message["rank"])

    def timed_out(self) -> bool:
        """Say whether some shards do not find the others."""
        return bool(self._missing) and time.monotonic() > self._deadline

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
