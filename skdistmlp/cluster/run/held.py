"""The futures of one run, so that none of them outlives it on the cluster."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

from distributed import Future

from skdistmlp.cluster._dask import release_futures


class HeldFutures:
    """All futures of a run that somebody still has, to be released when it ends.

    A future may outlive its user: the traceback of an error or a timeout holds it until
    Python collects garbage.
    """

    def __init__(self) -> None:
        # One thread submits or scatters while another, after an interrupt, closes: the
        # lock decides for each future whether `close` finds it or `add` releases it.
        self._lock = threading.Lock()
        self._closed = False
        # Weak, so that a value goes from the cluster when its last user drops it.
        self._rank_of: WeakKeyDictionary[Future[Any], int] = WeakKeyDictionary()

    def add(self, futures: Iterable[tuple[Future[Any], int]]) -> None:
        """Note futures with the ranks of their shards; release them after the end."""
        futures = list(futures)
        with self._lock:
            self._rank_of.update(futures)
            closed = self._closed
        if closed:
            release_futures(future for future, _ in futures)

    def rank_of(self, future: Future[Any]) -> int:
        """Return the rank of the shard that a future belongs to."""
        return self._rank_of[future]

    @property
    def is_closed(self) -> bool:
        """Whether the run has ended."""
        return self._closed

    def pending(self) -> list[Future[Any]]:
        """Return those whose tasks have not ended."""
        with self._lock:
            futures = list(self._rank_of)
        return [future for future in futures if not future.done()]

    @contextmanager
    def staying_open(self) -> Iterator[bool]:
        """Yield whether the run is open; it cannot be closed within the context."""
        with self._lock:
            yield not self._closed

    def close(self) -> None:
        """Release all futures, and from now on each that is added."""
        with self._lock:
            self._closed = True
            release_futures(list(self._rank_of))
