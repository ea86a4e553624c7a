"""Fits that are complete, or not at all."""

import warnings

import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier

from skdistmlp import DistributedMLPClassifier
from skdistmlp.estimators.uninterrupted import fit_uninterrupted

X, Y = np.eye(10), np.arange(10) % 2


@pytest.mark.parametrize("estimator", [DistributedMLPClassifier, MLPClassifier])
def test_an_interrupted_fit_raises(estimator, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    # In the first step of either.
    monkeypatch.setattr(MLPClassifier, "_backprop", interrupt)
    monkeypatch.setattr("skdistmlp.training.loop.run_epoch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit_uninterrupted(estimator((3,), max_iter=2), X, Y)


def test_the_end_of_the_epochs_is_no_warning_and_others_stay():
    clf = DistributedMLPClassifier((3,), max_iter=2, batch_size=20)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit_uninterrupted(clf, X, Y, sample_weight=np.ones(10))
    assert clf.n_iter_ == 2
    assert ["`batch_size`" in str(warning.message) for warning in caught] == [True]


def test_a_warning_made_an_error_is_not_taken_for_an_interrupt():
    clf = DistributedMLPClassifier((3,), max_iter=2, batch_size=20)
    with (
        warnings.catch_warnings(action="error"),
        pytest.raises(UserWarning, match="batch_size"),
    ):
        fit_uninterrupted(clf, X, Y)
