import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import erfc, ndtr

from skdistmlp.nn import compiled
from skdistmlp.nn.gelu import gelu, gelu_with_slope


def test_the_float32_polynomial_is_accurate_to_a_few_units_in_the_last_place():
    """Relatively, far into the tail: 0.5 |z| erfc(|z| / sqrt(2)) below zero."""
    z = np.linspace(-12, 0, 10_000, dtype=np.float32).reshape(100, 100)
    out = np.empty_like(z)
    gelu(z, out)
    exact = z.astype(float) * erfc(-z.astype(float) / 2**0.5) / 2
    # The exponent of e^(-z^2 / 2) is rounded twice, each time by half a unit.
    assert_allclose(out, exact, rtol=1e-5)
    near = z > -3
    assert_allclose(out[near], exact[near], rtol=1e-6)


def test_numpy_and_numba_give_the_same_bits(monkeypatch):
    monkeypatch.setattr(compiled, "_compiled", {})
    special = [0, -0.0, np.inf, -np.inf, np.nan, 1e38, -1e38, 13, -13]
    random = np.random.default_rng(0)
    z = np.hstack([special, np.linspace(-15, 15, 991), 3 * random.normal(size=3000)])
    z = z.astype(np.float32).reshape(40, 100)

    def both():
        out, slope, out_alone = np.empty_like(z), z.copy(), np.empty_like(z)
        gelu_with_slope(slope, out)
        gelu(z, out_alone)
        assert_array_equal(out, out_alone)
        return out, slope

    by_numpy = both()
    compiled.load(compiled.gelu)
    assert compiled._compiled[compiled.gelu] is not None
    for one, other in zip(by_numpy, both(), strict=True):
        assert_array_equal(one, other)
    # Other layouts are left to NumPy.
    out = np.empty_like(z.T)
    gelu(z.T, out)
    assert_array_equal(out, by_numpy[0].T)


def test_the_float32_derivative_is_accurate():
    z = np.linspace(-14, 14, 10_000, dtype=np.float32).reshape(100, 100)
    slope = z.copy()
    gelu_with_slope(slope, np.empty_like(z))
    exact = z.astype(float)
    exact = ndtr(exact) + exact * np.exp(-(exact**2) / 2) / (2 * np.pi) ** 0.5
    assert_allclose(slope, exact, atol=2.5e-7, rtol=0)


def test_infinities_have_values_and_slopes_in_float64_too():
    z = np.array([[np.inf, -np.inf, 1e300, -1e300, 45.0, -45.0]])
    slope, out = z.copy(), np.empty_like(z)
    gelu_with_slope(slope, out)
    assert_array_equal(out, np.maximum(z, 0))
    assert_array_equal(slope, z > 0)
