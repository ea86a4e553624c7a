"""Loss functions and the output activations they belong to.

Each pair is canonical: the derivative of the loss with respect to the logits
is ``prediction - target``, whatever the pair.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, xlogy

from skdistmlp.nn.activations import softmax
from skdistmlp.nn.types import FloatArray

Targets = NDArray[np.bool_]
Weights = FloatArray | None


class Output(NamedTuple):
    """What stands behind the output layer.

    Attributes
    ----------
    apply : callable
        ``apply(z)`` overwrites the logits `z` of shape (n_samples, n_outputs)
        with predictions.
    loss : callable
        ``loss(y, prediction, sample_weight)`` is the mean loss of the samples,
        a float. `y` is a boolean array shaped like `prediction`;
        `sample_weight` has shape (n_samples,) or is None.
    """

    apply: Callable[[FloatArray], None]
    loss: Callable[[Targets, FloatArray, Weights], float]


def _logistic(z: FloatArray) -> None:
    expit(z, out=z)


def _clipped(probability: FloatArray) -> FloatArray:
    """Keep probabilities as far from 0 and 1 as scikit-learn does."""
    eps = np.finfo(probability.dtype).eps
    return np.clip(probability, eps, 1 - eps)


def log_loss(y: Targets, probability: FloatArray, sample_weight: Weights) -> float:
    """Return ``-mean_i sum_k y_ik log p_ik``, the cross entropy of classes.

    Parameters
    ----------
    y : ndarray of bool, shape (n_samples, n_classes)
        One true value a row.
    probability : ndarray of shape (n_samples, n_classes)
        Predicted probabilities.
    sample_weight : ndarray of shape (n_samples,) or None
        Weights of the mean.

    Returns
    -------
    float
        The mean loss.

    Raises
    ------
    ZeroDivisionError
        If the weights sum to zero.

    Notes
    -----
    The value of ``log_loss`` in ``sklearn.neural_network._base``. Only the
    probabilities of the true classes are looked at.
    """
    loss_by_row = -np.log(_clipped(probability[y]))
    return float(np.average(loss_by_row, weights=sample_weight))


def binary_log_loss(
    y: Targets, probability: FloatArray, sample_weight: Weights
) -> float:
    """Return ``-mean_i sum_k (y_ik log p_ik + (1 - y_ik) log(1 - p_ik))``.

    Parameters
    ----------
    y : ndarray of bool, shape (n_samples, n_outputs)
        Independent yes-or-no targets.
    probability : ndarray of shape (n_samples, n_outputs)
        Predicted probabilities of yes.
    sample_weight : ndarray of shape (n_samples,) or None
        Weights of the mean.

    Returns
    -------
    float
        The mean loss.

    Raises
    ------
    ZeroDivisionError
        If the weights sum to zero.

    Notes
    -----
    The value of ``binary_log_loss`` in ``sklearn.neural_network._base``.
    """
    p = _clipped(probability)
    loss_by_output = -(xlogy(y, p) + xlogy(~y, 1 - p))
    return float(np.average(loss_by_output, weights=sample_weight, axis=0).sum())


OUTPUTS: Mapping[str, Output] = MappingProxyType(
    {
        "softmax": Output(softmax, log_loss),
        "logistic": Output(_logistic, binary_log_loss),
    }
)
"""Outputs by the name that scikit-learn gives ``out_activation_``."""
