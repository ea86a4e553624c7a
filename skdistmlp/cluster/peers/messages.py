"""What shards tell the client while they train."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from distributed import Client

from skdistmlp.cluster.peers.worker import TOPIC

Messages = queue.SimpleQueue[dict[str, Any]]

_LISTENERS: WeakKeyDictionary[Client, dict[str, Messages]] = WeakKeyDictionary()
"""Who waits, by client and run: Dask has one handler for each topic of a client."""

_LOCK = threading.Lock()


@contextmanager
def messages_of(client: Client, run: bytes, messages: Messages) -> Iterator[None]:
    """Put into `messages` what the shards of a run say, as it comes."""
    with _LOCK:
        listeners = _LISTENERS.setdefault(client, {})
        listeners[run.hex()] = messages
        # Each time: the client may have found another scheduler at the same address.
        client.subscribe_topic(TOPIC, _handler(listeners))
    try:
        yield
    finally:
        del listeners[run.hex()]


def _handler(
    listeners: dict[str, Messages],
) -> Callable[[tuple[float, dict[str, Any]]], None]:
    def handle(event: tuple[float, dict[str, Any]]) -> None:
        _, message = event
        if (messages := listeners.get(message["run"])) is not None:
            messages.put(message)

    return handle
