"""A worker whose link to the others is slow."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from distributed import Client

from skdistmlp.wire.transfers import Link

BYTES_PER_S = 4e6
"""So slow that nothing else which keeps a busy machine looks like it."""

CHUNK_BYTES = 16_384
"""Bytes that are sent at a time."""


@contextmanager
def slow_link(client: Client, worker: str) -> Iterator[None]:
    """Let a worker send its peers no more than `BYTES_PER_S`.

    Of connections that are made meanwhile.
    """
    client.run(_slow_down, workers=[worker])
    try:
        yield
    finally:
        client.run(_restore, workers=[worker])


def _slow_down() -> None:
    original = Link.__post_init__

    def connect(link: Link) -> None:
        original(link)
        send = link.send

        def send_slowly(views: Sequence[memoryview]) -> int:
            chunk = views[0][:CHUNK_BYTES]
            time.sleep(chunk.nbytes / BYTES_PER_S)
            return send([chunk])

        link.send = send_slowly

    connect.original = original
    Link.__post_init__ = connect


def _restore() -> None:
    Link.__post_init__ = Link.__post_init__.original
