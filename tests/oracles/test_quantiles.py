"""Quantile losses, which torch lacks, compared with scikit-learn's pinball loss."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import mean_pinball_loss

from skdistmlp import DistributedMLPRegressor
from tests.oracles.cases import N_ROWS, make_data

DATA = make_data()


def fit(target, quantile, weight, n_epochs, learning_rate):
    """Train on all rows at once, along the gradient itself."""
    regressor = DistributedMLPRegressor(
        loss="quantile",
        quantile=quantile,
        hidden_layer_sizes=(7, 6),
        activation="tanh",
        solver="sgd",
        momentum=0.0,
        nesterovs_momentum=False,
        learning_rate_init=learning_rate,
        alpha=0.0,
        engine="local",
        batch_size=N_ROWS,
        shuffle=False,
        max_iter=n_epochs,
        tol=0,
        n_iter_no_change=np.inf,
        random_state=0,
    )
    with pytest.warns(ConvergenceWarning):
        return regressor.fit(DATA["X"], DATA[target], weight)


def pinball(target, quantile, weight, prediction):
    """Return scikit-learn's loss, summed over outputs and quantiles."""
    y = DATA[target].reshape(N_ROWS, -1)
    prediction = prediction.reshape(N_ROWS, -1)
    y, prediction = np.broadcast_arrays(y, prediction)
    levels = np.broadcast_to(quantile, y.shape[1])
    return sum(
        mean_pinball_loss(y[:, k], prediction[:, k], sample_weight=weight, alpha=level)
        for k, level in enumerate(levels)
    )


CASES = pytest.mark.parametrize(
    ("target", "quantile"),
    [
        ("number", 0.5),
        ("number", 0.2),
        ("numbers", 0.7),
        ("number", (0.1, 0.5, 0.9)),
        ("number", (0.4, 0.6)),
    ],
    ids=str,
)
WEIGHTS = pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])


@CASES
@WEIGHTS
def test_the_loss_is_scikit_learns_pinball_loss(target, quantile, weighted):
    weight = DATA["sample_weight"] if weighted else None
    # Too small a step to move anything: the loss is that of the predictions.
    regressor = fit(target, quantile, weight, 1, learning_rate=1e-14)
    prediction = regressor.predict(DATA["X"])
    expected = pinball(target, quantile, weight, prediction)
    assert_allclose(regressor.loss_, expected, rtol=1e-10)


@CASES
@WEIGHTS
def test_a_small_step_lowers_the_pinball_loss_by_the_squared_gradient(
    target, quantile, weighted
):
    """That is, the step is along the gradient of scikit-learn's loss, and as long."""
    weight = DATA["sample_weight"] if weighted else None
    rate = 1e-6
    before = fit(target, quantile, weight, 1, learning_rate=1e-14)
    after = fit(target, quantile, weight, 1, learning_rate=rate)
    steps = [
        new - old
        for new, old in zip(
            [*after.coefs_, *after.intercepts_],
            [*before.coefs_, *before.intercepts_],
            strict=True,
        )
    ]
    squared_gradient = sum(np.sum(step**2) for step in steps) / rate**2
    losses = [
        pinball(target, quantile, weight, regressor.predict(DATA["X"]))
        for regressor in (before, after)
    ]
    assert squared_gradient > 1e-3
    assert_allclose((losses[0] - losses[1]) / rate, squared_gradient, rtol=1e-4)


@pytest.mark.parametrize("quantile", [(0.1, 0.5, 0.9), (0.4, 0.6)], ids=str)
def test_training_approaches_the_quantiles_and_they_do_not_cross(quantile):
    start = fit("number", quantile, None, 1, learning_rate=1e-14)
    trained = fit("number", quantile, None, 300, learning_rate=0.1)
    prediction = trained.predict(DATA["X"])
    assert prediction.shape == (N_ROWS, len(quantile))
    assert (np.diff(prediction, axis=1) > 0).all()
    losses = [
        pinball("number", quantile, None, regressor.predict(DATA["X"]))
        for regressor in (start, trained)
    ]
    assert losses[1] < losses[0] / 2
