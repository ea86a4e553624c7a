"""Follow the shards of a round until they have found each other, or explain why not."""

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from skdistmlp.cluster.peers.messages import Message, ShardMet, ShardRunning
from skdistmlp.cluster.peers.shard import Roster
from skdistmlp.exceptions import ExchangeError
from skdistmlp.wire.handshake import ADVICE


class RoundStart:
    """How far the shards have come in starting a round, by their own messages.

    A shard whose task has not started is queued behind other work on its worker, which
    may take any time. Only once all tasks run do the shards have a deadline, that of an
    exchange, to find each other. The client keeps it: a shard cannot know whether the
    others have started, so it waits without a deadline until its task is cancelled.

    Parameters
    ----------
    roster : Roster
        The shards of the fit.
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
        # No deadline while any task is queued; `note` sets it.
        self._deadline = float("inf")

    @property
    def waiting_workers(self) -> list[str]:
        """Workers on which the task of a shard has not started."""
        return [self._workers[rank] for rank in sorted(self._queued)]

    @property
    def have_met(self) -> bool:
        """Whether every shard is known to have found the others."""
        return not self._missing

    def note(self, message: Message) -> None:
        """Note what a shard says of itself.

        Messages travel through the scheduler and arrive late: those of the last round
        may arrive in this one, so only this round's count. Those of different workers
        arrive in any order: a shard may be seen to meet the others before one of them
        is seen to run.
        """
        match message:
            case ShardRunning(rank, self._number):
                self._queued.discard(rank)
                if not self._queued:
                    # From the arrival of the last message, no earlier than the last
                    # start. The messages that all have met must arrive in time too.
                    self._deadline = time.monotonic() + self._roster.timeout_s
            case ShardMet(rank, self._number):
                self._missing.discard(rank)

    def timed_out(self) -> bool:
        """Say whether some shards did not find the others in time."""
        return bool(self._missing) and time.monotonic() > self._deadline

    def error(self, missing: Mapping[str, Sequence[int]]) -> ExchangeError:
        """Return an error that names the shards to blame.

        Parameters
        ----------
        missing : mapping of str to sequence of int
            By worker, the shards that its own has yet to find. Workers that do not
            answer the client are left out: they are to blame. If all answer, it is the
            connections that are missing.
        """
        lost = sorted(self._missing)
        silent = [rank for rank in lost if self._workers[rank] not in missing]
        pairs = {
            frozenset((rank, other))
            for rank in lost
            for other in missing.get(self._workers[rank], ())
        }
        are_apart = bool(pairs) and not silent
        if not are_apart:
            named = f"to {self._named(silent or lost)}"
        else:
            named = f"{'; '.join(self._between(pairs))}. {ADVICE}"
        error = ExchangeError(
            f"the shards could not connect to each other within "
            f"{self._roster.timeout_s:g} s (skdistmlp.exchange-timeout): no connection "
            f"{named}"
        )
        error.silent = tuple(w for w in self._workers if w not in missing)
        if are_apart:
            error.apart = tuple((min(pair), max(pair)) for pair in pairs)
        return error

    def _between(self, pairs: set[frozenset[int]]) -> Iterator[str]:
        """Name each pair of shards once; first those that miss the most others."""
        while pairs:
            counts = Counter(
                rank for pair in sorted(map(sorted, pairs)) for rank in pair
            )
            (most, _), *_ = counts.most_common(1)
            others = sorted(rank for pair in pairs if most in pair for rank in pair)
            others = [rank for rank in others if rank != most]
            yield f"between {self._named([most])} and {self._named(others)}"
            pairs = {pair for pair in pairs if most not in pair}

    def _named(self, ranks: Sequence[int]) -> str:
        return ", ".join(self._roster.names[rank] for rank in ranks)
