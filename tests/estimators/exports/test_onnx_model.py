"""Models in the format ONNX, which onnxruntime predicts with."""

import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import erfc

from skdistmlp.estimators.exports.network import ExportedNetwork
from skdistmlp.estimators.exports.onnx_model import (
    IR_VERSION,
    OPSET,
    _erfcx_polynomial,
    onnx_model,
)
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
from tests.marks import only_quick
from tests.nn.softsign import SOFTSIGN


def predicted(model, X):
    """Return what onnxruntime predicts, by the names of the outputs."""
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"X": X}), strict=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CLASSES)
def test_labels_and_probabilities_are_those_of_the_classifier(name, dtype):
    clf, X = fitted(name, dtype)
    found = predicted(clf.to_onnx(), X)
    assert list(found) == ["label", "probabilities"]
    assert_equal_to_rounding(found["probabilities"], clf.predict_proba(X))
    expected = clf.predict(X)
    assert_array_equal(found["label"], expected)
    assert found["label"].shape == expected.shape
    kinds = {"i": np.int64, "U": object, "f": np.float64, "b": bool}
    assert found["label"].dtype == kinds[expected.dtype.kind]
    if name not in ("one class", "several labels"):
        assert len(np.unique(expected)) > 1


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_are_those_of_the_regressor(name, dtype):
    regressor, X = fitted(name, dtype)
    if regressor.out_activation_ == "exp":
        X = X[:100]
    found = predicted(regressor.to_onnx(), X)
    assert list(found) == ["variable"]
    assert_equal_to_rounding(found["variable"], regressor.predict(X))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_can_be_written(activation, dtype):
    clf, X = fitted("ten classes", dtype, activation=activation)
    found = predicted(clf.to_onnx(), X)
    assert_equal_to_rounding(found["probabilities"], clf.predict_proba(X))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_agree_on_both_sides_of_zero(activation, dtype):
    z = np.linspace(-40, 40, 4001, dtype=dtype)[:, np.newaxis]
    found = predicted(onnx_model(single_neurons(activation, dtype)), z)
    expected = np.empty_like(z)
    ACTIVATIONS[activation].forward(z.copy(), expected)
    assert_equal_to_rounding(found["variable"], expected.ravel())


def test_gelu_in_float64_is_exact_to_rounding():
    x = np.linspace(0, 30, 30001)
    found = np.exp(-x * x) * _erfcx_polynomial()(4 / (2 + x) - 1)
    assert_allclose(found, erfc(x), rtol=0, atol=2e-15)


@pytest.mark.parametrize("dtype", DTYPES)
def test_each_layer_has_its_own_activation(dtype):
    X = np.linspace(-3, 3, 21, dtype=dtype)[:, np.newaxis]
    ones, zero = [np.ones((1, 1), dtype)] * 3, [np.zeros(1, dtype)] * 3
    network = ExportedNetwork(ones, zero, ("tanh", "relu"), "identity", (0.0,) * 3)
    found = predicted(onnx_model(network), X)["variable"]
    assert_equal_to_rounding(found, np.maximum(np.tanh(X), 0).ravel())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("quantile", [0.9, [0.1, 0.5, 0.9]])
def test_quantiles_are_those_of_the_regressor(quantile, dtype):
    regressor, X = fitted("numbers", dtype, loss="quantile", quantile=quantile)
    found = predicted(regressor.to_onnx(), X)["variable"]
    assert_equal_to_rounding(found, regressor.predict(X))


@pytest.mark.parametrize("dtype", DTYPES)
def test_quantiles_do_not_cross(dtype):
    network = replace(
        single_neurons("identity", dtype, "quantiles", 3),
        intercepts=[np.zeros(1, dtype), np.array([0.5, -30, 1], dtype)],
    )
    X = np.linspace(-50, 50, 101, dtype=dtype)[:, np.newaxis]
    found = predicted(onnx_model(network), X)["variable"]
    assert_equal_to_rounding(found, noncrossing(X + network.intercepts[1]))
    assert (np.diff(found, axis=1) >= 0).all()


@pytest.mark.parametrize("output", OUTPUT_ACTIVATIONS)
def test_every_output_can_be_written(output):
    model = onnx_model(single_neurons("relu", "float64", output, 2))
    assert predicted(model, np.ones((3, 1)))["variable"].shape == (3, 2)


def test_probabilities_of_one_half_are_of_the_first_class():
    network = replace(
        single_neurons("identity", "float64", "logistic"), classes=np.array(["a", "b"])
    )
    found = predicted(onnx_model(network), np.array([[-1e-9], [0.0], [1e-9]]))
    assert found["label"].tolist() == ["a", "a", "b"]


def test_the_model_says_what_it_needs_and_where_it_is_from():
    clf, _ = fitted("ten classes")
    model = clf.to_onnx()
    onnx.checker.check_model(model, full_check=True)
    assert model.producer_name == "skdistmlp"
    assert model.ir_version == IR_VERSION == 8
    assert [(o.domain, o.version) for o in model.opset_import] == [("", OPSET)]
    assert OPSET == 17


@pytest.mark.parametrize("n_rows", only_quick(0, cases=[0, 1, 1000]))
def test_the_number_of_rows_is_free(n_rows):
    clf, X = fitted("two strings")
    found = predicted(clf.to_onnx(), np.resize(X, (n_rows, X.shape[1])))
    assert found["label"].shape == (n_rows,)
    assert found["probabilities"].shape == (n_rows, 2)


def test_the_model_does_not_share_memory():
    clf, X = fitted("ten classes")
    model, expected = clf.to_onnx(), clf.predict_proba(X)
    for array in (*clf.coefs_, *clf.intercepts_):
        array += 1
    assert_equal_to_rounding(predicted(model, X)["probabilities"], expected)


@pytest.mark.parametrize("what", ["activation", "output"])
def test_what_onnx_lacks_is_named(what):
    network = single_neurons("tanh", "float64")
    network = (
        replace(network, activations=("sine",))
        if what == "activation"
        else replace(network, output="sine")
    )
    with pytest.raises(ValueError, match=r"'sine' cannot be written as ONNX.*tanh|exp"):
        onnx_model(network)


def test_a_custom_activation_is_named():
    clf, _ = fitted("ten classes", activation=("tanh", SOFTSIGN))
    with pytest.raises(ValueError, match=r"Activation\(softsign, .* cannot be written"):
        clf.to_onnx()


def test_classes_of_several_types_are_refused():
    network = replace(
        single_neurons("tanh", "float64", "softmax", 2),
        classes=np.array(["a", 1], dtype=object),
    )
    with pytest.raises(ValueError, match=r"classes of dtype object .*\['a' 1\]"):
        onnx_model(network)


def test_without_onnx_the_error_says_what_to_install(monkeypatch):
    clf, _ = fitted("two classes")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r"to_onnx needs .*: pip install onnx$"):
        clf.to_onnx()
