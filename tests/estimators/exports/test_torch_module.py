"""Modules of torch, which predict the same and can be trained further.

torch may be missing where the tests run.
"""

import pickle
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skdistmlp.estimators.exports.network import ExportedNetwork
from skdistmlp.estimators.exports.torch_module import torch_module
from skdistmlp.nn.activations import ACTIVATIONS
from skdistmlp.nn.losses import OUTPUT_ACTIVATIONS
from tests.estimators.exports.networks import (
    CLASSES,
    DTYPES,
    NUMBERS,
    assert_equal_to_rounding,
    fitted,
    noncrossing,
    single_neurons,
)
from tests.nn.softsign import SOFTSIGN

needs_torch = pytest.mark.skipif(
    not find_spec("torch"), reason="torch is not installed"
)


def predicted(module, X):
    import torch

    with torch.no_grad():
        return module(torch.from_numpy(X)).numpy()


@needs_torch
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CLASSES)
def test_probabilities_are_those_of_the_classifier(name, dtype):
    clf, X = fitted(name, dtype)
    found = predicted(clf.to_torch(), X)
    assert_equal_to_rounding(found, clf.predict_proba(X))


@needs_torch
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_those_of_the_regressor(name, dtype):
    regressor, X = fitted(name, dtype)
    if regressor.out_activation_ == "exp":
        X = X[:100]
    assert_equal_to_rounding(predicted(regressor.to_torch(), X), regressor.predict(X))


@needs_torch
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_torch_has_every_activation(activation, dtype):
    clf, X = fitted("ten classes", dtype, activation=activation)
    assert_equal_to_rounding(predicted(clf.to_torch(), X), clf.predict_proba(X))


@needs_torch
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_agree_on_both_sides_of_zero(activation, dtype):
    z = np.linspace(-40, 40, 4001, dtype=dtype)[:, np.newaxis]
    found = predicted(torch_module(single_neurons(activation, dtype), None), z)
    expected = np.empty_like(z)
    ACTIVATIONS[activation].forward(z.copy(), expected)
    assert_equal_to_rounding(found, expected.ravel())


@needs_torch
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("quantile", [0.9, [0.1, 0.5, 0.9]])
def test_quantiles_are_those_of_the_regressor(quantile, dtype):
    regressor, X = fitted("numbers", dtype, loss="quantile", quantile=quantile)
    found = predicted(regressor.to_torch(), X)
    assert_equal_to_rounding(found, regressor.predict(X))


@needs_torch
@pytest.mark.parametrize("dtype", DTYPES)
def test_quantiles_do_not_cross(dtype):
    network = replace(
        single_neurons("identity", dtype, "quantiles", 3),
        intercepts=[np.zeros(1, dtype), np.array([0.5, -30, 1], dtype)],
    )
    X = np.linspace(-50, 50, 101, dtype=dtype)[:, np.newaxis]
    found = predicted(torch_module(network, None), X)
    assert_equal_to_rounding(found, noncrossing(X + network.intercepts[1]))


@needs_torch
@pytest.mark.parametrize("output", OUTPUT_ACTIVATIONS)
def test_torch_has_every_output(output):
    module = torch_module(single_neurons("relu", "float64", output, 2), None)
    assert predicted(module, np.ones((3, 1))).shape == (3, 2)


@needs_torch
def test_each_layer_has_its_own_activation_and_dropout():
    ones, zero = [np.ones((1, 1))] * 3, [np.zeros(1)] * 3
    network = ExportedNetwork(
        ones, zero, ("tanh", "relu"), "identity", (0.25, 0.0, 0.5)
    )
    module = torch_module(network, None)
    described = [str(part) for part in module.network]
    linear = "Linear(in_features=1, out_features=1, bias=True)"
    assert described == [
        "Dropout(p=0.25, inplace=False)",
        linear,
        "Tanh()",
        linear,
        "ReLU()",
        "Dropout(p=0.5, inplace=False)",
        linear,
    ]
    X = np.linspace(-3, 3, 21)[:, np.newaxis]
    assert_equal_to_rounding(predicted(module, X), np.maximum(np.tanh(X), 0).ravel())
    module.train()
    assert not np.allclose(predicted(module, X), predicted(module.eval(), X))


@needs_torch
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_module_is_ready_to_predict_or_to_be_trained(dtype):
    import torch

    clf, X = fitted("ten classes", dtype)
    module, expected = clf.to_torch(), clf.predict_proba(X)
    assert not module.training
    assert {str(p.dtype) for p in module.parameters()} == {f"torch.{dtype}"}
    assert all(p.requires_grad and p.is_leaf for p in module.parameters())
    features, labels = torch.from_numpy(X[:100]), torch.from_numpy(clf.predict(X[:100]))
    optimizer = torch.optim.SGD(module.train().parameters(), lr=0.1)
    losses = []
    for _ in range(3):
        loss = torch.nn.functional.cross_entropy(module.network(features), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0]
    # The estimator shares no memory with it.
    assert_allclose(clf.predict_proba(X), expected, rtol=0)


LOAD = """
import sys
sys.modules["skdistmlp"] = None
import numpy as np, torch
for number in range(4):
    module = torch.load(f"{number}.pt", weights_only=False)
    X = torch.from_numpy(np.load(f"{number}.npz")["X"])
    with torch.no_grad():
        found = module(X).numpy()
    np.testing.assert_array_equal(found, np.load(f"{number}.npz")["expected"])
"""


@needs_torch
def test_a_saved_module_is_loaded_without_this_package(tmp_path):
    import torch

    modules = [
        torch_module(single_neurons("softplus", "float64", output, 3), None)
        for output in ("exp", "quantiles", "softmax")
    ]
    clf, _ = fitted("two strings")
    modules.append(clf.to_torch())
    for number, module in enumerate(modules):
        X = np.linspace(-1, 1, 128).reshape(-1, module.network[0].in_features)
        torch.save(module, tmp_path / f"{number}.pt")
        np.savez(tmp_path / f"{number}.npz", X=X, expected=predicted(module, X))
        pickle.loads(pickle.dumps(module))
    done = subprocess.run(
        [sys.executable, "-c", LOAD],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


@needs_torch
def test_what_torch_lacks_is_named():
    network = single_neurons("tanh", "float64")
    with pytest.raises(ValueError, match=r"'sine' is not known to torch.*tanh"):
        torch_module(replace(network, activations=("sine",)), None)
    with pytest.raises(ValueError, match=r"output activation 'sine' is not known.*exp"):
        torch_module(replace(network, output="sine"), None)


@needs_torch
def test_a_custom_activation_needs_a_module_that_computes_the_same():
    from torch import nn

    clf, X = fitted("ten classes", activation=("tanh", SOFTSIGN))
    with pytest.raises(ValueError, match=r"Activation\(softsign, .* is not known to"):
        clf.to_torch()
    softsign = nn.Softsign()
    found = clf.to_torch(activations={SOFTSIGN: softsign})
    assert_equal_to_rounding(predicted(found, X), clf.predict_proba(X))
    assert softsign not in list(found.modules())


@needs_torch
def test_dropout_is_where_the_estimator_has_it():
    from torch import nn

    def rates(dropout):
        clf, _ = fitted("ten classes", dropout=dropout)
        return {
            number: module.p
            for number, module in enumerate(clf.to_torch().network)
            if isinstance(module, nn.Dropout)
        }

    assert rates(0.0) == {}
    assert rates(0.25) == {2: 0.25, 5: 0.25}
    assert rates([0.5, 0.0, 0.25]) == {0: 0.5, 5: 0.25}


def test_without_torch_the_error_says_what_to_install(monkeypatch):
    clf, _ = fitted("two classes")
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(ImportError, match=r"to_torch needs .*: pip install torch$"):
        clf.to_torch()
