"""Start single-threaded workers on this machine to measure on."""

import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker
from typing import Any

import dask
from distributed import Client, LocalCluster

QUIET_WORKERS: Mapping[str, Any] = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
}
"""Dask settings that reduce the work which workers do besides running tasks."""


@contextmanager
def single_threaded_workers(
    n_workers: int, settings: Mapping[str, Any] = QUIET_WORKERS
) -> Iterator[Client]:
    """Start a local cluster of workers with one thread each.

    Parameters
    ----------
    n_workers : int
        Number of workers.
    settings : mapping, optional
        Dask's configuration for the workers.

    Yields
    ------
    Client
        A client of the cluster, which ends with the context.
    """
    with ExitStack() as stack:
        stack.enter_context(dask.config.set(settings))
        with shield_children_from_interrupts():
            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=n_workers,
                    threads_per_worker=1,
                    dashboard_address="127.0.0.1:0",
                )
            )
        yield stack.enter_context(Client(cluster, set_as_default=False))


@contextmanager
def shield_children_from_interrupts() -> Iterator[None]:
    """Keep Ctrl-C from the processes that are started inside this context.

    A terminal sends it to every process of its foreground group, and the children
    would end with tracebacks before their parent can end them. The parent receives it
    once the context ends, at the latest.
    """
    # On Python 3.11 the resource tracker starts with the first child and unblocks
    # SIGINT as it does, so it has to run before SIGINT is blocked.
    resource_tracker.ensure_running()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
