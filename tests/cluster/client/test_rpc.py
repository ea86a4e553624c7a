"""Calls to a cluster that can be waited for, cancelled and left alone."""

import asyncio
import gc
import time
from concurrent.futures import CancelledError
from functools import partial
from types import SimpleNamespace

import pytest
from distributed import Client

from skdistmlp.cluster.client import rpc
from skdistmlp.cluster.client.rpc import (
    answers_in_time,
    check_open,
    run_on_workers,
    submit_rpc,
    wait_while,
)
from tests.cluster.support import WITHIN_S, bounded, in_thread, wait_until


def test_a_call_that_never_starts_ends_with_its_client():
    """As when a client is closed from another thread; a warning fails the test."""

    async def answers():
        raise AssertionError("the loop has ended")

    class Closing:
        loop = SimpleNamespace(asyncio_loop=asyncio.new_event_loop())
        status = "closing"

    answer = submit_rpc(Closing, answers)
    Closing.loop.asyncio_loop.close()
    with pytest.raises(CancelledError):
        bounded(wait_while, partial(check_open, Closing), [answer])
    with pytest.raises(RuntimeError, match="closed"):
        submit_rpc(Closing, answers)


def test_failed_and_cancelled_calls_raise(client):
    ended = []

    async def fails():
        await asyncio.sleep(0)
        raise ZeroDivisionError

    async def endless():
        try:
            await asyncio.sleep(WITHIN_S)
        finally:
            ended.append(True)

    with pytest.raises(ZeroDivisionError):
        submit_rpc(client, fails).result(1)
    answer = submit_rpc(client, endless)
    client.sync(asyncio.sleep, 0.1)
    answer.cancel()
    wait_until(lambda: ended, "it has ended")


@pytest.mark.parametrize("repeat", range(5))
@pytest.mark.slow
def test_closing_a_client_during_a_call_causes_no_warning(cluster, repeat):
    def asks():
        while True:
            submit_rpc(other, asyncio.sleep, 0)
            time.sleep(1e-4)

    with Client(cluster.scheduler_address, set_as_default=False) as other:
        asked = in_thread(asks)
        time.sleep(0.1)
    with pytest.raises(RuntimeError, match="loop is closed"):
        bounded(asked.result)
    gc.collect()


def test_a_check_that_raises_ends_the_wait_and_cancels_the_rest(client, monkeypatch):
    monkeypatch.setattr("skdistmlp.cluster.client.rpc.WORKER_CHECK_S", 0.01)
    checks = []

    def check():
        checks.append(None)
        if len(checks) == 3:
            raise ZeroDivisionError

    quick = submit_rpc(client, asyncio.sleep, 0, "result")
    never = submit_rpc(client, asyncio.sleep, WITHIN_S)
    with pytest.raises(ZeroDivisionError):
        bounded(wait_while, check, [quick, never])
    assert len(checks) == 3
    assert quick.result() == "result"
    assert never.cancelled()


def test_a_function_runs_on_each_worker_outside_its_tasks(client):
    workers = list(client.nthreads())[:2]
    answers = run_on_workers(client, workers, pow, 2, 5)
    assert set(answers) == set(workers)
    for worker, answer in answers.items():
        assert answer.result(WITHIN_S) == {worker: 32}


def test_workers_that_fail_or_take_too_long_are_left_out(client, monkeypatch):
    first, second, third = client.nthreads()
    monkeypatch.setattr(rpc, "PING_ANSWER_S", 2.0)

    def answer(dask_worker):
        import time

        if dask_worker.address == second:
            raise RuntimeError("planted")
        if dask_worker.address == third:
            time.sleep(3)
        return dask_worker.address

    found = bounded(answers_in_time, client, [first, second, third], answer)
    assert found == {first: first}
