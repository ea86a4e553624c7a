"""What the calling process and thread allow: whether they can wait for a cluster.

An estimator waits for tasks. In a process that was forked, no event loop runs that
could bring their results. And a task that waits, or whose threads do, must leave its
thread to the worker meanwhile: the tasks that it waits for may have no other.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from distributed import Client, Worker, get_worker, rejoin, secede

from skdistmlp.cluster._dask import (
    Cluster,
    can_lend_thread,
    event_loop_runs_here,
    has_spare_thread,
    is_on_event_loop,
    is_own_client,
    resolve_address,
    scheduler_address,
    worker_runs_here,
    workers_of_process,
)
from skdistmlp.exceptions import ClusterError


def default_client() -> Client | None:
    """Return the client that is active in this thread, whatever state it is in."""
    try:
        return Client.current()
    except ValueError:
        return None


def is_left_behind(client: Client | Cluster | str | None) -> bool:
    """Say whether a client, or for None the active one, is of another process.

    That is so in a process that was forked from the client's, or from a worker's.
    """
    if isinstance(client, str | type):
        return False
    if client is None and (worker := _worker_of_task()) is not None:
        return not worker_runs_here(worker)
    client = default_client() if client is None else client
    return client is not None and not event_loop_runs_here(client)


def check_thread(client: Client | None, address: str | None) -> None:
    """Raise if this thread would keep a worker from doing what it waits for.

    Only the thread of a task can be lent to the worker. Threads that the task has
    started cannot: the task waits for them, and keeps its own thread.

    Parameters
    ----------
    client : Client or None
        The client that was given, if any.
    address : str or None
        That of the scheduler that was given, if any.

    Raises
    ------
    ClusterError
        It says what to do instead.
    """
    if can_lend_thread():
        return
    worker = _worker_of_task()
    if worker is not None and is_on_event_loop(worker):
        raise ClusterError(
            f"this task is a coroutine on the event loop of worker {worker.address}, "
            f"which an estimator that waits for a cluster would block. Write the task "
            f"with def, not async def, or use engine='local'."
        )
    # Workers that are threads of the user's process: its other threads are the user's,
    # or a task's, and nothing tells them apart.
    for worker in workers_of_process():
        if worker.address.startswith("inproc:"):
            continue
        if _may_be_blocked(worker, client, address):
            raise ClusterError(
                f"an estimator cannot wait for a cluster in this thread of worker "
                f"{worker.address}: the task that started the thread keeps the one "
                f"that the worker may need meanwhile. Call the estimator in the task's "
                f"own thread, use engine='local', or call distributed.secede() in the "
                f"task before it starts threads, and pass "
                f"client=distributed.get_client()."
            )


def _may_be_blocked(worker: Worker, client: Client | None, address: str | None) -> bool:
    """Say whether a worker may need a thread that is not lent to it."""
    if client is None and address is None:
        client = default_client()
        # Whether earlier tasks have left a client here must make no difference.
        if client is None or is_own_client(client):
            return True
    if client is not None:
        address = scheduler_address(client)
    return _is_scheduler_of(worker, address) and not has_spare_thread(worker)


def _is_scheduler_of(worker: Worker, address: str | None) -> bool:
    """Say whether a worker belongs to the scheduler at an address."""
    if address is None:
        return False
    try:
        return resolve_address(address) == resolve_address(worker.scheduler.address)
    except (OSError, ValueError):
        # Whoever connects to it reports that.
        return False


@contextmanager
def lend_thread() -> Iterator[None]:
    """Inside a task, return its thread to the worker while the context lasts."""
    with ExitStack() as on_exit:
        if can_lend_thread():
            # The body must not run inside an `except`: Python would put this error in
            # front of every one that is raised there.
            try:
                secede()
            except KeyError:
                # From Dask: the task has already seceded, and whoever made it secede
                # will have it rejoin.
                pass
            else:
                on_exit.callback(rejoin)
        yield


def _worker_of_task() -> Worker | None:
    """Return the worker whose task, or what it has started, calls this."""
    try:
        return get_worker()
    except ValueError:
        return None
