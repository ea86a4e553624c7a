"""Questions to a scheduler that does not answer."""

import asyncio
from concurrent.futures import CancelledError

import dask
import pytest
from distributed import Client

from skdistmlp import ClusterError
from skdistmlp.cluster.client import scheduler as module
from skdistmlp.cluster.client.rpc import submit_rpc
from skdistmlp.cluster.client.scheduler import ask_scheduler, await_scheduler
from tests.cluster.support import bounded


def test_the_scheduler_answers(client):
    assert set(ask_scheduler(client, "ncores")) == set(client.nthreads())
    adding = submit_rpc(client, client.run_on_scheduler, lambda: 3)
    assert await_scheduler(client, adding) == 3


def test_a_silent_scheduler_is_named_after_four_timeouts(client, monkeypatch):
    async def never(*_, **__):
        await asyncio.sleep(60)

    monkeypatch.setattr(module, "call_scheduler", never)
    address = client.scheduler.address
    refused = rf"{address} has not answered for 0\.2 s \(4 times"
    with (
        dask.config.set({"skdistmlp.exchange-timeout": "50ms"}),
        pytest.raises(ClusterError, match=refused),
    ):
        bounded(ask_scheduler, client, "ncores")


def test_a_closed_client_is_not_waited_for(cluster):
    with Client(cluster, set_as_default=False) as client:
        pass
    with pytest.raises(CancelledError):
        bounded(ask_scheduler, client, "ncores")
