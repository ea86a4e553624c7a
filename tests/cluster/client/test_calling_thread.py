"""Threads that a task has started, coroutines, and forked processes."""

import asyncio
import multiprocessing
import os
import warnings
from concurrent.futures import ThreadPoolExecutor

import dask
import dask.array as da
import joblib
import numpy as np
import pytest
from distributed import Client, get_client, secede
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.ensemble import VotingClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score

from skdistmlp.cluster.run.cache import WorkerCache, clear_caches
from skdistmlp.exceptions import ClusterError
from tests.cluster.client.support import classifier, small
from tests.cluster.leaks import assert_nothing_left, own_cluster, remember
from tests.cluster.support import WITHIN_S, load
from tests.marks import only_quick

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


# Threads of a task.


@pytest.fixture(scope="module")
def single():
    """A client of a cluster with one thread: who waits there must lend it."""
    with own_cluster(n_workers=1) as client:
        client.run(load)
        yield client


@pytest.fixture(scope="module")
def data():
    return small(load_digits(return_X_y=True))


def result_of(client, task, *args):
    """Run a task; a failure must not keep it on the cluster."""
    future = client.submit(task, *args, pure=False)
    try:
        return future.result(WITHIN_S)
    finally:
        future.release()


def fit(clf, X, y):
    return clf.fit(X, y).engine_


def predict(clf, X, y):
    clf.set_params(engine="local").fit(X, y)
    return len(clf.set_params(engine="futures").predict(X))


def partial_fit(clf, X, y):
    return clf.partial_fit(X, y, classes=np.unique(y)).engine_


def in_pool(call, clf, X, y):
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda _: call(clone(clf), X, y), range(2)))


def in_cross_validation(_, clf, X, y):
    with joblib.parallel_config("threading"):
        return cross_val_score(clf, X, y, cv=2, n_jobs=2, error_score="raise")


def in_voting(_, clf, X, y):
    with joblib.parallel_config("threading"):
        return VotingClassifier([("a", clf), ("b", clf)], n_jobs=2).fit(X, y)


async def in_coroutine(call, clf, X, y):
    return call(clf, X, y)


async def beside_coroutine(call, clf, X, y):
    return await asyncio.to_thread(call, clf, X, y)


REFUSED = "cannot wait for a cluster in this thread of worker|would block"


def test_threads_of_a_task_are_refused_alike_on_fresh_and_used_workers(
    one_worker, data
):
    def assert_refused():
        with pytest.raises(ClusterError, match=REFUSED):
            result_of(one_worker, in_pool, fit, classifier(), *data)

    assert_refused()
    assert result_of(one_worker, fit, classifier(), *data) == "futures"
    assert_refused()
    assert result_of(one_worker, fit, classifier(), *data) == "futures"


@pytest.mark.parametrize(
    ("where", "call", "engine"),
    only_quick(
        *(0, 2, 5, 7),
        cases=[
            (in_pool, fit, "peers"),
            (in_pool, predict, "futures"),
            (in_pool, partial_fit, "peers"),
            (in_pool, fit, "auto"),
            (in_cross_validation, None, "futures"),
            (in_voting, None, "peers"),
            (in_coroutine, predict, "futures"),
            (in_coroutine, fit, "peers"),
            (in_coroutine, partial_fit, "auto"),
            (beside_coroutine, fit, "futures"),
        ],
    ),
)
def test_no_thread_that_cannot_be_lent_waits_for_a_cluster(
    single, data, where, call, engine
):
    with pytest.raises(ClusterError, match=REFUSED):
        result_of(single, where, call, classifier(engine=engine), *data)
    assert result_of(single, fit, classifier(engine=engine), *data) != "local"


@pytest.mark.parametrize("client_is", ["address", "get_client()"])
def test_nor_does_it_with_a_client_where_the_task_keeps_the_only_thread(
    single, data, client_is
):
    def task(clf, X, y):
        given = single_address if client_is == "address" else get_client()
        return in_pool(fit, clf.set_params(client=given), X, y)

    single_address = single.scheduler.address
    with pytest.raises(ClusterError, match=REFUSED):
        result_of(single, task, classifier(), *data)


def test_threads_of_a_task_that_has_seceded_work_with_its_client(single, data):
    def task(clf, X, y):
        clf.set_params(client=get_client())
        secede()
        return in_pool(fit, clf, X, y)

    assert result_of(single, task, classifier(), *data) == ["futures", "futures"]


@pytest.mark.parametrize("where", [in_pool, in_coroutine])
@pytest.mark.parametrize(
    "parameters",
    [{"engine": "local"}, {"engine": "auto", "parameter_threshold": 10**9}],
)
def test_what_stays_local_works_in_any_thread(single, data, where, parameters):
    found = result_of(single, where, fit, classifier(**parameters), *data)
    assert set(np.atleast_1d(found)) == {"local"}


def test_a_lazy_prediction_in_a_coroutine_leaves_the_worker_as_it_was(single, data):
    async def task(clf, X):
        # As if the network were large, which then is sent to a worker.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": 1}):
            lazy = clf.predict(da.from_array(X))
        return len(lazy.compute(scheduler="synchronous"))

    clf = classifier(engine="local").fit(*data)
    assert result_of(single, task, clf, data[0]) == len(data[0])
    assert result_of(single, fit, classifier(), *data) == "futures"


# A process that was forked from that of a client.


def in_fork(function, *args):
    """Call a function in a forked process; return its result and its warnings."""

    def run():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                result = function(*args)
            except ClusterError as error:
                result = error
        there.send((result, [str(warning.message) for warning in caught]))

    here, there = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=run)
    with warnings.catch_warnings():
        # Python's own, of forks in processes with several threads.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    try:
        assert here.poll(WITHIN_S), "the forked process waits for ever"
        return here.recv()
    finally:
        process.kill()
        process.join()


@pytest.fixture
def active(cluster):
    with Client(cluster) as client:
        remember(client)
        yield client
        assert_nothing_left(client)


def fit_collection(clf, X, y):
    return clf.fit(da.from_array(X, chunks=(100, -1)), y).engine_


def predict_lazily(clf, X, y):
    rows = da.from_array(X, chunks=(100, -1))
    clf.set_params(engine="local").fit(X, y).set_params(engine="futures")
    # As if the network were large, which then is sent to a worker.
    with dask.config.set({"distributed.admin.large-graph-warning-threshold": 1}):
        lazy = clf.predict(rows)
    assert 0 <= clf.score(rows, y) <= 1
    return len(lazy.compute(scheduler="synchronous"))


def search(clf, X, y):
    with joblib.parallel_config("multiprocessing"):
        found = GridSearchCV(clf, {"alpha": [0.1, 1]}, cv=2, n_jobs=2).fit(X, y)
    return found.best_estimator_.engine_


USES = [
    (fit, "peers"),
    (fit, "futures"),
    (fit, "auto"),
    (partial_fit, "peers"),
    (predict, "futures"),
    (fit_collection, "peers"),
    (predict_lazily, "futures"),
    (search, "auto"),
]


@pytest.mark.parametrize(
    ("client_is", "use", "engine"),
    only_quick(
        *(0, 4, 5, 6, 9, 16),
        cases=[
            (client_is, *use)
            for client_is in ("active", "given", "of a cluster")
            for use in USES
        ],
    ),
)
def test_a_forked_process_uses_no_client_that_it_inherited(
    active, cluster, data, client_is, use, engine
):
    given = {"given": active, "active": None, "of a cluster": cluster}[client_is]
    clf = classifier(client=given, engine=engine)
    found, warned = in_fork(use, clf, *data)
    predicts = use in (predict, predict_lazily)
    assert found == (len(data[0]) if predicts else "local")
    needs = [text for text in warned if "needs a cluster, but no Dask client" in text]
    assert len(needs) == (not predicts)


def test_data_that_another_process_holds_is_refused_in_a_forked_one(active, data):
    rows = active.persist(da.from_array(data[0], chunks=(100, -1)))
    error, _ = in_fork(classifier().fit, rows, data[1])
    assert "3 blocks of the data are held by the Dask client of another" in str(error)


@pytest.mark.slow
def test_a_forked_process_can_use_the_address_of_the_scheduler(active, data):
    classifier(client=active, engine="peers").fit(*data)
    clf = classifier(client=active.scheduler.address, engine="peers")
    assert in_fork(fit, clf, *data)[0] == "peers"


def test_a_forked_process_leaves_the_cache_alone(active, data):
    def clear():
        clear_caches()
        return len(cache._entries)

    clf = classifier(engine="local", client=active).fit(*data)
    clf.set_params(engine="futures").predict(data[0])
    cache = WorkerCache.of(active)
    n_entries = len(cache._entries)
    with cache._lock:
        assert in_fork(clear) == (n_entries, [])
    assert n_entries == len(cache._entries) > 0


def test_a_task_may_fork(single, data):
    def task():
        # Not multiprocessing: processes of a nanny may not have children.
        read, write = os.pipe()
        if (pid := os.fork()) == 0:
            os.write(write, classifier(engine="peers").fit(*data).engine_.encode())
            os._exit(0)
        os.waitpid(pid, 0)
        return os.read(read, 10)

    assert result_of(single, task) == b"local"
