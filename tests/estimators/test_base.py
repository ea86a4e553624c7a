"""What both estimators share: state after fits that end, continue or fail."""

import copy
import warnings

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import is_classifier

from skdistmlp import DistributedMLPClassifier, DistributedMLPRegressor, Recovery
from skdistmlp.estimators.base import BaseDistributedMLP
from tests.estimators.support import fit

ESTIMATORS = pytest.mark.parametrize(
    "cls", [DistributedMLPClassifier, DistributedMLPRegressor]
)
EPOCHS = {"loss_curve_", "best_loss_", "validation_scores_", "best_validation_score_"}


@pytest.fixture(scope="module")
def data(digits):
    return digits[0][:100], digits[1][:100]


def of(cls, **parameters):
    options = {"hidden_layer_sizes": (5,), "max_iter": 2, "random_state": 0}
    return cls(**options | parameters)


def partial_fit(estimator, X, y):
    """Call `partial_fit`, with the classes that a classifier needs."""
    classes = {"classes": range(10)} if is_classifier(estimator) else {}
    return estimator.partial_fit(X, y, **classes)


def test_the_base_class_cannot_be_instantiated():
    with pytest.raises(TypeError, match="abstract"):
        BaseDistributedMLP()


@ESTIMATORS
def test_fit_returns_the_estimator(cls, data):
    estimator = of(cls)
    assert fit(estimator, *data) is estimator
    assert partial_fit(estimator, *data) is estimator


@ESTIMATORS
@pytest.mark.parametrize("fitted", [False, True])
def test_a_failed_fit_restores_all_attributes(cls, data, fitted, monkeypatch):
    estimator = of(cls)
    if fitted:
        fit(estimator, *data)
    before = dict(vars(estimator))

    def fail(*args, **kwargs):
        raise MemoryError

    monkeypatch.setattr("skdistmlp.estimators.base.train", fail)
    with pytest.raises(MemoryError):
        estimator.fit(data[0][:, :9], data[1])
    assert vars(estimator).keys() == before.keys()
    assert all(vars(estimator)[name] is value for name, value in before.items())


@ESTIMATORS
def test_a_fit_with_lbfgs_drops_the_history_of_epochs(cls, data):
    estimator = fit(of(cls, early_stopping=True), *data)
    assert vars(estimator).keys() >= EPOCHS
    fit(estimator.set_params(solver="lbfgs"), *data)
    assert not vars(estimator).keys() & EPOCHS
    assert estimator.t_ == 0


@ESTIMATORS
@pytest.mark.parametrize(
    ("sizes", "shapes"),
    [
        (5, [5]),
        ((5, 3), [5, 3]),
        ([4], [4]),
        (np.array([6, 2]), [6, 2]),
        ((), []),
    ],
    ids=["number", "tuple", "list", "array", "none"],
)
def test_hidden_layer_sizes_may_be_a_number_or_a_sequence(cls, data, sizes, shapes):
    estimator = fit(of(cls).set_params(hidden_layer_sizes=sizes), *data)
    assert [coef.shape[1] for coef in estimator.coefs_[:-1]] == shapes
    assert estimator.n_layers_ == len(shapes) + 2


@ESTIMATORS
def test_partial_fit_keeps_the_hyperparameters_that_it_started_with(cls, data):
    """As in scikit-learn: other values take effect in the next fit."""
    estimator = of(cls, solver="sgd", learning_rate_init=0.01)
    partial_fit(estimator, *data)
    twin = copy.deepcopy(estimator).set_params(learning_rate_init=0.5)
    for each in (estimator, twin):
        partial_fit(each, *data)
    assert_array_equal(estimator.coefs_[0], twin.coefs_[0])


@ESTIMATORS
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_continued_network_keeps_its_dtype(cls, data, dtype):
    X, y = data
    estimator = partial_fit(of(cls), X.astype(dtype), y)
    other = np.float64 if dtype == np.float32 else np.float32
    partial_fit(estimator, X.astype(other), y)
    assert {coef.dtype for coef in estimator.coefs_} == {np.dtype(dtype)}


@ESTIMATORS
def test_fitted_attributes_come_from_the_plan(cls, data):
    estimator = fit(of(cls), *data)
    assert estimator.engine_ == estimator.plan_.engine == "local"
    assert estimator.n_workers_ == estimator.plan_.n_shards == 1
    assert estimator.n_outputs_ == estimator.coefs_[-1].shape[1]
    assert estimator.__sklearn_is_fitted__()
    assert not of(cls).__sklearn_is_fitted__()


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        (["broken"], "the fit recovered from faults: an exchange failed after 1.0 s"),
        (["retired", "lost"], "the fit recovered from faults: worker tcp://a:1 was"),
        (["paused"], "the fit left workers: worker tcp://a:1 stayed paused after"),
        (["moved"], None),
    ],
)
def test_a_warning_says_what_a_fit_has_survived(data, monkeypatch, kinds, said):
    survived = tuple(
        Recovery(("tcp://a:1",), "why", 1.0, 0.5, 3, ("tcp://b:1",), 1, True, kind)
        for kind in kinds
    )
    monkeypatch.setattr(BaseDistributedMLP, "recoveries_", survived)
    estimator = of(DistributedMLPClassifier)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        estimator.fit(*data)
    found = [str(one.message) for one in caught if "the fit" in str(one.message)]
    assert len(found) == (said is not None)
    assert all(text.startswith(said) for text in found)
    assert all(str(one) in text for text in found for one in survived)
