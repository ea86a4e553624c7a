"""What continues from one call to the next, beyond what `test_partial_fit` compares."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.datasets import load_digits

from skdistmlp import DistributedMLPClassifier

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return X[:200] / 16, y[:200]


def classifier(**parameters):
    defaults = {"hidden_layer_sizes": (9,), "max_iter": 3, "random_state": 0}
    return DistributedMLPClassifier(**defaults | parameters)


def test_a_schedule_of_steps_is_over_with_its_fit(digits):
    """The optimiser continues, at the rate that the parameters say."""
    clf = classifier(learning_rate="cosine").fit(*digits)
    clf.set_params(learning_rate="constant", learning_rate_init=0.25)
    clf.partial_fit(*digits)
    assert clf._schedule.name == "constant"
    assert clf._learning_rate == 0.25
    assert clf._optimizer_state.n_steps == 4


def test_a_schedule_of_scikit_learn_continues(digits):
    clf = classifier(solver="sgd", learning_rate="invscaling").fit(*digits)
    rate = clf._learning_rate
    clf.set_params(learning_rate="constant").partial_fit(*digits)
    assert clf._schedule.name == "invscaling"
    assert clf._learning_rate < rate


def test_a_new_fit_counts_steps_and_draws_dropout_anew(digits):
    clf = classifier(dropout=0.5, warm_start=True).fit(*digits)
    seed = clf._dropout_seed
    clf.set_params(random_state=1).fit(*digits)
    assert clf._optimizer_state.n_steps == 3
    assert clf._dropout_seed != seed


def test_what_a_new_training_does_not_set_is_dropped(digits):
    clf = classifier(ema_decay=0.9, dropout=0.5).fit(*digits)
    assert hasattr(clf, "_raw_parameters")
    clf.set_params(ema_decay=None, dropout=0.0).fit(*digits)
    assert not hasattr(clf, "_raw_parameters")
    assert clf._dropout_seed is None
    plain = classifier().fit(*digits)
    assert_array_equal(clf.coefs_[0], plain.coefs_[0])
    clf.set_params(solver="lbfgs").fit(*digits)
    assert not hasattr(clf, "best_iter_")


@pytest.mark.parametrize(
    ("first", "then"),
    [("held out", "X_val"), ("X_val", "held out"), ("X_val", "scoring")],
)
def test_a_best_score_of_something_else_is_forgotten(digits, first, then):
    """Else no score to come could beat it, and training would stop for nothing."""
    X, y = digits
    rows = {"X_val": X[:40], "y_val": y[:40]}
    clf = classifier(early_stopping=True, warm_start=True, n_iter_no_change=3)
    clf.fit(X, y, **rows if first == "X_val" else {})
    clf.best_validation_score_, clf._no_improvement_count = 2.0, 2
    clf.set_params(scoring="neg_log_loss" if then == "scoring" else None)
    clf.fit(X, y, **{} if then == "held out" else rows)
    assert clf.best_validation_score_ == max(clf.validation_scores_[3:])
    assert clf.best_iter_ == 4 + int(np.argmax(clf.validation_scores_[3:]))
    assert len(clf.loss_curve_) == 6


def test_a_best_score_of_the_same_kind_is_kept(digits):
    X, y = digits
    clf = classifier(early_stopping=True, warm_start=True)
    clf.fit(X, y, X_val=X, y_val=y)
    clf.best_validation_score_ = 2.0
    clf.fit(X, y, X_val=X, y_val=y)
    assert clf.best_validation_score_ == 2.0
    # Calls without rows for validation compare nothing.
    clf.set_params(early_stopping=False).partial_fit(X, y)
    assert clf.best_validation_score_ == 2.0


def test_a_failed_fit_leaves_everything_as_it_was(digits):
    X, y = digits
    clf = classifier(ema_decay=0.9).fit(X, y, X_val=X, y_val=y)
    before = dict(vars(clf))
    with pytest.raises(ValueError, match="X_val does not fit"):
        clf.fit(X, y, X_val=X[:, :2], y_val=y)
    assert vars(clf).keys() == before.keys()
    assert all(np.all(vars(clf)[name] is before[name]) for name in before)
