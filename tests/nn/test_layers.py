import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skdistmlp.nn.activations import ACTIVATIONS
from skdistmlp.nn.layers import LayerSpec, Network, dense_layers
from skdistmlp.nn.losses import OUTPUTS
from tests.nn.silu import SILU, silu_known


def test_all_hidden_layers_have_the_activation_and_the_output_layer_has_none():
    assert dense_layers((3, 4, 5, 2), "logistic") == (
        LayerSpec(3, 4, "logistic", 2.0),
        LayerSpec(4, 5, "logistic", 2.0),
        LayerSpec(5, 2, "identity", 2.0),
    )


def test_each_hidden_layer_may_have_its_own_activation():
    assert dense_layers((3, 4, 5, 2), ["logistic", "tanh"]) == (
        LayerSpec(3, 4, "logistic", 2.0),
        LayerSpec(4, 5, "tanh", 6.0),
        LayerSpec(5, 2, "identity", 6.0),
    )


@pytest.mark.parametrize(
    ("activation", "factor"), [("logistic", 2.0), ("tanh", 6.0), ([], 6.0)]
)
def test_without_hidden_layers_the_activation_only_says_how_to_draw(activation, factor):
    assert dense_layers((3, 2), activation) == (LayerSpec(3, 2, "identity", factor),)


@pytest.mark.parametrize("names", [[], ["relu"], ["relu"] * 3], ids=len)
def test_another_number_of_activations_is_an_error(names):
    message = f"activations, {len(names)}, differs from .* hidden layers, 2"
    with pytest.raises(ValueError, match=message):
        dense_layers((3, 4, 5, 2), names)


def test_a_network_is_a_value():
    network = Network(dense_layers((3, 4, 2), "tanh"), "softmax", alpha=0.5)
    copy = pickle.loads(pickle.dumps(network))
    assert copy == network
    assert hash(copy) == hash(network)
    assert copy.layer_units == (3, 4, 2)
    assert copy.output_head is OUTPUTS["softmax"]
    hidden, output = copy.layers
    assert hidden.nonlinearity is ACTIVATIONS["tanh"]
    assert output.nonlinearity is ACTIVATIONS["identity"]


def test_an_activation_that_keeps_its_input_does_not_modify_it():
    """That of the tests too does what the engines rely on."""
    z = np.random.default_rng(0).normal(size=(300, 65))
    before, out = z.copy(), np.full_like(z, np.nan)
    assert SILU.forward(z, out) is z
    assert_array_equal(z, before)
    delta = np.ones_like(z)
    SILU.backward(z, delta)
    step = 1e-6
    above, below = np.empty_like(z), np.empty_like(z)
    SILU.forward(z + step, above)
    SILU.forward(z - step, below)
    assert_allclose(delta, (above - below) / (2 * step), atol=1e-8)
    # Where nothing goes backward, it may be overwritten.
    SILU.forward(z, z)
    assert_array_equal(z, out)


def test_an_activation_added_by_a_test_is_removed_afterwards():
    with silu_known():
        assert dense_layers((1, 2, 1), "silu")[0].nonlinearity is SILU
    with pytest.raises(KeyError):
        dense_layers((1, 2, 1), "silu")
