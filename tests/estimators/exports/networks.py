"""Networks to export, and what they predict: by our own code, without an export."""

from typing import Any

import numpy as np
from numpy.testing import assert_allclose

from skdistmlp.estimators.exports.network import ExportedNetwork
from tests.estimators.configurations import ESTIMATORS, Case
from tests.estimators.support import fit

CLASSES = [
    "ten classes",
    "two classes",
    "one class",
    "strings",
    "two strings",
    "floats",
    "booleans",
    "several labels",
    "no hidden layer, two classes",
]
"""Configurations of classifiers: every shape and type of the labels."""

NUMBERS = ["numbers", "two columns", "counts", "poisson, tanh, adam, counts"]
"""Configurations of regressors, by the shapes of the targets and the outputs."""

DTYPES = ("float64", "float32")


def fitted(name: str, dtype: str = "float64", **params: Any) -> tuple[Any, np.ndarray]:
    """Return an estimator, and features to predict: more than it was trained on."""
    case = Case.of(name, n_rows=100, **params)
    if dtype == "float32":
        case = case.float32()
    ours = ESTIMATORS[case.kind][0](**case.params, random_state=0, engine="local")
    # Larger features have pre-activations on both bends of every activation.
    return fit(ours, case.X, case.y), np.vstack([case.X, -5 * case.X, 20 * case.X])


def single_neurons(
    activation: Any, dtype: str, output: str = "identity", n_outputs: int = 1
) -> ExportedNetwork:
    """Return a network that applies an activation to its only feature."""
    one, zero = np.ones((1, 1), dtype), np.zeros(1, dtype)
    return ExportedNetwork(
        [one, np.ones((1, n_outputs), dtype)],
        [zero, np.zeros(n_outputs, dtype)],
        (activation,),
        output,
        (0.0, 0.0),
    )


def assert_equal_to_rounding(found: Any, expected: np.ndarray) -> None:
    """Compare numbers, and their type and shape; they may be as large as 100."""
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    # Runtimes approximate exponentials in float32 to a few units in the last place.
    close = {"float32": 5e-6, "float64": 1e-13}[str(expected.dtype)]
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    assert_allclose(found, expected, rtol=close, atol=close * scale)


def noncrossing(z: np.ndarray) -> np.ndarray:
    """Return quantiles of logits: q_1 = z_1, q_k = q_(k-1) + log(1 + exp(z_k))."""
    steps = np.logaddexp(z[:, 1:], 0)
    return np.cumsum(np.hstack([z[:, :1], steps]), axis=1)
