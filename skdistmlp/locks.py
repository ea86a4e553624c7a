"""A lock that a forked process finds free."""

import os
import threading
from types import TracebackType


class ForkSafeLock:
    """A `threading.Lock` that no thread of a parent process holds in a forked one.

    A fork copies a lock as it is, but not the thread that would have released it: a
    child of joblib's "multiprocessing" would wait for ever. For locks of modules, which
    are there until their process ends.
    """

    def __init__(self) -> None:
        self._renew()
        # The lock that each thread holds: after a fork not the one that is there now.
        self._held = threading.local()
        if hasattr(os, "register_at_fork"):
            # Not on Windows, which has no forks.
            os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = threading.Lock()

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Acquire the lock; see `threading.Lock`."""
        lock = self._lock
        is_acquired = lock.acquire(blocking, timeout)
        if is_acquired:
            self._held.lock = lock
        return is_acquired

    def release(self) -> None:
        """Release the lock that this thread has acquired, also in a forked process."""
        self._held.lock.release()

    def locked(self) -> bool:
        """Return whether it is held."""
        return self._lock.locked()

    def __enter__(self) -> None:
        self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.release()
