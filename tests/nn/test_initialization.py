import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.neural_network import MLPClassifier

from skdistmlp.nn.activations import ACTIVATIONS
from skdistmlp.nn.initialization import glorot_uniform


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_weights_equal_scikit_learns_draw_bit_for_bit(activation, dtype):
    """Over several layers, so that the random state must be left in its place too."""
    reference = MLPClassifier(activation=activation)
    reference._random_state = np.random.RandomState(3)
    random_state = np.random.RandomState(3)
    for fan_in, fan_out in [(5, 8), (8, 1), (1, 3)]:
        expected = reference._init_coef(fan_in, fan_out, dtype)
        drawn = glorot_uniform(fan_in, fan_out, activation, random_state, dtype)
        for mine, theirs in zip(drawn, expected, strict=True):
            assert mine.dtype == dtype
            assert_array_equal(mine, theirs)
    assert_array_equal(
        random_state.random_sample(4), reference._random_state.random_sample(4)
    )
