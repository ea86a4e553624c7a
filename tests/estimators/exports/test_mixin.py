"""The methods of both estimators that export to other libraries."""

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from skdistmlp.estimators.exports.network import ExportedNetwork
from tests.estimators.configurations import ESTIMATORS
from tests.estimators.exports.networks import fitted

METHODS = {"to_onnx": "onnx_model", "to_torch": "torch_module"}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ESTIMATORS)
def test_an_unfitted_network_is_not_exported(kind, method):
    ours, _ = ESTIMATORS[kind]
    with pytest.raises(NotFittedError, match=f"{ours.__name__} instance is not fitted"):
        getattr(ours(), method)()


@pytest.mark.parametrize("method", METHODS)
def test_parameters_that_were_edited_are_those_exported(method, monkeypatch):
    estimator, _ = fitted("numbers")
    estimator.coefs_[0] = np.full_like(estimator.coefs_[0], 0.5)
    exported = []
    monkeypatch.setattr(
        f"skdistmlp.estimators.exports.mixin.{METHODS[method]}",
        lambda network, *_: exported.append(network),
    )
    getattr(estimator, method)()
    (network,) = exported
    assert isinstance(network, ExportedNetwork)
    assert (network.coefs[0] == 0.5).all()
