"""Rows and parameters cached on real workers from call to call."""

import gc
import itertools
import threading

import dask
import numpy as np
import pytest
from distributed import Client, Future
from numpy.testing import assert_array_equal
from scipy import sparse
from sklearn.model_selection import GridSearchCV

from skdistmlp import DistributedMLPClassifier
from skdistmlp.cluster.run import scatter
from skdistmlp.cluster.run.cache import (
    WorkerCache,
    _release_at_exit,
    clear_caches,
)
from skdistmlp.cluster.run.scatter import Scatterer
from tests.cluster.leaks import own_cluster
from tests.cluster.prediction.test_by_rows import sharing_is_free  # noqa: F401
from tests.cluster.support import WITHIN_S, bounded, wait_until

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

N_BYTES = 100 * 64 * 8 + 100 * 10
"""Of 100 rows of the digits and their targets."""


@pytest.fixture
def sent(monkeypatch):
    """Return a list that records the names of sent values, in order."""
    names = []
    original = Scatterer.scatter

    def place(self, name, values, ranks=None):
        names.extend([name] * len(values))
        return original(self, name, values, ranks)

    monkeypatch.setattr(Scatterer, "scatter", place)
    return names


@pytest.fixture
def data(digits):
    return digits[0][:100], digits[1][:100]


def classifier(client, **parameters):
    options = {
        "hidden_layer_sizes": (9,),
        "engine": "peers",
        "n_workers": 2,
        "max_iter": 2,
    }
    return DistributedMLPClassifier(
        **options | parameters, client=client, random_state=0, parameter_threshold=0
    )


def fit(client, X, y, **parameters):
    """Train, and wait until the cache is updated."""
    clf = bounded(classifier(client, **parameters).fit, X, y)
    wait_until(
        lambda: (
            not any(
                thread.name.startswith(scatter.THREAD_NAME)
                for thread in threading.enumerate()
            )
        ),
        "the contents are noted",
    )
    return clf


@pytest.mark.parametrize("engine", ["peers", "futures"])
@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_array])
def test_the_same_rows_are_sent_once(client, data, sent, engine, convert):
    first = fit(client, convert(data[0]), data[1], engine=engine)
    again = fit(client, convert(data[0].copy()), data[1], engine=engine)
    assert sent.count("rows") == 2
    assert_array_equal(first.coefs_[0], again.coefs_[0])


@pytest.mark.parametrize("what", ["X", "y", "sample_weight"])
def test_changed_rows_are_sent_again(client, data, sent, what):
    X, y = (array.copy() for array in data)
    given = {"X": X, "y": y, "sample_weight": np.linspace(1, 2, 100)}

    def fitted(client):
        clf = classifier(client)
        return bounded(lambda: clf.fit(**given))

    fitted(client)
    given[what][::2] = given[what][::-2]
    shared = fitted(client)
    assert sent.count("rows") == 4
    with dask.config.set({"skdistmlp.cache.max-bytes": 0}):
        assert_array_equal(shared.coefs_[0], fitted(client).coefs_[0])


@pytest.mark.slow
def test_a_search_sends_each_fold_once(client, data, sent):
    grid = {
        "alpha": [1e-4, 1e-3, 1e-2],
        "learning_rate_init": [1e-3, 1e-2],
        "hidden_layer_sizes": [(4,), (5,), (6,), (4, 4)],
    }
    search = GridSearchCV(classifier(client, max_iter=1), grid, cv=2)
    bounded(search.fit, *data)
    assert len(search.cv_results_["params"]) == 24
    # Two folds, and all rows for the refit, on two workers.
    assert sent.count("rows") == 2 * 2 + 2


def test_another_number_of_workers_uses_cached_rows(client, data, sent):
    fit(client, *data, n_workers=2)
    fit(client, *data, n_workers=3)
    fit(client, *data, n_workers=1)
    assert sent.count("rows") == 3


def test_the_cache_is_limited_in_bytes(client, digits, sent):
    """Older entries stay, so a search that cycles over folds finds most of them."""
    X, y = digits
    folds = [(X[i : i + 100], y[i : i + 100]) for i in range(0, 300, 100)]
    with dask.config.set({"skdistmlp.cache.max-bytes": 2 * 2 * N_BYTES}):
        for rows in 2 * folds:
            fit(client, *rows)
        assert sent.count("rows") == 2 * (3 + 1)
        for _ in range(2):
            fit(client, X[:500], y[:500])
        assert sent.count("rows") == 2 * (3 + 1 + 2)
    wait_until(
        lambda: sum(map(len, client.has_what().values())) == 4, "only two are kept"
    )
    with dask.config.set({"skdistmlp.cache.max-bytes": 2 * N_BYTES}):
        fit(client, *folds[0])
        wait_until(
            lambda: sum(map(len, client.has_what().values())) == 2, "only one is kept"
        )


def test_unused_entries_expire(client, data):
    with dask.config.set({"skdistmlp.cache.ttl": "2s"}):
        fit(client, *data)
        assert client.futures
        wait_until(lambda: not client.futures, "nothing is kept")


def test_closing_the_client_clears_its_cache(cluster, client, data):
    with Client(cluster, set_as_default=False) as own:
        fit(own, *data)
        assert any(client.has_what().values())
    wait_until(lambda: not any(client.has_what().values()), "nothing is kept")


def test_entries_lost_by_the_cluster_are_sent_again(client, data, sent):
    fit(client, *data)
    client.cancel([Future(key, client) for key in list(client.futures)], force=True)
    wait_until(lambda: not any(client.has_what().values()), "it is gone")
    fit(client, *data)
    assert sent.count("rows") == 4


def test_rows_on_a_lost_worker_are_sent_again(data, sent):
    with own_cluster(n_workers=2) as client:
        first = fit(client, *data)
        client.cluster.scale(1)
        wait_until(lambda: len(client.nthreads()) == 1, "a worker is gone")
        client.cluster.scale(2)
        client.wait_for_workers(2, timeout=WITHIN_S)
        again = fit(client, *data)
        assert sent.count("rows") == 3
    assert_array_equal(first.coefs_[0], again.coefs_[0])


def test_rows_are_not_cached_on_workers_that_are_threads(data, sent):
    """They would hold the caller's own array, which the caller may change."""
    with own_cluster(n_workers=2, processes=False) as client:
        for _ in range(2):
            fit(client, *data)
        assert sent.count("rows") == 4


def test_a_fit_that_has_ended_caches_nothing(client, data, monkeypatch):
    """Its caller may change the rows before their content is hashed."""
    ended, original = threading.Event(), scatter.content_hash

    def late(value):
        ended.wait(10)
        return original(value)

    monkeypatch.setattr(scatter, "content_hash", late)
    bounded(classifier(client).fit, *data)
    ended.set()
    wait_until(lambda: not client.futures, "nothing is kept")


def test_a_client_for_one_call_caches_nothing(client, data, monkeypatch):
    """Caching would only take time."""
    monkeypatch.setattr(WorkerCache, "of", None)
    bounded(classifier(client.scheduler.address).fit, *data)


# Parameters.


@pytest.mark.parametrize("engine", ["auto", "futures"])
@pytest.mark.usefixtures("sharing_is_free")
def test_parameters_are_sent_once_and_released_with_the_estimator(
    client, data, sent, engine
):
    clf = bounded(classifier(None, engine="local").fit, *data)
    labels = clf.predict(data[0])
    clf.set_params(engine=engine, client=client, n_workers=2)
    for _ in range(3):
        assert_array_equal(bounded(clf.predict, data[0]), labels)
    assert len([name for name in sent if name != "rows"]) == 2
    del clf
    gc.collect()
    wait_until(lambda: not client.futures, "the parameters are released")


@pytest.mark.parametrize("change", ["in place", "anew", "copied", "transposed"])
@pytest.mark.usefixtures("sharing_is_free")
def test_changed_parameters_are_sent_again(client, data, sent, change):
    local = classifier(None, engine="local", hidden_layer_sizes=(9, 9))
    clf = bounded(local.fit, *data)
    clf.set_params(engine="auto", client=client, n_workers=2)
    bounded(clf.predict_proba, data[0])
    if change == "in place":
        clf.intercepts_[-1][0] += 1
    elif change == "anew":
        clf.partial_fit(*data)
    elif change == "transposed":
        clf.coefs_[1] = clf.coefs_[1].T
    else:
        clf.coefs_ = [coef * 2 for coef in clf.coefs_]
    before = len(sent)
    seen = bounded(clf.predict_proba, data[0])
    assert sent[before:].count("network") == 2
    here = clf.set_params(engine="local").predict_proba(data[0])
    np.testing.assert_allclose(seen, here)


@pytest.mark.slow
def test_many_clients_and_threads_can_use_their_caches(cluster, data):
    """No client gets another's rows, whichever entries are evicted."""
    clients = [Client(cluster, set_as_default=False) for _ in range(2)]
    expected = [
        classifier(None, engine="local").fit(data[0] * k, data[1]) for k in range(1, 4)
    ]
    wrong = []

    def fit_some(client):
        for k in (0, 1, 2, 1, 0):
            clf = classifier(client).fit(data[0] * (k + 1), data[1])
            if not np.allclose(clf.coefs_[0], expected[k].coefs_[0]):
                wrong.append(k)

    with dask.config.set({"skdistmlp.cache.max-bytes": 3 * N_BYTES}):
        threads = [
            threading.Thread(target=fit_some, args=(client,), daemon=True)
            for client in itertools.chain(clients, clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive()
    for client in clients:
        client.close()
    clear_caches()
    assert not wrong


def test_an_entry_expires_after_its_own_last_use(client, monkeypatch):
    """Not after the next look, which may be as long again."""
    later = []
    monkeypatch.setattr(
        WorkerCache, "call_later", lambda *_, after_s: later.append(after_s)
    )
    cache = WorkerCache(client)
    worker = next(iter(client.nthreads()))
    with dask.config.set({"skdistmlp.cache.ttl": "100s"}):
        cache.keep("a token", worker, client.scatter(1, workers=[worker]), 10)
        assert later.pop() == pytest.approx(100, abs=5)
        # It was found 60 s before the look that the first use had led to.
        cache._entries["a token", worker].used_at -= 60
        cache._expire()
        assert later.pop() == pytest.approx(40, abs=5)
    cache.clear()


def test_a_scheduler_that_hangs_does_not_keep_a_process_from_ending(processes, data):
    processes.have_workers(2)
    with Client(processes.address, set_as_default=False) as client:
        bounded(fit, client, *data)
        cache = WorkerCache.of(client)
        with processes.stopped_scheduler() as stop:
            stop()
            bounded(_release_at_exit)
        assert bounded(cache.release().result) is None
        assert cache.find("anything", "anywhere") is None
        assert cache.release() is None


@pytest.mark.slow
def test_a_bad_lifetime_is_reported_by_the_first_fit(client, data):
    with (
        dask.config.set({"skdistmlp.cache.ttl": "abc"}),
        pytest.raises(ValueError, match=r"skdistmlp\.cache\.ttl is 'abc'"),
    ):
        bounded(classifier(client).fit, *data)
