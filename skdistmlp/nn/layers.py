"""What a network is made of, without its parameters: layers, an output, a penalty."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from skdistmlp.nn.activations import ACTIVATIONS, Activation
from skdistmlp.nn.losses import OUTPUT_ACTIVATIONS, Output, output_of
from skdistmlp.nn.types import FloatArray


@dataclass(frozen=True)
class LayerSpec:
    """One layer of neurons and the coefficients that lead to it.

    Attributes
    ----------
    fan_in, fan_out : int
        Number of inputs, number of neurons.
    activation : str or Activation
        The activation, by name if it has one; "identity" for the output layer, whose
        output activation belongs to the loss (see `skdistmlp.nn.losses`).
    gain : float
        Sets the range of the initial parameters; see `glorot_uniform`.
    dropout : float
        Share of the layer's inputs that are dropped in a step of training.
    """

    fan_in: int
    fan_out: int
    activation: str | Activation
    gain: float
    dropout: float = 0.0

    @property
    def nonlinearity(self) -> Activation:
        """The activation itself."""
        return activation_of(self.activation)


@dataclass(frozen=True)
class Network:
    """A network without its parameters, and however it is split.

    Attributes
    ----------
    layers : tuple of LayerSpec
        The hidden layers, then the output layer.
    output : str or Output
        The output activation and the loss, by their name in `OUTPUTS` if they have one.
    alpha : float
        Strength of the L2 penalty.
    max_grad_norm : float or None
        Largest norm that the gradient of all parameters keeps in a step.
    """

    layers: tuple[LayerSpec, ...]
    output: str | Output
    alpha: float = 0.0
    max_grad_norm: float | None = None

    @property
    def layer_units(self) -> tuple[int, ...]:
        """Features, neurons of each hidden layer, outputs."""
        return (self.layers[0].fan_in, *(layer.fan_out for layer in self.layers))

    @property
    def has_dropout(self) -> bool:
        """Whether training drops values anywhere."""
        return any(layer.dropout for layer in self.layers)

    def activate_output(self, z: FloatArray) -> None:
        """Overwrite logits with predictions."""
        name = self.output if isinstance(self.output, str) else self.output.activation
        OUTPUT_ACTIVATIONS[name](z)

    @property
    def output_head(self) -> Output:
        """The loss."""
        return output_of(self.output)


def activation_of(activation: str | Activation) -> Activation:
    """Return an activation that may be given by its name."""
    return ACTIVATIONS[activation] if isinstance(activation, str) else activation


def dense_layers(
    layer_units: Sequence[int],
    activation: str | Activation | Sequence[str | Activation],
    dropout: float | Sequence[float] = 0.0,
) -> tuple[LayerSpec, ...]:
    """Return fully connected layers.

    Parameters
    ----------
    layer_units : sequence of int
        Features, neurons of each hidden layer, outputs.
    activation : str, Activation or sequence of these
        The activation of all hidden layers, or of each of them.
    dropout : float or sequence of float
        The dropout of all hidden layers, or of the inputs and each hidden layer.

    Raises
    ------
    ValueError
        If there are more or fewer activations or rates than expected.

    Notes
    -----
    As in scikit-learn's ``BaseMultilayerPerceptron._init_coef``, the parameters
    of the output layer are drawn as if it had the activation of the last hidden layer.
    A network without hidden layers is drawn for the activation that was named.
    """
    n_hidden = len(layer_units) - 2
    activations: tuple[str | Activation, ...]
    if isinstance(activation, str | Activation):
        activations, last = (activation,) * n_hidden, activation
    else:
        activations = tuple(activation)
        last = activations[-1] if activations else "identity"
    if len(activations) != n_hidden:
        raise ValueError(
            f"the number of activations, {len(activations)}, differs from the number "
            f"of hidden layers, {n_hidden}. Pass one for all of them, or one for each."
        )
    if isinstance(dropout, Sequence):
        rates = tuple(dropout)
    else:
        rates = (0.0, *(dropout,) * n_hidden)
    if len(rates) != n_hidden + 1:
        raise ValueError(
            f"the number of dropout rates, {len(rates)}, differs from the number of "
            f"hidden layers, {n_hidden}, plus one for the inputs. Pass one rate for "
            f"all hidden layers, or one for the inputs and one for each hidden layer."
        )
    return tuple(
        LayerSpec(fan_in, fan_out, its_own, activation_of(drawn_for).gain, rate)
        for (fan_in, fan_out), its_own, drawn_for, rate in zip(
            pairwise(layer_units),
            (*activations, "identity"),
            (*activations, last),
            rates,
            strict=True,
        )
    )
