import numpy as np
from numpy.testing import assert_allclose
from scipy.special import erfc

from skdistmlp.nn.gelu import gelu


def test_the_float32_polynomial_is_accurate_to_a_few_units_in_the_last_place():
    """Relatively, far into the tail: 0.5 |z| erfc(|z| / sqrt(2)) below zero."""
    z = np.linspace(-12, 0, 10_000, dtype=np.float32).reshape(100, 100)
    out = np.empty_like(z)
    gelu(z, out)
    exact = z.astype(float) * erfc(-z.astype(float) / 2**0.5) / 2
    # e^(-z^2 / 2) itself is rounded: by half a unit in the last place of z^2 / 2.
    assert_allclose(out, exact, rtol=5e-6)
    near = z > -3
    assert_allclose(out[near], exact[near], rtol=1e-6)
