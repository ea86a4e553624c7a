import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.neural_network._base import ACTIVATIONS, LOSS_FUNCTIONS

from skdistmlp.nn.losses import (
    OUTPUT_ACTIVATIONS,
    OUTPUTS,
    SUMMED_SQUARED_ERROR,
)

SKLEARN_LOSSES = {
    "softmax": "log_loss",
    "logistic": "binary_log_loss",
    "identity": "squared_error",
    "exp": "poisson",
}

CASES = [
    ("softmax", 1, 2),
    ("softmax", 1234, 10),
    *(
        (name, *shape)
        for name in ("logistic", "identity", "exp")
        for shape in [
            (1, 1),
            (1234, 1),
            (500, 4),
        ]
    ),
]

cases = pytest.mark.parametrize(("name", "n_rows", "n_outputs"), CASES)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def logits_and_targets(name, n_rows, n_outputs, dtype):
    rng = np.random.default_rng(n_rows)
    z = (20 * rng.normal(size=(n_rows, n_outputs))).astype(dtype)
    if name == "softmax":
        y = np.eye(n_outputs, dtype=bool)[rng.integers(n_outputs, size=n_rows)]
    elif name == "logistic":
        y = rng.random(z.shape) < 0.4
    elif name == "identity":
        y = rng.normal(size=z.shape).astype(dtype)
    else:
        # Some are zero: 0 log 0 is nothing.
        z, y = z / 10, rng.poisson(1.5, z.shape).astype(dtype)
    return z, y


def test_the_table_covers_the_outputs_of_scikit_learn():
    assert set(OUTPUTS) == set(SKLEARN_LOSSES)


@cases
@dtypes
def test_output_activations_match_scikit_learn(name, n_rows, n_outputs, dtype):
    z, _ = logits_and_targets(name, n_rows, n_outputs, dtype)
    expected = z.copy()
    ACTIVATIONS[name](expected)
    OUTPUT_ACTIVATIONS[name](z)
    assert z.dtype == dtype
    assert_array_equal(z, expected)


@pytest.mark.parametrize("name", sorted(OUTPUTS))
@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("y_dtype", [None, np.float64])
def test_delta_is_the_derivative_of_the_loss_by_the_logits(name, in_place, y_dtype):
    """By differences; that of the mean over outputs is taken as that of their sum."""
    z, y = logits_and_targets(name, 20, 3, np.float64)
    z /= 20
    averaged = 3 if name == "identity" else 1

    def losses(logits):
        predictions = logits.copy()
        OUTPUT_ACTIVATIONS[name](predictions)
        return np.array(
            [
                averaged * OUTPUTS[name].loss(y[[i]], predictions[[i]], None)
                for i in range(20)
            ]
        )

    step = 1e-6
    expected = np.transpose(
        [
            (losses(z + nudge) - losses(z - nudge)) / (2 * step)
            for nudge in step * np.eye(3)
        ]
    )
    prediction = z.astype(np.float32)
    OUTPUT_ACTIVATIONS[name](prediction)
    out = prediction if in_place else np.full_like(prediction, np.nan)
    y = y if y_dtype is None else y.astype(y_dtype)
    OUTPUTS[name].delta(prediction, y, out)
    assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(OUTPUTS))
def test_an_output_is_named_like_its_activation(name):
    assert OUTPUTS[name].activation == name in OUTPUT_ACTIVATIONS


@cases
@dtypes
@pytest.mark.parametrize("weighted", [False, True])
def test_losses_are_scikit_learns_mean_times_the_weight_sum(
    name, n_rows, n_outputs, dtype, weighted
):
    z, y = logits_and_targets(name, n_rows, n_outputs, dtype)
    OUTPUT_ACTIVATIONS[name](z)
    weight = None
    if weighted:
        weight = np.random.default_rng(1).random(n_rows).astype(dtype)
    z.flags.writeable = y.flags.writeable = False
    loss = OUTPUTS[name].loss(y, z, weight)
    assert type(loss) is float
    mean = LOSS_FUNCTIONS[SKLEARN_LOSSES[name]](y, z, weight)
    expected = mean * (n_rows if weight is None else weight.sum())
    assert_allclose(loss, expected, rtol=1e-5 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("name", sorted(OUTPUTS))
def test_losses_of_blocks_add_up_even_with_zero_weights(name):
    z, y = logits_and_targets(name, 30, 3, np.float64)
    OUTPUT_ACTIVATIONS[name](z)
    weight = np.random.default_rng(1).random(30)
    weight[10:20] = 0
    parts = [
        OUTPUTS[name].loss(y[rows], z[rows], weight[rows])
        for rows in (slice(0, 10), slice(10, 20), slice(20, 30))
    ]
    assert parts[1] == 0.0
    assert_allclose(sum(parts), OUTPUTS[name].loss(y, z, weight), rtol=1e-12)


@dtypes
@pytest.mark.parametrize("name", ["softmax", "logistic"])
def test_loss_of_certain_predictions_is_finite(name, dtype):
    y = np.array([[True, False], [False, True], [True, False]])
    probability = np.array([[1, 0], [1, 0], [0, 1]], dtype)
    loss = OUTPUTS[name].loss(y, probability, None)
    assert np.isfinite(loss)
    expected = 3 * LOSS_FUNCTIONS[SKLEARN_LOSSES[name]](y, probability)
    assert_allclose(loss, expected, rtol=1e-6)


def test_the_summed_squared_error_is_the_mean_times_the_outputs():
    z, y = logits_and_targets("identity", 30, 3, np.float64)
    weight = np.random.default_rng(1).random(30)
    summed = SUMMED_SQUARED_ERROR.loss(y, z, weight)
    assert_allclose(summed, 3 * OUTPUTS["identity"].loss(y, z, weight), rtol=1e-12)
    assert SUMMED_SQUARED_ERROR.delta is OUTPUTS["identity"].delta
