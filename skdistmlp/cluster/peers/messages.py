"""What shards tell their client during a round: the messages, and both of their ends.

They travel as plain dicts over a topic of Dask, which serializes with msgpack; only
this module knows their encoding.
"""

import queue
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from distributed import Client, get_worker

from skdistmlp.locks import ForkSafeLock

TOPIC = "skdistmlp"
"""Dask's topic of all messages of all fits."""


@dataclass(frozen=True)
class ProgressLine:
    """A line to print, such as the loss of an epoch.

    Attributes
    ----------
    text : str
        The line.
    number : int
        How many lines of the fit came before it, whatever was lost meanwhile.
    """

    text: str
    number: int = 0


@dataclass(frozen=True)
class ShardRunning:
    """The task of a shard has started a round.

    Attributes
    ----------
    rank : int
        Number of the shard.
    round : int
        Number of the round.
    """

    rank: int
    round: int


@dataclass(frozen=True)
class ShardMet:
    """A shard has found all others in a round; the attributes are as above."""

    rank: int
    round: int


@dataclass(frozen=True)
class TaskEnded:
    """A task of the round has ended; the client sends this to itself."""


Message: TypeAlias = ProgressLine | ShardRunning | ShardMet | TaskEnded
Messages = queue.SimpleQueue[Message]

_TYPES: dict[str, Callable[..., Message]] = {
    type_.__name__: type_ for type_ in (ProgressLine, ShardRunning, ShardMet)
}


def encode(run: str, message: Message) -> dict[str, Any]:
    """Return a message, and the run that it belongs to, as plain values."""
    return {"run": run, "type": type(message).__name__, "fields": asdict(message)}


def decode(event: Mapping[str, Any]) -> Message:
    """Return the message that `encode` was given."""
    return _TYPES[event["type"]](**event["fields"])


@dataclass
class Sender:
    """Sends the messages of one shard to its client, from the shard's task.

    Attributes
    ----------
    run : str
        The run, as the client named it to `messages_of`.
    rank : int
        Number of the shard.
    n_lines : int
        Lines that have been sent, by this shard or before it.
    """

    run: str
    rank: int
    n_lines: int = 0

    def progress(self, text: str) -> None:
        """Have the client print a line."""
        self._send(ProgressLine(text, self.n_lines))
        self.n_lines += 1

    def running(self, number: int) -> None:
        """Say that the task of a round has started."""
        self._send(ShardRunning(self.rank, number))

    def met(self, number: int) -> None:
        """Say that this shard has found all others in a round."""
        self._send(ShardMet(self.rank, number))

    def _send(self, message: Message) -> None:
        get_worker().log_event(TOPIC, encode(self.run, message))


_LISTENERS: WeakKeyDictionary[Client, dict[str, Messages]] = WeakKeyDictionary()
"""The queue of each run, by client: Dask has one handler per topic and client."""

_LOCK = ForkSafeLock()
"""Several threads may fit with one client: without the lock, two that subscribe at the
same time could make a dict of listeners each, and Dask's handler would know one
only."""


@contextmanager
def messages_of(client: Client, run: str, messages: Messages) -> Iterator[None]:
    """Put the messages of a run into a queue as they arrive."""
    with _LOCK:
        listeners = _LISTENERS.setdefault(client, {})
        listeners[run] = messages
        # Each time, although it may be subscribed: the client may have found another
        # scheduler at the same address, which knows of no subscription.
        client.subscribe_topic(TOPIC, _handler(listeners))
    try:
        yield
    finally:
        # No lock: this is atomic, and the dict of a client stays the same.
        del listeners[run]


def _handler(
    listeners: Mapping[str, Messages],
) -> Callable[[tuple[float, dict[str, Any]]], None]:
    def handle(event: tuple[float, dict[str, Any]]) -> None:
        _, encoded = event
        # Dask replays old events of a topic to new subscribers, and sends all runs of
        # all clients: only those that somebody waits for are taken.
        if (messages := listeners.get(encoded["run"])) is not None:
            messages.put(decode(encoded))

    return handle
