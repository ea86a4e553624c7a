"""Undocumented names of Dask exist, do what we rely on, and are used once."""

import ast
import asyncio
import importlib.util
import pickle
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from logging import addLevelName, getLevelName
from pathlib import Path
from types import SimpleNamespace

import dask
import dask.array as da
import distributed
import numpy as np
import psutil
import pytest
import trustme
from distributed import (
    Client,
    LocalCluster,
    Security,
    Status,
    get_client,
    get_worker,
    secede,
)
from scipy import sparse

from skdistmlp.cluster import _dask
from skdistmlp.cluster._dask import (
    UNKNOWN,
    Cluster,
    CommClosedError,
    add_handler,
    add_metric,
    array_meta,
    asyncio_loop,
    awaited_transfers,
    block_graph,
    call_later,
    call_or_abort,
    call_scheduler,
    can_lend_thread,
    can_reach,
    client_tls_arguments,
    current_task_runs,
    dask_serialize,
    dask_version_at,
    event_loop_runs_here,
    fetch_keys,
    forget_key,
    has_connection,
    has_spare_thread,
    heartbeat_s,
    host_and_port_of,
    host_of,
    identity_at,
    is_on_event_loop,
    is_own_client,
    is_reconnecting,
    keys_on_worker,
    last_heartbeat,
    memory_limit_of_process,
    memory_use,
    ping_worker,
    pinned_graph,
    release_futures,
    release_keys,
    remove_client,
    remove_replicas,
    requires_encryption,
    resolve_address,
    result_dropped,
    run_directly,
    says_retired,
    scheduler_address,
    send_value,
    threads_of_worker,
    tls_contexts,
    worker_runs_here,
    workers_of_process,
)
from skdistmlp.cluster.client.rpc import submit_rpc
from tests.cluster.link import Link
from tests.cluster.support import WITHIN_S, wait_until

PACKAGE = Path(importlib.util.find_spec("skdistmlp").origin).parent


@pytest.fixture
def workers(client):
    return tuple(client.nthreads())


# In the client.


def test_the_address_of_a_scheduler(client, cluster):
    assert scheduler_address(client) == cluster.scheduler_address
    with Client(cluster, set_as_default=False) as closed:
        pass
    assert scheduler_address(closed) == UNKNOWN


def test_a_cluster_has_a_status_and_the_address_of_its_scheduler(cluster):
    assert isinstance(cluster, Cluster)
    assert cluster.status == Status.running
    assert cluster.scheduler_address.startswith("tcp://")


def test_a_call_of_a_server_can_be_ended(client, workers):
    def add_handler_that_hangs(dask_worker):
        async def hang():
            await asyncio.Event().wait()

        dask_worker.handlers["hang"] = hang

    def call(operation):
        return submit_rpc(client, call_or_abort, client, workers[0], op=operation)

    client.run(add_handler_that_hangs, workers=workers[:1])
    hanging = call("hang")
    assert not wait([hanging], 0.2).done
    hanging.cancel()
    # Not over the same connection, whose next message would answer the first call.
    assert call("identity").result(WITHIN_S)["type"] == "Worker"


def test_a_function_runs_on_workers_although_the_client_is_closed(client, workers):
    with Client(client.scheduler.address, set_as_default=False) as closed:
        pass
    gone = "tcp://127.0.0.1:1"
    run_directly([gone, *workers], closed, 5.0, addLevelName, 77, "called")
    assert set(client.run(getLevelName, 77).values()) == {"called"}


@pytest.mark.parametrize("direct", [True, False])
def test_a_value_is_sent_to_a_worker(client, workers, direct):
    value = np.arange(5.0)
    future = client.sync(
        send_value, client, ("a value", 1), value, workers[1], direct, WITHIN_S
    )
    assert client.who_has([future]) == {("a value", 1): (workers[1],)}
    np.testing.assert_array_equal(future.result(WITHIN_S), value)
    assert client.submit(len, future).result(WITHIN_S) == 5


def test_a_value_is_not_sent_to_a_worker_that_does_not_accept_it(client):
    gone = "tcp://127.0.0.1:1"
    with pytest.raises(TimeoutError, match=gone):
        client.sync(send_value, client, ("a value", 2), 1, gone, True, 0.2)


def test_a_handler_of_the_scheduler_is_called_by_name(client, workers):
    def call(handler, **arguments):
        return client.sync(call_scheduler, client, handler, **arguments)

    assert set(call("ncores")) == set(workers)
    known = call("identity")["workers"]
    assert set(known) == set(workers)
    for info in known.values():
        assert info["status"] == "running"
        assert info["memory_limit"] > 0
        assert info["local_directory"]
    future = client.submit(int, 1, key="known")
    future.result(WITHIN_S)
    states = call("get_task_status", keys=["known", "unknown"])
    assert states == {"known": "memory", "unknown": None}


def test_our_own_handlers_are_called_by_name(client):
    def add(dask_scheduler):
        add_handler(dask_scheduler, "test_add", lambda a, b: a + b)

    client.run_on_scheduler(add)
    assert client.sync(call_scheduler, client, "test_add", a=2, b=3) == 5
    # What reservations rely on: a scheduler without the handler answers None.
    client.run_on_scheduler(
        lambda dask_scheduler: dask_scheduler.handlers.pop("test_add")
    )
    assert client.sync(call_scheduler, client, "test_add", a=2, b=3) is None


def test_a_worker_answers_a_ping(client, workers):
    assert client.sync(ping_worker, client, workers[0]) is None


def test_the_event_loop_of_a_client_runs_in_its_own_thread(client):
    async def thread():
        return threading.get_ident()

    running = asyncio.run_coroutine_threadsafe(thread(), asyncio_loop(client))
    assert running.result(WITHIN_S) != threading.get_ident()


def test_a_process_knows_whether_an_event_loop_runs_there(client, cluster, workers):
    """Not in a process that was forked, as `cluster/client/test_calling_thread.py`."""
    assert event_loop_runs_here(client)
    assert event_loop_runs_here(cluster)
    assert not is_on_event_loop(client)

    async def on_loop():
        return is_on_event_loop(client)

    running = asyncio.run_coroutine_threadsafe(on_loop(), asyncio_loop(client))
    assert running.result(WITHIN_S)
    runs = client.submit(lambda: event_loop_runs_here(get_client()), pure=False)
    assert runs.result(WITHIN_S)


def test_an_event_loop_calls_later_until_it_is_closed(cluster):
    called, began = [], time.monotonic()
    with Client(cluster.scheduler_address, set_as_default=False) as client:
        call_later(client, 0.2, called.append, 1)
        wait_until(lambda: called, "it is called")
        assert time.monotonic() - began >= 0.2
        alone = asyncio_loop(client)
    wait_until(alone.is_closed, "the loop is closed")
    call_later(client, 0, called.append, 2)
    assert called == [1]


def test_a_worker_calls_later(client, workers):
    def call(dask_worker):
        dask_worker._test_called = threading.Event()
        call_later(dask_worker, 0.01, dask_worker._test_called.set)

    client.run(call, workers=workers[:1])
    wait_until(
        lambda: client.run(
            lambda dask_worker: dask_worker._test_called.is_set(), workers=workers[:1]
        )[workers[0]],
        "it is called",
    )


def test_the_interval_of_heartbeats_is_known(cluster):
    with Client(cluster, set_as_default=False, heartbeat_interval="7s") as client:
        assert heartbeat_s(client) == 7


def test_futures_from_before_a_restart_are_released(client):
    """On what they do while the cluster restarts, see `fits/test_restart.py`."""

    def exists(dask_scheduler):
        return "an old key" in dask_scheduler.tasks

    future = client.submit(int, key="an old key")
    future.result(WITHIN_S)
    client._handle_restart()
    future.release()
    wait_until(lambda: client.run_on_scheduler(exists), "Dask does not release it")
    release_futures([future])
    wait_until(lambda: not client.run_on_scheduler(exists), "it is released")


def test_a_pinned_task_runs_on_its_worker(client, workers):
    def where(*_):
        return get_worker().address

    first = ("first", 0)
    graph = pinned_graph(
        [({first: (where,)}, workers[1]), ({("second", 0): (where, first)}, workers[2])]
    )
    futures = client.get(graph, [first, ("second", 0)], sync=False)
    assert client.gather(futures) == list(workers[1:3])


def test_a_server_reports_its_kind(client, workers):
    assert asyncio.run(identity_at(scheduler_address(client)))["type"] == "Scheduler"
    assert asyncio.run(identity_at(workers[0]))["type"] == "Worker"


def test_a_scheduler_reports_its_version(client):
    address = scheduler_address(client)
    assert asyncio.run(dask_version_at(address)) == distributed.__version__


def test_a_client_connects_without_tls_by_default():
    assert client_tls_arguments().get("ssl_context") is None


@pytest.mark.parametrize(
    ("block", "kind"),
    [
        (np.ones((2, 2)), np.ndarray),
        (sparse.csr_array(np.ones((2, 2))), sparse.csr_array),
    ],
)
def test_the_type_of_blocks_is_known(block, kind):
    collection = da.ones((2, 2)).map_blocks(lambda _: block, meta=block[:0, :0])
    assert isinstance(array_meta(collection), kind)


def test_the_graph_of_an_array_can_be_cut_to_some_blocks(client):
    rows = np.arange(8000.0).reshape(800, 10)
    (collection,) = dask.optimize(da.from_array(rows, (200, 10)) + 1)
    graph, keys = block_graph(collection)
    assert len(keys) == 4
    culled = graph.cull({keys[2]})
    # Of an array in this process, only the rows of the block.
    assert len(pickle.dumps(dict(culled))) < 1.2 * rows.nbytes / 4
    (block,) = client.get(culled, [keys[2]], sync=True)
    np.testing.assert_array_equal(block, rows[400:600] + 1)


def test_a_process_may_take_no_more_than_the_machine_has():
    assert 0 < memory_limit_of_process() <= psutil.virtual_memory().total


def test_a_lost_connection_is_an_os_error():
    assert issubclass(CommClosedError, OSError)


def test_events_say_that_a_worker_is_retired_unless_that_is_refused():
    with (
        LocalCluster(
            n_workers=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        first, second = client.nthreads()
        assert not says_retired(client.get_events(first))
        client.retire_workers([first])
        assert says_retired(client.get_events(first))
        # Another at its address, and what a user logs there.
        joined = 0.0, {"action": "add-worker"}
        assert not says_retired([*client.get_events(first), joined, (0.0, "text")])
        # Nobody else could have what it has.
        only = client.scatter(1, workers=[second])
        client.retire_workers([second])
        wait_until(
            lambda: client.run_on_scheduler(
                lambda dask_scheduler: (
                    dask_scheduler.workers[second].status is Status.running
                )
            ),
            "it goes on",
        )
        assert not says_retired(client.get_events(second))
        del only


# On the scheduler.


def test_a_scheduler_knows_its_clients(client):
    name = client.id

    def look(dask_scheduler):
        return (
            last_heartbeat(dask_scheduler, name),
            has_connection(dask_scheduler, name),
            last_heartbeat(dask_scheduler, "Client-gone"),
            has_connection(dask_scheduler, "Client-gone"),
        )

    heard_at, connected, *gone = client.run_on_scheduler(look)
    assert 0 <= time.time() - heard_at < WITHIN_S
    assert connected
    assert gone == [None, False]


def test_a_client_without_a_connection_is_removed(client, workers):
    async def scatter_and_remove(dask_scheduler):
        await dask_scheduler.scatter(
            data={"a": 1}, workers=[workers[0]], client="Client-gone"
        )
        before = "a" in dask_scheduler.tasks, "Client-gone" in dask_scheduler.clients
        connected = has_connection(dask_scheduler, "Client-gone")
        remove_client(dask_scheduler, "Client-gone")
        after = "a" in dask_scheduler.tasks, "Client-gone" in dask_scheduler.clients
        return before, connected, after

    seen = client.run_on_scheduler(scatter_and_remove)
    assert seen == ((True, True), False, (False, False))


def test_a_client_that_has_given_up_is_told_from_one_that_connects_again(client):
    with (
        Link(client.scheduler.address) as link,
        Client(link.address, set_as_default=False) as other,
    ):
        assert not is_reconnecting(other)
        link.cut()
        wait_until(lambda: is_reconnecting(other), "it has noticed")
        link.mend()
        wait_until(lambda: other.status == "running", "it is connected again")
        assert not is_reconnecting(other)
        link.cut()
        wait_until(lambda: is_reconnecting(other), "it has noticed")
        asyncio_loop(other).call_soon_threadsafe(other._handle_report_task.cancel)
        wait_until(lambda: not is_reconnecting(other), "it has given up")
        assert other.status == "connecting"


def test_keys_are_released_and_forgotten_on_the_scheduler(client):
    name = client.id
    future = client.submit(lambda: 1, key="wanted", pure=False)
    future.result()

    def release(dask_scheduler):
        release_keys(dask_scheduler, ["wanted"], name)
        return "wanted" in dask_scheduler.tasks

    def orphan(dask_scheduler):
        dask_scheduler.new_task("orphan", None, "released")
        there = "orphan" in dask_scheduler.tasks
        forget_key("orphan", name, dask_scheduler)
        return there, "orphan" in dask_scheduler.tasks

    def release_what_an_earlier_connection_wanted(dask_scheduler):
        dask_scheduler.client_desires_keys(keys=["earlier"], client=name)
        dask_scheduler.clients[name] = type(dask_scheduler.clients[name])(name)
        release_keys(dask_scheduler, ["earlier"], name)
        return "earlier" in dask_scheduler.tasks

    assert not client.run_on_scheduler(release)
    earlier = client.submit(lambda: 1, key="earlier", pure=False)
    earlier.result()
    assert not client.run_on_scheduler(release_what_an_earlier_connection_wanted)
    assert client.run_on_scheduler(orphan) == (True, False)
    client.run_on_scheduler(forget_key, "never there", name)


def test_values_of_a_worker_are_found_and_removed(client, workers):
    key = ("planted", 0)
    client.run(
        lambda dask_worker: dask_worker.update_data({key: b"data"}), workers=workers[:1]
    )

    async def keys(dask_scheduler):
        return list(await keys_on_worker(dask_scheduler, workers[0]))

    def remove(dask_scheduler):
        remove_replicas(dask_scheduler, workers[0], [key], "test")

    assert key in client.run_on_scheduler(keys)
    client.run_on_scheduler(remove)
    wait_until(lambda: key not in client.run_on_scheduler(keys), "it is removed")


# On a worker.


def test_a_task_detects_its_cancellation(client, workers):
    def task():
        from distributed import Event, get_worker

        runs = current_task_runs(get_worker())
        assert runs()
        Event("running").set()
        while runs():
            time.sleep(0.01)
        Event("noticed").set()

    from distributed import Event

    future = client.submit(task, pure=False, workers=workers[:1])
    assert Event("running", client=client).wait(WITHIN_S)
    future.cancel()
    assert Event("noticed", client=client).wait(WITHIN_S)


def test_a_task_that_has_seceded_still_runs(client):
    def task():
        from distributed import rejoin, secede

        runs = current_task_runs(get_worker())
        secede()
        time.sleep(0.1)
        seceded = runs()
        rejoin()
        return seceded

    assert client.submit(task, pure=False).result(WITHIN_S)


def test_a_result_is_dropped_only_after_its_release(client, workers):
    def task():
        worker = get_worker()
        # On the worker, which the result does not hold.
        worker.dropped_in_a_test = result_dropped(worker)
        return worker.dropped_in_a_test()

    def ask(dask_worker):
        return dask_worker.dropped_in_a_test()

    def dropped():
        return client.run(ask, workers=workers[:1])[workers[0]]

    future = client.submit(task, pure=False, workers=workers[:1])
    assert not future.result(WITHIN_S)
    assert not dropped()
    future.release()
    wait_until(dropped, "it is dropped")


def test_outside_a_task_nothing_is_cancelled(client):
    def ask(dask_worker):
        return current_task_runs(dask_worker)()

    assert set(client.run(ask).values()) == {True}


def test_a_process_knows_its_workers_and_their_clients(client, workers):
    def look():
        worker = get_worker()
        own = get_client()
        return (
            workers_of_process() == [worker],
            worker_runs_here(worker),
            is_own_client(own),
            resolve_address(worker.scheduler.address) == scheduler_address(own),
        )

    assert client.submit(look, pure=False).result(WITHIN_S) == (True,) * 4
    assert not is_own_client(client)
    assert workers_of_process() == []
    assert resolve_address("tcp://localhost:1") == "tcp://127.0.0.1:1"


def test_only_the_thread_of_a_task_can_be_lent(client, workers):
    def look():
        with ThreadPoolExecutor(1) as pool:
            return can_lend_thread(), pool.submit(can_lend_thread).result()

    async def look_in_coroutine():
        return can_lend_thread(), is_on_event_loop(get_worker())

    assert client.submit(look, pure=False).result(WITHIN_S) == (True, False)
    looked = client.submit(look_in_coroutine, pure=False)
    assert looked.result(WITHIN_S) == (False, True)
    assert not can_lend_thread()


def test_a_worker_has_a_spare_thread_once_its_task_has_seceded(client, workers):
    def look(event_loop_sleeps_s):
        before = has_spare_thread(get_worker())
        # The event loop notes what has seceded, and may be busy with something else.
        get_worker().loop.add_callback(time.sleep, event_loop_sleeps_s)
        secede()
        return before, has_spare_thread(get_worker())

    for sleeps_s in (0, 0.3):
        looked = client.submit(look, sleeps_s, pure=False)
        assert looked.result(WITHIN_S) == (False, True)


def test_a_worker_knows_its_threads(client):
    found = client.run(lambda dask_worker: threads_of_worker(dask_worker))
    assert found == client.nthreads()


def test_the_scheduler_knows_which_values_have_to_move(client, workers):
    """Two workers hand out none until they are told to."""

    def hold(dask_worker):
        get_data = dask_worker.handlers["get_data"]
        dask_worker._opened = asyncio.Event()

        async def get_data_later(comm, **arguments):
            await dask_worker._opened.wait()
            return await get_data(comm, **arguments)

        dask_worker.handlers["get_data"] = get_data_later
        dask_worker._get_data = get_data

    async def go_on(dask_worker):
        dask_worker._opened.set()

    def restore(dask_worker):
        dask_worker.handlers["get_data"] = dask_worker._get_data
        del dask_worker._get_data, dask_worker._opened

    def transfers(*futures):
        keys = [future.key for future in futures]
        return client.run_on_scheduler(awaited_transfers, [*keys, "unknown"])

    first, second, third = sorted(workers)
    placed = client.scatter(1, workers=[second])
    both = client.scatter([2], workers=[second, third], broadcast=True)[0]
    client.run(hold, workers=[second, third])
    try:
        assert transfers(placed, both) == {}
        added = client.submit(sum, [placed, both], workers=[first])
        last = client.submit(lambda one: one + 1, added, workers=[third])
        expected = {first: [[second], [second, third]]}
        wait_until(lambda: transfers(last) == expected, "it waits")
        # Nobody waits for the values of another task.
        assert transfers(placed) == {}
        client.run(go_on, workers=[second, third])
        assert last.result(WITHIN_S) == 4
        assert transfers(last, added) == {}
    finally:
        client.run(go_on, workers=[second, third])
        client.run(restore, workers=[second, third])


def test_a_worker_knows_whom_it_can_reach(client, workers):
    async def reached(others, dask_worker):
        return [await can_reach(dask_worker, other, 0.5) for other in others]

    # It takes connections and never answers the greeting, as a process that hangs.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        others = [
            workers[1],
            f"tcp://127.0.0.1:{silent.getsockname()[1]}",
            "tcp://127.0.0.1:1",
        ]
        answer = client.run(reached, others, workers=workers[:1])
    assert answer == {workers[0]: [True, False, False]}


def test_a_worker_knows_what_its_process_and_its_values_take(client, workers):
    def used(dask_worker):
        return memory_use(dask_worker)

    before = client.run(used)[workers[0]]
    value = client.scatter(np.ones(50_000_000, np.int8), workers=workers[:1])
    after = client.run(used)[workers[0]]
    del value
    assert 5e7 < before[0] < 2e9
    assert abs(after[0] - before[0] - 5e7) < 2.5e7
    assert abs(after[1] - before[1] - 5e7) < 1000
    assert before[2] == after[2] == 0


def test_a_metric_is_reported_with_heartbeats(client, workers):
    def add(dask_worker):
        add_metric(dask_worker, "a metric", lambda worker: worker.address)
        # The first one stays.
        add_metric(dask_worker, "a metric", lambda worker: worker.name)

    def metrics():
        return client.scheduler_info(n_workers=-1)["workers"][workers[0]]["metrics"]

    def remove(dask_worker):
        del dask_worker.metrics["a metric"]

    client.run(add, workers=workers[:1])
    try:
        found = wait_until(lambda: metrics().get("a metric"), "it is reported")
        assert found == workers[0]
    finally:
        client.run(remove, workers=workers[:1])


def test_values_are_fetched_without_being_stored(client, workers):
    placed = client.scatter({"here": 1}, workers=workers[:1])
    placed |= client.scatter({"there": 2}, workers=workers[1:2])

    def fetch(who_has):
        worker = get_worker()
        found = fetch_keys(worker, who_has).result(WITHIN_S)
        return found, sorted(map(str, worker.data))

    who_has = {
        "here": [workers[0]],
        "there": [workers[1]],
        "nowhere": [workers[1]],
        "lost": ["tcp://127.0.0.1:1"],
    }

    def set_timeout(setting):
        # Dask would try to connect for half a minute.
        dask.config.set({"distributed.comm.timeouts.connect": setting})

    before = dask.config.get("distributed.comm.timeouts.connect")
    client.run(set_timeout, "1s", workers=workers[:1])
    try:
        (values, missing, lost), held = client.submit(
            fetch, who_has, workers=workers[:1], pure=False
        ).result(WITHIN_S)
    finally:
        client.run(set_timeout, before, workers=workers[:1])
    assert values == {"here": 1, "there": 2}
    assert sorted(missing) == ["lost", "nowhere"]
    assert "tcp://127.0.0.1:1" in lost
    assert "there" not in held
    assert sorted(placed) == ["here", "there"]


@pytest.mark.parametrize("encrypted", [True, False])
def test_a_worker_has_the_tls_of_its_security(encrypted):
    if encrypted:
        authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        chain = b"".join(blob.bytes() for blob in issued.cert_chain_pems)
        security = Security(
            tls_ca_file=authority.cert_pem.bytes().decode(),
            tls_worker_cert=chain.decode(),
            tls_worker_key=issued.private_key_pem.bytes().decode(),
            require_encryption=True,
        )
    else:
        security = Security()
    worker = SimpleNamespace(security=security)
    assert requires_encryption(worker) == encrypted
    kind = ssl.SSLContext if encrypted else type(None)
    assert all(isinstance(context, kind) for context in tls_contexts(worker))


def test_addresses_are_parsed():
    assert host_of("tcp://127.0.0.1:8786") == "127.0.0.1"
    assert host_of("tls://[::1]:8786") == "::1"
    assert host_and_port_of("tcp://127.0.0.1:8786") == ("127.0.0.1", 8786)
    with pytest.raises(ValueError, match="port"):
        host_and_port_of("inproc://127.0.0.1/123/4")


def test_dask_raises_key_error_for_a_worker_that_has_left(client):
    """In `update_data`, and after it has made a task: see `cluster/run/scatter.py`."""
    gone = "tcp://127.0.0.1:1"

    def update(dask_scheduler):
        try:
            dask_scheduler.update_data(who_has={"left": [gone]}, nbytes={"left": 1})
        except KeyError as error:
            return error.args, "left" in dask_scheduler.tasks
        return None

    assert client.run_on_scheduler(update) == ((gone,), True)
    client.run_on_scheduler(forget_key, "left", client.id)
    assert not client.run_on_scheduler(
        lambda dask_scheduler: dict(dask_scheduler.tasks)
    )


# Used in one module only.

DOCUMENTED = {
    *("dask", "dask.config", "dask.array", "dask.base", "dask.delayed"),
    "dask.dataframe",
    *("dask.sizeof", "dask.utils", "distributed"),
}
"""Modules of Dask whose names are documented, as far as they are used."""

UNDOCUMENTED = {
    *("_periodic_callbacks", "asyncio_loop", "add_callback", "call_later"),
    *("client_comms", "client_desires_keys", "client_releases_keys", "handlers"),
    *("get_current_task", "last_seen", "security", "worker_send", "identity"),
    *("ncores", "get_listen_args", "get_connection_args", "nthreads_of"),
}
"""Attributes that only the module of private names may ask for."""


def uses(source, ours=()):
    """Return the undocumented names that a module takes from Dask."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules = [node.module]
            found += [
                f"{node.module}.{alias.name}"
                for alias in node.names
                if node.module in DOCUMENTED and alias.name.startswith("_")
            ]
        elif isinstance(node, ast.Attribute):
            shown = ast.unparse(node)
            private_of_state = re_state(shown)
            owner = ast.unparse(node.value)
            is_ours = owner in ("self", "cls") or shown in ours
            if (node.attr in UNDOCUMENTED and not is_ours) or private_of_state:
                found.append(shown)
            continue
        else:
            continue
        found += [
            module
            for module in modules
            if module.split(".")[0] in ("dask", "distributed")
            and module not in DOCUMENTED
        ]
    return found


def re_state(shown):
    """Say whether something of a worker's state machine, or a client's RPC, is used."""
    return shown.startswith(("worker.state.", "client.scheduler.")) or (
        ".scheduler.rpc" in shown or shown.startswith("scheduler.rpc")
    )


def test_the_scan_finds_undocumented_names():
    assert uses("from dask import delayed\nimport distributed\nself.handlers") == []
    assert uses(
        "from distributed.utils import sync\n"
        "import distributed.comm.core\n"
        "from distributed import _version\n"
        "client._periodic_callbacks\n"
        "worker.state.tasks\n"
        "client.scheduler.identity()\n"
        "scheduler.rpc(worker)"
    ) == [
        "distributed.utils",
        "distributed.comm.core",
        "distributed._version",
        "client._periodic_callbacks",
        "worker.state.tasks",
        "client.scheduler.identity",
        "scheduler.rpc",
    ]


OURS = {"cache.call_later", "alive.call_later"}
"""Methods of our own of the same names."""


class Unsendable:
    """What its register of serializers refuses to send."""


def test_a_registered_serializer_may_refuse_to_send():
    refused = []

    def refuse(value):
        refused.append(value)
        raise TypeError

    dask_serialize.register(Unsendable, refuse)
    value = Unsendable()
    with pytest.raises(TypeError, match="Could not serialize"):
        distributed.protocol.serialize(value, on_error="raise")
    assert refused == [value]


def test_undocumented_names_are_used_in_one_module_only():
    modules = sorted(PACKAGE.rglob("*.py"))
    found = {
        str(path.relative_to(PACKAGE)): names
        for path in modules
        if (names := uses(path.read_text("utf-8"), OURS))
    }
    assert set(found) == {str(Path(_dask.__file__).relative_to(PACKAGE))}, found
    assert len(modules) > 50


def test_every_function_is_tested_here():
    tried = {name for name in _dask.__all__ if name in globals()}
    assert tried == set(_dask.__all__)
    functions = {
        node.name
        for node in ast.parse(Path(_dask.__file__).read_text("utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert functions <= set(_dask.__all__)
