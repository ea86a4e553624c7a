"""What shards tell the client while they train."""

import queue
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from distributed import Client

from skdistmlp.cluster.shard_run import TOPIC

Lines = queue.SimpleQueue[str | None]

_LISTENERS: WeakKeyDictionary[Client, dict[str, Lines]] = WeakKeyDictionary()
"""Who waits for lines, by client and run. Dask has one handler a topic and client."""


@contextmanager
def lines_of(client: Client, run: bytes, lines: Lines) -> Iterator[None]:
    """Put into `lines` what the shards of a run say, as it comes."""
    listeners = _LISTENERS.get(client)
    if listeners is None:
        listeners = _LISTENERS[client] = {}
        client.subscribe_topic(TOPIC, _handler(listeners))
    listeners[run.hex()] = lines
    try:
        yield
    finally:
        del listeners[run.hex()]


def _handler(
    listeners: dict[str, Lines],
) -> Callable[[tuple[float, dict[str, Any]]], None]:
    def handle(event: tuple[float, dict[str, Any]]) -> None:
        _, message = event
        if (lines := listeners.get(message["run"])) is not None:
            lines.put(message["line"])

    return handle
