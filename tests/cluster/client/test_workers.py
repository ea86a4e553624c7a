"""Which workers a cluster has, and whether this process can connect to them."""

import socket

import dask
import dask.array as da
import numpy as np
import pytest
from click import ClickException
from distributed import Client, Status

from skdistmlp.cli import crossover_command
from skdistmlp.cluster.client import workers as module
from skdistmlp.cluster.client.workers import (
    can_connect,
    choose_workers,
    retired_among,
    scheduler_and_threads,
    scheduler_id,
    threads_of,
    usable_fraction,
    worker_memory,
    worker_statuses,
    workers_of,
)
from skdistmlp.cluster.data.dask_collections import compute
from skdistmlp.exceptions import ClusterError
from tests.cluster.client.support import classifier, small
from tests.cluster.leaks import own_cluster
from tests.cluster.support import WITHIN_S, bounded, wait_until

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
    scheduler, threads = scheduler_and_threads(client, (*workers, gone))
    assert (scheduler, threads) == (scheduler_id(client), (1, 1, 1, 0))
    memory = worker_memory(client, (*workers, gone))
    assert set(memory) == set(workers)
    for its in memory.values():
        assert its.limit > 0
        assert its.usable == dask.config.get("distributed.worker.memory.pause")
        assert 5e7 < its.taken < 2e9


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


@pytest.fixture
def paused(monkeypatch):
    """Two workers, of which none accepts tasks."""
    monkeypatch.setattr(module, "RESUME_S", 0.2)

    def pause(dask_worker):
        dask_worker.status = Status.paused

    # Without a limit: Dask resumes a worker that is below its limit.
    with own_cluster(n_workers=2, processes=False, memory_limit=0) as client:
        client.run(pause)
        wait_until(
            lambda: set(worker_statuses(client).values()) == {"paused"},
            "the scheduler has heard of it",
        )
        yield client


PAUSED = "that accept tasks: 2 are paused for using too much memory"


def test_paused_workers_are_counted(paused, digits):
    X, y = small(digits)
    for n_workers, engine in ((None, "peers"), (1, "futures")):
        clf = classifier(n_workers=n_workers, engine=engine, client=paused)
        for given in (X, da.from_array(X, chunks=(50, -1))):
            with pytest.raises(
                ClusterError, match=rf"has 0 {PAUSED}\. A paused worker resumes"
            ):
                bounded(clf.fit, given, y)
    clf.set_params(client=None, engine="local").fit(X, y)
    labels = clf.predict(X)
    clf.set_params(client=paused, engine="futures")
    assert clf.plan_predict(X).reason == f"the cluster has no workers {PAUSED}"
    np.testing.assert_array_equal(bounded(clf.predict, X), labels)
    lazy = clf.predict(da.from_array(X, chunks=(50, -1)))
    with (
        dask.config.set({"skdistmlp.exchange-timeout": "100ms"}),
        pytest.raises(ClusterError, match=r"has accepted tasks for 0\.1 s: 2 are paus"),
    ):
        bounded(compute, paused, lazy)


def test_paused_workers_that_resume_are_chosen(paused, monkeypatch):
    """They are asked to return memory; whether they then resume, Dask decides."""
    monkeypatch.setattr(module, "RESUME_S", WITHIN_S)

    def resume(dask_worker):
        dask_worker.status = Status.running

    monkeypatch.setattr(module, "return_freed_memory", resume)
    assert set(bounded(choose_workers, paused, None)) == set(paused.nthreads())


def test_nobody_waits_for_paused_workers_where_others_are_enough(client, monkeypatch):
    first, second, third = client.nthreads()
    monkeypatch.setattr(
        module,
        "worker_statuses",
        lambda _: {first: "paused", second: "running", third: "running"},
    )
    asked = []
    monkeypatch.setattr(module, "RESUME_S", 0.2)
    monkeypatch.setattr(
        module, "run_on_workers", lambda _, some, *__: asked.extend(some) or {}
    )
    assert choose_workers(client, 2) == (second, third)
    assert asked == []
    assert choose_workers(client, None) == (second, third)
    assert set(asked) == {first}


@pytest.mark.parametrize(
    ("pause", "terminate", "fractions"),
    [
        (0.8, 0.95, (0.8, 0.8)),
        (False, 0.95, (1.0, 0.95)),
        (0.9, 0.7, (0.9, 0.7)),
        (False, False, (1.0, 1.0)),
    ],
)
def test_a_worker_can_use_what_dask_lets_it(pause, terminate, fractions):
    memory = "distributed.worker.memory"
    with dask.config.set({f"{memory}.pause": pause, f"{memory}.terminate": terminate}):
        found = tuple(usable_fraction(has_nanny) for has_nanny in (False, True))
    assert found == fractions


@pytest.mark.parametrize(
    ("statuses", "n_workers", "said"),
    [
        (
            ("running", "paused"),
            2,
            r"has 1 that accepts tasks: 1 is paused .*memory\.$",
        ),
        (
            ("running", "paused"),
            3,
            r"has 1 that accepts tasks: 1 is paused .* Also start more workers: 3 are "
            r"needed, and with it there would be 2\.$",
        ),
        (
            ("paused", "running", "running", "paused"),
            5,
            r"has 2 that accept tasks: 2 are paused .* with them there would be 4\.$",
        ),
    ],
)
def test_workers_that_are_missing_beside_paused_ones_are_asked_for(
    client, monkeypatch, statuses, n_workers, said
):
    monkeypatch.setattr(
        "skdistmlp.cluster.client.workers.worker_statuses",
        lambda _: {f"tcp://w:{i}": status for i, status in enumerate(statuses)},
    )
    monkeypatch.setattr(module, "RESUME_S", 0.0)
    with pytest.raises(ClusterError, match=said):
        choose_workers(client, n_workers)


def test_the_command_counts_paused_workers(paused):
    said = f"need at least 2 workers, the cluster has 0 {PAUSED}"
    with pytest.raises(ClickException, match=said):
        crossover_command._measure(
            paused, None, batch_size=1, n_features=1, max_width=1, n_layers=1, repeats=1
        )


def test_workers_that_were_retired_are_told_from_others():
    with own_cluster(n_workers=3, processes=False) as client:
        first, second, third = client.nthreads()
        assert retired_among(client, [first, second, third, "tcp://nobody:1"]) == []
        client.retire_workers([second])
        wait_until(lambda: second not in client.nthreads(), "it has left")
        assert retired_among(client, [first, second, third]) == [second]
