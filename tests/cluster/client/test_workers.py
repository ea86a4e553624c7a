"""Which workers a cluster has, and whether this process can connect to them."""

import socket

import dask
import numpy as np
import pytest
from distributed import Client

from skdistmlp.cluster.client import workers as module
from skdistmlp.cluster.client.workers import (
    can_connect,
    choose_workers,
    memory_limits,
    threads_of,
    worker_statuses,
    workers_of,
)
from skdistmlp.exceptions import ClusterError
from tests.cluster.client.support import classifier, small
from tests.cluster.support import bounded

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize("n_workers", [1, 2, 3, None])
def test_workers_are_chosen_from_the_cluster(client, n_workers):
    chosen = choose_workers(client, n_workers)
    assert len(set(chosen)) == len(chosen) == (n_workers or 3)
    assert set(chosen) <= set(client.nthreads())


def test_workers_are_found_while_the_client_is_busy(cluster):
    """Dask's clients ask for totals now and then, and keep the last answer for all."""
    with (
        dask.config.set({"distributed.client.scheduler-info-interval": "1ms"}),
        Client(cluster.scheduler_address, set_as_default=False) as restless,
    ):
        for _ in range(300):
            assert len(choose_workers(restless, None)) == 3


@pytest.mark.parametrize("n_workers", [4, 1000])
def test_too_few_workers_are_reported_with_both_numbers(client, digits, n_workers):
    message = rf"n_workers={n_workers} .* {client.scheduler.address} has 3\b"
    with pytest.raises(ClusterError, match=message):
        choose_workers(client, n_workers)
    with pytest.raises(ClusterError, match=message):
        classifier(client=client, n_workers=n_workers).fit(*small(digits))


@pytest.mark.parametrize(
    ("n_workers", "needs"), [(None, "at least 1 worker,"), (1, "1 worker,"), (2, "2")]
)
def test_no_workers_are_reported_with_both_numbers(no_workers, n_workers, needs):
    message = rf"n_workers={n_workers} needs {needs}.* has 0\b"
    with pytest.raises(ClusterError, match=message):
        choose_workers(no_workers, n_workers)


@pytest.mark.parametrize("engine", ["auto", "futures"])
def test_a_prediction_uses_the_workers_that_exist(client, no_workers, digits, engine):
    X, y = small(digits)
    clf = classifier(n_workers=5, engine="local").fit(X, y)
    labels = clf.predict(X)
    clf.set_params(engine=engine, client=client)
    np.testing.assert_array_equal(bounded(clf.predict, X), labels)
    assert clf.plan_predict(X).n_shards == (3 if engine == "futures" else 1)
    clf.set_params(client=no_workers)
    np.testing.assert_array_equal(bounded(clf.predict, X), labels)


def test_statuses_threads_and_limits_are_those_of_all_workers(client):
    workers = workers_of(client)
    assert set(workers) == set(client.nthreads())
    assert worker_statuses(client) == dict.fromkeys(workers, "running")
    gone = "tcp://127.0.0.1:1"
    assert threads_of(client, (*workers, gone)) == [1, 1, 1, 1]
    limits = memory_limits(client, (*workers, gone))
    assert set(limits) == set(workers)
    assert min(limits.values()) > 0


@pytest.mark.parametrize("status", ["paused", "closing_gracefully", "closing"])
def test_workers_that_accept_no_tasks_are_not_chosen(client, monkeypatch, status):
    first, *others = client.nthreads()
    monkeypatch.setattr(
        "skdistmlp.cluster.client.workers.worker_statuses",
        lambda _: {first: status} | dict.fromkeys(others, "init"),
    )
    assert workers_of(client) == tuple(others)


class Somebody:
    """A client, for whom `can_connect` remembers what it found."""


def test_an_unreachable_worker_is_not_tried_again():
    somebody, another = Somebody(), Somebody()
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        host, port = reserved.getsockname()
        worker = f"tcp://{host}:{port}"
        assert not can_connect(somebody, worker)
        reserved.listen()
        assert not can_connect(somebody, worker)
        assert can_connect(another, worker)
        assert can_connect(another, worker)


def test_a_worker_that_was_reached_is_tried_again_only_after_a_while(monkeypatch):
    somebody = Somebody()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        worker = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        for _ in range(3):
            assert can_connect(somebody, worker)
        server.accept()[0].close()
        with pytest.raises(BlockingIOError):
            server.accept()
        monkeypatch.setattr(module, "CONNECT_PROBE_VALID_S", 0.0)
        somebody = Somebody()
        for _ in range(2):
            assert can_connect(somebody, worker)
        for _ in range(2):
            server.accept()[0].close()


@pytest.mark.parametrize(
    "address", ["inproc://127.0.0.1/123/4", "tcp://no-such.invalid:1"]
)
def test_a_worker_without_a_network_address_is_unreachable(address):
    assert not can_connect(Somebody(), address)
