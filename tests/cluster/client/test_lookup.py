"""Which client is used, and what happens where none can be."""

import asyncio
import pickle
import socket
import struct
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import BaseRequestHandler, ThreadingTCPServer

import dask
import numpy as np
import pytest
from distributed import Client, Scheduler, get_client

from skdistmlp.cluster.client import lookup
from skdistmlp.cluster.client.lookup import connected, scheduler_address
from skdistmlp.exceptions import ClusterError
from tests.cluster.client.support import classifier, small
from tests.cluster.leaks import assert_nothing_left, remember
from tests.cluster.support import WITHIN_S, bounded, in_thread, wait_until

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def soon():
    """Dask gives up connecting after a moment."""
    with dask.config.set({"distributed.comm.timeouts.connect": "0.3s"}):
        yield


@pytest.fixture
def closed_port():
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port = server.getsockname()[1]
    return f"tcp://127.0.0.1:{port}"


def clients_of(client):
    return client.run_on_scheduler(lambda dask_scheduler: set(dask_scheduler.clients))


def assert_same_parameters(one, other):
    for a, b in zip(one.coefs_, other.coefs_, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_the_address_of_a_scheduler_is_known_once_its_client_is_closed(cluster):
    with Client(cluster, set_as_default=False) as other:
        assert scheduler_address(other) == cluster.scheduler_address
    assert scheduler_address(other) == cluster.scheduler_address


# Which client.


def test_without_a_client_there_is_none():
    with connected(None) as found:
        assert found is None


def test_no_other_error_stands_in_front_of_that_of_a_call():
    with pytest.raises(OSError, match="planted") as raised, connected(None):
        raise OSError("planted")
    assert raised.value.__context__ is None


def test_no_other_error_stands_in_front_of_that_of_a_fit(client, digits):
    clf = classifier(client=client, n_workers=99)
    with pytest.raises(ClusterError, match="n_workers=99 needs") as raised:
        clf.fit(*digits)
    assert raised.value.__context__ is None


def test_a_given_client_is_used(client):
    with connected(client) as found:
        assert found is client
    assert client.status == "running"


def test_the_active_client_is_used(cluster, digits):
    with Client(cluster) as active:
        remember(active)
        with connected(None) as found:
            assert found is active
        assert classifier().fit(*small(digits)).engine_ == "futures"
        assert_nothing_left(active)


def test_as_current_takes_precedence_over_the_default(cluster):
    with (
        Client(cluster),
        Client(cluster, set_as_default=False) as current,
        current.as_current(),
        connected(None) as found,
    ):
        assert found is current


# An address.


@pytest.mark.parametrize("fails", [False, True])
def test_a_connection_to_an_address_ends_with_its_context(client, fails):
    before = clients_of(client)
    try:
        with connected(client.scheduler.address) as found:
            assert found.nthreads() == client.nthreads()
            assert clients_of(client) == {*before, found.id}
            if fails:
                raise KeyError
    except KeyError:
        assert fails
    assert found.status == "closed"
    wait_until(lambda: clients_of(client) == before, "the scheduler drops it")


def test_a_connection_to_an_address_is_not_the_active_client(client):
    with connected(client.scheduler.address), connected(None) as found:
        assert found is None


def test_an_estimator_leaves_no_client_on_the_scheduler(client, digits):
    before = clients_of(client)
    clf = classifier(client=client.scheduler.address).fit(*small(digits))
    clf.predict(small(digits)[0])
    assert clf.plan_.workers == tuple(client.nthreads())
    wait_until(lambda: clients_of(client) == before, "the scheduler drops it")


@pytest.mark.parametrize("use", ["connected", "fit", "predict"])
def test_an_unreachable_address_is_reported(soon, closed_port, digits, use):
    X, y = small(digits)

    def call():
        if use == "connected":
            connected(closed_port).__enter__()
        elif use == "fit":
            classifier(client=closed_port).fit(X, y)
        else:
            clf = classifier(engine="local").fit(X, y)
            clf.set_params(engine="futures", client=closed_port).predict(X)

    with pytest.raises(ClusterError, match=closed_port):
        bounded(call)


@pytest.mark.parametrize(
    ("address", "cause"),
    [
        ("", "Connection refused"),
        ("tcp://no-such-host.invalid:8786", "not known|resolution|No address"),
        ("http://127.0.0.1:8787/status", "perhaps the dashboard"),
    ],
    ids=["refused", "unknown host", "web address"],
)
def test_the_cause_is_reported_long_before_the_timeout(
    monkeypatch, closed_port, address, cause
):
    monkeypatch.setattr(lookup, "REFUSED_S", 0.5)
    monkeypatch.setattr(lookup, "DIAGNOSE_S", 0.2)
    with pytest.raises(ClusterError, match=cause):
        in_thread(connected(address or closed_port).__enter__).result(15)


def test_the_dashboard_is_recognised(monkeypatch):
    monkeypatch.setattr(lookup, "DIAGNOSE_S", 0.3)
    with ThreadingHTTPServer(("127.0.0.1", 0), SilentHandler) as server:
        serving = in_thread(server.serve_forever)
        address = f"tcp://127.0.0.1:{server.server_port}"
        with pytest.raises(ClusterError, match="perhaps the dashboard"):
            in_thread(connected(address).__enter__).result(15)
        server.shutdown()
        serving.result()


GREETINGS = {
    "SSH": b"SSH-2.0-OpenSSH_9.2p1\r\n",
    "SMTP": b"220 mail ESMTP ready\r\n",
    "MySQL": b"J\0\0\0\n8.0.30\0xxxxxxxxxx",
    "lengths": struct.pack("<QQ", 16, 2**64 - 1) + b"\xff" * 120,
    "no message": struct.pack("<QQQ", 17, 1, 1) + b"\xc1",
    "a number": struct.pack("<QQQ", 17, 1, 1) + b"\x05",
}
"""What servers say first that Dask reads as lengths of frames, or as frames."""


class GreetingServer(ThreadingTCPServer):
    """Ends though Dask has left a connection open."""

    daemon_threads = True


class GreetingHandler(BaseRequestHandler):
    """Speaks first, and then waits for the client to go."""

    def handle(self):
        self.request.sendall(self.server.greeting)
        with suppress(OSError):
            while self.request.recv(1024):
                pass


@pytest.mark.parametrize("greeting", GREETINGS.values(), ids=GREETINGS)
def test_a_server_that_speaks_first_is_no_scheduler(greeting):
    with GreetingServer(("127.0.0.1", 0), GreetingHandler) as server:
        server.greeting = greeting
        serving = in_thread(server.serve_forever)
        address = f"tcp://127.0.0.1:{server.server_address[1]}"
        refused = in_thread(connected(address).__enter__).exception(15)
        server.shutdown()
        serving.result(15)
    assert isinstance(refused, ClusterError)
    assert "what answers there is no Dask scheduler" in str(refused)


@pytest.mark.parametrize(
    "address",
    [
        "tcp://127.0.0.1:99999",
        "127.0.0.1:65536",
        "tcp://[::1]:-1",
        "tls://127.0.0.1:70000",
        "tcp://127.0.0.1:0",
    ],
)
def test_a_port_that_cannot_be_is_reported_at_once(monkeypatch, address):
    # Not one connection is tried.
    monkeypatch.setattr(lookup, "identity_at", None)
    with pytest.raises(ClusterError, match=r"there is no port -?\d+, only"):
        bounded(connected(address).__enter__)


def test_an_address_without_the_encryption_that_is_required_is_reported(closed_port):
    with (
        dask.config.set({"distributed.comm.require-encryption": True}),
        pytest.raises(ClusterError, match="encryption required"),
    ):
        bounded(connected(closed_port).__enter__)


class SilentHandler(BaseHTTPRequestHandler):
    """Refuses all requests, and does not log them."""

    def log_message(self, *_):
        pass


def test_a_scheduler_that_is_just_starting_is_waited_for(monkeypatch, closed_port):
    """Its port refuses connections at first."""
    # Not how long the wait is, but that there is one.
    monkeypatch.setattr(lookup, "REFUSED_S", WITHIN_S)
    monkeypatch.setattr(lookup, "DIAGNOSE_S", 0.1)

    async def start_later():
        await asyncio.sleep(0.5)
        port = int(closed_port.rpartition(":")[2])
        # Any port for its pages: if another cluster has the usual one, Dask warns.
        pages = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
        async with Scheduler(host="127.0.0.1", port=port, **pages):
            await ended.wait()

    ended = asyncio.Event()
    loop = asyncio.new_event_loop()
    running = in_thread(loop.run_until_complete, start_later())
    with connected(closed_port) as found:
        assert found.scheduler.address == closed_port
    loop.call_soon_threadsafe(ended.set)
    running.result()
    loop.close()


def test_a_silent_address_is_reported(soon):
    with closing(socket.create_server(("127.0.0.1", 0))) as mute:
        address = f"tcp://127.0.0.1:{mute.getsockname()[1]}"
        with pytest.raises(ClusterError, match=address):
            in_thread(connected(address).__enter__).result(10)


@pytest.mark.parametrize(
    "address",
    ["", "nowhere", "tcp://", "tcp://127.0.0.1", "tcp://127.0.0.1:x", "x://a:1"],
)
def test_a_malformed_address_is_reported(soon, address):
    with pytest.raises(ClusterError) as refused:
        bounded(connected(address).__enter__)
    assert repr(address) in str(refused.value)


def test_an_address_that_needs_tls_is_reported(soon):
    with pytest.raises(ClusterError, match=r"tls://127\.0\.0\.1:8786"):
        bounded(connected("tls://127.0.0.1:8786").__enter__)


def test_the_address_of_a_worker_is_refused(client):
    worker = next(iter(client.nthreads()))
    with pytest.raises(ClusterError, match=rf"{worker}.*address of a Worker, not of a"):
        bounded(connected(worker).__enter__)


@pytest.mark.parametrize("fitted_before", [False, True])
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_a_fit_that_cannot_reach_its_cluster_changes_nothing(
    soon, closed_port, digits, fitted_before, method
):
    X, y = small(digits)
    letters = np.array(list("abcdefghij"))[y]
    clf = classifier(engine="local")
    if fitted_before:
        clf.fit(X, y)
    before = dict(vars(clf))
    clf.set_params(engine="futures", client=closed_port)
    labels, options = (letters, {}) if method == "fit" else (y, {"classes": range(10)})
    with pytest.raises(ClusterError):
        getattr(clf, method)(X, labels, **options)
    clf.set_params(engine="local", client=None)
    assert vars(clf) == before


# Clients that cannot be used.


def test_a_closed_client_is_refused(cluster, digits):
    closed = Client(cluster, set_as_default=False)
    closed.close()
    with pytest.raises(ClusterError, match="client is closed"):
        classifier(client=closed).fit(*small(digits))


def test_a_client_that_will_not_connect_again_is_refused(cluster, digits, monkeypatch):
    """Dask leaves it so when the scheduler confuses its old and its new connection."""
    monkeypatch.setattr(lookup, "is_reconnecting", lambda _: False)
    with Client(cluster, set_as_default=False) as lost:
        monkeypatch.setattr(lost, "status", "connecting")
        with pytest.raises(ClusterError, match="failed to connect to it again"):
            bounded(classifier(client=lost).fit, *small(digits))
        monkeypatch.undo()


def test_an_asynchronous_client_is_refused(cluster):
    async def use():
        async with Client(
            cluster.scheduler_address, asynchronous=True, set_as_default=False
        ) as asynchronous:
            with connected(asynchronous):
                pass

    with pytest.raises(ClusterError, match="asynchronous"):
        asyncio.run(use())


# Inside a task.


def fit_in_task(clf, X, y):
    return clf.fit(X, y), clf.predict(X)


def resolved_in_task(clf, X, y):
    return fit_in_task(clf.set_params(client=get_client()), X, y)


def result_of_task(client, task, *args):
    """Run a task; a failure must not keep it on the cluster."""
    future = client.submit(task, *args, pure=False)
    try:
        return future.result(timeout=20)
    finally:
        future.release()


@pytest.mark.parametrize("client_is", ["None", "own address", "get_client()"])
def test_a_fit_in_the_only_thread_of_its_cluster_does_not_deadlock(
    one_worker, digits, client_is
):
    X, y = small(digits)
    address = one_worker.scheduler.address if client_is == "own address" else None
    clf = classifier(client=address)
    task = resolved_in_task if client_is == "get_client()" else fit_in_task
    there, labels = result_of_task(one_worker, task, clf, X, y)

    here = classifier(engine="local").fit(X, y)
    assert there.engine_ == "futures"
    assert there.plan_.workers == tuple(one_worker.nthreads())
    assert_same_parameters(there, here)
    np.testing.assert_array_equal(labels, here.predict(X))


def test_a_fit_in_a_task_places_each_shard_on_its_worker(client, digits):
    def received(dask_worker):
        log = dask_worker.transfer_incoming_log
        return {key for entry in log for key in entry["keys"]}

    before = client.run(received)
    there, _ = result_of_task(client, fit_in_task, classifier(), *small(digits))
    assert sorted(there.plan_.workers) == sorted(client.nthreads())
    after = client.run(received)
    received = {key[1] for w in after for key in after[w] - before[w]}
    assert any(name.startswith("forward") for name in received)
    assert not {name for name in received if name.startswith(("shard", "rows"))}


def test_an_unpickled_estimator_connects_to_its_address(one_worker, client, digits):
    clf = classifier(client=client.scheduler.address)
    assert pickle.loads(pickle.dumps(clf)).client == client.scheduler.address
    there, _ = result_of_task(one_worker, fit_in_task, clf, *small(digits))
    assert there.plan_.workers == tuple(client.nthreads())


def test_a_small_network_in_a_task_needs_no_client(no_workers, digits):
    no_workers.cluster.scale(1)
    no_workers.wait_for_workers(1, timeout=60)
    clf = classifier(parameter_threshold=50_000)
    there, _ = result_of_task(no_workers, fit_in_task, clf, *small(digits))
    assert there.engine_ == "local"
    assert "threshold" in there.plan_.reason
    assert clients_of(no_workers) <= {no_workers.id, "fire-and-forget"}
