"""Values of a lost client are removed, even those that only a worker knows of."""

import concurrent.futures
import gc
from functools import partial

import pytest
from distributed import Client
from distributed.worker_state_machine import RemoveReplicasEvent

from skdistmlp.cluster.run.graph import TRAIN
from skdistmlp.cluster.run.orphans import RegisteredRun
from skdistmlp.cluster.run.placement import Placement
from tests.cluster.dask_processes import DaskProcesses
from tests.cluster.leaks import assert_nothing_left
from tests.cluster.link import Link
from tests.cluster.support import WITHIN_S, task_keys, wait_until
from tests.marks import only_quick


@pytest.fixture
def workers(client):
    return tuple(client.nthreads())


def runs(client):
    """Return the runs that the scheduler knows of."""

    def look(dask_scheduler):
        plugin = dask_scheduler.plugins.get("skdistmlp-orphan-cleanup")
        return list(plugin.runs) if plugin else []

    return client.run_on_scheduler(look)


def held(dask_worker):
    return sorted(key[2] for key in dask_worker.data if key[1] == "rows")


def test_values_of_a_lost_client_are_removed(client, workers):
    """Values of others stay."""

    def receive(dask_worker, runs):
        dask_worker.update_data({(TRAIN, "rows", run, 1): b"data" for run in runs})

    with Client(client.scheduler.address, set_as_default=False) as other:
        RegisteredRun(other, "a run", workers[:2])
        wait_until(lambda: runs(client) == ["a run"], "the run is known")
        client.run(receive, runs=["a run", "another"], workers=workers[:1])
        second = (TRAIN, "rows", "a run", 2)
        known = other.scatter({second: b"data"}, workers=workers[1:2])
        assert [future.status for future in known.values()] == ["finished"]
    wait_until(lambda: client.run(held)[workers[1]] == [], "the scheduler lets go")
    wait_until(lambda: client.run(held)[workers[0]] == ["another"], "the worker too")
    assert runs(client) == []

    def forget(dask_worker):
        keys = list(dask_worker.data)
        dask_worker.handle_stimulus(RemoveReplicasEvent(keys=keys, stimulus_id="x"))

    client.run(forget)


def test_values_of_a_client_that_connects_again_unnoticed_are_removed(client, workers):
    """The scheduler takes the new connection for that of a client without values."""
    key = (TRAIN, "rows", "a run", 1)
    with (
        Link(client.scheduler.address) as link,
        Client(link.address, set_as_default=False) as other,
    ):
        RegisteredRun(other, "a run", workers[:1])
        wait_until(lambda: runs(client) == ["a run"], "the run is known")
        kept = other.scatter({key: b"data"}, workers=workers[:1])
        link.cut_unheard()
        assert key in task_keys(client)
        link.mend()
        wait_until(lambda: key not in task_keys(client), "the scheduler lets go")
        assert kept[key].status == "cancelled"
    assert runs(client) == []


def test_values_that_arrive_after_their_client_is_lost_are_removed(client, workers):
    """Dask's scheduler then makes another client of that name, which never leaves."""
    with Client(client.scheduler.address, set_as_default=False) as other:
        announced = RegisteredRun(other, "a run", workers)
        wait_until(lambda: runs(client) == ["a run"], "the run is known")
        gone = other.id
    # There is nothing to clean up for a closed client.
    announced.close([])

    async def send(dask_scheduler):
        data = {(TRAIN, "rows", "a run", 1): b"data"}
        await dask_scheduler.scatter(data=data, workers=[workers[0]], client=gone)

    client.run_on_scheduler(send)
    assert client.run(held)[workers[0]] == ["a run"]
    wait_until(lambda: client.run(held)[workers[0]] == [], "the scheduler lets go")
    assert_nothing_left(client)


@pytest.mark.parametrize("n_placed", [0, 2])
def test_a_run_stays_registered_until_it_has_released_everything(
    client, workers, n_placed
):
    tasks = Placement(client, workers[:2])
    tasks.open()
    tasks.scatter("rows", [b"data"] * n_placed)
    wait_until(lambda: len(runs(client)) == 1, "the run is known")
    tasks.close()
    wait_until(lambda: runs(client) == [], "the run is forgotten")
    assert_nothing_left(client)


def test_a_run_stays_registered_while_a_value_is_under_way(client, workers):
    """Even after its end: the process may be killed before that message arrives."""
    sent = concurrent.futures.Future()
    announced = RegisteredRun(client, "a run", workers)
    announced.close([sent])
    wait_until(lambda: runs(client) == ["a run"], "the run is known")
    another = RegisteredRun(client, "another", workers)
    another.close([])
    another._registered.result(WITHIN_S)
    wait_until(lambda: "another" not in runs(client), "the other is forgotten")
    assert runs(client) == ["a run"]
    sent.set_result(None)
    wait_until(lambda: runs(client) == [], "both are")


def test_of_a_run_that_was_cut_short_only_values_without_a_future_are_removed(
    client, workers
):
    """The client has others in its cache, and a later call uses them."""
    cached, cut_short = (TRAIN, "rows", "a run", 1), (TRAIN, "rows", "a run", 2)
    announced = RegisteredRun(client, "a run", workers)
    wait_until(lambda: runs(client) == ["a run"], "the run is known")
    sent = client.scatter(dict.fromkeys((cached, cut_short), b"data"))
    announced.close([], [cut_short])

    def known(dask_scheduler):
        return [key for key in (cached, cut_short) if key in dask_scheduler.tasks]

    wait_until(
        lambda: cut_short not in client.run_on_scheduler(known), "one is removed"
    )
    assert client.run_on_scheduler(known) == [cached]
    assert client.submit(len, sent[cached]).result(WITHIN_S) == 4
    assert runs(client) == []


def test_a_run_of_a_lost_client_is_not_registered(client, workers):
    def begin(dask_scheduler):
        plugin = dask_scheduler.plugins["skdistmlp-orphan-cleanup"]
        plugin.register_run("late", "Client-gone", [])
        return list(plugin.runs)

    RegisteredRun(client, "a run", workers).close([])
    wait_until(lambda: runs(client) == [], "the plugin is there, and without runs")
    assert client.run_on_scheduler(begin) == []


def test_a_failed_transfer_is_reported_only_once(client, workers, caplog):
    failed = concurrent.futures.Future()
    failed.set_exception(OSError("planted"))
    announced = RegisteredRun(client, "a run", workers)
    wait_until(lambda: runs(client) == ["a run"], "the run is known")
    for _ in range(2):
        announced.close([failed])
    wait_until(lambda: runs(client) == [], "the run is forgotten")
    gc.collect()
    assert [r for r in caplog.records if r.name == "asyncio"] == []


def keys_held(dask_worker):
    return [str(key) for key in dask_worker.data]


@pytest.mark.parametrize("engine", only_quick(1, cases=["peers", "futures"]))
@pytest.mark.slow
def test_values_of_a_client_killed_while_sending_are_removed(tmp_path, engine):
    """A worker holds it, but the scheduler does not know."""
    with (
        DaskProcesses(tmp_path, n_workers=2) as processes,
        Client(processes.address, set_as_default=False) as client,
    ):

        def held():
            return [key for keys in client.run(keys_held).values() for key in keys]

        def known(dask_scheduler):
            return [str(key) for key in dask_scheduler.tasks]

        with processes.sending_client(engine):
            sent = wait_until(held, "a worker has what the client sends")
            assert len(runs(client)) == 1
            assert set(sent) - set(client.run_on_scheduler(known))
        wait_until(lambda: held() == [], "they are released")
        assert_nothing_left(client)


@pytest.mark.slow
def test_a_suspended_worker_does_not_block_the_clean_up_of_others(tmp_path):
    def receive(dask_worker):
        key = (TRAIN, "rows", "a run", dask_worker.address)
        dask_worker.update_data({key: b"data"})

    with (
        DaskProcesses(tmp_path, n_workers=2) as processes,
        Client(processes.address, set_as_default=False) as client,
    ):
        workers = tuple(client.nthreads())
        client.run(receive)
        with Client(processes.address, set_as_default=False) as other:
            RegisteredRun(other, "a run", workers)
            wait_until(lambda: runs(client) == ["a run"], "the run is known")
            stopped = processes.stopped_worker(workers[0])
            stopped.__enter__()
        found = partial(client.run, keys_held, workers=workers[1:])
        wait_until(lambda: found() == {workers[1]: []}, "the other lets go")
        stopped.__exit__(None, None, None)
        wait_until(lambda: not any(client.run(keys_held).values()), "both have")


def test_a_run_inside_a_task_is_registered(client, workers):
    def run(worker):
        from distributed import get_client

        from skdistmlp.cluster.run.orphans import RegisteredRun

        inside = get_client()
        announced = RegisteredRun(inside, "inside", [worker])
        announced._registered.result(30)
        known = inside.run_on_scheduler(
            lambda dask_scheduler: dict(
                dask_scheduler.plugins["skdistmlp-orphan-cleanup"].runs
            )
        )
        announced.close([])
        return known["inside"].client == inside.id

    assert client.submit(run, workers[0], workers=[workers[1]]).result(WITHIN_S)
    wait_until(lambda: runs(client) == [], "the run is forgotten")
