"""Whether the squared error of several outputs is their mean or their sum.

scikit-learn has the mean up to 1.9, and its pull request 34830 makes it the sum; we do
as the installed one does. Both are compared with it here.
"""

import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPRegressor, _multilayer_perceptron

from skdistmlp import DistributedMLPRegressor
from skdistmlp.estimators import regressor
from tests.engines.thread_engine import in_threads

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def mean(y_true, y_pred, sample_weight=None):
    return (
        0.5 * np.average((y_true - y_pred) ** 2, weights=sample_weight, axis=0).mean()
    )


def total(y_true, y_pred, sample_weight=None):
    return y_true.shape[1] * mean(y_true, y_pred, sample_weight)


@pytest.mark.parametrize("sums", [False, True])
@pytest.mark.parametrize(
    "parameters",
    [
        {"max_iter": 5},
        {"max_iter": 100, "tol": 0.05, "n_iter_no_change": 2},
        {"solver": "lbfgs", "max_iter": 5},
    ],
    ids=str,
)
@pytest.mark.parametrize("shares", [None, [2, 3]], ids=str)
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_curve_stopping_and_lbfgs_follow_scikit_learn(
    sums, parameters, shares, weighted, monkeypatch
):
    X, digits = load_digits(return_X_y=True)
    X, digits = X[:200] / 16, digits[:200] / 9
    y = np.column_stack([digits, np.cos(9 * digits), digits**2])
    weight = np.linspace(0.1, 2, 200) if weighted else None
    losses = _multilayer_perceptron.LOSS_FUNCTIONS
    monkeypatch.setitem(losses, "squared_error", total if sums else mean)
    monkeypatch.setattr(regressor, "SUMS_OUTPUTS", sums)
    parameters = {"hidden_layer_sizes": (9,), "random_state": 0} | parameters
    cls = DistributedMLPRegressor
    ours = (cls if shares is None else in_threads(cls, shares))(**parameters)
    ours.fit(X, y, weight)
    theirs = MLPRegressor(**parameters).fit(X, y, weight)
    assert ours.n_iter_ == theirs.n_iter_
    np.testing.assert_allclose(ours.loss_, theirs.loss_, rtol=1e-9)
    if "solver" not in parameters:
        np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-9)
    for a, b in zip(ours.coefs_, theirs.coefs_, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)
