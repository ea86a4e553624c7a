"""One run on the cluster: its tasks, values and results, and what it leaves."""

import gc
import time
import weakref
from dataclasses import replace

import numpy as np
import pytest
from distributed import Client

from skdistmlp.cluster import _dask
from skdistmlp.cluster.run import placement as module
from skdistmlp.cluster.run.placement import Placement
from skdistmlp.exceptions import ClusterError, ExchangeError, WorkerLostError
from skdistmlp.parallel.grid import Grid
from skdistmlp.planning.memory import WorkerMemory
from skdistmlp.timeouts import WORKER_CHECK_S
from tests.cluster.leaks import assert_nothing_left
from tests.cluster.support import bounded, wait_until
from tests.training.jobs import plan_of


@pytest.fixture
def placement(client):
    """A run on all workers."""
    with Placement(client, tuple(client.nthreads()), name=Grid(3).task_name) as run:
        run.begin()
        yield run


def divide(numerator, denominator):
    return numerator / denominator


def test_results_are_fetched_in_the_order_of_their_futures(placement):
    keys = [placement.add(rank, "divide", divide, 6, rank + 1) for rank in range(3)]
    futures = placement.submit(keys)
    assert bounded(placement.fetch, *futures) == [6, 3, 2]
    assert bounded(placement.fetch, *reversed(futures)) == [2, 3, 6]


def test_popped_results_are_released_on_the_cluster(client, placement):
    futures = placement.submit([placement.add(1, "divide", divide, 6, 3)])
    assert bounded(placement.pop_results, *futures) == [2]
    wait_until(lambda: not client.who_has(), "the result is forgotten")
    assert len(futures) == 1


def test_the_error_of_a_task_says_where_it_happened(client, placement):
    (failed,) = placement.submit([placement.add(2, "divide", divide, 1, 0)])
    with pytest.raises(ZeroDivisionError):
        bounded(placement.fetch, failed)
    error = placement.error_of(failed)
    worker = tuple(client.nthreads())[2]
    note = f"This happened in task 'divide-shard2-of-3' on worker {worker}."
    assert error.__notes__.count(note) == 1
    assert placement.error_of(failed).__notes__.count(note) == 1


def test_a_task_without_an_error_has_none(placement):
    (done,) = placement.submit([placement.add(0, "divide", divide, 1, 1)])
    bounded(placement.wait_for, done)
    assert placement.error_of(done) is None


def test_a_wait_holds_nothing_afterwards(placement):
    """Not even until Python collects garbage: its callers may have all rows."""
    # The wait checks the workers once, and goes on.
    sleep = placement.add(0, "sleep", time.sleep, 1.2 * WORKER_CHECK_S)
    (slow,) = placement.submit([sleep])
    is_held = weakref.ref(slow)
    gc.disable()
    try:
        bounded(placement.wait_for, slow)
        del slow
        wait_until(lambda: is_held() is None, "the future is freed")
    finally:
        gc.enable()


def test_who_is_silent_is_found_once_for_each_error(monkeypatch, placement):
    first, second, third = placement.workers
    asked = []

    def missing_workers(_, workers):
        asked.append(workers)
        return (second,)

    monkeypatch.setattr(module, "missing_workers", missing_workers)
    broken = ExchangeError("it broke")
    placement.note_silent(broken)
    placement.note_silent(broken)
    assert broken.silent == (second,)
    assert asked == [[first, second, third]]
    # One that is named has not answered for long.
    lost = WorkerLostError("one is lost", (third,))
    placement.note_silent(lost)
    assert lost.silent == (third, second)
    assert asked[1:] == [[first, second]]
    # This one answers calls.
    paused = WorkerLostError("one is paused", (third,), "paused")
    placement.note_silent(paused)
    assert paused.silent == (second,)


def test_tasks_submitted_after_closing_are_released(client, monkeypatch):
    """An interrupt may close a run while another thread submits."""
    worker = next(iter(client.nthreads()))
    tasks = Placement(client, (worker,))
    get = client.get

    def close_and_get(*args, **kwargs):
        tasks.close()
        return get(*args, **kwargs)

    monkeypatch.setattr(client, "get", close_and_get)
    futures = tasks.submit([tasks.add(0, "sum", sum, (1, 2))])
    # Although this test still holds the future.
    assert_nothing_left(client)
    assert len(futures) == 1


@pytest.mark.parametrize("has_arrived", [False, True])
def test_a_value_cut_short_by_closing_leaves_nothing(client, monkeypatch, has_arrived):
    """Whether the worker has it already or not."""
    worker = next(iter(client.nthreads()))
    tasks = Placement(client, (worker,))
    call = _dask.call_or_abort

    async def call_and_close(*args, **kwargs):
        answer = await call(*args, **kwargs) if has_arrived else None
        tasks.close()
        return answer or await call(*args, **kwargs)

    monkeypatch.setattr(_dask, "call_or_abort", call_and_close)
    tasks.open()
    with pytest.raises(WorkerLostError, match="dropped the data of this call"):
        tasks.scatter("rows", [np.ones(10)])
    assert_nothing_left(client)


def test_a_run_cannot_start_with_a_closed_client(client):
    with Client(client.scheduler.address, set_as_default=False) as other:
        tasks = Placement(other, tuple(client.nthreads()))
    with pytest.raises(ClusterError, match="was closed or lost its connection"):
        tasks.open()
    tasks.close()


def test_a_lost_worker_may_have_run_out_of_memory_once_it_has_copies(
    client, placement, monkeypatch
):
    workers = tuple(client.nthreads())
    plan = replace(
        plan_of("peers", workers, 3),
        bytes_held=(1000,) * 3,
        bytes_of_copies=(900,) * 3,
    )
    memory = {workers[0]: WorkerMemory(950)}
    monkeypatch.setattr(module, "check_free_memory", lambda *_: memory)
    assert placement.check_memory(plan, "skdistmlp").bytes_of_copies == ()
    assert placement.memory_needs == {}
    # There is room by then.
    placement.note_memory(plan)
    assert "its shard needs 1,000" in placement.memory_needs[workers[0]]
