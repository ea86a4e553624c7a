"""Loss functions and the output activations they belong to.

Each pair is canonical: training takes ``prediction - target`` as the derivative
of a sample's loss with respect to its logits, whatever the pair.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, xlogy

from skdistmlp.nn.activations import softmax
from skdistmlp.nn.types import FloatArray

Targets = NDArray[np.bool_] | FloatArray
"""Boolean for classes, numbers for regression; shape (n_samples, n_outputs)."""

Weights = FloatArray | None


class Output(NamedTuple):
    """What stands behind the output layer.

    Attributes
    ----------
    apply : callable
        ``apply(z)`` overwrites the logits `z` of shape (n_samples, n_outputs)
        with predictions.
    loss : callable
        ``loss(y, prediction, sample_weight)`` is the sum of the losses of the
        samples, each times its weight, a float. `y` is shaped like
        `prediction`, boolean for classes; `sample_weight` has shape
        (n_samples,) or is None.
    """

    apply: Callable[[FloatArray], None]
    loss: Callable[[Targets, FloatArray, Weights], float]


def _identity(z: FloatArray) -> None:
    """Leave `z` as it is."""


def _exp(z: FloatArray) -> None:
    np.exp(z, out=z)


def _logistic(z: FloatArray) -> None:
    expit(z, out=z)


def _clipped(probability: FloatArray) -> FloatArray:
    """Keep probabilities as far from 0 and 1 as scikit-learn does."""
    eps = np.finfo(probability.dtype).eps
    return np.clip(probability, eps, 1 - eps)


def _weighted_sum(loss_by_row: FloatArray, sample_weight: Weights) -> float:
    if sample_weight is not None:
        loss_by_row = loss_by_row * sample_weight
    return float(loss_by_row.sum())


def log_loss(y: Targets, probability: FloatArray, sample_weight: Weights) -> float:
    """Return ``-sum_i w_i sum_k y_ik log p_ik``, the cross entropy of classes.

    Parameters
    ----------
    y : ndarray of bool, shape (n_samples, n_classes)
        One true value a row.
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
    Only the probabilities of the true classes are looked at.
    """
    return _weighted_sum(-np.log(_clipped(probability[y])), sample_weight)


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
    p = _clipped(probability)
    loss_by_output = -(xlogy(y, p) + xlogy(np.logical_not(y), 1 - p))
    return _weighted_sum(loss_by_output.sum(axis=1), sample_weight)


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
    return _weighted_sum(loss_by_row, sample_weight)


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
    return _weighted_sum(loss_by_output.sum(axis=1), sample_weight)


OUTPUTS: Mapping[str, Output] = MappingProxyType(
    {
        "softmax": Output(softmax, log_loss),
        "logistic": Output(_logistic, binary_log_loss),
        "identity": Output(_identity, squared_error),
        "exp": Output(_exp, poisson),
    }
)
"""Outputs by the name that scikit-learn gives ``out_activation_``."""
