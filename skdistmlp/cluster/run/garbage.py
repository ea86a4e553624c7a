"""Have a worker free what only a cycle of references still holds.

When a task fails, the error and the frames of its traceback hold each other, and with
them the arguments of the task: a shard and all rows. So do the errors of values that
Dask tried to write to disk and could not. Python frees such cycles when it happens to
collect garbage, which on an idle worker may be never.
"""

import gc
from collections.abc import Callable
from typing import Any
from weakref import ref

from distributed import Worker, get_worker

from skdistmlp.cluster._dask import call_later
from skdistmlp.timeouts import GARBAGE_AFTER_S, GARBAGE_AT_MOST_EVERY_S


class _InFrame:
    """Lives exactly as long as the frame that has it in a variable."""


def run_task(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function on a worker; if it fails, have what it was given freed."""
    in_frame = _InFrame()
    try:
        return function(*args)
    except BaseException:
        collect_until_gone(get_worker(), ref(in_frame))
        raise


def collect_until_gone(
    worker: Worker,
    value: "ref[Any]",
    is_dropped: Callable[[], bool] = lambda: True,
) -> None:
    """Collect garbage until a value is gone, from the time that it is dropped.

    Parameters
    ----------
    worker : Worker
        The worker of this process, whose event loop does it.
    value : weakref.ref
        The value.
    is_dropped : callable
        Says whether nobody needs the value any more. It must not hold the value.
    """

    def look(after_s: float) -> None:
        if value() is None:
            return
        if is_dropped():
            # Again and again, since Dask may not have sent an error yet, which holds
            # the value until then; and ever more seldom, since it takes time.
            gc.collect()
            after_s = min(2 * after_s, GARBAGE_AT_MOST_EVERY_S)
        call_later(worker, after_s, look, after_s)

    call_later(worker, GARBAGE_AFTER_S, look, GARBAGE_AFTER_S)
