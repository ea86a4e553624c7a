"""Values sent to the workers of the shards, directly or through the scheduler."""

import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from distributed import Client, worker_client
from distributed.worker_state_machine import RemoveReplicasEvent
from numpy.testing import assert_array_equal

from skdistmlp.cluster import _dask
from skdistmlp.cluster._dask import CommClosedError
from skdistmlp.cluster.client import workers as workers_module
from skdistmlp.cluster.run import scatter, watch
from skdistmlp.cluster.run.placement import Placement
from skdistmlp.exceptions import WorkerLostError
from tests.cluster import stopped_while_sending
from tests.cluster.dask_processes import DaskProcesses
from tests.cluster.leaks import assert_nothing_left
from tests.cluster.support import WITHIN_S, bounded, wait_until
from tests.marks import only_quick


def place_and_look(client):
    """Send values to all workers, in both orders, and fetch them again.

    Returns where each value arrived, and where it should have.
    """
    found, wanted = [], []
    workers = tuple(client.nthreads())
    for order in (workers, workers[::-1]):
        tasks = Placement(client, order)
        try:
            values = [np.full(1000, rank) for rank in range(len(order))]
            placed = tasks.scatter("rows", values)
            wait_until(lambda f=placed: all(p.done() for p in f), "all arrived")
            holders = client.who_has(placed)
            found += [tuple(holders[future.key]) for future in placed]
            wanted += [(worker,) for worker in order]
            for value, fetched in zip(values, tasks.fetch(*placed), strict=True):
                assert_array_equal(fetched, value)
        finally:
            tasks.close()
    return found, wanted


@pytest.mark.parametrize("reached", [True, False])
def test_every_value_arrives_on_its_worker(client, monkeypatch, reached):
    asked = []

    def reaches_all_or_none(_, worker):
        asked.append(worker)
        return reached

    monkeypatch.setattr(scatter, "can_connect", reaches_all_or_none)
    found, wanted = place_and_look(client)
    assert found == wanted
    assert len(set(wanted)) == 3
    assert set(asked) == set(client.nthreads())


def test_values_placed_inside_a_task_arrive_on_their_worker(client):
    """Where Dask would keep all values on the worker of the task."""

    def task():
        with worker_client() as own:
            return place_and_look(own)

    found, wanted = client.submit(task, pure=False).result(60)
    assert found == wanted


def test_a_worker_that_leaves_while_it_is_sent_a_value_leaves_no_task(
    client, monkeypatch
):
    """Dask's scheduler learns of the value when the worker is gone."""
    worker = next(iter(client.nthreads()))
    gone = "tcp://127.0.0.1:1"

    def tell_of_another(dask_scheduler):
        update_data = dask_scheduler.handlers["update_data"]

        def update(who_has, **about):
            dask_scheduler.handlers["update_data"] = update_data
            try:
                update_data(who_has={key: [gone] for key in who_has}, **about)
            except KeyError:
                # As if the worker had left that the value was sent to.
                raise KeyError(worker) from None

        dask_scheduler.handlers["update_data"] = update

    monkeypatch.setattr(scatter, "can_connect", lambda *_: True)
    client.run_on_scheduler(tell_of_another)
    tasks = Placement(client, (worker,))
    tasks.phase = "sending rows"
    with pytest.raises(WorkerLostError, match="dropped the data of this call"):
        tasks.scatter("rows", [np.ones(10)])
    tasks.close()
    wait_until(
        lambda: (
            not client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.tasks)
        ),
        "the scheduler has forgotten it",
    )
    # The value on the worker would have been lost with it.
    client.run(
        lambda dask_worker: dask_worker.handle_stimulus(
            RemoveReplicasEvent(keys=list(dask_worker.data), stimulus_id="x")
        )
    )


@pytest.mark.parametrize("error", [CommClosedError, OSError])
def test_a_value_goes_through_the_scheduler_if_the_worker_is_out_of_reach(
    client, monkeypatch, error
):
    """It could be connected to, and cannot any more."""
    worker = next(iter(client.nthreads()))
    call, addresses = _dask.call_or_abort, []

    async def fail_directly(client, address, /, **message):
        addresses.append(address)
        if address == worker:
            raise error("the connection broke")
        return await call(client, address, **message)

    monkeypatch.setattr(scatter, "can_connect", lambda *_: True)
    monkeypatch.setattr(_dask, "call_or_abort", fail_directly)
    with Placement(client, (worker,)) as tasks:
        (rows,) = bounded(tasks.scatter, "rows", [np.ones(10)])
        assert list(client.who_has([rows])[rows.key]) == [worker]
        assert addresses == [worker, client.scheduler.address]
    # Others of this client need not try.
    assert not workers_module.can_connect(client, worker)
    del workers_module._PROBES[client]


def test_a_worker_that_nobody_can_reach_is_named(client, monkeypatch):
    async def fail(*_, **__):
        raise OSError("no route")

    worker = next(iter(client.nthreads()))
    monkeypatch.setattr(_dask, "call_or_abort", fail)
    # No worker is lost, which the scheduler would need time to notice.
    monkeypatch.setattr(watch, "WORKER_CHECK_S", 0.1)
    error = f"{worker} could not be sent a value, neither .* scheduler: no route"
    with Placement(client, (worker,)) as tasks, pytest.raises(WorkerLostError) as lost:
        bounded(tasks.scatter, "rows", [np.ones(10)])
    assert re.search(error, str(lost.value))
    del workers_module._PROBES[client]


def test_a_key_error_of_our_own_is_not_hidden(client, monkeypatch):
    async def send_value(*_):
        raise KeyError("a bug")

    tasks = Placement(client, tuple(client.nthreads()))
    monkeypatch.setattr(scatter, "send_value", send_value)
    with pytest.raises(KeyError, match="a bug"):
        tasks.scatter("rows", [np.ones(10)])
    tasks.close()


STOPPED = {
    "worker": r"WorkerLostError worker tcp://.* has not answered for",
    "scheduler": r"ClusterError the scheduler at tcp://.* has not answered for 4 s",
}


@pytest.mark.parametrize("engine", only_quick(1, cases=["futures", "peers"]))
@pytest.mark.parametrize("stopped", only_quick(0, cases=STOPPED))
@pytest.mark.slow
def test_what_stops_while_it_is_sent_rows_keeps_neither_rows_nor_process(
    tmp_path, stopped, engine
):
    """It is woken up only when the client's process has ended."""
    script = Path(stopped_while_sending.__file__)
    with DaskProcesses(tmp_path, n_workers=2) as processes:
        client = subprocess.Popen(
            [sys.executable, script, processes.address, engine, stopped],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            said = ""
            while "freed\n" not in said:
                line = client.stdout.readline()
                assert line not in ("", "held\n"), said
                said += line
            said_at = time.monotonic()
            # What Dask does at exit is not ours: it waits for its scheduler.
            client.wait(WITHIN_S)
            seconds = time.monotonic() - said_at
        finally:
            client.kill()
            client.communicate()
            processes.resume_all()
        assert re.match(STOPPED[stopped], said), said
        assert seconds < ENDS_WITHIN_S
        with Client(processes.address, set_as_default=False) as after:
            assert_nothing_left(after)


ENDS_WITHIN_S = 15.0
"""How long a process may take to end; not a measure of speed."""
