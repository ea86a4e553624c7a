"""Continued training: warm starts, partial_fit, and what may happen in between."""

import pickle
from copy import deepcopy

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.neural_network import MLPClassifier

from skdistmlp import DistributedMLPClassifier
from tests.estimators.configurations import Case, pair
from tests.estimators.support import (
    assert_same_answers,
    assert_same_network,
    fit,
    quiet,
)
from tests.marks import only_quick

CLASSES = np.arange(10)
FUTURES = {"engine": "futures"}


def _pickled(clf):
    return pickle.loads(pickle.dumps(clf))


def _handed_over(clf):
    """Hand the network to scikit-learn, or back to ours."""
    if isinstance(clf, MLPClassifier):
        return DistributedMLPClassifier.from_sklearn(clf)
    return clf.to_sklearn()


# Each is something a user may do with a fitted classifier between two calls.
CHANGES = {
    "another rate": lambda clf: clf.set_params(learning_rate_init=0.5),
    "a rate that ruins": lambda clf: clf.set_params(
        solver="sgd", learning_rate_init=3.0
    ),
    "fewer epochs": lambda clf: clf.set_params(max_iter=1),
    "more epochs": lambda clf: clf.set_params(max_iter=7),
    "other seed": lambda clf: clf.set_params(random_state=5),
    "other solver": lambda clf: clf.set_params(solver="sgd"),
    "other penalty": lambda clf: clf.set_params(alpha=3.0),
    "other activation": lambda clf: clf.set_params(activation="tanh"),
    "other sizes, to no effect": lambda clf: clf.set_params(hidden_layer_sizes=(3, 3)),
    "no more warm start": lambda clf: clf.set_params(warm_start=False),
    "nothing": lambda clf: clf,
}


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_a_warm_start_matches_scikit_learn(change, early_stopping):
    case = Case.of("defaults", early_stopping=early_stopping, tol=0.01)
    ours, theirs = pair(case.params | {"warm_start": True}, engine="local")
    for X, y in [(case.X, case.y), (case.X[40:], case.y[40:]), (case.X, case.y)]:
        for clf in (ours, theirs):
            fit(clf, X, y)
        assert_same_network(ours, theirs)
        assert_same_answers(ours, theirs, X, y)
        for clf in (ours, theirs):
            CHANGES[change](clf)


def test_a_warm_start_that_only_gets_worse_keeps_its_best_parameters():
    """scikit-learn then ends with the last parameters instead of the best so far."""
    case = Case.of("defaults", early_stopping=True, max_iter=15, batch_size=20)
    ours, theirs = pair(case.params | {"warm_start": True}, engine="local")
    for clf in (ours, theirs):
        fit(clf, case.X, case.y)
    best = ours.best_validation_score_
    for clf in (ours, theirs):
        fit(clf.set_params(solver="sgd", learning_rate_init=5.0), case.X, case.y)
    assert ours.best_validation_score_ == best
    assert_same_network(ours, theirs)


def test_epochs_without_improvement_count_across_warm_starts():
    case = Case.of("defaults", max_iter=3, tol=100.0, n_iter_no_change=3)
    ours, theirs = pair(case.params | {"warm_start": True}, engine="local")
    n_iter = []
    for _ in range(3):
        for clf in (ours, theirs):
            fit(clf, case.X, case.y)
        assert_same_network(ours, theirs)
        n_iter.append(ours.n_iter_)
    assert n_iter == [3, 2, 1]


def test_fit_without_warm_start_starts_over():
    case = Case.of("defaults")
    ours, _ = case.pair()
    first = fit(ours, case.X, case.y).coefs_
    second = fit(ours, case.X, case.y).coefs_
    for before, after in zip(first, second, strict=True):
        assert_array_equal(before, after)
        assert not np.shares_memory(before, after)
    assert len(ours.loss_curve_) == ours.n_iter_


# Scenarios that both classifiers run. `between` is applied to ours
# alone, wherever two calls meet, and must make no difference.


def repeatedly(clf, case, between):
    for start in (0, 60, 120, 0):
        rows = slice(start, start + 90)
        clf = between(clf.partial_fit(case.X[rows], case.y[rows], classes=CLASSES))
    return clf


def with_weights(clf, case, between):
    weight = np.linspace(0, 2, len(case.X))
    for sample_weight in (weight, None, weight[::-1]):
        clf = between(clf.partial_fit(case.X, case.y, sample_weight, classes=CLASSES))
    return clf


def with_rare_classes(clf, case, between):
    clf.set_params(batch_size="auto")
    for digit in (3, 7):
        rows = case.y == digit
        clf = between(clf.partial_fit(case.X[rows], case.y[rows], classes=CLASSES))
    return clf


def classes_once(clf, case, between):
    clf = between(clf.partial_fit(case.X, case.y, classes=CLASSES[::-1]))
    return between(clf.partial_fit(case.X, case.y))


def after_fit(clf, case, between):
    clf = between(fit(clf, case.X, case.y))
    for _ in range(3):
        clf = between(clf.partial_fit(case.X[:100], case.y[:100]))
    return clf


def before_fit(clf, case, between):
    clf = between(clf.partial_fit(case.X, case.y, classes=CLASSES))
    return between(fit(clf, case.X, case.y))


def then_warm_start(clf, case, between):
    clf = between(clf.partial_fit(case.X, case.y, classes=CLASSES))
    return between(fit(clf.set_params(warm_start=True), case.X, case.y))


def warm_start_then_on(clf, case, between):
    clf = between(fit(clf.set_params(warm_start=True), case.X, case.y))
    return between(clf.partial_fit(case.X, case.y))


def changed_hyperparameters(clf, case, between):
    """Those of the optimizer are ignored, others take effect."""
    clf = between(clf.partial_fit(case.X, case.y, classes=CLASSES))
    clf.set_params(
        learning_rate_init=1.0,
        power_t=0.9,
        momentum=0.1,
        nesterovs_momentum=False,
        beta_1=0.1,
        beta_2=0.2,
        epsilon=1.0,
        learning_rate="constant",
        hidden_layer_sizes=(5, 5),
    )
    clf = between(clf.partial_fit(case.X, case.y))
    clf.set_params(
        solver="sgd" if clf.solver == "adam" else "adam",
        alpha=2.0,
        batch_size=17,
        shuffle=False,
        tol=0.5,
        activation="tanh",
    )
    for _ in range(3):
        clf = between(clf.partial_fit(case.X, case.y))
    return clf


def several_labels(clf, case, between):
    y = np.column_stack([case.y % 2, case.y > 4, case.y == 3]).astype(int)
    for _ in range(2):
        clf = between(clf.partial_fit(case.X, y, classes=[0, 1, 2]))
    return clf


def two_strings(clf, case, between):
    y = np.where(case.y > 4, "high", "low")
    for _ in range(2):
        clf = between(clf.partial_fit(case.X, y, classes=["low", "high"]))
    return clf


def float32_then_float64(clf, case, between):
    for dtype in (np.float32, np.float64):
        X = case.X.astype(dtype)
        clf = between(clf.partial_fit(X, case.y, classes=CLASSES))
    return clf


def float64_then_float32(clf, case, between):
    for dtype in (np.float64, np.float32):
        X = case.X.astype(dtype)
        clf = between(clf.partial_fit(X, case.y, classes=CLASSES))
    return clf


SCENARIOS = [
    repeatedly,
    with_weights,
    with_rare_classes,
    classes_once,
    after_fit,
    before_fit,
    then_warm_start,
    warm_start_then_on,
    changed_hyperparameters,
    several_labels,
    two_strings,
    float32_then_float64,
    float64_then_float32,
]

OPTIMISERS = {
    "adam": {"solver": "adam"},
    "invscaling": {
        "solver": "sgd",
        "learning_rate": "invscaling",
        "learning_rate_init": 0.3,
    },
    # The rate drops in every second call.
    "adaptive": {
        "solver": "sgd",
        "learning_rate": "adaptive",
        "learning_rate_init": 0.3,
        "tol": 10.0,
        "n_iter_no_change": 1,
    },
}


@pytest.mark.parametrize(
    "between",
    [
        pytest.param(lambda clf: clf, id="at once"),
        pytest.param(_pickled, id="pickled", marks=pytest.mark.slow),
        pytest.param(deepcopy, id="copied", marks=pytest.mark.slow),
        pytest.param(_handed_over, id="in turns with scikit-learn"),
    ],
)
@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_partial_fit_matches_scikit_learn(scenario, optimiser, between):
    case = Case.of("defaults", **OPTIMISERS[optimiser])
    ours, theirs = case.pair(engine="local")
    ours = scenario(ours, case, between)
    theirs = scenario(theirs, case, lambda clf: clf)
    assert_same_network(ours, theirs)
    if theirs.n_outputs_ == 10:
        assert_same_answers(ours, theirs, case.X, case.y)


def test_an_integer_random_state_restarts_at_every_call():
    case = Case.of("defaults", max_iter=1, batch_size=50)
    again, on = (
        pair(case.params | {"random_state": state})
        for state in (4, np.random.RandomState(4))
    )
    for ours, theirs in (again, on):
        for _ in range(3):
            for clf in (ours, theirs):
                clf.partial_fit(case.X, case.y, classes=CLASSES)
        assert_same_network(ours, theirs)
    assert not np.array_equal(again[0].coefs_[0], on[0].coefs_[0])


def test_copies_train_independently():
    case = Case.of("defaults")
    ours, _ = case.pair()
    ours.partial_fit(case.X, case.y, classes=CLASSES)
    twin = deepcopy(ours)
    before = [coef.copy() for coef in ours.coefs_]
    losses = list(ours.loss_curve_)
    twin.partial_fit(case.X, case.y)
    for kept, coef, moved in zip(before, ours.coefs_, twin.coefs_, strict=True):
        assert_array_equal(kept, coef)
        assert not np.array_equal(coef, moved)
    assert ours.loss_curve_ == losses
    # The original's moments are unchanged too: it continues as its copy did.
    ours.partial_fit(case.X, case.y)
    for coef, moved in zip(ours.coefs_, twin.coefs_, strict=True):
        assert_array_equal(coef, moved)


@pytest.mark.parametrize("optimiser", OPTIMISERS)
@pytest.mark.parametrize("incremental", [False, True], ids=["warm start", "partial"])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_failed_training_leaves_the_estimator_unchanged(optimiser, incremental):
    """In the second of two batches: the first has changed the parameters."""
    case = Case.of("defaults", **OPTIMISERS[optimiser])
    ours, _ = case.pair(engine="local")
    ours.set_params(warm_start=True, shuffle=False, batch_size=50, max_iter=1)
    method = ours.partial_fit if incremental else ours.fit
    method(case.X, case.y, **({"classes": CLASSES} if incremental else {}))
    twin, before = deepcopy(ours), pickle.dumps(ours)
    weight = np.repeat([1.0, 0.0], [50, len(case.X) - 50])
    with pytest.raises(ZeroDivisionError):
        method(case.X, case.y, sample_weight=weight)
    assert pickle.dumps(ours) == before
    # It continues as if nothing had happened.
    method(case.X, case.y)
    (twin.partial_fit if incremental else twin.fit)(case.X, case.y)
    for coef, expected in zip(ours.coefs_, twin.coefs_, strict=True):
        assert_array_equal(coef, expected)


def _scale_in_place(clf):
    for array in clf.coefs_ + clf.intercepts_:
        array *= 0.5


def _replace_one(clf):
    clf.coefs_[1] = np.full_like(clf.coefs_[1], 0.1)


def _replace_all(clf):
    clf.coefs_ = [coef + 0.1 for coef in clf.coefs_]
    clf.intercepts_ = [intercept - 0.1 for intercept in clf.intercepts_]


def _swap(clf):
    clf.coefs_[1], clf.coefs_[2] = clf.coefs_[2], clf.coefs_[1]


def _swap_intercepts(clf):
    clf.intercepts_[0], clf.intercepts_[1] = clf.intercepts_[1], clf.intercepts_[0]


def _transpose(clf):
    clf.coefs_[1] = clf.coefs_[1].T


def _reverse(clf):
    clf.coefs_[1] = clf.coefs_[1][::-1]


def _columns_first(clf):
    clf.coefs_ = [np.asfortranarray(coef) for coef in clf.coefs_]


EDITS = [
    _scale_in_place,
    _replace_one,
    _replace_all,
    _swap,
    _swap_intercepts,
    _transpose,
    _reverse,
    _columns_first,
]


@pytest.mark.parametrize("before_edit", ["fit", "partial_fit", "pickle"])
@pytest.mark.parametrize("edit", EDITS)
def test_edited_parameters_are_used(edit, before_edit):
    """Square layers, so that every edit preserves the shapes."""
    case = Case.of("defaults", hidden_layer_sizes=(6, 6, 6), warm_start=False)
    ours, theirs = case.pair(engine="local")
    for clf in (ours, theirs):
        if before_edit == "fit":
            fit(clf, case.X, case.y)
        else:
            clf.partial_fit(case.X, case.y, classes=CLASSES)
    if before_edit == "pickle":
        ours = _pickled(ours)
    for clf in (ours, theirs):
        edit(clf)
    assert_same_answers(ours, theirs, case.X, case.y)
    for _ in range(2):
        for clf in (ours, theirs):
            clf.partial_fit(case.X, case.y)
        assert_same_network(ours, theirs)


def test_edited_parameters_are_used_by_a_warm_start():
    case = Case.of("defaults", warm_start=True)
    ours, theirs = case.pair(engine="local")
    for clf in (ours, theirs):
        fit(clf, case.X, case.y)
        _replace_all(clf)
        fit(clf, case.X, case.y)
    assert_same_network(ours, theirs)


@pytest.mark.parametrize("optimiser", only_quick(0, cases=OPTIMISERS))
def test_the_engine_may_change_between_calls(client, optimiser):
    case = Case.of("defaults", batch_size=120, **OPTIMISERS[optimiser])
    ours, theirs = case.pair(client=client)
    for engine_params in [
        {"engine": "local"},
        FUTURES | {"n_workers": 2},
        {"engine": "local"},
        FUTURES | {"n_workers": 3},
        FUTURES | {"n_workers": 1},
    ]:
        ours.set_params(**engine_params)
        for clf in (ours, theirs):
            clf.partial_fit(case.X, case.y, classes=CLASSES)
            _scale_in_place(clf)
        assert ours.engine_ == engine_params["engine"]
        assert ours.n_workers_ == engine_params.get("n_workers", 1)
        assert_same_network(ours, theirs)
    assert_same_answers(ours, theirs, case.X, case.y)


@pytest.mark.parametrize("early_stopping", only_quick(1, cases=[False, True]))
def test_a_warm_start_may_change_the_engine(client, early_stopping):
    case = Case.of(
        "defaults", early_stopping=early_stopping, max_iter=2, batch_size=120
    )
    ours, theirs = pair(case.params | {"warm_start": True}, client=client)
    for engine_params in [
        FUTURES | {"n_workers": 2},
        {"engine": "local"},
        FUTURES | {"n_workers": 3},
    ]:
        ours.set_params(**engine_params)
        for clf in (ours, theirs):
            fit(clf, case.X, case.y)
        assert ours.engine_ == engine_params["engine"]
        assert_same_network(ours, theirs)


def test_partial_fit_never_warns_of_convergence():
    case = Case.of("defaults", max_iter=1)
    ours, _ = case.pair()
    ours.partial_fit(case.X, case.y, classes=CLASSES)  # warnings are errors
    assert ours.n_iter_ == 1
    assert quiet(ours.partial_fit, case.X, case.y) is ours
