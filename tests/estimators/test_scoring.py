"""Scores by a scorer that is told the outputs; with fits, in `test_validation_data`."""

import cloudpickle
import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.metrics import accuracy_score, get_scorer

from skdistmlp import DistributedMLPClassifier, DistributedMLPRegressor
from skdistmlp.estimators.scoring import NegativeLoss, ScorerScore, score_of
from skdistmlp.nn.losses import OUTPUTS

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def fitted():
    X, y = load_digits(return_X_y=True)
    return DistributedMLPClassifier((9,), max_iter=3).fit(X[:200], y[:200]), X, y


def own(y, outputs, sample_weight):
    return 0.0


def test_none_is_the_estimators_own_score(fitted):
    clf, *_ = fitted
    assert score_of(clf, OUTPUTS["softmax"], own) is own


def test_the_loss_is_negative_and_weighted():
    outputs, y = np.array([[0.25, 0.75], [0.5, 0.5]]), np.array([[0, 1], [1, 0]], bool)
    score = NegativeLoss(OUTPUTS["softmax"])
    expected = np.log(0.75), np.log(0.5)
    assert score(y, outputs, None) == pytest.approx(np.mean(expected))
    weighted = score(y, outputs, np.array([3.0, 1.0]))
    assert weighted == pytest.approx(np.average(expected, weights=[3, 1]))


@pytest.mark.parametrize("scoring", ["accuracy", "neg_log_loss", "f1_macro"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_scorer_sees_what_is_told(fitted, scoring, weighted):
    clf, X, y = fitted
    clf = DistributedMLPClassifier(scoring=scoring).set_params()
    clf.__dict__.update(vars(fitted[0]) | {"scoring": scoring})
    score = score_of(clf, OUTPUTS["softmax"], own)
    assert isinstance(score, ScorerScore)
    # As it would be on a worker.
    score = cloudpickle.loads(cloudpickle.dumps(score))
    targets = clf._label_binarizer.transform(y[:50]).astype(bool)
    outputs = clf.predict_proba(X[:50])
    weight = np.linspace(0, 1, 50) if weighted else None
    expected = get_scorer(scoring)(clf, X[:50], y[:50], sample_weight=weight)
    found = score(targets, outputs, weight, X[:50])
    assert len(cloudpickle.dumps(score)) < 5_000
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert np.isnan(score(targets, outputs * np.nan, weight, X[:50]))


def test_what_is_sent_has_neither_client_nor_parameters():
    score = score_of(
        DistributedMLPRegressor(scoring="r2", client="tcp://10.0.0.1:8786"),
        OUTPUTS["identity"],
        own,
    )
    assert score.estimator.client is None
    assert score.estimator.coefs_ == []


def test_a_callable_is_called_with_estimator_features_and_targets(fitted):
    clf, X, y = fitted
    clf.scoring = lambda estimator, X, y: accuracy_score(y, estimator.predict(X))
    try:
        score = score_of(clf, OUTPUTS["softmax"], own)
    finally:
        clf.scoring = None
    targets = clf._label_binarizer.transform(y[:50]).astype(bool)
    found = score(targets, clf.predict_proba(X[:50]), None, X[:50])
    assert found == clf.score(X[:50], y[:50])
