"""Workloads: networks and their data."""

import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier

from skdistmlp import DistributedMLPClassifier
from skdistmlp.crossover.workloads import N_CLASSES, Workload
from skdistmlp.estimators.uninterrupted import fit_uninterrupted

WORKLOAD = Workload(4, (3, 5), n_steps=8, n_epochs=2, batch_size=25)


def test_data_fills_every_mini_batch_and_never_changes():
    X, y = WORKLOAD.data()
    assert X.shape == (8 * 25, 4)
    assert X.dtype == np.float32
    assert set(y) == set(range(N_CLASSES))
    again, _ = WORKLOAD.data()
    np.testing.assert_array_equal(X, again)


@pytest.mark.parametrize("estimator", [DistributedMLPClassifier, MLPClassifier])
@pytest.mark.parametrize("n_epochs", [None, 3])
def test_parameters_train_the_network_for_all_epochs(estimator, n_epochs):
    assert WORKLOAD.name == "4-(3, 5)"
    clf = estimator(**WORKLOAD.parameters(n_epochs))
    fit_uninterrupted(clf, *WORKLOAD.data())
    assert clf.n_iter_ == (n_epochs or 2)
    fan_outs = [len(intercepts) for intercepts in clf.intercepts_]
    assert (4, *fan_outs) == WORKLOAD.layer_units
