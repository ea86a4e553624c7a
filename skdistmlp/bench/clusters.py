"""The clusters that benchmarks run on: workers of one thread each."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
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
def one_thread_workers(
    n_workers: int, settings: Mapping[str, Any] = QUIET
) -> Iterator[Client]:
    """Start workers on this machine; give a client."""
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=n_workers, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@contextmanager
def two_workers(settings: Mapping[str, Any] = QUIET) -> Iterator[Client]:
    """Start workers, one for each of two cores; give a client."""
    with one_thread_workers(N_WORKERS, settings) as client:
        yield client
