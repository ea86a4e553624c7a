"""Values that stay on the workers from call to call, so that they are sent once."""

import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from dask.utils import parse_bytes, parse_timedelta
from distributed import Client, Future

from skdistmlp.cluster.settings import setting

_ALL: weakref.WeakSet["Kept"] = weakref.WeakSet()


@dataclass
class _Entry:
    """A value on one worker.

    Attributes
    ----------
    future : Future
        Holds the value there.
    n_bytes : int
        Its size.
    used_at : float
        When it was last kept or found, by the monotonic clock.
    """

    future: Future[Any]
    n_bytes: int
    used_at: float = field(default_factory=time.monotonic)


class Kept:
    """What one client keeps on workers, by content: rows of a search, weights to use.

    There is room for ``skdistmlp.keep-bytes`` on all workers together: what was not
    used for the longest time makes way. What nobody used for ``skdistmlp.keep-for``
    goes too, and everything when the client is closed.

    Parameters
    ----------
    client : Client
        A connected client.
    """

    def __init__(self, client: Client) -> None:
        # Not the client itself, which would then live as long as what it keeps.
        self._client = weakref.ref(client)
        self._loop = client.loop
        self._lock = threading.Lock()
        # By content and worker; what was used last is last.
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()
        self._will_look = False
        _ALL.add(self)

    @classmethod
    def of(cls, client: Client) -> "Kept":
        """Return what a client keeps."""
        # An attribute: as values of a table of ours, futures would keep their client,
        # and with it their own entry, alive.
        kept: Kept | None = vars(client).get("_skdistmlp_kept")
        if kept is None:
            kept = vars(client).setdefault("_skdistmlp_kept", cls(client))
        return kept

    def may_have(self, n_bytes: int) -> bool:
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
        with self._changing():
            own: Future[Any] = Future(future.key, client)
            self._entries[token, worker] = _Entry(own, n_bytes)
            self._entries.move_to_end((token, worker))
        if owner is not None:
            # An owner may go while the lock is held, wherever Python collects garbage.
            let_go = weakref.WeakMethod(self.let_go)
            gone = weakref.finalize(owner, _later, self._loop, let_go, (token, worker))
            gone.atexit = False

    def let_go(self, *names: tuple[str, str]) -> None:
        """Keep some values no longer, by content and worker."""
        with self._changing():
            for name in names:
                self._entries.pop(name, None)

    def clear(self) -> None:
        """Keep nothing any more."""
        self.let_go(*list(self._entries))

    def _look(self) -> None:
        """Let go of what nobody uses."""
        self._will_look = False
        self.let_go()

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Hold the lock; then let go of what is lost, unused or too much."""
        with self._lock:
            yield
            oldest = time.monotonic() - keep_for_s()
            for name, entry in list(self._entries.items()):
                if entry.future.status != "finished" or entry.used_at < oldest:
                    del self._entries[name]
            room = keep_bytes()
            while sum(entry.n_bytes for entry in self._entries.values()) > room:
                self._entries.popitem(last=False)
            if self._entries and not self._will_look:
                self._will_look = True
                look = weakref.WeakMethod(self._look)
                _later(self._loop, look, after_s=keep_for_s())


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


def _later(
    loop: Any, method: weakref.WeakMethod[Any], *args: Any, after_s: float = 0
) -> None:
    """Have an event loop call a method, if its object is still there then."""

    def call() -> None:
        if (alive := method()) is not None:
            alive(*args)

    # The loop of a client that is closed takes nothing.
    with suppress(RuntimeError):
        loop.add_callback(loop.call_later, after_s, call)
