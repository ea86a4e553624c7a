"""Activation functions of the hidden layers and of the output layer.

Every function works in place: its caller owns the array that it hands in.
A derivative takes the activation's *output*, as in scikit-learn's
``sklearn.neural_network._base``, so no pre-activation has to be kept.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from scipy.special import expit

from skdistmlp.nn.types import FloatArray


class Activation(NamedTuple):
    """An elementwise activation of a hidden layer.

    Attributes
    ----------
    apply : callable
        ``apply(z)`` overwrites the pre-activations `z` with their activations.
    chain : callable
        ``chain(a, delta)`` multiplies `delta` in place by the derivative at
        the points whose activations are `a`: the chain rule.
    glorot_factor : float
        The factor of Glorot and Bengio (2010), equation 16, that scikit-learn
        uses for this activation: 2 for the logistic function, else 6.
    """

    apply: Callable[[FloatArray], None]
    chain: Callable[[FloatArray, FloatArray], None]
    glorot_factor: float


def _identity(z: FloatArray) -> None:
    """Leave `z` as it is."""


def _identity_chain(a: FloatArray, delta: FloatArray) -> None:
    """Leave `delta` as it is."""


def _relu(z: FloatArray) -> None:
    # Three times as fast as `np.maximum(z, 0)`, whose scalar keeps it from SIMD.
    np.clip(z, 0, np.inf, out=z)


def _relu_chain(a: FloatArray, delta: FloatArray) -> None:
    # Multiplying by the mask is some 20 times faster than `delta[a == 0] = 0`.
    for rows in _row_blocks(a):
        np.multiply(delta[rows], a[rows] > 0, out=delta[rows])


def _tanh(z: FloatArray) -> None:
    np.tanh(z, out=z)


def _tanh_chain(a: FloatArray, delta: FloatArray) -> None:
    for rows in _row_blocks(a):
        slope = a[rows] * a[rows]
        np.subtract(1, slope, out=slope)
        delta[rows] *= slope
        del slope  # else it would be held while the next one is made


def _logistic(z: FloatArray) -> None:
    expit(z, out=z)


def _logistic_chain(a: FloatArray, delta: FloatArray) -> None:
    for rows in _row_blocks(a):
        delta[rows] *= a[rows]
        delta[rows] *= 1 - a[rows]


def softmax(z: FloatArray) -> None:
    """Overwrite the logits `z` with ``exp(z_j) / sum_k exp(z_k)``, row by row."""
    for rows in _row_blocks(z):
        z[rows] -= _row_maxima(z[rows])
    np.exp(z, out=z)
    z /= z.sum(axis=1, keepdims=True)


SHORT_ROW = 64
"""Numbers of a row from which on NumPy finds the largest quickly where they lie. For
2,000 rows of 10 it takes 87 us, and 8 once they stand in columns."""


def _row_maxima(z: FloatArray) -> FloatArray:
    """Return the largest number of each row, shape (n_rows, 1)."""
    if z.shape[1] >= SHORT_ROW:
        return z.max(axis=1, keepdims=True)
    return np.ascontiguousarray(z.T).max(axis=0)[:, np.newaxis]


# Temporaries beyond malloc's trim threshold (128 KiB in Dask workers) are given
# back to the operating system and cost page faults at every step.
_BLOCK_BYTES = 96 * 1024


def _row_blocks(a: FloatArray) -> list[slice]:
    """Cut `a` into blocks of rows whose temporaries stay small.

    An array with one row is one block, however wide it is.
    """
    n_rows = max(1, _BLOCK_BYTES // max(1, a.shape[1] * a.itemsize))
    return [slice(start, start + n_rows) for start in range(0, a.shape[0], n_rows)]


ACTIVATIONS: Mapping[str, Activation] = MappingProxyType(
    {
        "identity": Activation(_identity, _identity_chain, glorot_factor=6.0),
        "logistic": Activation(_logistic, _logistic_chain, glorot_factor=2.0),
        "tanh": Activation(_tanh, _tanh_chain, glorot_factor=6.0),
        "relu": Activation(_relu, _relu_chain, glorot_factor=6.0),
    }
)
"""Activations of hidden layers by scikit-learn's names."""
