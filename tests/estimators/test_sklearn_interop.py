"""Export to scikit-learn's estimators, and import from them.

Alternating `partial_fit` calls are among the scenarios of test_partial_fit.
"""

from copy import deepcopy
from dataclasses import replace
from numbers import Number

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline

from skdistmlp import DistributedMLPClassifier, DistributedMLPRegressor
from skdistmlp.nn.update_rules import Sgd
from tests.estimators.configurations import ESTIMATORS, Case, pair
from tests.estimators.support import (
    assert_same_answers,
    assert_same_network,
    fit,
    quiet,
    tolerance,
)

NAMES = [
    "defaults",
    "two strings",
    "one class",
    "several labels, sparse",
    "csr_matrix, ten classes",
    "in order, early stopping",
    "adaptive, which stops",
    "inverse scaling, power 0.1",
    "Adam without memory",
    "no hidden layer",
    "sizes in an array",
    "a random state",
    "two columns",
    "early stopping, numbers",
    "weighted, poisson",
    "lbfgs, strings",
    "lbfgs, numbers, which stops",
]
"""Of configurations: every optimiser, every shape of the targets."""

RECREATED_BY_FIT = {"_coef_indptr", "_intercept_indptr"}
"""Attributes that each scikit-learn fit with "lbfgs" creates for itself alone."""

PEERS = {"engine": "peers", "n_workers": 2}


def fitted_pair(name, **params):
    case = Case.of(name, **params)
    ours, theirs = case.pair(engine="local")
    for estimator in (ours, theirs):
        fit(estimator, case.X, case.y, sample_weight=case.sample_weight)
    return case, ours, theirs


def taken_over(mlp, **engine_params):
    ours = {theirs: ours for ours, theirs in ESTIMATORS.values()}[type(mlp)]
    return ours.from_sklearn(mlp, **engine_params)


def assert_same(one, other, close, where):
    """Compare all attributes of two objects, to rounding."""
    if one is other:
        return
    if isinstance(other, Number) and not isinstance(other, bool):
        assert_allclose(one, other, err_msg=where, **close)
        return
    assert type(one) is type(other), where
    if isinstance(other, np.ndarray):
        assert one.dtype == other.dtype, where
        numeric = np.issubdtype(other.dtype, np.number)
        compare = assert_allclose if numeric else assert_array_equal
        compare(one, other, err_msg=where, **(close if numeric else {}))
    elif isinstance(other, list | tuple):
        assert len(one) == len(other), where
        for number, items in enumerate(zip(one, other, strict=True)):
            assert_same(*items, close, f"{where}[{number}]")
    elif isinstance(other, np.random.RandomState):
        assert_array_equal(one.get_state()[1], other.get_state()[1], err_msg=where)
    elif isinstance(other, dict):
        assert one.keys() == other.keys(), where
        for key, value in other.items():
            assert_same(one[key], value, close, f"{where}.{key}")
    elif hasattr(other, "__dict__"):
        assert_same(vars(one), vars(other), close, where)
    else:
        assert one == other, where


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, "float64") for name in NAMES),
        ("defaults", "float32"),
        ("inverse scaling, power 0.1", "float32"),
    ],
)
def test_an_exported_network_has_what_a_fit_of_scikit_learn_sets(name, dtype):
    case = Case.of(name)
    if dtype == "float32":
        case = case.float32()
    ours, theirs = case.pair(engine="local")
    for estimator in (ours, theirs):
        fit(estimator, case.X, case.y, sample_weight=case.sample_weight)
    home = ours.to_sklearn()
    for leftover in RECREATED_BY_FIT & vars(theirs).keys():
        delattr(theirs, leftover)
    if not theirs.early_stopping or theirs.solver == "lbfgs":
        # The parameters before the first epoch, which only early stopping needs.
        theirs._best_coefs, theirs._best_intercepts = theirs.coefs_, theirs.intercepts_
    if isinstance(theirs.random_state, int):
        # Every call reads it from the parameter, so its position has no effect.
        theirs._random_state = np.random.RandomState(theirs.random_state)
    close = tolerance(theirs.coefs_[0].dtype)
    assert_same(home, theirs, close, type(theirs).__name__)


@pytest.mark.parametrize("direction", ["to scikit-learn", "from scikit-learn"])
@pytest.mark.parametrize("name", NAMES)
def test_exported_networks_predict_the_same_bits(name, direction):
    case, ours, theirs = fitted_pair(name)
    if direction == "to scikit-learn":
        theirs = ours.to_sklearn()
    else:
        ours = taken_over(theirs)
    exactly = {"rtol": 0, "atol": 0}
    assert_same_network(ours, theirs, exactly)
    assert_same_answers(ours, theirs, case.X, case.y, close=exactly)
    assert_same_answers(ours, theirs, case.X.astype(np.float32), case.y, close=exactly)


@pytest.mark.parametrize("name", NAMES)
def test_a_round_trip_changes_nothing(name):
    _, ours, _ = fitted_pair(name)
    back = taken_over(ours.to_sklearn(), engine="local")
    assert "scikit-learn trained it" in str(back.plan_)
    assert (back.engine_, back.n_workers_) == ("local", 1)
    back.plan_ = ours.plan_
    if ours.solver != "lbfgs":
        # scikit-learn does not count the steps of a whole training either.
        n_steps = ours._schedule.n_steps
        back._schedule = replace(back._schedule, n_steps=n_steps)
        for attribute in ("validation_loss_curve_", "best_iter_"):
            assert getattr(back, attribute) is None
            setattr(back, attribute, getattr(ours, attribute))
    if ours.solver == "sgd":
        assert back._optimizer_state.n_steps == 0  # scikit-learn does not count it
        back._optimizer_state = replace(
            back._optimizer_state, n_steps=ours._optimizer_state.n_steps
        )
    assert_same(back, ours, {"rtol": 1e-12}, type(ours).__name__)


@pytest.mark.parametrize("direction", ["to scikit-learn", "from scikit-learn"])
@pytest.mark.parametrize("name", ["defaults", "two columns", "lbfgs, strings"])
def test_an_exported_network_shares_no_memory(name, direction):
    case, ours, theirs = fitted_pair(
        name, random_state=np.random.RandomState(0), warm_start=True
    )
    if direction == "to scikit-learn":
        given, taken = ours, ours.to_sklearn()
    else:
        given, taken = theirs, taken_over(theirs)
    before = deepcopy(
        {name: vars(given)[name] for name in vars(given) if name != "plan_"}
    )
    for array in (*taken.coefs_, *taken.intercepts_):
        array += 1
    fit(taken, case.X, case.y)
    if taken.solver != "lbfgs":
        taken.partial_fit(case.X, case.y)
    for name, value in before.items():
        assert_same(getattr(given, name), value, {"rtol": 0}, name)


@pytest.mark.parametrize(
    "name",
    [
        "defaults",
        "in order, early stopping",
        "early stopping, adaptive, which stops",
        "adaptive, which stops",
        "lbfgs, strings",
        "two columns",
    ],
)
def test_a_warm_start_continues_on_either_side(name):
    case, ours, theirs = fitted_pair(name, warm_start=True)
    home, taken = ours.to_sklearn(), taken_over(theirs)
    for estimator in (theirs, home, taken):
        fit(estimator, case.X, case.y)
    assert_same_network(home, theirs)
    assert_same_network(taken, theirs)
    assert_same_answers(taken, theirs, case.X, case.y)


def test_a_warm_start_that_only_gets_worse_ends_with_the_same_parameters():
    case, ours, theirs = fitted_pair(
        "defaults", early_stopping=True, max_iter=15, batch_size=20, warm_start=True
    )
    worse = {"solver": "sgd", "learning_rate_init": 5.0}
    home, taken = ours.to_sklearn(), taken_over(theirs)
    for estimator in (theirs, home, taken):
        fit(estimator.set_params(**worse), case.X, case.y)
    assert theirs.best_validation_score_ == ours.best_validation_score_
    assert_same_network(home, theirs)
    assert_same_network(taken, theirs)


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_feature_names_are_exported(kind, digits):
    X, y = digits
    frame = pd.DataFrame(X[:100]).add_prefix("pixel ")
    ours, theirs = pair({"max_iter": 2}, kind, engine="local")
    for estimator in (ours, theirs):
        fit(estimator, frame, y[:100])
    for estimator in (ours.to_sklearn(), taken_over(theirs)):
        assert estimator.feature_names_in_.tolist() == list(frame.columns)
        estimator.predict(frame)  # features without names would cause a warning
        with pytest.raises(ValueError, match="feature names should match"):
            estimator.predict(frame.rename(columns=str.upper))


def test_parameters_of_our_own_are_not_exported(digits):
    X, y = digits
    ours = DistributedMLPClassifier(
        max_iter=2,
        alpha=0.5,
        random_state=0,
        class_weight={3: 2.0},
        client="tcp://192.0.2.1:1",
        engine="local",
    )
    home = fit(ours, X[:100], y[:100]).to_sklearn()
    assert (
        home.get_params()
        == MLPClassifier(max_iter=2, alpha=0.5, random_state=0).get_params()
    )
    back = taken_over(home)
    assert (back.class_weight, back.client, back.engine) == (None, None, "auto")


def test_parameters_of_other_sizes_start_with_a_new_optimizer():
    case, ours, _ = fitted_pair("defaults")
    ours.coefs_[0], ours.coefs_[1] = ours.coefs_[0][:, :5], ours.coefs_[1][:5]
    ours.intercepts_[0] = ours.intercepts_[0][:5]
    home = ours.to_sklearn()
    assert not hasattr(home, "_optimizer")
    home.set_params(hidden_layer_sizes=(5, 7))
    ours.set_params(hidden_layer_sizes=(5, 7))
    for estimator in (ours, home):
        estimator.partial_fit(case.X, case.y)
    assert_same_network(ours, home)


class Unknown(Sgd):
    """An optimiser that scikit-learn does not have."""


def test_of_an_optimiser_that_scikit_learn_lacks_only_the_parameters_are_exported():
    case, ours, _ = fitted_pair("inverse scaling, power 0.1")
    ours._optimizer_state = replace(ours._optimizer_state, rule=Unknown())
    home = ours.to_sklearn()
    assert not hasattr(home, "_optimizer")
    assert_same_network(ours, home)
    home.partial_fit(case.X, case.y)
    assert home._optimizer.learning_rate_init == ours.learning_rate_init


# On a cluster.


@pytest.mark.parametrize("name", ["defaults", "inverse scaling, power 0.1", "numbers"])
def test_a_cluster_continues_where_scikit_learn_stopped(client, name):
    case, _, theirs = fitted_pair(name, warm_start=True)
    ours = taken_over(theirs, client=client, **PEERS)
    for method in ("partial_fit", "fit", "partial_fit"):
        for estimator in (ours, theirs):
            quiet(getattr(estimator, method), case.X, case.y)
        assert (ours.engine_, ours.n_workers_) == ("peers", 2)
        assert_same_network(ours, theirs)
    assert_same_answers(ours, theirs, case.X, case.y)


@pytest.mark.parametrize("name", ["defaults", "inverse scaling, power 0.1", "numbers"])
def test_scikit_learn_continues_where_a_cluster_stopped(client, name):
    case = Case.of(name, warm_start=True)
    ours, theirs = case.pair(client=client, **PEERS)
    for estimator in (ours, theirs):
        fit(estimator, case.X, case.y)
    assert (ours.engine_, ours.n_workers_) == ("peers", 2)
    home = ours.to_sklearn()
    for method in ("partial_fit", "fit", "partial_fit"):
        for estimator in (home, theirs):
            quiet(getattr(estimator, method), case.X, case.y)
        assert_same_network(home, theirs)


# Errors.


@pytest.mark.parametrize("estimator", [c for pair in ESTIMATORS.values() for c in pair])
@pytest.mark.parametrize("failed_before", [False, True])
def test_an_unfitted_network_is_not_exported(estimator, failed_before):
    unfitted = estimator()
    if failed_before:
        with pytest.raises(ValueError, match="sample"):
            unfitted.fit([[1.0], [2.0]], [1, 2, 3])
    hand_over = getattr(unfitted, "to_sklearn", lambda: taken_over(unfitted))
    with pytest.raises(NotFittedError, match=f"{estimator.__name__} instance is not"):
        hand_over()


def test_an_interrupted_first_fit_of_scikit_learn_is_refused():
    mlp = MLPClassifier()
    with pytest.raises(ValueError, match="not in"):
        mlp.partial_fit([[1.0], [2.0]], [7, 8], classes=[1, 2])
    assert hasattr(mlp, "classes_")
    with pytest.raises(
        NotFittedError, match=r"or take over .* DistributedMLPClassifier\(\*\*mlp"
    ):
        DistributedMLPClassifier.from_sklearn(mlp)


@pytest.mark.parametrize(
    ("ours", "given", "described"),
    [
        (DistributedMLPClassifier, MLPRegressor(), "an instance of MLPRegressor"),
        (DistributedMLPRegressor, MLPClassifier(), "an instance of MLPClassifier"),
        (DistributedMLPClassifier, MLPClassifier, "the class MLPClassifier"),
        (DistributedMLPRegressor, LogisticRegression(), "LogisticRegression"),
        (DistributedMLPRegressor, DistributedMLPRegressor(), "DistributedMLPRegressor"),
        (DistributedMLPClassifier, make_pipeline(MLPClassifier()), "Pipeline"),
        (DistributedMLPClassifier, None, "NoneType"),
    ],
)
def test_estimators_that_cannot_be_imported_are_named(ours, given, described):
    wanted = ours.__name__.removeprefix("Distributed")
    with pytest.raises(
        TypeError, match=rf"takes a fitted {wanted}, but was given .*{described}\."
    ):
        ours.from_sklearn(given)


def test_parameters_for_the_cluster_are_given_on_import():
    X, y = np.eye(4), [0, 1, 0, 1]
    mlp = fit(MLPClassifier((3,), max_iter=1, alpha=0.1), X, y)
    address = "tcp://192.0.2.1:1"
    ours = DistributedMLPClassifier.from_sklearn(
        mlp, client=address, n_workers=3, engine="futures", max_iter=7
    )
    assert (ours.client, ours.n_workers, ours.engine) == (address, 3, "futures")
    assert (ours.max_iter, ours.alpha) == (7, 0.1)
    assert_array_equal(ours.coefs_[0], mlp.coefs_[0])
    with pytest.raises(ValueError, match="Invalid parameter 'workers'"):
        DistributedMLPClassifier.from_sklearn(mlp, workers=3)


def test_an_optimizer_that_is_not_scikit_learns_is_named(digits):
    mlp = fit(MLPClassifier((5,), max_iter=1), *digits)
    mlp._optimizer = object()
    expected = "an instance of object, expected .* AdamOptimizer, SGDOptimizer"
    with pytest.raises(ValueError, match=expected):
        DistributedMLPClassifier.from_sklearn(mlp)


@pytest.mark.parametrize(
    "params",
    [{"solver": "adamw"}, {"solver": "sgd"}, {"ema_decay": 0.9}, {"warmup_steps": 9}],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_another_optimiser_that_is_asked_for_begins_anew(params):
    """As in an estimator with the same parameters and no memory."""
    case = Case.of("defaults")
    mlp = MLPClassifier((9,), max_iter=2, random_state=0).fit(case.X, case.y)
    ours = DistributedMLPClassifier.from_sklearn(mlp, **params)
    assert not hasattr(ours, "_optimizer_state")
    ours.partial_fit(case.X, case.y)
    assert ours._optimizer_state.n_steps == 2
    assert ours._optimizer_state.ema_decay == params.get("ema_decay")
    kept = DistributedMLPClassifier.from_sklearn(mlp, dropout=0.5, max_grad_norm=1.0)
    assert kept._optimizer_state.n_steps == 4
