"""Inside other estimators of scikit-learn, ours behave like scikit-learn's own."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
import sklearn
from joblib import parallel_config
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.ensemble import (
    BaggingClassifier,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
)
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_selection import SequentialFeatureSelector
from sklearn.inspection import permutation_importance
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import HalvingGridSearchCV, cross_validate
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skdistmlp import DistributedMLPClassifier
from tests.cluster.support import WITHIN_S
from tests.estimators.configurations import pair
from tests.estimators.support import fit
from tests.sklearn_versions import BEFORE_1_8

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

PARAMS = {"hidden_layer_sizes": (12, 7), "max_iter": 3, "batch_size": 60}

CLOSE = {"rtol": 1e-6, "atol": 1e-9}

PIXELS = [f"pixel {number}" for number in range(64)]


def _columns(mlp):
    """Scale some columns, drop some, and pass the rest through."""
    scaled = ColumnTransformer(
        [
            ("scaled", StandardScaler(), PIXELS[:40]),
            ("doubled", FunctionTransformer(lambda X: 2 * X), PIXELS[50:]),
        ],
        remainder="drop",
    )
    return make_pipeline(scaled, mlp)


CLASSIFIERS = {
    "Pipeline": lambda mlp: make_pipeline(StandardScaler(), mlp),
    "ColumnTransformer": _columns,
    "CalibratedClassifierCV": lambda mlp: CalibratedClassifierCV(mlp, cv=2),
    "BaggingClassifier": lambda mlp: BaggingClassifier(mlp, 2, random_state=0),
    "StackingClassifier": lambda mlp: StackingClassifier(
        [("mlp", mlp), ("bayes", GaussianNB())], LogisticRegression(), cv=2
    ),
    "VotingClassifier": lambda mlp: VotingClassifier(
        [("mlp", mlp), ("bayes", GaussianNB())], voting="soft"
    ),
    "OneVsRestClassifier": OneVsRestClassifier,
}

SEVERAL = {"MultiOutputClassifier": MultiOutputClassifier}
"""Of several targets, a column each."""

REGRESSORS = {
    "TransformedTargetRegressor": lambda mlp: TransformedTargetRegressor(
        mlp, func=np.log1p, inverse_func=np.expm1
    ),
    "StackingRegressor": lambda mlp: StackingRegressor([("mlp", mlp)], Ridge(), cv=2),
}

AROUND = CLASSIFIERS | SEVERAL | REGRESSORS


def small(digits, name):
    """Three classes, or what `name` takes, of some rows with names."""
    X, y = digits
    rows = np.flatnonzero(y < 3)[:240]
    X, y = pd.DataFrame(X[rows], columns=PIXELS), y[rows]
    return X, np.column_stack([y, y % 2]) if name in SEVERAL else y


def around(name, **engine_params):
    """Return the same around ours and around scikit-learn's."""
    kind = "regressor" if name in REGRESSORS else "classifier"
    return [AROUND[name](mlp) for mlp in pair(PARAMS, kind, **engine_params)]


def assert_same_predictions(ours, theirs, X, y):
    ours_found, theirs_found = ours.predict(X), theirs.predict(X)
    if hasattr(theirs, "predict_proba"):
        assert_array_equal(ours_found, theirs_found)
        probabilities = zip(_tables(ours, X), _tables(theirs, X), strict=True)
        for one, other in probabilities:
            assert_allclose(one, other, **CLOSE)
            assert len(np.unique(other)) > 2  # more than a constant
    else:
        assert_allclose(ours_found, theirs_found, **CLOSE)
    assert_allclose(ours.score(X, y), theirs.score(X, y), **CLOSE)


def _tables(estimator, X):
    found = estimator.predict_proba(X)
    return found if isinstance(found, list) else [found]


@pytest.mark.parametrize("name", AROUND)
def test_meta_estimators_match_scikit_learn_locally(digits, name):
    X, y = small(digits, name)
    ours, theirs = around(name, engine="local")
    for estimator in (ours, theirs):
        estimator.fit(X, y)
    assert_same_predictions(ours, theirs, X, y)


@pytest.mark.parametrize("name", AROUND)
def test_meta_estimators_match_scikit_learn_on_a_cluster(
    client, digits, name, engines_used
):
    X, y = small(digits, name)
    ours, theirs = around(name, client=client, engine="peers", n_workers=2)
    for estimator in (ours, theirs):
        estimator.fit(X, y)
    assert set(engines_used) == {("peers", 2)}
    assert_same_predictions(ours, theirs, X, y)


@pytest.fixture
def engines_used(monkeypatch):
    """Return a list that records the engine and number of shards of every fit."""
    from skdistmlp.estimators import base

    used, train = [], base.train

    def noted(*args):
        trained = train(*args)
        used.append((trained.plan.engine, trained.plan.n_shards))
        return trained

    monkeypatch.setattr(base, "train", noted)
    return used


# Metadata that scikit-learn passes along.

ENGINES = {
    "local": {"engine": "local"},
    "peers": {"engine": "peers", "n_workers": 2},
}


@pytest.fixture(params=ENGINES)
def engine(request):
    """Return the parameters for each engine, with a client if it needs one."""
    params = ENGINES[request.param]
    if request.param == "peers":
        params = params | {"client": request.getfixturevalue("client")}
    return params


@pytest.mark.skipif(BEFORE_1_8, reason="its Pipeline routes no weights to score")
def test_sample_weight_is_routed(engine, digits):
    X, y = small(digits, "Pipeline")
    weight = np.linspace(0.1, 3, len(X))
    scores = []
    with sklearn.config_context(enable_metadata_routing=True):
        for mlp in pair(PARAMS, **engine):
            mlp.set_fit_request(sample_weight=True)
            mlp.set_score_request(sample_weight=True)
            pipeline = make_pipeline(
                StandardScaler().set_fit_request(sample_weight=False), mlp
            )
            scores.append(
                cross_validate(
                    pipeline,
                    X,
                    y,
                    params={"sample_weight": weight},
                    cv=2,
                    return_estimator=True,
                )
            )
    ours, theirs = scores
    assert_allclose(ours["test_score"], theirs["test_score"])
    for one, other in zip(ours["estimator"], theirs["estimator"], strict=True):
        assert one[-1].engine_ == engine["engine"]
        assert_same_predictions(one, other, X, y)
    unweighted = fit(clone(theirs["estimator"][0]), X[:120], y[:120])
    assert not np.allclose(
        unweighted.predict_proba(X), theirs["estimator"][0].predict_proba(X)
    )


def test_sample_weight_without_a_request_is_refused(digits):
    X, y = small(digits, "Pipeline")
    messages = []
    with sklearn.config_context(enable_metadata_routing=True):
        for mlp in pair(PARAMS, engine="local"):
            with pytest.raises(ValueError, match="sample_weight") as refused:
                make_pipeline(mlp).fit(X, y, sample_weight=np.ones(len(X)))
            messages.append(str(refused.value).replace("DistributedMLP", "MLP"))
    assert messages[0] == messages[1]


def test_set_output_passes_column_names_on(engine, digits):
    X, y = small(digits, "Pipeline")
    found = []
    for mlp in pair(PARAMS, **engine):
        pipeline = make_pipeline(StandardScaler(), mlp).set_output(transform="pandas")
        found.append(fit(pipeline, X, y))
    ours, theirs = found
    assert ours[-1].feature_names_in_.tolist() == PIXELS
    assert ours.feature_names_in_.tolist() == theirs.feature_names_in_.tolist()
    assert_same_predictions(ours, theirs, X, y)
    with pytest.warns(UserWarning, match="X does not have valid feature names"):
        ours[-1].predict(X.to_numpy())


def test_permutation_importance_matches_scikit_learn(engine, digits):
    X, y = small(digits, "Pipeline")
    X = X[PIXELS[20:32]]
    found = [
        permutation_importance(fit(mlp, X, y), X, y, n_repeats=2, random_state=0)
        for mlp in pair(PARAMS, **engine)
    ]
    assert_array_equal(found[0].importances, found[1].importances)
    assert found[1].importances.any()


HALVING = {
    "adam": {"learning_rate_init": [1e-4, 1e-3, 1e-2], "alpha": [1e-4, 0.1, 10.0]},
    "lbfgs": {"alpha": [1e-4, 1e-2, 1.0, 10.0], "hidden_layer_sizes": [(6,), (12,)]},
}
"""Candidates of searches whose resource is the number of epochs or iterations."""


def halving(mlp, solver):
    """Return a search that trains the better third three times as long."""
    return HalvingGridSearchCV(
        mlp.set_params(solver=solver, random_state=0, batch_size=75),
        HALVING[solver],
        resource="max_iter",
        factor=3,
        min_resources=2,
        max_resources=18,
        cv=2,
        random_state=0,
    )


@pytest.mark.parametrize("solver", HALVING)
def test_halving_over_max_iter_keeps_the_candidates_that_scikit_learn_keeps(
    digits, solver
):
    X, y = (array[:300] for array in digits)
    mine = halving(DistributedMLPClassifier(), solver).fit(X, y)
    theirs = halving(MLPClassifier(), solver).fit(X, y)
    assert mine.n_resources_ == theirs.n_resources_
    assert mine.n_resources_[:2] == [2, 6]
    assert mine.n_candidates_ == theirs.n_candidates_
    assert mine.n_candidates_[1] == 3
    assert mine.cv_results_["params"] == theirs.cv_results_["params"]
    assert_allclose(
        mine.cv_results_["mean_test_score"], theirs.cv_results_["mean_test_score"]
    )
    assert mine.best_params_ == theirs.best_params_
    assert mine.best_estimator_.n_iter_ == mine.n_resources_[-1]
    assert_array_equal(mine.predict(X), theirs.predict(X))


def test_features_can_be_selected_by_cross_validation(digits):
    X, y = small(digits, "Pipeline")
    X = X[PIXELS[20:26]]
    found = [
        SequentialFeatureSelector(mlp, n_features_to_select=2, cv=2).fit(X, y)
        for mlp in pair(PARAMS, engine="local")
    ]
    assert_array_equal(found[0].get_support(), found[1].get_support())


# Threads.


def test_several_threads_can_fit_at_once(engine, digits):
    X, y = small(digits, "Pipeline")
    X = X.to_numpy()
    pairs = [
        pair(PARAMS | {"random_state": seed, "warm_start": seed % 2 == 0}, **engine)
        for seed in range(6)
    ]

    def use(mlp):
        return mlp.fit(X, y).partial_fit(X, y).predict_proba(X)

    with ThreadPoolExecutor(6) as threads:
        started = [threads.submit(use, ours) for ours, _ in pairs]
        found = [future.result(WITHIN_S) for future in started]
    for (ours, theirs), probability in zip(pairs, found, strict=True):
        assert ours.engine_ == engine["engine"]
        assert_allclose(probability, use(theirs), **CLOSE)


def test_several_threads_can_predict_with_one_network(digits):
    X, y = small(digits, "Pipeline")
    ours, theirs = (fit(mlp, X, y) for mlp in pair(PARAMS, engine="local"))
    with ThreadPoolExecutor(4) as threads:
        started = [threads.submit(ours.predict_proba, X[n:]) for n in range(40)]
        for n, future in enumerate(started):
            expected = theirs.predict_proba(X[n:])
            assert_allclose(future.result(WITHIN_S), expected, **CLOSE)


def test_joblib_threads_can_fit_at_once(engine, digits):
    X, y = small(digits, "BaggingClassifier")
    ours, theirs = (
        BaggingClassifier(mlp, 3, random_state=0, n_jobs=3)
        for mlp in pair(PARAMS, **engine)
    )
    with parallel_config(backend="threading"):
        for bag in (ours, theirs):
            bag.fit(X, y)
        assert {mlp.engine_ for mlp in ours.estimators_} == {engine["engine"]}
        assert_same_predictions(ours, theirs, X, y)
