"""How many threads matrix products use, which is one number for a whole process."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from threadpoolctl import OpenBLASController, ThreadpoolController

from skdistmlp.locks import ForkSafeLock

_LOCK = ForkSafeLock()
_controller: ThreadpoolController | None = None
_users = 0
_limits: Any = None


@contextmanager
def blas_threads(n_threads: int) -> Iterator[None]:
    """Let matrix products of this process use so many threads.

    The first to enter sets the limit, the last to leave restores what was found.
    """
    global _controller, _users, _limits
    with _LOCK:
        if _users == 0:
            # Looking for the libraries takes a millisecond or more: once a process.
            _controller = _controller or ThreadpoolController()
            _limits = _controller.limit(limits=n_threads, user_api="blas")
            let_others_set_limits()
        _users += 1
    try:
        yield
    finally:
        with _LOCK:
            _users -= 1
            if _users == 0:
                _limits.restore_original_limits()
                let_others_set_limits()


def let_others_set_limits() -> None:
    """Give up this thread's hold on OpenBLAS.

    threadpoolctl from 3.8 on lets only the thread that set a limit set the next, and
    whoever leaves last may be another one.
    """
    if hasattr(OpenBLASController, "clear_controlling_thread"):
        OpenBLASController.clear_controlling_thread()
