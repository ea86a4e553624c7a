"""The clusters that benchmarks run on: workers of one thread each."""

import signal
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from multiprocessing import resource_tracker
from typing import Any

import dask
from distributed import Client, LocalCluster

N_WORKERS = 2

QUIET: Mapping[str, Any] = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
}
"""Dask settings that keep workers from chores beside their tasks."""


@contextmanager
def interrupts_left_to_parent() -> Iterator[None]:
    """Let processes that are started meanwhile never hear of Ctrl-C.

    A terminal sends it to all processes, and those started would end with tracebacks
    before their parent can end them. It hears of it, at the latest afterwards.
    """
    # Python 3.11's starts with the first process, and stops the blocking as it does.
    resource_tracker.ensure_running()
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@contextmanager
def one_thread_workers(
    n_workers: int, settings: Mapping[str, Any] = QUIET
) -> Iterator[Client]:
    """Start workers on this machine; give a client."""
    with ExitStack() as opened:
        opened.enter_context(dask.config.set(settings))
        with interrupts_left_to_parent():
            cluster = opened.enter_context(
                LocalCluster(
                    n_workers=n_workers,
                    threads_per_worker=1,
                    dashboard_address="127.0.0.1:0",
                )
            )
        yield opened.enter_context(Client(cluster, set_as_default=False))


@contextmanager
def two_workers(settings: Mapping[str, Any] = QUIET) -> Iterator[Client]:
    """Start workers, one for each of two cores; give a client."""
    with one_thread_workers(N_WORKERS, settings) as client:
        yield client
