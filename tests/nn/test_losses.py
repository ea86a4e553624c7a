import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.neural_network._base import ACTIVATIONS, LOSS_FUNCTIONS

from skdistmlp.nn.losses import OUTPUTS

SKLEARN_LOSSES = {"softmax": "log_loss", "logistic": "binary_log_loss"}

CASES = [
    ("softmax", 1, 2),
    ("softmax", 1234, 10),
    ("logistic", 1, 1),
    ("logistic", 1234, 1),
    ("logistic", 500, 4),
]

cases = pytest.mark.parametrize(("name", "n_rows", "n_outputs"), CASES)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def logits_and_targets(name, n_rows, n_outputs, dtype):
    rng = np.random.default_rng(n_rows)
    z = (20 * rng.normal(size=(n_rows, n_outputs))).astype(dtype)
    if name == "softmax":
        y = np.eye(n_outputs, dtype=bool)[rng.integers(n_outputs, size=n_rows)]
    else:
        y = rng.random(z.shape) < 0.4
    return z, y


def test_the_table_has_the_outputs_of_scikit_learns_classifier():
    assert set(OUTPUTS) == set(SKLEARN_LOSSES)


@cases
@dtypes
def test_output_activation_equals_scikit_learns(name, n_rows, n_outputs, dtype):
    z, _ = logits_and_targets(name, n_rows, n_outputs, dtype)
    expected = z.copy()
    ACTIVATIONS[name](expected)
    OUTPUTS[name].apply(z)
    assert z.dtype == dtype
    assert_array_equal(z, expected)


@cases
@dtypes
@pytest.mark.parametrize("weighted", [False, True])
def test_loss_equals_scikit_learns(name, n_rows, n_outputs, dtype, weighted):
    z, y = logits_and_targets(name, n_rows, n_outputs, dtype)
    OUTPUTS[name].apply(z)
    weight = None
    if weighted:
        weight = np.random.default_rng(1).random(n_rows).astype(dtype)
    z.flags.writeable = y.flags.writeable = False
    loss = OUTPUTS[name].loss(y, z, weight)
    assert type(loss) is float
    expected = LOSS_FUNCTIONS[SKLEARN_LOSSES[name]](y, z, weight)
    assert_allclose(loss, expected, rtol=1e-5 if dtype == np.float32 else 1e-12)


@dtypes
@pytest.mark.parametrize("name", sorted(OUTPUTS))
def test_loss_of_certain_predictions_is_finite(name, dtype):
    y = np.array([[True, False], [False, True], [True, False]])
    probability = np.array([[1, 0], [1, 0], [0, 1]], dtype)
    loss = OUTPUTS[name].loss(y, probability, None)
    assert np.isfinite(loss)
    expected = LOSS_FUNCTIONS[SKLEARN_LOSSES[name]](y, probability)
    assert_allclose(loss, expected, rtol=1e-6)


@pytest.mark.parametrize("name", sorted(OUTPUTS))
def test_weights_that_sum_to_zero_are_refused_as_by_scikit_learn(name):
    y = np.array([[True, False], [False, True]])
    probability, weight = np.full((2, 2), 0.5), np.zeros(2)
    with pytest.raises(ZeroDivisionError):
        LOSS_FUNCTIONS[SKLEARN_LOSSES[name]](y, probability, weight)
    with pytest.raises(ZeroDivisionError):
        OUTPUTS[name].loss(y, probability, weight)
