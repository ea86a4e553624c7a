import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.neural_network._base import ACTIVATIONS as SKLEARN_ACTIVATIONS
from sklearn.neural_network._base import DERIVATIVES as SKLEARN_DERIVATIVES

from skdistmlp.nn import activations
from skdistmlp.nn.activations import ACTIVATIONS, softmax

# None, one, and enough for several row blocks, the last of them smaller; and
# rows that are wider than a block.
SHAPES = [(0, 3), (1, 1), (1, 40_000), (3, 40_000), (1234, 65), (5, 0)]

dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
names = pytest.mark.parametrize("name", sorted(ACTIVATIONS))


def normal(shape, dtype, seed=0):
    return (3 * np.random.default_rng(seed).normal(size=shape)).astype(dtype)


def test_the_table_has_every_hidden_activation_of_scikit_learn():
    assert set(ACTIVATIONS) == set(SKLEARN_DERIVATIVES)


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
    residual = ACTIVATIONS[name].forward(z, out)
    assert residual is (z if ACTIVATIONS[name].keeps_input else out)
    assert_array_equal(out, expected)


@names
@shapes
@dtypes
def test_derivatives_match_scikit_learn_and_write_only_delta(name, shape, dtype):
    a = np.empty(shape, dtype)
    residual = ACTIVATIONS[name].forward(normal(shape, dtype), a)
    residual.flags.writeable = a.flags.writeable = False
    delta = normal(shape, dtype, seed=1)
    expected = delta.copy()
    SKLEARN_DERIVATIVES[name](a, expected)
    ACTIVATIONS[name].backward(residual, delta)
    assert delta.dtype == dtype
    assert_array_equal(delta, expected)


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


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_row_blocks_are_small_and_cover_every_row_once(shape):
    a = np.zeros(shape)
    blocks = [a[rows] for rows in activations._row_blocks(a)]
    for block in blocks:
        block += 1
    assert_array_equal(a, np.ones(shape))
    assert all(
        block.nbytes <= activations._BLOCK_BYTES or len(block) == 1 for block in blocks
    )
