"""Activation functions of the hidden layers, and softmax.

To add one, write its two functions and enter them in `ACTIVATIONS`: but for the
parameters of the estimators, nothing else names an activation. Take temporaries of
`_row_blocks`, one at a time: more would be too large (see there).
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
    forward : callable
        ``forward(z, out)`` writes the activations of the pre-activations `z` to
        `out`, which may be `z` itself, and returns the residual: what `backward`
        needs to know.
    backward : callable
        ``backward(residual, delta)`` multiplies `delta` in place by the derivative:
        the chain rule. It does not write to the residual.
    glorot_factor : float
        The factor of Glorot and Bengio (2010), equation 16, that scikit-learn
        uses for this activation: 2 for the logistic function, else 6.
    keeps_input : bool
        What the residual is: `z` if true, else `out`. If `z`, then `out` must be
        another array where `backward` is to follow.
    """

    forward: Callable[[FloatArray, FloatArray], FloatArray]
    backward: Callable[[FloatArray, FloatArray], None]
    glorot_factor: float
    keeps_input: bool = False


def _identity(z: FloatArray, out: FloatArray) -> FloatArray:
    if out is not z:
        np.copyto(out, z)
    return out


def _identity_backward(a: FloatArray, delta: FloatArray) -> None:
    """Leave `delta` as it is: the derivative is 1."""


def _relu(z: FloatArray, out: FloatArray) -> FloatArray:
    # Three times as fast as `np.maximum(z, 0)`, whose scalar keeps it from SIMD.
    return np.clip(z, 0, np.inf, out=out)


def _relu_backward(a: FloatArray, delta: FloatArray) -> None:
    # Multiplying by the mask is about 20 times faster than `delta[a == 0] = 0`.
    for rows in _row_blocks(a):
        np.multiply(delta[rows], a[rows] > 0, out=delta[rows])


def _tanh(z: FloatArray, out: FloatArray) -> FloatArray:
    return np.tanh(z, out=out)


def _tanh_backward(a: FloatArray, delta: FloatArray) -> None:
    for rows in _row_blocks(a):
        slope = a[rows] * a[rows]
        np.subtract(1, slope, out=slope)
        delta[rows] *= slope
        del slope  # otherwise it would be held while the next one is made


def _logistic(z: FloatArray, out: FloatArray) -> FloatArray:
    return expit(z, out=out)


def _logistic_backward(a: FloatArray, delta: FloatArray) -> None:
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
"""Row length from which NumPy finds row maxima quickly without a transposed copy. For
2,000 rows of 10 it takes 87 us, and 8 us on the copy."""


def _row_maxima(z: FloatArray) -> FloatArray:
    """Return the largest number of each row, shape (n_rows, 1)."""
    if z.shape[1] >= SHORT_ROW:
        return z.max(axis=1, keepdims=True)
    return np.ascontiguousarray(z.T).max(axis=0)[:, np.newaxis]


# Temporaries above malloc's trim threshold (128 KiB in Dask workers) are returned
# to the operating system, and then cost page faults at every step.
_BLOCK_BYTES = 96 * 1024


def _row_blocks(a: FloatArray) -> list[slice]:
    """Cut `a` into blocks of rows whose temporaries stay small.

    An array with one row is one block, however wide it is.
    """
    n_rows = max(1, _BLOCK_BYTES // max(1, a.shape[1] * a.itemsize))
    return [slice(start, start + n_rows) for start in range(0, a.shape[0], n_rows)]


ACTIVATIONS: Mapping[str, Activation] = MappingProxyType(
    {
        "identity": Activation(_identity, _identity_backward, glorot_factor=6.0),
        "logistic": Activation(_logistic, _logistic_backward, glorot_factor=2.0),
        "tanh": Activation(_tanh, _tanh_backward, glorot_factor=6.0),
        "relu": Activation(_relu, _relu_backward, glorot_factor=6.0),
    }
)
"""Activations of hidden layers, by scikit-learn's names where it has them."""
