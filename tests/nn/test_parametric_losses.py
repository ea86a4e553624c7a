import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import huber, log_softmax
from sklearn.metrics import mean_absolute_error, mean_pinball_loss

from skdistmlp.nn.losses import OUTPUT_ACTIVATIONS, OUTPUTS
from skdistmlp.nn.parametric_losses import AbsoluteError, Huber, Pinball, SmoothedLabels

LOSSES = [
    SmoothedLabels("softmax", 0.2),
    SmoothedLabels("logistic", 0.2),
    AbsoluteError(),
    Huber(0.7),
    Pinball((0.3,)),
    Pinball((0.1, 0.5, 0.9)),
]

each = pytest.mark.parametrize("loss", LOSSES, ids=repr)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def problem(loss, dtype=np.float64, n_rows=30):
    """Return logits, targets and weights."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=(n_rows, 3))
    if loss.activation == "softmax":
        y = np.eye(3, dtype=bool)[rng.integers(3, size=n_rows)]
    elif loss.activation == "logistic":
        y = rng.random((n_rows, 3)) < 0.5
    else:
        y = rng.normal(size=(n_rows, 1 if loss.activation == "quantiles" else 3))
        y = y.astype(dtype)
    return z.astype(dtype), y, rng.random(n_rows).astype(dtype)


def predictions(loss, z):
    outputs = z.copy()
    OUTPUT_ACTIVATIONS[loss.activation](outputs)
    return outputs


@each
@pytest.mark.parametrize("in_place", [False, True])
def test_delta_is_the_derivative_of_the_loss_by_the_logits(loss, in_place):
    z, y, _ = problem(loss)

    def losses(logits):
        rows = predictions(loss, logits)
        return np.array([loss.loss(y[[i]], rows[[i]], None) for i in range(len(z))])

    step = 1e-6
    expected = np.transpose(
        [
            (losses(z + nudge) - losses(z - nudge)) / (2 * step)
            for nudge in step * np.eye(3)
        ]
    )
    prediction = predictions(loss, z)
    out = prediction if in_place else np.full_like(prediction, np.nan)
    loss.delta(prediction, y, out)
    assert_allclose(out, expected, atol=1e-8)


@each
@dtypes
def test_a_loss_is_summed_with_weights_and_writes_to_nothing(loss, dtype):
    z, y, weight = problem(loss, dtype)
    outputs = predictions(loss, z)
    y.flags.writeable = outputs.flags.writeable = False
    total = loss.loss(y, outputs, weight)
    assert type(total) is float
    parts = [loss.loss(y[[i]], outputs[[i]], weight[[i]]) for i in range(len(z))]
    assert_allclose(sum(parts), total, rtol=1e-5)
    out = np.empty_like(outputs)
    loss.delta(outputs, y, out)
    assert out.dtype == dtype


@each
def test_a_loss_is_a_value(loss):
    assert pickle.loads(pickle.dumps(loss)) == loss
    assert hash(pickle.loads(pickle.dumps(loss))) == hash(loss)


def test_smoothed_labels_share_what_is_taken_from_the_true_class():
    loss = LOSSES[0]
    z, y, weight = problem(loss)
    targets = 0.8 * y + 0.2 / 3
    expected = -np.sum(weight[:, np.newaxis] * targets * log_softmax(z, axis=1))
    assert_allclose(loss.loss(y, predictions(loss, z), weight), expected, rtol=1e-12)


@pytest.mark.parametrize("activation", ["softmax", "logistic"])
def test_without_smoothing_it_is_the_log_loss(activation):
    loss = SmoothedLabels(activation, 0.0)
    z, y, weight = problem(loss)
    outputs = predictions(loss, z)
    expected = OUTPUTS[activation].loss(y, outputs, weight)
    assert_allclose(loss.loss(y, outputs, weight), expected, rtol=1e-12)


def test_two_classes_are_smoothed_alike_with_one_output_and_with_two():
    z = np.linspace(-2, 2, 9)[:, np.newaxis]
    y = np.arange(9)[:, np.newaxis] % 2 == 0
    one, two = SmoothedLabels("logistic", 0.3), SmoothedLabels("softmax", 0.3)
    both = np.hstack([np.zeros_like(z), z])
    assert_allclose(
        one.loss(y, predictions(one, z), None),
        two.loss(np.hstack([~y, y]), predictions(two, both), None),
        rtol=1e-12,
    )


def test_errors_are_those_of_scikit_learn_and_scipy():
    z, y, weight = problem(AbsoluteError())
    total = weight.sum()
    absolute = mean_absolute_error(y, z, sample_weight=weight) * 3 * total
    assert_allclose(AbsoluteError().loss(y, z, weight), absolute, rtol=1e-12)
    by_scipy = np.sum(weight[:, np.newaxis] * huber(0.7, y - z))
    assert_allclose(Huber(0.7).loss(y, z, weight), by_scipy, rtol=1e-12)
    pinball = mean_pinball_loss(y, z, alpha=0.3, sample_weight=weight) * 3 * total
    assert_allclose(Pinball((0.3,)).loss(y, z, weight), pinball, rtol=1e-12)


def test_several_quantiles_are_those_of_scikit_learn_and_never_cross():
    loss = LOSSES[-1]
    z, y, weight = problem(loss, n_rows=1000)
    outputs = predictions(loss, 20 * z)
    assert (np.diff(outputs, axis=1) >= 0).all()
    expected = sum(
        mean_pinball_loss(y[:, 0], outputs[:, k], alpha=level, sample_weight=weight)
        for k, level in enumerate(loss.levels)
    )
    assert_allclose(loss.loss(y, outputs, weight), expected * weight.sum(), rtol=1e-12)


@pytest.mark.parametrize("loss", LOSSES[2:], ids=repr)
def test_nothing_pulls_where_prediction_and_target_are_equal(loss):
    y = np.linspace(-1, 1, 5)[:, np.newaxis]
    outputs = np.repeat(y, 3, axis=1)
    out = np.full_like(outputs, np.nan)
    loss.delta(outputs, y, out)
    assert_array_equal(out, np.zeros_like(out))
