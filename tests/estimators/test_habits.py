"""What users of other libraries try works, or leads to an error that says what does."""

import inspect
import pickle
import re

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import LocalCluster
from sklearn.base import clone

from skdistmlp import (
    ClusterError,
    DistributedMLPClassifier,
    DistributedMLPRegressor,
)
from tests.cluster.support import bounded
from tests.estimators.support import fit

ESTIMATORS = [DistributedMLPClassifier, DistributedMLPRegressor]
SMALL = {"hidden_layer_sizes": (4,), "max_iter": 2, "random_state": 0}
X, Y = np.arange(60.0).reshape(20, 3) / 60, np.arange(20) % 2


@pytest.mark.parametrize("cls", ESTIMATORS)
@pytest.mark.parametrize(
    ("keyword", "instead"), [("n_jobs", "n_workers="), ("client_", "client=")]
)
def test_a_keyword_of_another_library_is_answered_with_ours(cls, keyword, instead):
    message = f"{cls.__name__} has no parameter {keyword}; pass {instead}"
    with pytest.raises(TypeError, match=re.escape(message)):
        cls(**{keyword: 4})
    with pytest.raises(TypeError, match="unexpected keyword argument 'n_job'"):
        cls(n_job=4)


@pytest.mark.parametrize("cls", ESTIMATORS)
def test_parameters_are_still_those_of_init(cls):
    assert (
        list(inspect.signature(cls).parameters)
        == list(inspect.signature(cls.__init__).parameters)[1:]
    )
    estimator = clone(pickle.loads(pickle.dumps(cls(alpha=0.5))))
    assert estimator.get_params() == cls(alpha=0.5).get_params()


def test_the_client_of_lightgbm_is_a_parameter_here():
    clf = DistributedMLPClassifier(client="tcp://192.0.2.1:1")
    assert not hasattr(clf, "client_")
    with pytest.raises(AttributeError, match=r"parameter client is.*plan_\.workers"):
        clf.client_  # noqa: B018


DELAYED = dask.delayed(np.asarray)([[0.0]])


@pytest.mark.parametrize("name", ["X", "y", "sample_weight"])
def test_delayed_data_is_refused_by_name(name):
    given = {"X": X, "y": Y, "sample_weight": np.ones(20)} | {name: DELAYED}
    message = rf"^{name} is a Dask Delayed; expected data .* pass its \.compute\(\)"
    for method in ("fit", "partial_fit"):
        clf = DistributedMLPClassifier(**SMALL)
        with pytest.raises(TypeError, match=message):
            getattr(clf, method)(**given)
        assert not hasattr(clf, "coefs_")


def test_delayed_data_is_refused_in_lists_and_predictions():
    clf = fit(DistributedMLPClassifier(**SMALL), X, Y)
    with pytest.raises(TypeError, match="X is a list of Dask Delayed; expected"):
        clf.fit([DELAYED, DELAYED], Y)
    for method in (clf.predict, clf.predict_proba, clf.plan_predict):
        with pytest.raises(TypeError, match="X is a Dask Delayed"):
            method(DELAYED)
    with pytest.raises(TypeError, match="y is a Dask Delayed"):
        clf.score(X, DELAYED)


def test_futures_are_refused(client):
    future = client.scatter(X)
    clf = fit(DistributedMLPClassifier(**SMALL), X, Y)
    for call in (lambda: clf.fit(future, Y), lambda: clf.predict(future)):
        with pytest.raises(
            TypeError, match=r"X is a Dask Future.*pass its \.result\(\)"
        ):
            call()


def test_a_cluster_can_be_passed_as_client():
    """A client of it is made for each call, closed after it, and never active."""
    from distributed import default_client

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=":0"
    ) as cluster:
        clf = DistributedMLPClassifier(**SMALL, client=cluster, engine="futures")
        bounded(fit, clf, X, Y)
        assert (clf.engine_, clf.n_workers_) == ("futures", 2)
        assert clone(clf).client is cluster
        local = fit(DistributedMLPClassifier(**SMALL, engine="local"), X, Y)
        np.testing.assert_allclose(clf.coefs_[0], local.coefs_[0])
        np.testing.assert_array_equal(bounded(clf.predict, X), local.predict(X))
        lazy = clf.predict(da.from_array(X, chunks=(10, 3)))
        np.testing.assert_array_equal(lazy.compute(scheduler="sync"), local.predict(X))
        assert set(cluster.scheduler.clients) == {"fire-and-forget"}
        with pytest.raises(ValueError, match="No client"):
            default_client()
        loaded = pickle.loads(pickle.dumps(clf))
        assert loaded.client is None
    with pytest.raises(ClusterError, match="the Dask cluster is closed"):
        clf.fit(X, Y)
