"""Searches over numbers of workers, on real worker processes."""

import os
import signal
from contextlib import nullcontext
from functools import partial

import dask
import joblib
import numpy as np
import pytest
from distributed import Client
from joblib.externals.loky import get_reusable_executor
from sklearn.base import clone
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdistmlp import DistributedMLPClassifier, FastestWithin
from tests.cluster.leaks import own_cluster
from tests.cluster.support import bounded, wait_until
from tests.marks import only_quick

pytestmark = pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning",
    # Fits of milliseconds.
    "ignore:the mean fit times for different n_workers:UserWarning",
)

N_WORKERS = [1, 2, 3]

HAD_CLIENT = "an estimator that had a Dask client in another process"


@pytest.fixture
def data(digits):
    X, y = digits
    return X[:300], y[:300]


def classifier(client=None, **parameters):
    return DistributedMLPClassifier(
        (20, 9),
        batch_size=100,
        max_iter=3,
        random_state=0,
        client=client,
        engine="peers",
        parameter_threshold=0,
        **parameters,
    )


def scores_alone(data):
    """Return the scores of the folds for local fits."""
    local = classifier().set_params(engine="local")
    return cross_validate(local, *data, cv=2)["test_score"]


def assert_all_tie(search, data):
    results = search.cv_results_
    for fold, score in enumerate(scores_alone(data)):
        np.testing.assert_allclose(results[f"split{fold}_test_score"], score)
    assert len(results["params"]) == len(N_WORKERS)
    assert search.best_estimator_.n_workers_ == search.best_params_["n_workers"]


def searching(clf, search=GridSearchCV, **options):
    return search(clf, {"n_workers": N_WORKERS}, cv=2, refit=FastestWithin(), **options)


def test_a_search_in_the_client_fits_on_the_cluster(client, data):
    search = searching(classifier(client), n_jobs=1)
    assert_all_tie(bounded(search.fit, *data), data)
    best = search.best_params_["n_workers"]
    fit_s = search.cv_results_["mean_fit_time"]
    assert N_WORKERS[int(np.argmin(fit_s))] == best


@pytest.mark.slow
def test_joblib_processes_connect_to_the_address(client, data):
    """Two fits at a time, each in a process that opens its own connection."""
    clf = classifier(client.scheduler.address)
    search = searching(clf, n_jobs=2)
    assert_all_tie(bounded(search.fit, *data), data)


@pytest.mark.parametrize(
    ("parameters", "context", "said"),
    only_quick(
        0,
        cases=[
            ({"n_workers": 2}, None, "n_workers=2 needs a cluster, but no Dask client"),
            ({"client": ...}, None, HAD_CLIENT),
            ({}, Client.as_current, HAD_CLIENT),
            (
                {"client": ..., "parameter_threshold": None},
                None,
                "client= was given, but training stays in this process: 1,589",
            ),
        ],
    ),
    ids=["n_workers", "live", "active", "small"],
)
def test_joblib_processes_without_a_client_warn(
    client, data, parameters, context, said
):
    """No client is active there: fits are local, and warn once per process."""
    # Processes of another test have warned already.
    get_reusable_executor().shutdown(wait=True)
    clf = classifier().set_params(engine="auto", **parameters)
    if clf.client is not None:
        clf.set_params(client=client)

    def fit(clf):
        import warnings

        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            for _ in range(2):
                clf.fit(*data)
        messages = [str(w.message) for w in caught if w.category is UserWarning]
        return clf.engine_, messages

    with context(client) if context else nullcontext():
        (engine, messages), _ = joblib.Parallel(n_jobs=2, backend="loky")(
            joblib.delayed(fit)(clone(clf)) for _ in range(2)
        )
    assert engine == "local"
    (message,) = messages
    assert message.startswith(said)
    assert "address of the scheduler as client=" in message


@pytest.mark.parametrize("n_jobs", only_quick(1, cases=[-1, 2]))
def test_a_search_in_tasks_of_the_cluster_fits_on_it(searched, data, n_jobs):
    search = searching(classifier(), n_jobs=n_jobs)
    assert_all_tie(bounded_in_tasks(searched, search.fit, *data), data)


@pytest.fixture(scope="module")
def searched():
    """A client of a separate cluster: scikit-learn sends its warning filters along.

    Threads of a worker that set them at the same time may leave them behind.
    """
    with own_cluster(n_workers=3) as connected:
        yield connected


def bounded_in_tasks(client, function, *args):
    """Call with joblib's jobs running on the cluster."""

    def call():
        with client.as_current(), joblib.parallel_config(backend="dask"):
            return function(*args)

    return bounded(call)


def test_a_search_in_tasks_of_one_thread_ends(data):
    """Every fit needs the thread that runs it."""
    with own_cluster(n_workers=1) as client:
        search = GridSearchCV(
            classifier(), {"alpha": [1e-4, 1e-3, 1e-2], "n_workers": [1]}, cv=4
        )
        bounded_in_tasks(client, search.fit, *data)
        assert search.best_estimator_.engine_ == "peers"
        assert not np.isnan(search.cv_results_["mean_test_score"]).any()
        del search


@pytest.mark.slow
def test_the_search_of_dask_ml_works(searched, data):
    """It keeps the folds on the cluster, and each fit is one of its tasks."""
    from dask_ml.model_selection import GridSearchCV as DaskSearch

    grid = {"n_workers": N_WORKERS}
    search = DaskSearch(classifier(), grid, cv=2)

    def fit():
        with searched.as_current():
            search.fit(*data)

    bounded(fit)
    assert_all_tie(search, data)
    assert search.best_estimator_.engine_ == "peers"


@pytest.mark.parametrize(
    ("engine", "solver"),
    only_quick(0, cases=[("peers", "adam"), ("peers", "lbfgs"), ("futures", "adam")]),
)
@pytest.mark.slow
def test_halving_over_max_iter_works_on_the_cluster(client, data, engine, solver):
    def search(clf):
        return HalvingGridSearchCV(
            clf.set_params(solver=solver),
            {"learning_rate_init": [1e-4, 1e-3, 1e-2], "alpha": [1e-4, 1.0, 100.0]},
            resource="max_iter",
            factor=3,
            min_resources=1,
            max_resources=9,
            cv=2,
            random_state=0,
        )

    there = search(classifier(client).set_params(engine=engine, n_workers=2))
    bounded(there.fit, *data)
    here = search(classifier().set_params(engine="local")).fit(*data)
    assert there.n_resources_ == [1, 3, 9]
    assert there.n_candidates_ == [9, 3, 1]
    assert there.cv_results_["params"] == here.cv_results_["params"]
    np.testing.assert_allclose(
        there.cv_results_["mean_test_score"], here.cv_results_["mean_test_score"]
    )
    assert there.best_params_ == here.best_params_
    best = there.best_estimator_
    assert (best.engine_, best.n_workers_, best.n_iter_) == (engine, 2, 9)


@pytest.mark.parametrize("backend", only_quick(1, cases=["loky", "dask"]))
def test_other_searches_and_pipelines_work(searched, data, backend):
    clf = classifier(searched.scheduler.address).set_params(batch_size=50)
    pipeline = make_pipeline(StandardScaler(), clf)
    grid = {"distributedmlpclassifier__n_workers": [1, 2]}
    searches = [
        RandomizedSearchCV(pipeline, grid, n_iter=2, cv=2, random_state=0, n_jobs=2),
        HalvingGridSearchCV(
            pipeline, grid, cv=2, min_resources=150, random_state=0, n_jobs=2
        ),
    ]

    def fit_all():
        for search in searches:
            search.fit(*data)
        return cross_validate(pipeline, *data, cv=2, n_jobs=2)

    run = partial(bounded_in_tasks, searched) if backend == "dask" else bounded
    scores = run(fit_all)["test_score"]
    here = clone(pipeline).set_params(distributedmlpclassifier__engine="local")
    np.testing.assert_allclose(scores, cross_validate(here, *data, cv=2)["test_score"])
    for search in searches:
        assert not np.isnan(search.cv_results_["mean_test_score"]).any()
        assert search.best_estimator_[-1].engine_ == "peers"


@pytest.mark.slow
def test_a_worker_killed_between_two_fits_of_a_search_costs_none_of_them(data):
    """The next fit waits until its nanny has started another."""
    searched = {"alpha": [1e-4, 1.0]}
    scored = []

    def score_and_kill(estimator, X, y):
        scored.append(estimator)
        if len(scored) == 2:
            victim, pid = next(iter(client.run(os.getpid).items()))
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda: victim not in client.nthreads(), "it is missed")
        return estimator.score(X, y)

    settings = {"skdistmlp.max-recoveries": 1, "skdistmlp.recovery-wait": "60s"}
    alone = GridSearchCV(classifier().set_params(engine="local"), searched, cv=2)
    with own_cluster(n_workers=2) as client, dask.config.set(settings):
        search = GridSearchCV(
            classifier(client, n_workers=2),
            searched,
            scoring=score_and_kill,
            cv=2,
            error_score="raise",
        )
        bounded(search.fit, *data)
    assert len(scored) == 4
    found = search.cv_results_["mean_test_score"]
    np.testing.assert_allclose(found, alone.fit(*data).cv_results_["mean_test_score"])
