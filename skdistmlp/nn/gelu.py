"""GELU: ``z Phi(z)``, Phi the normal distribution function.

Hendrycks and Gimpel (2016), exactly, not their approximation by a hyperbolic tangent.
"""

import numpy as np
from scipy.special import ndtr

from skdistmlp.nn.row_blocks import row_blocks
from skdistmlp.nn.types import FloatArray

_ERFCX_SCALE = 0.38

_ERFCX = (
    0.214410931,
    0.213919862,
    0.203903157,
    0.13866203,
    0.23000047,
    -0.161428398,
    0.363838228,
    -0.262271403,
    0.0589651418,
)
"""Coefficients of t, t^2, ... t^9 in ``e^(x^2) erfc(x)``, t = 1 / (1 + 0.38 x), x >= 0.

Fitted to SciPy's `erfcx` for the smallest relative error, 2e-8; evaluated in float32,
4e-7. ``tests/nn/test_gelu.py`` checks that.
"""


TEMPORARIES = 4
"""Arrays of a block of rows that are alive at a time."""


def gelu(z: FloatArray, out: FloatArray) -> None:
    """Write the activations of `z` to `out`, another array."""
    for rows in row_blocks(z, TEMPORARIES):
        tail = np.empty_like(z[rows])
        density = np.empty_like(tail)
        _tail_and_density(z[rows], tail, density)
        _activate(z[rows], tail, out[rows])
        del tail, density


def gelu_with_slope(z: FloatArray, out: FloatArray) -> None:
    """Write the activations of `z` to `out`, and the derivatives to `z`."""
    for rows in row_blocks(z, TEMPORARIES):
        tail = np.empty_like(z[rows])
        density = np.empty_like(tail)
        _tail_and_density(z[rows], tail, density)
        block = z[rows]
        _activate(block, tail, out[rows])
        # Below zero the derivative, Phi + z phi, is tail - |z| phi; above it is 1 less
        # that: one half plus the sign times one half less that.
        density *= np.abs(block)
        tail -= density
        np.subtract(0.5, tail, out=tail)
        np.copysign(tail, block, out=tail)
        np.add(tail, 0.5, out=block)
        del tail, density, block


def _activate(z: FloatArray, tail: FloatArray, out: FloatArray) -> None:
    """Write ``max(z, 0) - |z| tail``."""
    np.abs(z, out=out)
    out *= tail
    np.subtract(np.clip(z, 0, np.inf), out, out=out)


def _tail_and_density(z: FloatArray, tail: FloatArray, density: FloatArray) -> None:
    """Write ``Phi(-|z|)`` and the normal density at `z`."""
    # The square of a huge number is infinite, which is right: its density is zero.
    with np.errstate(over="ignore"):
        np.multiply(z, z, out=density)
    density *= -0.5
    np.exp(density, out=density)
    if z.dtype == np.float32:
        np.abs(z, out=tail)
        tail *= _ERFCX_SCALE / 2**0.5
        tail += 1
        t = np.reciprocal(tail, out=tail)
        polynomial = t * _ERFCX[-1]
        for coefficient in _ERFCX[-2::-1]:
            polynomial += coefficient
            polynomial *= t
        np.multiply(polynomial, density, out=tail)
        tail *= 0.5
    else:
        np.abs(z, out=tail)
        np.negative(tail, out=tail)
        ndtr(tail, out=tail)
    density *= (2 * np.pi) ** -0.5
