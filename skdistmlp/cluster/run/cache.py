"""A cache of values on the workers: from call to call, each is sent once."""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import hashlib
import pickle
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from distributed import Client, Future

from skdistmlp.cluster._dask import call_later, call_scheduler, event_loop_runs_here
from skdistmlp.cluster.client.lookup import is_for_many_calls
from skdistmlp.cluster.client.rpc import submit_rpc
from skdistmlp.settings import cache_max_bytes, cache_ttl_s
from skdistmlp.timeouts import EXIT_RELEASE_S, RELEASE_POLL_S

_ALL: weakref.WeakSet[WorkerCache] = weakref.WeakSet()


@dataclass
class _Entry:
    """A value on one worker.

    Attributes
    ----------
    future : Future
        Holds the value there.
    n_bytes : int
        Its size.
    owner : finalize or None
        Drops the value when its owner is garbage collected.
    used_at : float
        When it was last kept or found, by the monotonic clock.
    """

    future: Future[Any]
    n_bytes: int
    owner: weakref.finalize[Any, Any] | None = None
    used_at: float = field(default_factory=time.monotonic)


class WorkerCache:
    """Values that one client keeps on workers, by content: rows and parameters.

    It holds at most ``skdistmlp.cache.max-bytes`` on all workers together. Values that
    no call has used for ``skdistmlp.cache.ttl`` are dropped, and all of them when the
    client is closed or the process ends. A value for which there is no room is not
    kept, rather than another evicted: a search cycles through its folds, and if each
    fold evicted the one that was used longest ago, none would ever be found.

    Parameters
    ----------
    client : Client
        A connected client.
    """

    def __init__(self, client: Client) -> None:
        # Weak: the client holds this cache as an attribute, and a cycle would keep both
        # alive until Python collects garbage.
        self._client = weakref.ref(client)
        # Threads of the scatterer, of callers and of the client's event loop.
        self._lock = threading.Lock()
        # By content and worker; the most recently used is last.
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self._will_expire = False
        _ALL.add(self)

    @classmethod
    def of(cls, client: Client) -> WorkerCache:
        """Return the cache of a client."""
        # An attribute of the client, not a value in a WeakKeyDictionary: the futures
        # there would keep their client, and thereby their own key, alive.
        cache: WorkerCache | None = vars(client).get("_skdistmlp_cache")
        if cache is None:
            # Atomic: of two threads that come here, both get the same cache.
            cache = vars(client).setdefault("_skdistmlp_cache", cls(client))
        return cache

    def has_size(self, n_bytes: int) -> bool:
        """Say whether a value of this size is cached, so that hashing may pay off."""
        with self._lock:
            return any(entry.n_bytes == n_bytes for entry in self._entries.values())

    def find(self, token: str, worker: str) -> Future[Any] | None:
        """Return a future of a value on a worker; None if it is not there.

        Parameters
        ----------
        token : str
            Hash of the content.
        worker : str
            Address.
        """
        client = self._client()
        with self._changing():
            entry = self._entries.get((token, worker))
            if client is None or entry is None or entry.future.status != "finished":
                return None
            entry.used_at = time.monotonic()
            self._entries.move_to_end((token, worker))
            # A separate future: the caller releases it at the end of its run. Created
            # under the lock, while the entry's future still holds the value.
            return Future(entry.future.key, client)

    def keep(
        self,
        token: str,
        worker: str,
        future: Future[Any],
        n_bytes: int,
        owner: object = None,
    ) -> None:
        """Keep a value beyond the life of a future, if there is room.

        Parameters
        ----------
        token : str
            Hash of the content.
        worker : str
            Address of the worker that holds the value.
        future : Future
            Holds it now.
        n_bytes : int
            Its size.
        owner : object, optional
            When it is garbage collected, the value is dropped.
        """
        client = self._client()
        if client is None:
            return
        name = token, worker
        with self._changing():
            self._drop(name)
            if n_bytes > cache_max_bytes() - self._n_bytes():
                return
            entry = _Entry(Future(future.key, client), n_bytes)
            if owner is not None:
                entry.owner = weakref.finalize(
                    owner, _drop_later, weakref.ref(self), name
                )
                entry.owner.atexit = False
            self._entries[name] = entry

    def drop(self, *names: tuple[str, str]) -> None:
        """Drop some values, named by content and worker, and all that have expired."""
        with self._changing():
            for name in names:
                self._drop(name)

    def clear(self) -> None:
        """Drop everything, but not in a process that was forked.

        The values are those of the process that has the client's event loop, where
        another thread may have held the lock when this process was forked.
        """
        client = self._client()
        if client is not None and not event_loop_runs_here(client):
            return
        with self._lock:
            names = list(self._entries)
        self.drop(*names)

    def release(self) -> concurrent.futures.Future[None] | None:
        """Drop everything, and whoever else in this process holds it; for its end.

        Returns
        -------
        Future or None
            Done when the scheduler has dropped it too; None if it cannot be asked.
        """
        client = self._client()
        if client is None or client.status != "running":
            return None
        if not event_loop_runs_here(client):
            return None
        with self._lock:
            futures = [entry.future for entry in self._entries.values()]
        return submit_rpc(client, _release, client, futures) if futures else None

    def call_later(self, method: str, *args: Any, after_s: float = 0) -> None:
        """Have the client's event loop call a method, if this cache still exists then.

        Never called directly where the lock may be held; see `_drop_later`.
        """
        weak_method = weakref.WeakMethod(getattr(self, method))

        def call() -> None:
            if (alive := weak_method()) is not None:
                alive(*args)

        client = self._client()
        if client is not None and event_loop_runs_here(client):
            call_later(client, after_s, call)

    def _n_bytes(self) -> int:
        return sum(entry.n_bytes for entry in self._entries.values())

    def _drop(self, name: tuple[str, str]) -> None:
        """Drop a value; call it with the lock held."""
        entry = self._entries.pop(name, None)
        if entry is not None and entry.owner is not None:
            entry.owner.detach()

    def _expire(self) -> None:
        """Drop what has expired."""
        with self._lock:
            self._will_expire = False
        self.drop()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the lock; first drop what is lost, expired or beyond the limit."""
        with self._lock:
            oldest = time.monotonic() - cache_ttl_s()
            for name, entry in list(self._entries.items()):
                # A status other than "finished": its worker was lost.
                if entry.future.status != "finished" or entry.used_at < oldest:
                    self._drop(name)
            # The setting may have been lowered since.
            while self._n_bytes() > cache_max_bytes():
                self._drop(next(iter(self._entries)))
            yield
            # One timer at a time, and none for an empty cache.
            if self._entries and not self._will_expire:
                self._will_expire = True
                # The first is the one whose last use is longest ago.
                used_at = next(iter(self._entries.values())).used_at
                left_s = used_at + cache_ttl_s() - time.monotonic()
                self.call_later("_expire", after_s=max(left_s, 0))


def is_cacheable(client: Client, workers: Iterable[str], n_bytes: int) -> bool:
    """Say whether values of this size may stay on workers for later calls.

    Workers that are threads of this process get the caller's own arrays, which the
    caller may change.
    """
    # Both settings are read here, in the caller's thread: an error about a bad value
    # would be lost in the thread that caches what has been sent.
    if not 0 < n_bytes <= cache_max_bytes() or cache_ttl_s() == 0:
        return False
    inside = any(worker.startswith("inproc://") for worker in workers)
    return not inside and is_for_many_calls(client)


def clear_caches() -> None:
    """Drop everything that the clients of this process keep."""
    for cache in list(_ALL):
        cache.clear()


@atexit.register
def _release_at_exit() -> None:
    """Drop everything before Dask closes its clusters.

    Dask registered its own functions before this one, so they are called later. It
    would report the rows of each worker that ends as lost.
    """
    releases = []
    for cache in list(_ALL):
        # A client that is just being closed.
        with suppress(RuntimeError):
            releases.append(cache.release())
    answers = [answer for answer in releases if answer is not None]
    # Not for long: the cluster may be gone, or hang.
    concurrent.futures.wait(answers, EXIT_RELEASE_S)
    for answer in answers:
        answer.cancel()


async def _release(client: Client, futures: list[Future[Any]]) -> None:
    """Release values on the scheduler, and wait until it has; on the event loop."""
    keys = [future.key for future in futures]
    # Not only these futures: a lazy prediction may still hold another of its network.
    await client.cancel(futures)
    while any((await call_scheduler(client, "who_has", keys=keys)).values()):
        await asyncio.sleep(RELEASE_POLL_S)


def content_hash(value: Any) -> str:
    """Return a hash of all that would be sent of a value.

    Dask's own ``tokenize`` gives a square array and its transpose the same token.
    """
    buffers: list[pickle.PickleBuffer] = []
    digest = hashlib.sha1(usedforsecurity=False)
    digest.update(pickle.dumps(value, protocol=5, buffer_callback=buffers.append))
    for buffer in buffers:
        digest.update(buffer.raw())
    return digest.hexdigest()


def _drop_later(cache: weakref.ref[WorkerCache], name: tuple[str, str]) -> None:
    """Drop a value whose owner is gone, on the client's event loop.

    Python may collect an owner at any allocation, also in a thread that holds the lock:
    to take the lock here could wait for itself.
    """
    if (alive := cache()) is not None:
        alive.call_later("drop", name)
