"""The task that calls a function, and the worker that the task runs on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from distributed import get_worker

from skdistmlp.cluster._dask import current_task_runs, threads_of_worker
from skdistmlp.parallel.blas import blas_threads


def task_cancellation() -> Callable[[], bool]:
    """Return a function that says whether Dask has cancelled the calling task.

    Dask cannot stop a running task. When its client is gone or has released it, Dask
    forgets the task, and the task has to find out by itself. Outside a task the
    function always returns False.

    Call this in the task's own thread; the function it returns works in any thread.
    """
    try:
        worker = get_worker()
    except ValueError:
        return lambda: False
    runs = current_task_runs(worker)
    return lambda: not runs()


@contextmanager
def own_blas_threads() -> Iterator[None]:
    """Let matrix products of a task use as many threads as its worker has.

    Workers that are threads of one process share its BLAS threads, which only a process
    as a whole can limit.
    """
    worker = get_worker()
    if worker.address.startswith("inproc://"):
        yield
        return
    with blas_threads(threads_of_worker(worker)):
        yield
