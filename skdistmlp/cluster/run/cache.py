"""Values that stay on the workers from call to call, so that they are sent once."""

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

from dask.utils import parse_bytes, parse_timedelta
from distributed import Client, Future

from skdistmlp.cluster.client.lookup import is_for_many_calls
from skdistmlp.settings import setting

_ALL: weakref.WeakSet["WorkerCache"] = weakref.WeakSet()


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
        Lets go of the value when its owner goes.
    used_at : float
        When it was last kept or found, by the monotonic clock.
    """

    future: Future[Any]
    n_bytes: int
    owner: "weakref.finalize[Any, Any] | None" = None
    used_at: float = field(default_factory=time.monotonic)


class WorkerCache:
    """What one client keeps on workers, by content: rows of a search, weights to use.

    There is room for ``skdistmlp.keep-bytes`` on all workers together. What nobody used
    for ``skdistmlp.keep-for`` makes way, and everything when the client is closed;
    until then nothing more is kept where there is no room. (A search goes round over
    its folds: if the one used last made way for the next, none would ever be found.)

    Parameters
    ----------
    client : Client
        A connected client.
    """

    def __init__(self, client: Client) -> None:
        # Not the client itself, which would then live as long as what it keeps.
        self._client = weakref.ref(client)
        self._loop: Any = client.loop
        self._lock = threading.Lock()
        # By content and worker; what was used last is last.
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self._will_look = False
        _ALL.add(self)

    @classmethod
    def of(cls, client: Client) -> "WorkerCache":
        """Return what a client keeps."""
        # An attribute: as values of a table of ours, futures would keep their client,
        # and with it their own entry, alive.
        kept: WorkerCache | None = vars(client).get("_skdistmlp_kept")
        if kept is None:
            kept = vars(client).setdefault("_skdistmlp_kept", cls(client))
        return kept

    def has_size(self, n_bytes: int) -> bool:
        """Say whether it is worth looking for a value of a size by its content."""
        with self._lock:
            return any(entry.n_bytes == n_bytes for entry in self._entries.values())

    def find(self, token: str, worker: str) -> Future[Any] | None:
        """Return a future of a value on a worker; None if it is not there.

        Parameters
        ----------
        token : str
            Stands for the content.
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
            return Future(entry.future.key, client)

    def keep(
        self,
        token: str,
        worker: str,
        future: Future[Any],
        n_bytes: int,
        owner: object = None,
    ) -> None:
        """Keep a value, beyond the life of the future.

        Parameters
        ----------
        token : str
            Stands for the content.
        worker : str
            Address of the worker that holds it.
        future : Future
            Holds it now.
        n_bytes : int
            Its size.
        owner : object, optional
            What the value goes with when nobody has it any more.
        """
        client = self._client()
        if client is None:
            return
        name = token, worker
        with self._changing():
            self._forget(name)
            if n_bytes > keep_bytes() - self._n_bytes():
                return
            entry = _Entry(Future(future.key, client), n_bytes)
            if owner is not None:
                entry.owner = weakref.finalize(owner, _let_go, weakref.ref(self), name)
                entry.owner.atexit = False
            self._entries[name] = entry

    def let_go(self, *names: tuple[str, str]) -> None:
        """Keep some values no longer, by content and worker."""
        with self._changing():
            for name in names:
                self._forget(name)

    def clear(self) -> None:
        """Keep nothing any more."""
        self.let_go(*list(self._entries))

    def later(self, what: str, *args: Any, after_s: float = 0) -> None:
        """Have the client's event loop call a method, if all is still there then."""
        method = weakref.WeakMethod(getattr(self, what))

        def call() -> None:
            if (alive := method()) is not None:
                alive(*args)

        # The loop of a client that is closed takes nothing.
        with suppress(RuntimeError):
            self._loop.add_callback(self._loop.call_later, after_s, call)

    def _n_bytes(self) -> int:
        return sum(entry.n_bytes for entry in self._entries.values())

    def _forget(self, name: tuple[str, str]) -> None:
        entry = self._entries.pop(name, None)
        if entry is not None and entry.owner is not None:
            entry.owner.detach()

    def _look(self) -> None:
        """Let go of what nobody uses."""
        self._will_look = False
        self.let_go()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the lock; let go of what is lost, unused or too much."""
        with self._lock:
            oldest = time.monotonic() - keep_for_s()
            for name, entry in list(self._entries.items()):
                if entry.future.status != "finished" or entry.used_at < oldest:
                    self._forget(name)
            while self._n_bytes() > keep_bytes():
                self._forget(next(iter(self._entries)))
            yield
            if self._entries and not self._will_look:
                self._will_look = True
                self.later("_look", after_s=keep_for_s())


def can_be_kept(client: Client, workers: Iterable[str], n_bytes: int) -> bool:
    """Say whether values of some bytes together can stay on workers for later calls.

    Workers that are threads of this process get the caller's own arrays, which the
    caller may change.
    """
    inside = any(worker.startswith("inproc://") for worker in workers)
    return not inside and is_for_many_calls(client) and 0 < n_bytes <= keep_bytes()


def keep_bytes() -> int:
    """Return ``skdistmlp.keep-bytes``."""
    n_bytes: int = parse_bytes(setting("keep-bytes"))
    return n_bytes


def keep_for_s() -> float:
    """Return ``skdistmlp.keep-for`` in seconds."""
    seconds: float = parse_timedelta(setting("keep-for"))
    return seconds


def keep_nothing() -> None:
    """Let go of everything that the clients of this process keep."""
    for kept in list(_ALL):
        kept.clear()


def content_hash(value: Any) -> str:
    """Return what stands for all that would be sent of a value.

    Dask's own ``tokenize`` takes a square array and its transpose for the same.
    """
    buffers: list[pickle.PickleBuffer] = []
    digest = hashlib.sha1(usedforsecurity=False)
    digest.update(pickle.dumps(value, protocol=5, buffer_callback=buffers.append))
    for buffer in buffers:
        digest.update(buffer.raw())
    return digest.hexdigest()


def _let_go(kept: "weakref.ref[WorkerCache]", name: tuple[str, str]) -> None:
    """Let go of a value whose owner is gone.

    An owner may go wherever Python collects garbage, also while the lock is held.
    """
    if (alive := kept()) is not None:
        alive.later("let_go", name)
