"""The leak check detects every kind of leftover, in real worker processes."""

import gc
import socket
import threading
from contextlib import contextmanager

import numpy as np
import pytest
from distributed import Client, Event
from threadpoolctl import threadpool_limits

from skdistmlp.cluster.peers import worker as peers_worker
from skdistmlp.cluster.run import scatter
from skdistmlp.cluster.run.orphans import RegisteredRun
from skdistmlp.cluster.run.placement import Placement
from skdistmlp.cluster.run.reservation import reserve_workers
from skdistmlp.parallel.blas import let_others_set_limits
from tests.cluster import leaks
from tests.cluster.leaks import THREADS, assert_nothing_left, remember
from tests.cluster.peers.test_driver import (
    endless,
    set_blas_limits,
    steps_taken,
    stop_all,
)
from tests.cluster.support import WITHIN_S, in_thread, wait_until

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def seen(client):
    """Return what the check finds, without waiting for anything to disappear."""
    with pytest.raises(AssertionError, match="left behind") as failed:
        assert_nothing_left(client, within_s=0.0)
    return str(failed.value)


# Possible leftovers, each until its context ends.


@contextmanager
def task(client):
    with Client(client.scheduler.address, set_as_default=False) as another:
        held = another.submit(int, key="left")
        held.result()
        yield "scheduler: task 'left'"
        del held


@contextmanager
def future(client):
    held = client.submit(int, key="left")
    yield "client: future 'left'"
    del held


@contextmanager
def place(client):
    worker = next(iter(client.nthreads()))
    with reserve_workers(client, [worker], lambda: None):
        yield f"scheduler: place for {worker}"


@contextmanager
def run(client):
    left = RegisteredRun(client, "a run", ())
    left._registered.result()
    yield "scheduler: run a run"
    left.close(())


@contextmanager
def running_task(client):
    """Nobody holds it, and the scheduler has forgotten it."""
    gate, running = (
        Event("left-gate", client=client),
        Event("left-running", client=client),
    )

    def task_count(dask_scheduler):
        return len(dask_scheduler.tasks)

    def hold():
        Event("left-running").set()
        Event("left-gate").wait(WITHIN_S)

    held = client.submit(hold, key="left")
    assert running.wait(WITHIN_S)
    held.release()
    wait_until(
        lambda: (
            not client.run_on_scheduler(
                lambda dask_scheduler: len(dask_scheduler.tasks)
            )
        ),
        "the scheduler has forgotten the task",
    )
    yield ": task 'left', cancelled"
    gate.set()


def on_worker(leave, message):
    """Leave on one worker what `leave` returns, which can be closed."""

    def put(not_at, dask_worker):
        dask_worker.left_by_a_test = elsewhere(leave, not_at)

    def take_away(dask_worker):
        left = dask_worker.left_by_a_test
        del dask_worker.left_by_a_test
        left.close()

    @contextmanager
    def left(client):
        worker = list(client.nthreads())[1]
        client.run(put, set(leaks._PORTS), workers=[worker])
        yield f"{worker}: {message}"
        client.run(take_away, workers=[worker])

    return left


def here(leave, message):
    @contextmanager
    def left(client):
        held = elsewhere(leave, leaks._PORTS)
        try:
            yield f"client: {message}"
        finally:
            held.close()

    return left


def elsewhere(leave, not_at):
    """Leave something at ports that Dask never used, which the check looks at."""
    while True:
        left = leave()
        if not_at.isdisjoint(left.ports):
            return left
        left.close()


class Shard:
    ports = ()

    def __init__(self):
        peers_worker._RUNS[bytes(16), 2] = self

    def close(self):
        pass


class Listener:
    def __init__(self):
        self.server = socket.create_server(("127.0.0.1", 0))
        self.ports = {self.server.getsockname()[1]}

    def close(self):
        self.server.close()


class Connection:
    """Both ends of a connection, or one whose other end is closed."""

    def __init__(self, half_closed=False):
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.near = socket.create_connection(server.getsockname())
            self.far, address = server.accept()
            self.ports = {server.getsockname()[1], address[1]}
        if half_closed:
            self.far.close()
            assert self.near.recv(1) == b""

    def close(self):
        self.near.close()
        self.far.close()


def half_closed():
    return Connection(half_closed=True)


class Thread:
    ports = ()

    def __init__(self):
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._end.wait, name=f"{THREADS}-left")
        self._thread.start()

    def close(self):
        self._end.set()
        self._thread.join()


class BlasLimit:
    ports = ()

    def __init__(self):
        self._limits = threadpool_limits(3, user_api="blas")
        let_others_set_limits()

    def close(self):
        self._limits.restore_original_limits()
        let_others_set_limits()


THINGS = {
    "task": task,
    "future": future,
    "place": place,
    "run": run,
    "running task": running_task,
    "shard": on_worker(Shard, f"shard 2 of run {bytes(16).hex()}"),
    "listener": on_worker(Listener, "socket at port "),
    "connection": on_worker(Connection, "socket at port"),
    "half-closed connection": on_worker(half_closed, "socket at port"),
    "thread": on_worker(Thread, "thread skdistmlp-left"),
    "BLAS limit": on_worker(BlasLimit, "3 BLAS threads, not 1, in "),
    "listener here": here(Listener, "socket at port "),
    "connection here": here(Connection, "socket at port"),
    "thread here": here(Thread, "thread skdistmlp-left"),
    "BLAS limit here": here(BlasLimit, "3 BLAS threads, not "),
}


@pytest.mark.parametrize("thing", THINGS.values(), ids=THINGS)
def test_leftovers_are_detected_until_they_are_gone(client, thing):
    with thing(client) as message:
        assert message in seen(client)
    assert_nothing_left(client)


def test_a_shard_awaiting_collection_is_a_leftover(client):
    """Until then it may hold connections and memory."""

    def leave():
        shard = Shard()
        shard.itself = shard

    client.run(leave)
    assert ": shard " in seen(client)
    client.run(gc.collect)
    assert_nothing_left(client)


@pytest.fixture
def found_threads(client):
    """Something else has set three threads in the workers' processes."""
    set_blas_limits(client, 3)
    remember(client)
    yield
    set_blas_limits(client, 1)
    remember(client)


def test_a_running_fit_is_detected_everywhere(client, digits, found_threads):
    """The check looks at what the package really holds, not at a stand-in."""
    workers = list(client.nthreads())[:2]
    fit = in_thread(endless(client).fit, digits[0][:300], digits[1][:300])
    wait_until(lambda: steps_taken(client), "training has begun")
    lines = seen(client)
    assert f"scheduler: place for {' '.join(sorted(workers))}" in lines
    for worker in workers:
        assert f"{worker}: socket at port" in lines
        assert f"{worker}: 1 BLAS threads, not 3, in " in lines
    for rank, worker in enumerate(workers):
        assert f"scheduler: task ('mlp-train', 'train-shard{rank}-of-2'" in lines
        assert f"client: future ('mlp-train', 'train-shard{rank}-of-2'" in lines
        assert f"{worker}: task ('mlp-train', 'train-shard{rank}-of-2'" in lines
        assert f"{worker}: shard {rank} of run" in lines
    with pytest.warns(UserWarning, match="interrupted"):
        stop_all(client, fit)
    assert_nothing_left(client)


def started_by(monkeypatch, owner, name):
    """Return a list that records the names of the threads that call a function."""
    original, names = getattr(owner, name), []

    def call(*args, **kwargs):
        names.append(threading.current_thread().name)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)
    return names


def test_sending_threads_have_our_prefix(client, monkeypatch):
    names = started_by(monkeypatch, scatter, "can_connect")
    tasks = Placement(client, tuple(client.nthreads()))
    tasks.scatter("rows", [np.ones(3) for _ in client.nthreads()])
    tasks.close()
    assert len(names) == 3
    assert all(name.startswith(THREADS) for name in names)
