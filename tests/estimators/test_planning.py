"""`plan_fit`: the plan of a fit, without the fit."""

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdistmlp import ClusterError, DistributedMLPClassifier, DistributedMLPRegressor
from skdistmlp.cluster.client import lookup
from skdistmlp.estimators.planning import outline_of_fit

X = np.random.default_rng(0).normal(size=(30, 4))
Y = X[:, 0] > 0


def test_nothing_is_trained_and_the_estimator_stays_as_it_is(client):
    clf = DistributedMLPClassifier((5,), client=client, engine="peers", n_workers=2)
    before = dict(vars(clf))
    plan = clf.plan_fit(X, Y)
    assert (plan.engine, len(plan.workers)) == ("peers", 2)
    assert vars(clf) == before
    fitted = DistributedMLPClassifier((5,), max_iter=1, tol=1e9, n_iter_no_change=1)
    with pytest.warns(UserWarning, match="Maximum iterations"):
        fitted.fit(X, Y)
    coefs = [coef.copy() for coef in fitted.coefs_]
    assert fitted.plan_fit(X, Y).engine == "local"
    for coef, kept in zip(coefs, fitted.coefs_, strict=True):
        np.testing.assert_array_equal(coef, kept)


def test_weights_and_regressors_are_planned_too():
    reg = DistributedMLPRegressor(hidden_layer_sizes=(3,), engine="local")
    plan = reg.plan_fit(X, X[:, 0], sample_weight=np.ones(30))
    assert plan.split.layer_units == (4, 3, 1)


def test_parameters_and_data_are_checked_as_in_fit(monkeypatch):
    with pytest.raises(ValueError, match="'engine' parameter"):
        DistributedMLPClassifier(engine="none").plan_fit(X, Y)
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        DistributedMLPClassifier().plan_fit(X, Y[:5])
    monkeypatch.setattr(lookup, "REFUSED_S", 0.0)
    with pytest.raises(ClusterError, match="no Dask scheduler answers"):
        DistributedMLPClassifier(client="tcp://127.0.0.1:1", engine="peers").plan_fit(
            X, Y
        )


def test_a_network_without_room_is_refused_as_in_fit(client):
    clf = DistributedMLPClassifier((10**6, 10**6), client=client, engine="peers")
    said = r"shard 0 would hold [\d,]+ bytes on worker \S+, whose memory_limit is"
    with pytest.raises(ClusterError, match=said):
        clf.fit(X, Y)
    with pytest.raises(ClusterError, match=said):
        clf.plan_fit(X, Y)


def test_the_last_step_of_a_pipeline_plans_what_it_is_given():
    pipeline = make_pipeline(StandardScaler(), DistributedMLPClassifier((7,)))
    plan = pipeline[-1].plan_fit(pipeline[:-1].fit_transform(X), Y)
    assert plan.split.layer_units == (4, 7, 1)


def test_an_outline_needs_no_cluster():
    clf = DistributedMLPClassifier((5,), client="tcp://127.0.0.1:1", batch_size=10)
    outline = outline_of_fit(clf, X, Y)
    assert outline.layer_units == (4, 5, 1)
    assert outline.length == (3, 200)
    assert outline.nominal_s > 0
