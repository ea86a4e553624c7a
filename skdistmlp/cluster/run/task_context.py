"""What a task asks of the worker that it runs on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from distributed import get_worker

from skdistmlp.parallel.blas import blas_threads


def task_cancellation() -> Callable[[], bool]:
    """Return a function that says whether Dask has cancelled the task that calls this.

    Dask cannot end a task that runs: it forgets it, when its client is gone or has
    let go of it, and the task has to see for itself. Outside a task it is never so.
    """
    try:
        worker = get_worker()
        key, tasks = worker.get_current_task(), worker.state.tasks
    except (ValueError, AttributeError):
        return lambda: False

    def is_cancelled() -> bool:
        task = tasks.get(key)
        return task is None or task.state not in ("executing", "long-running")

    return is_cancelled


@contextmanager
def own_blas_threads() -> Iterator[None]:
    """Let matrix products of a task use the threads of its worker, and no more.

    Workers that are threads of one process share what that has.
    """
    worker = get_worker()
    if worker.address.startswith("inproc://"):
        yield
        return
    with blas_threads(worker.state.nthreads):
        yield
