"""What of an estimator an export needs to know."""

import pytest
from numpy.testing import assert_array_equal
from sklearn.exceptions import NotFittedError

from skdistmlp import DistributedMLPClassifier
from skdistmlp.estimators.exports.network import ExportedNetwork
from tests.estimators.exports.networks import DTYPES, fitted


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_classifier_has_parameters_activations_dropout_and_classes(dtype):
    clf, X = fitted(
        "strings", dtype, activation=["tanh", "gelu"], dropout=[0.25, 0.0, 0.5]
    )
    network = ExportedNetwork.of(clf)
    for mine, its in zip(network.coefs, clf.coefs_, strict=True):
        assert_array_equal(mine, its)
    assert network.activations == ("tanh", "gelu")
    assert network.dropout == (0.25, 0.0, 0.5)
    assert network.output == "softmax"
    assert list(network.classes) == ["high", "low", "middle"]
    assert network.dtype == dtype
    assert (network.n_features, network.n_outputs) == (X.shape[1], 3)


@pytest.mark.parametrize(
    ("name", "is_binary", "is_multilabel"),
    [
        ("ten classes", False, False),
        ("two classes", True, False),
        ("one class", True, False),
        ("several labels", False, True),
        ("numbers", False, False),
        ("two columns", False, False),
    ],
)
def test_the_kind_of_the_targets_is_known(name, is_binary, is_multilabel):
    estimator, _ = fitted(name)
    network = ExportedNetwork.of(estimator)
    assert (network.is_binary, network.is_multilabel) == (is_binary, is_multilabel)
    assert (network.classes is None) == (not hasattr(estimator, "classes_"))


def test_an_estimator_has_to_be_fitted():
    with pytest.raises(NotFittedError, match="Classifier instance is not fitted"):
        ExportedNetwork.of(DistributedMLPClassifier())
