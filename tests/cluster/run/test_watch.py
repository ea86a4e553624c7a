"""Waits for the workers of a run end when they have become pointless."""

import asyncio
import time
from concurrent.futures import CancelledError

import dask
import pytest
from distributed import Client, Event

from skdistmlp import ClusterError, WorkerLostError
from skdistmlp.cluster._dask import CommClosedError
from skdistmlp.cluster.run import watch as module
from skdistmlp.cluster.run.watch import Watch, WorkersCheck
from tests.cluster.support import WITHIN_S, bounded, wait_until


@pytest.fixture
def workers(client):
    return tuple(client.nthreads())


@pytest.fixture
def watch(client, workers):
    created = Watch(client, workers)
    yield created
    created.close()


def test_a_watch_accepts_a_healthy_cluster(watch, workers):
    watch.check()
    watch.check(queued=workers)
    watch.check_presence()


def test_a_worker_outside_the_cluster_ends_the_wait(client, workers):
    watch = Watch(client, [*workers, "tcp://127.0.0.1:1"])
    for check in (watch.check, watch.check_presence, watch.await_loss):
        with pytest.raises(CancelledError):
            bounded(check)
    watch.close()


def test_a_loss_is_awaited_for_one_check_at_most(watch, monkeypatch):
    monkeypatch.setattr(module, "WORKER_CHECK_S", 0.2)
    bounded(watch.await_loss)


def test_a_broken_connection_to_a_lost_worker_is_reported_as_its_loss(client, workers):
    watch = Watch(client, [*workers, "tcp://127.0.0.1:1"])
    with pytest.raises(CancelledError), watch.naming_losses():
        raise CommClosedError
    watch.close()


def test_a_broken_connection_to_a_worker_that_is_there_stays_one(watch, monkeypatch):
    monkeypatch.setattr(module, "WORKER_CHECK_S", 0.2)
    with pytest.raises(CommClosedError), watch.naming_losses():
        raise CommClosedError


def test_a_closed_client_ends_the_wait(cluster):
    with Client(cluster, set_as_default=False) as client:
        watch = Watch(client, tuple(client.nthreads()))
    with pytest.raises(CancelledError):
        bounded(watch.check)


def test_a_silent_worker_ends_the_wait(client, workers, monkeypatch):
    """While it answers the scheduler, only the ping finds that out."""

    async def hang(*_):
        await asyncio.Event().wait()

    monkeypatch.setattr("skdistmlp.cluster.run.liveness.ping_worker", hang)
    with dask.config.set({"skdistmlp.exchange-timeout": "20ms"}):
        watch = Watch(client, workers)

    def check_until_it_ends():
        while True:
            watch.check()

    with pytest.raises(WorkerLostError, match=r"have not answered for .* is 0\.02 s"):
        bounded(check_until_it_ends)
    watch.close()


STATUSES = {
    "paused": "has been paused for more than",
    "closing_gracefully": "is being retired",
}


@pytest.mark.parametrize(("status", "message"), STATUSES.items())
def test_only_a_worker_with_queued_tasks_has_to_accept_them(
    client, workers, monkeypatch, status, message
):
    monkeypatch.setattr(
        "skdistmlp.cluster.run.liveness.worker_statuses",
        lambda _: dict.fromkeys(workers, "running") | {workers[1]: status},
    )
    with dask.config.set({"skdistmlp.exchange-timeout": "500ms"}):
        watch = Watch(client, workers)

    def check_until_it_ends():
        while True:
            watch.check(queued=workers)

    watch.check()
    watch.check(queued=workers[:1])
    with pytest.raises(WorkerLostError, match=f"{workers[1]} {message}"):
        bounded(check_until_it_ends)
    watch.close()


def test_a_cancelled_task_ends_its_own_wait(client, workers):
    def task():
        from distributed import Event, get_client

        watch = Watch(get_client(), workers)
        watch.check_presence()
        Event("watching").set()
        try:
            while True:
                watch.check_presence()
        except ClusterError as error:
            Event(str(error)).set()

    future = client.submit(task, pure=False)
    assert Event("watching", client=client).wait(WITHIN_S)
    future.cancel()
    ended = Event("the task that called this was cancelled", client=client)
    assert ended.wait(WITHIN_S)
    wait_until(lambda: not any(client.processing().values()), "nothing runs any more")


def test_a_users_tasks_are_waited_for_while_there_are_workers(client, monkeypatch):
    present = {"tcp://there": 1}
    monkeypatch.setattr(module, "ask_scheduler", lambda *_: present)
    with dask.config.set({"skdistmlp.exchange-timeout": "50ms"}):
        check = WorkersCheck(client, [])
        time.sleep(0.1)
        check()
        present.clear()
        check()
        time.sleep(0.1)
        with pytest.raises(ClusterError, match=r"has had no workers for 0\.05 s"):
            check()


def test_a_wait_for_workers_that_have_left_ends_at_once(client, monkeypatch):
    """Others may be there; Dask would wait for one with the same address."""
    present = {"tcp://hangs": 1, "tcp://there": 1}
    monkeypatch.setattr(module, "ask_scheduler", lambda *_: present)
    check = WorkersCheck(client, [], ["tcp://there", "tcp://left"])
    check()
    del present["tcp://there"]
    with pytest.raises(WorkerLostError, match=r"all .* left .*: tcp://there, tcp://le"):
        check()
