"""GELU: ``z Phi(z)``, Phi the normal distribution function.

Hendrycks and Gimpel (2016), exactly, not their approximation by a hyperbolic tangent.
"""

import numpy as np
from scipy.special import ndtr

from skdistmlp.nn import compiled
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


_POWER = (
    0.693147206,
    0.240226485,
    0.0555032904,
    0.00961837325,
    0.00133998483,
    0.000153707048,
)
"""Coefficients of f, f^2, ... f^6 in ``2^f - 1``, -1/2 <= f <= 1/2.

Fitted for the smallest squared relative error at Chebyshev nodes: at most 2.2e-9.
"""

_LIMIT = 13.0
"""Beyond it ``Phi(-|z|)`` in float32 is zero, but for denormal numbers."""

_MAGIC = 1.5 * 2**23
"""Added to a float32 of moderate size, it rounds it to an integer, and the lowest bits
of the sum are that integer."""

_EXPONENT = -0.5 / np.log(2)
"""``e^(-z^2 / 2)`` is two to the power of this times z^2."""

_OF_T = _ERFCX_SCALE / 2**0.5
_DENSITY = (2 * np.pi) ** -0.5

_NUMBERS = np.array(
    [
        *(0, 0.5, 1, _LIMIT, _EXPONENT, _MAGIC, _OF_T, _DENSITY),
        *_POWER,
        # Phi(-|z|) is half of erfc(|z| / sqrt(2)).
        *(coefficient / 2 for coefficient in _ERFCX),
    ],
    np.float32,
)
"""All of them, as the compiled kernel takes them."""

TEMPORARIES = 4
"""Arrays of a block of rows that are alive at a time."""


def gelu(z: FloatArray, out: FloatArray) -> None:
    """Write the activations of `z` to `out`, another array."""
    for rows in row_blocks(z, TEMPORARIES):
        _gelu_block(z[rows], out[rows], np.empty(z[rows].shape, z.dtype))


def gelu_with_slope(z: FloatArray, out: FloatArray) -> None:
    """Write the activations of `z` to `out`, and the derivatives to `z`."""
    for rows in row_blocks(z, TEMPORARIES):
        _gelu_block(z[rows], out[rows], z[rows])


def _gelu_block(z: FloatArray, out: FloatArray, slope: FloatArray) -> None:
    """Do as `_gelu`, in copies where the arrays are some columns of others."""
    if z.flags.c_contiguous and out.flags.c_contiguous:
        _gelu(z, out, slope)
        return
    computed = np.empty(z.shape, z.dtype)
    changed = np.ascontiguousarray(z)
    _gelu(changed, computed, changed)
    np.copyto(out, computed)
    np.copyto(slope, changed)


def _gelu(z: FloatArray, out: FloatArray, slope: FloatArray) -> None:
    """Write the activations to `out` and the derivatives to `slope`, which may be `z`.

    Where z < 0 the derivative, Phi + z phi, is Phi(-|z|) - |z| phi; elsewhere it is 1
    less that.
    """
    if z.dtype != np.float32:
        _gelu_by_scipy(z, out, slope)
        return
    kernel = compiled.compiled(compiled.gelu, z.size)
    if kernel is not None and all(a.flags.c_contiguous for a in (z, out, slope)):
        kernel(z.reshape(-1), out.reshape(-1), slope.reshape(-1), _NUMBERS)
        return
    zero, half, one, limit, of_square, magic, of_t, density = _NUMBERS[:8]
    x = np.abs(z)
    # NumPy takes minima and maxima with arrays three times as fast as with numbers.
    out.fill(limit)
    np.minimum(x, out, out=x)
    # Two to the power of an integer times that of a fraction; the integer is added to
    # the bits of the latter's exponent.
    exponent = np.multiply(x, x, out=out)
    exponent *= of_square
    shifted = exponent + magic
    power = shifted - magic
    exponent -= power
    _polynomial(exponent, _NUMBERS[8:14], power)
    power += one
    shifted_bits = shifted.view(np.int32)
    shifted_bits <<= 23
    power_bits = power.view(np.int32)
    power_bits += shifted_bits
    t = np.multiply(x, of_t, out=shifted)
    t += one
    np.reciprocal(t, out=t)
    _polynomial(t, _NUMBERS[14:], out)
    tail = np.multiply(out, power, out=t)
    power *= x
    power *= density
    below = np.subtract(tail, power, out=power)
    x *= tail
    out.fill(0)
    np.maximum(z, out, out=out)
    out -= x
    # One half plus or minus one half less that; adding zero makes -0.0 positive.
    np.subtract(half, below, out=below)
    np.add(z, zero, out=x)
    np.copysign(below, x, out=below)
    np.add(below, half, out=slope)


def _polynomial(x: FloatArray, coefficients: FloatArray, out: FloatArray) -> None:
    """Write ``c_1 x + c_2 x^2 + ...`` to `out`."""
    np.multiply(x, coefficients[-1], out=out)
    for coefficient in coefficients[-2::-1]:
        out += coefficient
        out *= x


def _gelu_by_scipy(z: FloatArray, out: FloatArray, slope: FloatArray) -> None:
    tail = np.abs(z)
    # Beyond that the tail is zero, and infinity times zero would be no number.
    x = np.minimum(tail, 40.0)
    np.negative(tail, out=tail)
    ndtr(tail, out=tail)
    # The square of a huge number is infinite, which is right: its density is zero.
    with np.errstate(over="ignore"):
        density = np.multiply(z, z)
    density *= -0.5
    np.exp(density, out=density)
    density *= _DENSITY
    density *= x
    np.subtract(tail, density, out=density)
    x *= tail
    np.clip(z, 0, np.inf, out=out)
    out -= x
    np.subtract(0.5, density, out=density)
    np.copysign(density, z, out=density)
    np.add(density, 0.5, out=slope)
