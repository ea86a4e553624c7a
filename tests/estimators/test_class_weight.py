"""`class_weight` has the effect of the same `sample_weight`."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.class_weight import compute_sample_weight

from skdistmlp import DistributedMLPClassifier
from tests.estimators.configurations import Case
from tests.estimators.support import assert_same_network, fit, quiet, result_of
from tests.marks import only_quick

EVEN_HEAVIER = {digit: 3.0 if digit % 2 == 0 else 0.5 for digit in range(10)}

CLASS_WEIGHTS = {
    "dict": ("ten classes", EVEN_HEAVIER),
    "dict without some": ("ten classes", {3: 5.0, 7: 0.0}),
    "balanced": ("ten classes", "balanced"),
    "dict, two classes": ("two classes", {0: 0.3, 1: 4}),
    "dict of one class": ("two classes", {1: 4}),
    "balanced, two classes": ("two classes", "balanced"),
    "strings": ("strings", {"low": 2.0, "middle": 0.1, "high": 7.0}),
    "two strings": ("two strings", {"low": 6.0}),
    "balanced strings": ("strings", "balanced"),
    "booleans": ("booleans", {False: 2.0, True: 5.0}),
    "floats": ("floats", {-3.0: 9.0}),
    "labels": ("several labels", [{0: 1, 1: 4}, {0: 0.5, 1: 1}, {0: 2, 1: 3}]),
    "balanced labels": ("several labels", "balanced"),
    "sparse labels": ("several labels, sparse", [{0: 1, 1: 4}, {1: 2}, {0: 2}]),
}


def _weight_of(class_weight, case):
    """Return the sample weights that scikit-learn computes from class weights."""
    y = case.y.toarray() if hasattr(case.y, "toarray") else case.y
    return compute_sample_weight(class_weight, y)


def _assert_same_training(case, class_weight, sample_weight=None, **engine_params):
    """Compare with the same sample weights passed to ours and to scikit-learn's."""
    ours, theirs = case.pair(**engine_params)
    twin = clone(ours)
    weight = _weight_of(class_weight, case)
    if sample_weight is not None:
        weight = weight * sample_weight
    fit(ours.set_params(class_weight=class_weight), case.X, case.y, sample_weight)
    for estimator in (twin, theirs):
        fit(estimator, case.X, case.y, weight)
    assert_same_network(ours, theirs)
    for one, other in zip(ours.coefs_, twin.coefs_, strict=True):
        assert_array_equal(one, other)
    assert not np.allclose(weight, weight[0])
    return ours


@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
@pytest.mark.parametrize("name", CLASS_WEIGHTS)
def test_class_weight_equals_the_same_sample_weight(name, solver):
    target, class_weight = CLASS_WEIGHTS[name]
    _assert_same_training(Case.of(target, solver=solver), class_weight)


@pytest.mark.parametrize("name", CLASS_WEIGHTS)
def test_class_weight_multiplies_sample_weight(name):
    target, class_weight = CLASS_WEIGHTS[name]
    case = Case.of(target)
    weight = np.linspace(0.1, 3, len(case.X))
    _assert_same_training(case, class_weight, weight)


@pytest.mark.parametrize("name", ["dict", "two strings", "labels", "balanced"])
def test_class_weight_counts_in_the_score_of_early_stopping(name):
    target, class_weight = CLASS_WEIGHTS[name]
    case = Case.of(target, early_stopping=True, validation_fraction=0.4, tol=0.0)
    ours = _assert_same_training(case, class_weight)
    assert len(ours.validation_scores_) == ours.n_iter_


@pytest.mark.parametrize("name", ["dict", "balanced labels"])
def test_class_weight_works_on_shards(name):
    target, class_weight = CLASS_WEIGHTS[name]
    _assert_same_training(Case.of(target), class_weight, shares=[2, 1, 3])


@pytest.mark.parametrize(
    ("name", "solver"),
    only_quick(
        1,
        2,
        cases=[("dict", "adam"), ("balanced labels", "sgd"), ("strings", "lbfgs")],
    ),
)
def test_class_weight_works_on_futures(client, name, solver):
    target, class_weight = CLASS_WEIGHTS[name]
    ours = _assert_same_training(
        Case.of(target, solver=solver, max_iter=2, batch_size=120),
        class_weight,
        client=client,
        engine="futures",
        n_workers=2,
    )
    assert ours.engine_ == "futures"


def test_class_weight_none_means_no_weights():
    case = Case.of("defaults")
    plain, theirs = case.pair()
    named, _ = case.pair(class_weight=None)
    for estimator in (plain, named, theirs):
        fit(estimator, case.X, case.y)
    assert_same_network(named, theirs)
    assert_array_equal(named.coefs_[0], plain.coefs_[0])


def test_balanced_counts_rows_and_ignores_sample_weight():
    """As in scikit-learn's other classifiers."""
    case = Case.of("two classes")
    weight = np.where(case.y == 1, 5.0, 1.0)
    ours, _ = case.pair(class_weight="balanced")
    twin, _ = case.pair()
    fit(ours, case.X, case.y, weight)
    counts = np.bincount(case.y)
    fit(twin, case.X, case.y, weight * len(case.y) / (2 * counts[case.y]))
    assert_allclose(ours.coefs_[0], twin.coefs_[0], rtol=1e-9)


# partial_fit.


def test_partial_fit_accepts_a_dict_when_a_batch_lacks_classes():
    case = Case.of("defaults", batch_size="auto")
    ours, theirs = case.pair(class_weight=EVEN_HEAVIER)
    for digits in ((3,), (4, 7), (0, 1, 2)):
        rows = np.isin(case.y, digits)
        weight = compute_sample_weight(EVEN_HEAVIER, case.y[rows])
        ours.partial_fit(case.X[rows], case.y[rows], classes=range(10))
        theirs.partial_fit(case.X[rows], case.y[rows], weight, classes=range(10))
        assert_same_network(ours, theirs)


@pytest.mark.parametrize("weighted_digit", [3, 4])
def test_partial_fit_accepts_a_dict_that_lacks_classes(weighted_digit):
    """Labels with weights may be missing in one batch and fill another."""
    case = Case.of("defaults", batch_size="auto")
    ours, theirs = case.pair(class_weight={weighted_digit: 5.0})
    for digits in ((3,), (4, 7)):
        rows = np.isin(case.y, digits)
        weight = np.where(case.y[rows] == weighted_digit, 5.0, 1.0)
        ours.partial_fit(case.X[rows], case.y[rows], classes=range(10))
        theirs.partial_fit(case.X[rows], case.y[rows], weight, classes=range(10))
        assert_same_network(ours, theirs)


@pytest.mark.parametrize("label_weight", [{0: 1.0, 1: 5.0}, {1: 5.0}])
def test_partial_fit_accepts_label_weights_when_a_batch_lacks_labels(label_weight):
    case = Case.of("several labels", batch_size="auto")
    ours, theirs = case.pair(class_weight=[label_weight, {0: 1, 1: 1}, {0: 1, 1: 1}])
    for first_label in (1, 0):
        rows = case.y[:, 0] == first_label
        weight = np.full(rows.sum(), 5.0 if first_label else 1.0)
        ours.partial_fit(case.X[rows], case.y[rows], classes=range(3))
        theirs.partial_fit(case.X[rows], case.y[rows], weight, classes=range(3))
        assert_same_network(ours, theirs)


@pytest.mark.parametrize("fitted", [False, True])
def test_partial_fit_refuses_balanced(fitted):
    case = Case.of("defaults")
    ours, _ = case.pair(class_weight="balanced")
    if fitted:
        fit(ours, case.X, case.y)
    before = dict(vars(ours))
    with pytest.raises(ValueError, match=r"'balanced' cannot be used with partial_fit"):
        ours.partial_fit(case.X, case.y, classes=range(10))
    assert vars(ours) == before
    ours.set_params(class_weight=None).partial_fit(case.X, case.y, classes=range(10))


# What is refused.


@pytest.mark.parametrize("value", ["even", 3.0, ("balanced",), {1, 2}, np.ones(3)])
def test_invalid_values_are_refused(value):
    case = Case.of("defaults")
    ours, _ = case.pair(class_weight=value)
    with pytest.raises(InvalidParameterError, match="'class_weight' parameter"):
        ours.fit(case.X, case.y)
    assert not hasattr(ours, "classes_")


@pytest.mark.parametrize(
    ("target", "class_weight"),
    [
        ("ten classes", {11: 2.0}),
        ("ten classes", {1: 2.0, "one": 3.0}),
        ("strings", {"highest": 2.0}),
    ],
)
def test_unknown_classes_are_refused_as_by_scikit_learn(target, class_weight):
    case = Case.of(target)
    ours, _ = case.pair(class_weight=class_weight)
    theirs = LogisticRegression(class_weight=class_weight)
    results = [result_of(lambda e=e: e.fit(case.X, case.y)) for e in (ours, theirs)]
    assert results[1].error[0] is ValueError
    assert results[0].error == results[1].error
    assert not hasattr(ours, "coefs_")


def test_extra_classes_are_ignored_as_by_scikit_learn():
    case = Case.of("two classes")
    class_weight = {0: 1.0, 1: 3.0, 2: 9.0}
    quiet(LogisticRegression(class_weight=class_weight).fit, case.X, case.y)
    _assert_same_training(case, {0: 1.0, 1: 3.0})
    ours, _ = case.pair(class_weight=class_weight)
    twin, _ = case.pair(class_weight={0: 1.0, 1: 3.0})
    for estimator in (ours, twin):
        fit(estimator, case.X, case.y)
    assert_array_equal(ours.coefs_[0], twin.coefs_[0])


@pytest.mark.parametrize(
    ("target", "class_weight"),
    [
        ("several labels", {0: 1.0, 1: 2.0}),
        ("several labels", [{0: 1.0, 1: 2.0}]),
        ("several labels", [{0: 1.0, 5: 2.0}, {}, {}]),
        ("ten classes", [{0: 1.0, 1: 2.0}]),
        ("ten classes", {0: "heavy"}),
        ("ten classes", {0: np.nan}),
        ("two classes", {0: np.inf}),
    ],
)
def test_unusable_weights_are_refused(target, class_weight):
    case = Case.of(target)
    ours, _ = case.pair(class_weight=class_weight)
    with pytest.raises(ValueError):  # noqa: PT011 (scikit-learn's and Python's words)
        fit(ours, case.X, case.y)
    assert not hasattr(ours, "coefs_")


# As a parameter.


@pytest.mark.parametrize("name", CLASS_WEIGHTS)
def test_clones_and_pickles_keep_class_weight(name):
    _, class_weight = CLASS_WEIGHTS[name]
    original = DistributedMLPClassifier(class_weight=class_weight)
    for twin in (clone(original), pickle.loads(pickle.dumps(original))):
        assert twin.get_params()["class_weight"] == class_weight


def test_class_weight_can_be_searched_over():
    case = Case.of("two classes")
    grid = [None, {0: 1000.0, 1: 1.0}]
    search = GridSearchCV(
        case.pair()[0], {"class_weight": grid}, cv=2, scoring="recall", refit=False
    )
    quiet(search.fit, case.X, case.y)
    alike, zero_matters = search.cv_results_["mean_test_score"]
    assert zero_matters < alike
