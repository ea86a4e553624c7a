import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.neural_network import MLPClassifier
from sklearn.neural_network._base import DERIVATIVES as SKLEARN_DERIVATIVES

from skdistmlp.nn import initialization
from skdistmlp.nn.activations import ACTIVATIONS
from skdistmlp.nn.initialization import glorot_uniform
from skdistmlp.nn.layers import LayerSpec


@pytest.mark.parametrize("activation", sorted(SKLEARN_DERIVATIVES))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("block_draws", [1, 17, 2**17])
def test_parts_of_parameters_equal_scikit_learns_draw_to_the_bit(
    activation, dtype, block_draws, monkeypatch
):
    """Over several layers, so that the random state must be left in its place too."""
    monkeypatch.setattr(initialization, "BLOCK_DRAWS", block_draws)
    reference = MLPClassifier(activation=activation)
    reference._random_state = np.random.RandomState(3)
    random_state = np.random.RandomState(3)
    for fan_in, fan_out, rows, columns in [
        (5, 8, slice(0, 5), slice(0, 8)),
        (8, 4, slice(2, 7), slice(1, 3)),
        (4, 3, slice(1, 1), slice(0, 3)),
        (3, 2, slice(0, 3), slice(2, 2)),
    ]:
        coef, intercept = reference._init_coef(fan_in, fan_out, dtype)
        expected = coef[rows, columns], intercept[columns]
        drawn = [np.full_like(part, np.nan) for part in expected]
        glorot_uniform(
            LayerSpec(fan_in, fan_out, activation, ACTIVATIONS[activation].gain),
            random_state,
            rows=rows,
            columns=columns,
            neurons=columns,
            coef_out=drawn[0],
            intercept_out=drawn[1],
        )
        for mine, theirs in zip(drawn, expected, strict=True):
            assert mine.dtype == dtype
            assert_array_equal(mine, theirs)
    assert_array_equal(
        random_state.random_sample(4), reference._random_state.random_sample(4)
    )
