import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.integrate import quad
from scipy.special import expit, ndtr
from sklearn.neural_network._base import ACTIVATIONS as SKLEARN_ACTIVATIONS
from sklearn.neural_network._base import DERIVATIVES as SKLEARN_DERIVATIVES

from skdistmlp.nn.activations import ACTIVATIONS, softmax
from tests.nn.softsign import SOFTSIGN

# None, one, and enough for several row blocks, the last of them smaller; and
# rows that are wider than a block.
SHAPES = [(0, 3), (1, 1), (1, 40_000), (3, 40_000), (1234, 65), (5, 0)]

dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
names = pytest.mark.parametrize("name", sorted(SKLEARN_DERIVATIVES))
new = pytest.mark.parametrize(
    "name", sorted(set(ACTIVATIONS) - set(SKLEARN_DERIVATIVES))
)


def normal(shape, dtype, seed=0):
    return (3 * np.random.default_rng(seed).normal(size=shape)).astype(dtype)


def test_the_table_has_every_hidden_activation_of_scikit_learn():
    assert set(ACTIVATIONS) > set(SKLEARN_DERIVATIVES)


@names
@shapes
@dtypes
@pytest.mark.parametrize("in_place", [True, False])
def test_activations_match_scikit_learn(name, shape, dtype, in_place):
    z = normal(shape, dtype)
    expected = z.copy()
    SKLEARN_ACTIVATIONS[name](expected)
    out = z if in_place else np.full_like(z, np.nan)
    z.flags.writeable = in_place
    ACTIVATIONS[name].forward(z, out)
    assert_array_equal(out, expected)


@names
@shapes
@dtypes
def test_derivatives_match_scikit_learn_and_write_only_delta(name, shape, dtype):
    a = np.empty(shape, dtype)
    ACTIVATIONS[name].forward(normal(shape, dtype), a)
    a.flags.writeable = False
    delta = normal(shape, dtype, seed=1)
    expected = delta.copy()
    SKLEARN_DERIVATIVES[name](a, expected)
    ACTIVATIONS[name].backward(a, delta)
    assert delta.dtype == dtype
    assert_array_equal(delta, expected)


def reference(name, z):
    """Return an activation by its textbook formula, in the dtype of `z`."""
    above, below = np.maximum(z, 0), np.minimum(z, 0)
    softplus = np.logaddexp(0, z)
    return {
        "leaky_relu": above + 0.01 * below,
        "elu": above + np.expm1(below),
        "selu": 1.0507009873554805 * (above + 1.6732632423543772 * np.expm1(below)),
        "gelu": z * ndtr(z),
        "silu": z * expit(z),
        "mish": z * np.tanh(softplus),
        "softplus": softplus,
    }[name]


def applied(name, z):
    out = np.full_like(z, np.nan)
    ACTIVATIONS[name].forward(z, out)
    return out


@new
@shapes
@dtypes
def test_new_activations_follow_their_formulas(name, shape, dtype):
    z = normal(shape, dtype)
    given = z.copy()
    z.flags.writeable = False
    expected = reference(name, given.astype(np.float64))
    eps = np.finfo(dtype).eps
    assert_allclose(applied(name, z), expected, rtol=6 * eps, atol=6 * eps)
    # In place where that is promised, and wherever nothing goes backward.
    assert_array_equal(ACTIVATIONS[name](given), applied(name, z))


@new
@shapes
@dtypes
def test_new_derivatives_are_those_of_the_formulas(name, shape, dtype):
    z = normal(shape, dtype)
    exact, step = z.astype(np.float64), 1e-6
    # Those with a kink at zero have no derivative there.
    exact[np.abs(exact) < 2 * step] = z[np.abs(exact) < 2 * step] = 1
    rise = reference(name, exact + step) - reference(name, exact - step)
    activation, a = ACTIVATIONS[name], np.empty_like(z)
    activation.forward(z, a)
    delta = normal(shape, dtype, seed=1)
    expected = delta * (rise / (2 * step))
    residual = z if activation.keeps_input else a
    residual.flags.writeable = False
    activation.backward(residual, delta)
    assert delta.dtype == dtype
    atol = 1e-9 if dtype == np.float64 else 3e-6
    assert_allclose(delta, expected, rtol=1e-6, atol=atol)
    if activation.with_slope is not None:
        slope, again = z.copy(), np.empty_like(z)
        activation.with_slope(slope, again)
        assert_array_equal(again, a)
        assert_array_equal(normal(shape, dtype, seed=1) * slope, delta)


@new
@dtypes
def test_new_activations_are_finite_for_huge_numbers(name, dtype):
    huge = np.finfo(dtype).max / 4
    z = np.array([[huge, -huge, 0, 100, -100]], dtype)
    activation, a, delta = ACTIVATIONS[name], np.empty_like(z), np.ones_like(z)
    activation.forward(z, a)
    activation.backward(z if activation.keeps_input else a, delta)
    assert np.isfinite(a).all()
    assert np.isfinite(delta).all()
    assert a[0, 0] >= huge
    at_hundred, at_minus_hundred = (1.0507009873554805, 0) if name == "selu" else (1, 0)
    if name == "leaky_relu":
        at_minus_hundred = 0.01
    assert_allclose(delta[0, [0, 3]], at_hundred, rtol=1e-6)
    assert_allclose(delta[0, [1, 4]], at_minus_hundred, atol=1e-6)


@new
def test_gains_keep_the_size_of_normal_numbers(name):
    """As He et al. (2015) derive theirs; by numerical integration."""

    def weighted_square(z):
        return reference(name, z) ** 2 * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)

    second_moment = sum(quad(weighted_square, *part)[0] for part in [(-12, 0), (0, 12)])
    assert_allclose(ACTIVATIONS[name].gain, second_moment**-0.5, rtol=1e-6)


def test_an_activation_names_its_functions():
    assert repr(SOFTSIGN) == "Activation(softsign, softsign_backward, gain=2.5)"


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (7, 10)], ids=str)
@dtypes
def test_softmax_matches_scikit_learn(shape, dtype):
    z = normal(shape, dtype)
    expected = z.copy()
    SKLEARN_ACTIVATIONS["softmax"](expected)
    softmax(z)
    assert_array_equal(z, expected)


@dtypes
def test_softmax_of_huge_logits_is_finite(dtype):
    huge = np.finfo(dtype).max / 4
    z = np.array([[huge, -huge, 0], [-huge, -huge, -huge]], dtype)
    softmax(z)
    np.testing.assert_allclose(z, [[1, 0, 0], [1 / 3] * 3], rtol=1e-6)
