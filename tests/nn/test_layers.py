import pickle

import pytest

from skdistmlp.nn.activations import ACTIVATIONS
from skdistmlp.nn.layers import LayerSpec, Network, dense_layers
from skdistmlp.nn.losses import OUTPUTS
from tests.nn.softsign import SOFTSIGN

LOGISTIC = (1 / 3) ** 0.5


def test_all_hidden_layers_have_the_activation_and_the_output_layer_has_none():
    assert dense_layers((3, 4, 5, 2), "logistic") == (
        LayerSpec(3, 4, "logistic", LOGISTIC),
        LayerSpec(4, 5, "logistic", LOGISTIC),
        LayerSpec(5, 2, "identity", LOGISTIC),
    )


def test_each_hidden_layer_may_have_its_own_activation():
    assert dense_layers((3, 4, 5, 2), ["logistic", "tanh"]) == (
        LayerSpec(3, 4, "logistic", LOGISTIC),
        LayerSpec(4, 5, "tanh", 1.0),
        LayerSpec(5, 2, "identity", 1.0),
    )


@pytest.mark.parametrize(
    ("activation", "gain"), [("logistic", LOGISTIC), ("tanh", 1.0), ([], 1.0)]
)
def test_without_hidden_layers_the_activation_only_says_how_to_draw(activation, gain):
    assert dense_layers((3, 2), activation) == (LayerSpec(3, 2, "identity", gain),)


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


def test_an_activation_may_be_given_by_itself_and_per_layer():
    first, second, output = dense_layers((3, 4, 5, 2), ["gelu", SOFTSIGN])
    assert first.nonlinearity is ACTIVATIONS["gelu"]
    assert second.nonlinearity is SOFTSIGN
    assert (first.gain, second.gain, output.gain) == (
        ACTIVATIONS["gelu"].gain,
        SOFTSIGN.gain,
        SOFTSIGN.gain,
    )
    assert dense_layers((3, 4, 2), SOFTSIGN)[0].nonlinearity is SOFTSIGN


@pytest.mark.parametrize(
    ("dropout", "rates"), [(0.5, [0, 0.5, 0.5]), ([0.1, 0, 0.3], [0.1, 0, 0.3])]
)
def test_dropout_is_that_of_the_inputs_of_a_layer(dropout, rates):
    layers = dense_layers((3, 4, 5, 2), "relu", dropout)
    assert [layer.dropout for layer in layers] == rates


def test_as_many_rates_are_needed_as_there_are_layers():
    with pytest.raises(ValueError, match="number of dropout rates, 2, "):
        dense_layers((3, 4, 5, 2), "relu", [0.1, 0.2])
