"""A cluster that is restarted while a client sends it tasks."""

import threading
from contextlib import contextmanager

import dask
import dask.array as da
import pytest
from distributed import Client

from skdistmlp import DistributedMLPClassifier
from skdistmlp.cluster._dask import asyncio_loop
from skdistmlp.cluster.data import dask_inputs
from skdistmlp.cluster.run.graph import PinnedGraph
from skdistmlp.exceptions import ClusterError
from tests.cluster.dask_processes import DaskProcesses
from tests.cluster.support import WITHIN_S, bounded, wait_until
from tests.marks import only_quick


@contextmanager
def unheard_restart(client):
    """Restart a cluster; its client hears of it only at the end of the context."""
    heard = threading.Event()
    asyncio_loop(client).call_soon_threadsafe(heard.wait, WITHIN_S)
    with Client(client.scheduler.address, set_as_default=False) as other:
        other.restart(wait_for_workers=False)
    try:
        yield
    finally:
        heard.set()


def restart_at_first_call(monkeypatch, client, owner, name):
    """Have what a function sends arrive after a restart that it has not heard of."""
    original, called = getattr(owner, name), []

    def call(*args):
        if called:
            return original(*args)
        called.append(name)
        with unheard_restart(client):
            return original(*args)

    monkeypatch.setattr(owner, name, call)


@pytest.mark.parametrize(
    ("engine", "as_array", "owner", "name"),
    only_quick(
        *(0, 1),
        cases=[
            ("peers", False, PinnedGraph, "submit"),
            ("peers", True, dask_inputs, "persist_blocks"),
            ("futures", False, PinnedGraph, "submit"),
        ],
    ),
)
@pytest.mark.slow
def test_what_is_sent_during_a_restart_is_released(
    tmp_path, monkeypatch, digits, engine, as_array, owner, name
):
    X, y = digits
    with (
        DaskProcesses(tmp_path, n_workers=2) as processes,
        Client(processes.address, set_as_default=False) as client,
    ):
        restart_at_first_call(monkeypatch, client, owner, name)
        clf = DistributedMLPClassifier(
            hidden_layer_sizes=(8,), engine=engine, client=client
        )
        rows = da.from_array(X, chunks=(500, -1)) if as_array else X
        # Workers for blocks of X may be waited for: a nanny could start them again.
        with (
            dask.config.set({"skdistmlp.exchange-timeout": "5s"}),
            pytest.raises(ClusterError),
        ):
            bounded(clf.fit, rows, y)

        def tasks(dask_scheduler):
            return list(dask_scheduler.tasks)

        wait_until(lambda: not client.run_on_scheduler(tasks), "nothing is left")
