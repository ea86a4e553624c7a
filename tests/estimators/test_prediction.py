"""Predictions of fitted networks, for arrays and for single blocks of rows."""

import pickle

import dask.array as da
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy import sparse
from sklearn.exceptions import NotFittedError

from skdistmlp import DistributedMLPClassifier, DistributedMLPRegressor
from skdistmlp.estimators.prediction import BlockPrediction
from skdistmlp.parallel.whole_network import WholeNetwork
from tests.estimators.support import fit


@pytest.fixture(scope="module")
def data(digits):
    return digits[0][:200], digits[1][:200]


@pytest.fixture(scope="module")
def clf(data):
    return fit(DistributedMLPClassifier((9,), max_iter=3, random_state=0), *data)


@pytest.fixture(scope="module")
def block_prediction(clf):
    outputs = WholeNetwork(clf._fitted_network(), clf._parameters())
    return BlockPrediction(outputs, largest_output, type(clf).__name__)


def largest_output(outputs):
    return outputs.argmax(axis=1)


@pytest.mark.parametrize("convert", [np.asarray, np.ndarray.tolist, sparse.csc_array])
def test_a_block_is_predicted_like_an_array(block_prediction, clf, data, convert):
    X, _ = data
    block = convert(X[:7])
    if isinstance(block, list):
        block = np.array(block)
    assert_array_equal(block_prediction(block), clf.predict(X[:7]))


def test_a_block_without_rows_is_predicted_as_empty(block_prediction):
    labels = block_prediction(np.empty((0, 64)))
    assert labels.shape == (0,)
    assert labels.dtype == np.intp


def test_a_block_with_nan_is_refused_in_the_name_of_the_estimator(
    block_prediction, data
):
    spoilt = data[0][:5].copy()
    spoilt[2, 3] = np.nan
    with pytest.raises(
        ValueError, match=r"Input X contains NaN\.\nDistributedMLPClass"
    ):
        block_prediction(spoilt)


def test_block_predictions_can_be_sent_to_other_processes(block_prediction, data):
    sent = pickle.loads(pickle.dumps(block_prediction))
    assert_array_equal(sent(data[0]), block_prediction(data[0]))


def test_predictions_of_a_collection_stay_lazy(clf, data):
    X, _ = data
    lazy = clf.predict_proba(da.from_array(X, chunks=(90, 64)))
    assert isinstance(lazy, da.Array)
    assert lazy.chunks == ((90, 90, 20), (10,))
    assert lazy.dtype == np.float64
    assert_array_equal(lazy.compute(), clf.predict_proba(X))


@pytest.mark.parametrize("method", ["predict", "plan_predict"])
@pytest.mark.parametrize("cls", [DistributedMLPClassifier, DistributedMLPRegressor])
def test_an_unfitted_estimator_cannot_predict(cls, method, data):
    with pytest.raises(NotFittedError, match="is not fitted yet"):
        getattr(cls(), method)(data[0])


def test_the_plan_of_a_small_prediction_is_local(clf, data):
    plan = clf.plan_predict(data[0])
    assert plan.engine == "local"
    assert plan.workers == ()
    assert plan.reason in str(plan)


def test_features_of_another_width_are_refused(clf, data):
    with pytest.raises(ValueError, match=r"X has 63 features, but .* is expecting 64"):
        clf.plan_predict(data[0][:, 1:])
    with pytest.raises(ValueError, match=r"X has 63 features, but .* is expecting 64"):
        clf.predict(da.from_array(data[0][:, 1:], chunks=50))
