from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from numpy.testing import assert_array_equal
from sklearn.neural_network import MLPClassifier
from sklearn.neural_network._base import DERIVATIVES

from skdistmlp.nn.layers import dense_layers
from skdistmlp.parallel.initial import draw_parameters
from skdistmlp.parallel.split import NetworkSplit, take_shard
from tests import strategies


@pytest.mark.parametrize("activation", sorted(DERIVATIVES))
@pytest.mark.parametrize("layer_units", [(3, 2), (3, 4, 1, 5, 2)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_initial_parameters_match_scikit_learn(activation, layer_units, dtype):
    theirs = MLPClassifier(activation=activation)
    theirs._random_state = np.random.RandomState(3)
    expected = [theirs._init_coef(*pair, dtype) for pair in pairwise(layer_units)]
    random_state = np.random.RandomState(3)
    whole = NetworkSplit.even(layer_units, 1).unsplit_layout()
    layers = dense_layers(layer_units, activation)
    flat = draw_parameters(whole, layers, random_state, np.dtype(dtype))
    assert flat.dtype == dtype
    drawn = whole.views(flat)
    for mine, their in zip(zip(*drawn, strict=True), expected, strict=True):
        for array, other in zip(mine, their, strict=True):
            assert_array_equal(array, other)
    assert random_state.random_sample() == theirs._random_state.random_sample()


@given(strategies.splits, strategies.activations, strategies.seeds)
def test_each_shard_draws_its_part_of_the_same_network(split, activation, seed):
    def drawn(layout):
        random_state = np.random.RandomState(seed)
        layers = dense_layers(split.layer_units, activation)
        flat = draw_parameters(layout, layers, random_state, np.dtype(float))
        return flat, random_state.random_sample()

    whole, after = drawn(split.unsplit_layout())
    for rank in range(split.n_shards):
        own, own_after = drawn(split.layout(rank))
        assert_array_equal(own, take_shard(split, rank, whole))
        assert own_after == after, "the next draw must be the same everywhere"


def test_each_layer_is_drawn_by_its_own_activation():
    """Like scikit-learn's networks of that activation; the output by the last hidden.

    The factors are 2 and 6, so every number tells by which its layer was drawn.
    """
    layer_units, names = (3, 40, 50, 2), ["logistic", "tanh"]
    whole = NetworkSplit.even(layer_units, 1).unsplit_layout()

    def drawn(activation):
        layers = dense_layers(layer_units, activation)
        random_state = np.random.RandomState(3)
        flat = draw_parameters(whole, layers, random_state, np.dtype(float))
        return list(zip(*whole.views(flat), strict=True))

    mixed, uniform = drawn(names), [drawn(name) for name in [*names, names[-1]]]
    for layer, drawings in enumerate(uniform):
        for array, expected in zip(mixed[layer], drawings[layer], strict=True):
            assert_array_equal(array, expected)
    assert not np.array_equal(uniform[0][0][0], uniform[1][0][0])
