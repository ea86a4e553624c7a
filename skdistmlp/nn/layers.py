"""What a network is made of, without its parameters: layers, an output, a penalty."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from skdistmlp.nn.activations import ACTIVATIONS, Activation
from skdistmlp.nn.losses import OUTPUTS, Output


@dataclass(frozen=True)
class LayerSpec:
    """One layer of neurons and the coefficients that lead to it.

    What else a layer may do to its values (dropout, say) belongs here too.

    Attributes
    ----------
    fan_in, fan_out : int
        Number of inputs, number of neurons.
    activation : str
        Name of the activation; "identity" for the output layer, whose output
        activation belongs to the loss (see `skdistmlp.nn.losses`).
    glorot_factor : float
        Sets the range of the initial parameters; see `glorot_uniform`.
    """

    fan_in: int
    fan_out: int
    activation: str
    glorot_factor: float

    @property
    def nonlinearity(self) -> Activation:
        """The activation itself."""
        return ACTIVATIONS[self.activation]


@dataclass(frozen=True)
class Network:
    """A network without its parameters, and however it is split.

    Attributes
    ----------
    layers : tuple of LayerSpec
        The hidden layers, then the output layer.
    output : str
        Name in `OUTPUTS`: the output activation and the loss.
    alpha : float
        Strength of the L2 penalty.
    """

    layers: tuple[LayerSpec, ...]
    output: str
    alpha: float = 0.0

    @property
    def layer_units(self) -> tuple[int, ...]:
        """Features, neurons of each hidden layer, outputs."""
        return (self.layers[0].fan_in, *(layer.fan_out for layer in self.layers))

    @property
    def output_head(self) -> Output:
        """The output activation and its loss."""
        return OUTPUTS[self.output]


def dense_layers(
    layer_units: Sequence[int], activation: str | Sequence[str]
) -> tuple[LayerSpec, ...]:
    """Return fully connected layers.

    Parameters
    ----------
    layer_units : sequence of int
        Features, neurons of each hidden layer, outputs.
    activation : str or sequence of str
        Name of the activation of all hidden layers, or of each of them.

    Raises
    ------
    ValueError
        If there are more or fewer names than hidden layers.

    Notes
    -----
    As in scikit-learn's ``BaseMultilayerPerceptron._init_coef``, the parameters
    of the output layer are drawn as if it had the activation of the last hidden layer.
    A network without hidden layers is drawn for the activation that was named.
    """
    n_hidden = len(layer_units) - 2
    if isinstance(activation, str):
        names, last = (activation,) * n_hidden, activation
    else:
        names = tuple(activation)
        last = names[-1] if names else "identity"
    if len(names) != n_hidden:
        raise ValueError(
            f"the number of activations, {len(names)}, differs from the number of "
            f"hidden layers, {n_hidden}. Pass one name for all of them, or one for "
            f"each."
        )
    return tuple(
        LayerSpec(fan_in, fan_out, name, ACTIVATIONS[drawn_for].glorot_factor)
        for (fan_in, fan_out), name, drawn_for in zip(
            pairwise(layer_units), (*names, "identity"), (*names, last), strict=True
        )
    )
