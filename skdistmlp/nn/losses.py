"""scikit-learn's losses, each with the output activation that it belongs to.

To add one, write an `Output`: nothing else knows what a loss or its derivative is.
Those that have parameters are in `skdistmlp.nn.parametric_losses`.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, xlogy

from skdistmlp.nn.activations import ACTIVATIONS, softmax
from skdistmlp.nn.types import FloatArray

Targets = NDArray[np.bool_] | FloatArray
"""Boolean for classes, numbers for regression; shape (n_samples, n_outputs)."""

Weights = FloatArray | None


class Output(Protocol):
    """A loss, and the output activation that it belongs to; a value that can be sent.

    Attributes
    ----------
    activation : str
        Name of the output activation, the estimators' ``out_activation_``: one of
        `OUTPUT_ACTIVATIONS`.
    loss : callable
        ``loss(y, prediction, sample_weight)`` is the sum of the losses of the
        samples, each times its weight, a float. `y` is shaped like
        `prediction`, or has one column for all; it is boolean for classes.
        `sample_weight` has shape (n_samples,) or is None.
    delta : callable
        ``delta(prediction, y, out)`` writes d loss / d logits of every sample to
        `out`, which may be `prediction` itself; sample weights are left to the caller.
    """

    @property
    def activation(self) -> str:
        """See above, as for the others."""

    @property
    def loss(self) -> Callable[[Targets, FloatArray, Weights], float]:
        """The loss."""

    @property
    def delta(self) -> Callable[[FloatArray, Targets, FloatArray], None]:
        """Its derivative."""


class OutputFunctions(NamedTuple):
    """An `Output` of plain functions."""

    activation: str
    loss: Callable[[Targets, FloatArray, Weights], float]
    delta: Callable[[FloatArray, Targets, FloatArray], None]


def _identity(z: FloatArray) -> None:
    """Leave `z` as it is."""


def _exp(z: FloatArray) -> None:
    np.exp(z, out=z)


def _logistic(z: FloatArray) -> None:
    expit(z, out=z)


def canonical_delta(prediction: FloatArray, y: Targets, out: FloatArray) -> None:
    """Write ``prediction - y``, the delta where activation and loss are canonical."""
    # Targets may have a wider dtype: only the difference is rounded to that of `out`.
    np.subtract(prediction, y, out=out)


def clipped(probability: FloatArray) -> FloatArray:
    """Clip probabilities away from 0 and 1 as far as scikit-learn does."""
    eps = np.finfo(probability.dtype).eps
    return np.clip(probability, eps, 1 - eps)


def weighted_sum(loss_by_row: FloatArray, sample_weight: Weights) -> float:
    """Return the sum of the losses of samples, each times its weight if it has one."""
    if sample_weight is not None:
        loss_by_row = loss_by_row * sample_weight
    return float(loss_by_row.sum())


def log_loss(y: Targets, probability: FloatArray, sample_weight: Weights) -> float:
    """Return ``-sum_i w_i sum_k y_ik log p_ik``, the cross entropy of classes.

    Parameters
    ----------
    y : ndarray of bool, shape (n_samples, n_classes)
        One true value per row.
    probability : ndarray of shape (n_samples, n_classes)
        Predicted probabilities.
    sample_weight : ndarray of shape (n_samples,) or None
        Weights w of the samples.

    Returns
    -------
    float
        The summed loss.

    Notes
    -----
    ``log_loss`` in ``sklearn.neural_network._base``, which returns the mean.
    Only the probabilities of the true classes matter.
    """
    return weighted_sum(-np.log(clipped(probability[y])), sample_weight)


def binary_log_loss(
    y: Targets, probability: FloatArray, sample_weight: Weights
) -> float:
    """Return ``-sum_i w_i sum_k (y_ik log p_ik + (1 - y_ik) log(1 - p_ik))``.

    Parameters
    ----------
    y : ndarray of bool, shape (n_samples, n_outputs)
        Independent yes-or-no targets.
    probability : ndarray of shape (n_samples, n_outputs)
        Predicted probabilities of yes.
    sample_weight : ndarray of shape (n_samples,) or None
        Weights w of the samples.

    Returns
    -------
    float
        The summed loss.

    Notes
    -----
    ``binary_log_loss`` in ``sklearn.neural_network._base``, which returns the
    mean.
    """
    p = clipped(probability)
    loss_by_output = -(xlogy(y, p) + xlogy(np.logical_not(y), 1 - p))
    return weighted_sum(loss_by_output.sum(axis=1), sample_weight)


def squared_error(y: Targets, prediction: FloatArray, sample_weight: Weights) -> float:
    """Return ``sum_i w_i mean_k (y_ik - z_ik)^2 / 2``.

    Parameters
    ----------
    y : ndarray of shape (n_samples, n_outputs)
        True values.
    prediction : ndarray of shape (n_samples, n_outputs)
        Predicted values z.
    sample_weight : ndarray of shape (n_samples,) or None
        Weights w of the samples.

    Returns
    -------
    float
        The summed loss.

    Notes
    -----
    ``squared_loss`` in ``sklearn.neural_network._base``, which returns the
    mean over samples. Like there, this is the mean over outputs, while training
    descends along the gradient of their sum: ``z - y`` for each.
    """
    loss_by_row = 0.5 * np.square(y - prediction).mean(axis=1)
    return weighted_sum(loss_by_row, sample_weight)


def summed_squared_error(
    y: Targets, prediction: FloatArray, sample_weight: Weights
) -> float:
    """Return ``sum_i w_i sum_k (y_ik - z_ik)^2 / 2``, whose gradient is ``z - y``.

    Parameters
    ----------
    y, prediction, sample_weight
        See `squared_error`.

    Returns
    -------
    float
        The summed loss.

    Notes
    -----
    What scikit-learn's pull request 34830 makes of its ``squared_loss``.
    """
    loss_by_row = 0.5 * np.square(y - prediction).sum(axis=1)
    return weighted_sum(loss_by_row, sample_weight)


def quantiles(z: FloatArray) -> None:
    """Overwrite `z` with numbers that rise from column to column.

    ``q_1 = z_1``, ``q_k = q_k-1 + log(1 + e^z_k)``.
    """
    steps = z[:, 1:]
    ACTIVATIONS["softplus"].forward(steps, steps)
    np.cumsum(z, axis=1, out=z)


def poisson(y: Targets, prediction: FloatArray, sample_weight: Weights) -> float:
    """Return ``sum_i w_i sum_k (y_ik log(y_ik / m_ik) - y_ik + m_ik)``.

    That is half the Poisson deviance.

    Parameters
    ----------
    y : ndarray of shape (n_samples, n_outputs)
        True counts or rates, not negative.
    prediction : ndarray of shape (n_samples, n_outputs)
        Predicted means m.
    sample_weight : ndarray of shape (n_samples,) or None
        Weights w of the samples.

    Returns
    -------
    float
        The summed loss.

    Notes
    -----
    ``poisson_loss`` in ``sklearn.neural_network._base``, which returns the
    mean.
    """
    loss_by_output = xlogy(y, y / prediction) - y + prediction
    return weighted_sum(loss_by_output.sum(axis=1), sample_weight)


OUTPUTS: Mapping[str, Output] = MappingProxyType(
    {
        "softmax": OutputFunctions("softmax", log_loss, canonical_delta),
        "logistic": OutputFunctions("logistic", binary_log_loss, canonical_delta),
        "identity": OutputFunctions("identity", squared_error, canonical_delta),
        "exp": OutputFunctions("exp", poisson, canonical_delta),
    }
)
"""scikit-learn's outputs by its names of their activations."""

SUMMED_SQUARED_ERROR = OutputFunctions(
    "identity", summed_squared_error, canonical_delta
)


def output_of(output: str | Output) -> Output:
    """Return an output that may be given by its name in `OUTPUTS`."""
    return OUTPUTS[output] if isinstance(output, str) else output


OUTPUT_ACTIVATIONS: Mapping[str, Callable[[FloatArray], None]] = MappingProxyType(
    {
        "softmax": softmax,
        "logistic": _logistic,
        "identity": _identity,
        "exp": _exp,
        "quantiles": quantiles,
    }
)
"""By name: each overwrites logits, shape (n_samples, n_outputs), with predictions.
Whoever only predicts knows no more than ``out_activation_``."""
