"""Activation functions of the hidden layers, and softmax.

To add one, write its functions and enter them in `ACTIVATIONS`: but for the
parameters of the estimators, nothing else names an activation. Take temporaries of
`row_blocks`, one at a time: more would be too large (see there).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from scipy.special import expit

from skdistmlp.nn.gelu import gelu, gelu_with_slope
from skdistmlp.nn.row_blocks import row_blocks
from skdistmlp.nn.types import FloatArray
from skdistmlp.public import public


@public
@dataclass(frozen=True)
class Activation:
    """An elementwise activation of a hidden layer, such as one of your own.

    Pass it as an estimator's ``activation``, alone or in a sequence. It travels to the
    workers and into pickles with its functions: by reference if they belong to a
    module that the workers can import, else, with Dask, by value.

    Parameters
    ----------
    forward : callable
        ``forward(z, out)`` writes the activations of the pre-activations `z` to `out`.
        Both are float32 or float64, of shape (n_rows, n_neurons). `out` is another
        array than `z`, unless `keeps_input` is false, and `z` is left as it is.
    backward : callable
        ``backward(z, delta)`` multiplies `delta` in place by the derivative at `z`:
        the chain rule. It does not write to `z`.
    gain : float, default=1.0
        The initial parameters are drawn from U(-b, b),
        ``b = gain * sqrt(6 / (fan_in + fan_out))``. ``1 / sqrt(E[f(z)^2])`` for normal
        `z` keeps the size of activations from layer to layer (He et al., 2015).
    keeps_input : bool, default=True
        Whether `backward` is given `z`. If false it is given the activations, and
        `out` may be `z` itself, which saves memory.
    with_slope : callable or None, default=None
        ``with_slope(z, out)`` does what `forward` does and overwrites `z` with the
        derivative, where that costs less than to compute it later. Used in training
        in place of `forward` and `backward`; only with `keeps_input`.

    Examples
    --------
    >>> import numpy as np
    >>> from skdistmlp import Activation, DistributedMLPClassifier
    >>> def softsign(z, out):
    ...     np.divide(z, 1 + np.abs(z), out=out)
    >>> def softsign_backward(z, delta):
    ...     delta /= (1 + np.abs(z)) ** 2
    >>> activation = Activation(softsign, softsign_backward)
    >>> clf = DistributedMLPClassifier(activation=activation)
    """

    forward: Callable[[FloatArray, FloatArray], object]
    backward: Callable[[FloatArray, FloatArray], object]
    gain: float = 1.0
    keeps_input: bool = True
    with_slope: Callable[[FloatArray, FloatArray], object] | None = None

    def __call__(self, z: FloatArray) -> FloatArray:
        """Return the activations of pre-activations, in place where that can be.

        Parameters
        ----------
        z : ndarray of shape (n_rows, n_neurons)
            May be overwritten.

        Returns
        -------
        ndarray of shape (n_rows, n_neurons)
            `z`, or a new array.
        """
        out = np.empty_like(z) if self.keeps_input else z
        self.forward(z, out)
        return out

    def __repr__(self) -> str:
        """Name the functions."""
        functions = self.forward, self.backward
        names = [getattr(f, "__qualname__", repr(f)) for f in functions]
        return f"Activation({', '.join(names)}, gain={self.gain})"


def _identity(z: FloatArray, out: FloatArray) -> None:
    if out is not z:
        np.copyto(out, z)


def _identity_backward(a: FloatArray, delta: FloatArray) -> None:
    """Leave `delta` as it is: the derivative is 1."""


def _relu(z: FloatArray, out: FloatArray) -> None:
    # Three times as fast as `np.maximum(z, 0)`, whose scalar keeps it from SIMD.
    np.clip(z, 0, np.inf, out=out)


def _relu_backward(a: FloatArray, delta: FloatArray) -> None:
    # Multiplying by the mask is about 20 times faster than `delta[a == 0] = 0`.
    for rows in row_blocks(a):
        np.multiply(delta[rows], a[rows] > 0, out=delta[rows])


def _tanh(z: FloatArray, out: FloatArray) -> None:
    np.tanh(z, out=out)


def _tanh_backward(a: FloatArray, delta: FloatArray) -> None:
    for rows in row_blocks(a):
        slope = a[rows] * a[rows]
        np.subtract(1, slope, out=slope)
        delta[rows] *= slope
        del slope  # otherwise it would be held while the next one is made


def _logistic(z: FloatArray, out: FloatArray) -> None:
    expit(z, out=out)


def _logistic_backward(a: FloatArray, delta: FloatArray) -> None:
    for rows in row_blocks(a):
        delta[rows] *= a[rows]
        delta[rows] *= 1 - a[rows]


LEAK = 0.01
"""Slope of "leaky_relu" below zero (Maas et al., 2013)."""


def _leaky_relu(z: FloatArray, out: FloatArray) -> None:
    for rows in row_blocks(z):
        leak = z[rows] * _number(LEAK, z)
        np.maximum(z[rows], leak, out=out[rows])
        del leak


def _leaky_relu_backward(a: FloatArray, delta: FloatArray) -> None:
    for rows in row_blocks(a):
        delta[rows] *= np.where(a[rows] > 0, _number(1, a), _number(LEAK, a))


def _elu(z: FloatArray, out: FloatArray) -> None:
    _scaled_elu(z, out, 1.0, 1.0)


def _elu_backward(a: FloatArray, delta: FloatArray) -> None:
    _scaled_elu_backward(a, delta, 1.0, 1.0)


SELU_SCALE = 1.0507009873554804934193349852946
SELU_ALPHA = 1.6732632423543772848170429916717
"""The fixed point of Klambauer et al. (2017), equation 14."""


def _selu(z: FloatArray, out: FloatArray) -> None:
    _scaled_elu(z, out, SELU_SCALE, SELU_ALPHA)


def _selu_backward(a: FloatArray, delta: FloatArray) -> None:
    _scaled_elu_backward(a, delta, SELU_SCALE, SELU_ALPHA)


def _scaled_elu(z: FloatArray, out: FloatArray, scale: float, alpha: float) -> None:
    """Write ``scale z`` where z > 0, else ``scale alpha (e^z - 1)``."""
    for rows in row_blocks(z):
        below = np.clip(z[rows], -np.inf, 0)
        np.expm1(below, out=below)
        below *= _number(scale * alpha, z)
        np.clip(z[rows], 0, np.inf, out=out[rows])
        out[rows] *= _number(scale, z)
        out[rows] += below
        del below


def _scaled_elu_backward(
    a: FloatArray, delta: FloatArray, scale: float, alpha: float
) -> None:
    for rows in row_blocks(a):
        # Below zero the derivative, scale alpha e^z, is a + scale alpha.
        slope = a[rows] + _number(scale * alpha, a)
        np.copyto(slope, _number(scale, a), where=a[rows] > 0)
        delta[rows] *= slope
        del slope


def _softplus(z: FloatArray, out: FloatArray) -> None:
    for rows in row_blocks(z):
        # log(1 + e^z) without overflow: max(z, 0) + log(1 + e^-|z|).
        rest = np.abs(z[rows])
        np.negative(rest, out=rest)
        np.exp(rest, out=rest)
        np.log1p(rest, out=rest)
        np.clip(z[rows], 0, np.inf, out=out[rows])
        out[rows] += rest
        del rest


def _softplus_backward(a: FloatArray, delta: FloatArray) -> None:
    for rows in row_blocks(a):
        # The derivative, the logistic function of z, is 1 - e^-a.
        slope = np.negative(a[rows])
        np.expm1(slope, out=slope)
        np.negative(slope, out=slope)
        delta[rows] *= slope
        del slope


def _silu(z: FloatArray, out: FloatArray) -> None:
    for rows in row_blocks(z):
        gate = expit(z[rows])
        np.multiply(z[rows], gate, out=out[rows])
        del gate


def _silu_with_slope(z: FloatArray, out: FloatArray) -> None:
    """Use that with s = logistic(z), the derivative is s + a (1 - s)."""
    for rows in row_blocks(z):
        gate = expit(z[rows])
        np.multiply(z[rows], gate, out=out[rows])
        np.subtract(1, gate, out=z[rows])
        z[rows] *= out[rows]
        z[rows] += gate
        del gate


def _mish(z: FloatArray, out: FloatArray) -> None:
    for rows in row_blocks(z, 3):
        gate = np.empty_like(z[rows])
        _softplus(z[rows], gate)
        np.tanh(gate, out=gate)
        np.multiply(z[rows], gate, out=out[rows])
        del gate


def _mish_with_slope(z: FloatArray, out: FloatArray) -> None:
    """Use that with t = tanh(softplus(z)), the derivative is t + z (1 - t^2) s(z)."""
    for rows in row_blocks(z, 3):
        gate = np.empty_like(z[rows])
        _softplus(z[rows], gate)
        np.tanh(gate, out=gate)
        np.multiply(z[rows], gate, out=out[rows])
        z[rows] *= expit(z[rows])
        z[rows] *= 1 - gate * gate
        z[rows] += gate
        del gate


def _backward_of(
    with_slope: Callable[[FloatArray, FloatArray], None],
) -> Callable[[FloatArray, FloatArray], None]:
    """Return the chain rule for an activation that computes its slope on the way."""

    def backward(z: FloatArray, delta: FloatArray) -> None:
        for rows in row_blocks(z, 2):
            slope = z[rows].copy()
            with_slope(slope, np.empty_like(slope))
            delta[rows] *= slope
            del slope

    return backward


def _number(value: float, like: FloatArray) -> np.floating:
    """Return a number in the dtype of an array: NumPy's loops are faster for it."""
    return like.dtype.type(value)


def softmax(z: FloatArray) -> None:
    """Overwrite the logits `z` with ``exp(z_j) / sum_k exp(z_k)``, row by row."""
    for rows in row_blocks(z):
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


ACTIVATIONS: Mapping[str, Activation] = MappingProxyType(
    {
        "identity": Activation(_identity, _identity_backward, keeps_input=False),
        "logistic": Activation(
            _logistic, _logistic_backward, (1 / 3) ** 0.5, keeps_input=False
        ),
        "tanh": Activation(_tanh, _tanh_backward, keeps_input=False),
        "relu": Activation(_relu, _relu_backward, keeps_input=False),
        "leaky_relu": Activation(
            _leaky_relu, _leaky_relu_backward, 1.4141428569978354, keeps_input=False
        ),
        "elu": Activation(_elu, _elu_backward, 1.2451983007007064, keeps_input=False),
        "selu": Activation(_selu, _selu_backward, 1.0, keeps_input=False),
        "softplus": Activation(
            _softplus, _softplus_backward, 1.0418668355353018, keeps_input=False
        ),
        "gelu": Activation(
            gelu,
            _backward_of(gelu_with_slope),
            1.5335304411955353,
            with_slope=gelu_with_slope,
        ),
        "silu": Activation(
            _silu,
            _backward_of(_silu_with_slope),
            1.6765324703310913,
            with_slope=_silu_with_slope,
        ),
        "mish": Activation(
            _mish,
            _backward_of(_mish_with_slope),
            1.486847581273208,
            with_slope=_mish_with_slope,
        ),
    }
)
"""Activations of hidden layers, by scikit-learn's names where it has them.

The gains of its four are scikit-learn's: those of Glorot and Bengio (2010), equation
16. The others are ``1 / sqrt(E[f(z)^2])`` for normal z, the condition of He et al.
(2015), section 2.2, with the activation in place of ReLU; for "selu" that is 1, as in
Klambauer et al. (2017).
"""
