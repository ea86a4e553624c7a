"""Refuse a fit inside a callback of another one that holds the same workers."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from skdistmlp.exceptions import ClusterError

_THREAD = threading.local()
"""In `workers`, while a thread calls the callbacks of a fit, the workers of that fit: a
fit inside a callback would wait forever for them."""


@contextmanager
def calling_back(workers: Sequence[str]) -> Iterator[None]:
    """Note in the context that this thread calls the callbacks of a fit."""
    _THREAD.workers = workers
    try:
        yield
    finally:
        _THREAD.workers = None


def check_not_nested(workers: Sequence[str]) -> None:
    """Raise `ClusterError` if a callback of a fit on these workers called this."""
    held = set(getattr(_THREAD, "workers", None) or ()) & set(workers)
    if held:
        raise ClusterError(
            f"fit(engine='peers') was called from a callback of a fit that holds "
            f"workers {', '.join(sorted(held))}; it would deadlock. Use "
            f"engine='local', or fit after that fit ends."
        )
