"""With ``ema_decay``, ``coefs_`` are an average, and training goes on without it."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.datasets import load_digits

from skdistmlp import DistributedMLPClassifier

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

CLASSES = np.arange(10)


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:300] / 16, y[:300]


def classifier(**parameters):
    defaults = {"hidden_layer_sizes": (9,), "batch_size": 100, "random_state": 0}
    return DistributedMLPClassifier(**defaults | parameters)


def trained(n_calls, digits, **parameters):
    clf = classifier(shuffle=False, **parameters)
    for _ in range(n_calls):
        clf.partial_fit(*digits, classes=CLASSES)
    return clf


def test_the_average_is_over_steps_and_begins_with_the_first(digits):
    X, y = digits[0][:100], digits[1][:100]
    averaged = trained(4, (X, y), ema_decay=0.75)
    expected = None
    plain = classifier(shuffle=False)
    for _ in range(4):
        plain.partial_fit(X, y, classes=CLASSES)
        now = plain.coefs_[0]
        expected = now.copy() if expected is None else 0.75 * expected + 0.25 * now
    assert_allclose(averaged.coefs_[0], expected, rtol=1e-12)
    # What is trained is the same as without.
    assert averaged.loss_curve_ == plain.loss_curve_


def test_without_memory_it_is_the_parameters_themselves(digits):
    one, other = trained(2, digits, ema_decay=0.0), trained(2, digits)
    assert_allclose(one.coefs_[0], other.coefs_[0], rtol=1e-12, atol=1e-15)


def test_a_pickle_in_between_changes_nothing(digits):
    whole = trained(3, digits, ema_decay=0.9)
    part = pickle.loads(pickle.dumps(trained(2, digits, ema_decay=0.9)))
    part.partial_fit(*digits)
    assert_array_equal(part.coefs_[0], whole.coefs_[0])
    assert part.loss_curve_ == whole.loss_curve_


@pytest.mark.parametrize("edit", ["in place", "replaced"])
def test_training_continues_from_coefs_that_were_edited(digits, edit):
    clf = trained(2, digits, ema_decay=0.9)
    if edit == "in place":
        clf.coefs_[0][:] *= 0.5
    else:
        clf.coefs_ = [0.5 * clf.coefs_[0], clf.coefs_[1]]
    begun = classifier(learning_rate_init=1e-300, solver="sgd", shuffle=False)
    begun.partial_fit(*digits, classes=CLASSES)
    begun.coefs_, begun.intercepts_ = clf.coefs_, clf.intercepts_
    begun.partial_fit(*digits)
    # The loss before the first step is that of the edited parameters.
    clf.set_params(batch_size=300)
    begun.set_params(batch_size=300)
    begun.partial_fit(*digits)
    clf.partial_fit(*digits)
    assert_allclose(clf.loss_curve_[-1], begun.loss_curve_[-1], rtol=1e-12)


def test_scores_are_those_of_the_average(digits):
    X, y = digits
    clf = classifier(ema_decay=0.99, max_iter=4).fit(X, y, X_val=X, y_val=y)
    assert clf.validation_scores_[-1] == clf.score(X, y)


def test_early_stopping_restores_the_best_average(digits):
    X, y = digits
    scores = iter([1, 5, 2, 3])
    best = classifier(
        ema_decay=0.9, max_iter=4, early_stopping=True, scoring=lambda *_: next(scores)
    ).fit(X, y, X_val=X, y_val=y)
    until_then = classifier(ema_decay=0.9, max_iter=2).fit(X, y)
    assert best.best_iter_ == 2
    assert_array_equal(best.coefs_[0], until_then.coefs_[0])
    # It continues from these, whose average begins anew.
    best.set_params(early_stopping=False, batch_size=300).partial_fit(X, y)
    assert np.isfinite(best.loss_)


def test_a_warm_start_continues_from_the_parameters_themselves(digits):
    X, y = digits
    first = classifier(ema_decay=0.99, max_iter=3, warm_start=True).fit(X, y)
    raw = first._raw_parameters.copy()
    first.set_params(learning_rate_init=1e-300, solver="sgd", max_iter=1).fit(X, y)
    assert_array_equal(first._raw_parameters, raw)


def test_callbacks_and_predictions_see_the_average(digits):
    X, y = digits
    clf = classifier(ema_decay=0.99, max_iter=3).fit(X, y)
    raw = clf._raw_parameters[: clf.coefs_[0].size].reshape(clf.coefs_[0].shape)
    assert not np.allclose(raw, clf.coefs_[0])
    begun = clf._optimizer_state.average[: raw.size].reshape(raw.shape)
    assert_array_equal(begun, clf.coefs_[0])
