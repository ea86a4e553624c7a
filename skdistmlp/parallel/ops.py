"""What an engine offers to training: the operations of a step, and what holds them.

One definition of the step (`skdistmlp.training.step`) serves every engine. A
value that passes between operations is an array in one engine and a list of
Dask futures in another, and the step does not look inside it.

Everything else that training asks for is a small object that holds the operations:
`OpenNetwork` lists them.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from skdistmlp.nn.layers import Network
from skdistmlp.nn.types import FloatArray, Rows
from skdistmlp.parallel.shard import ShardState

Value = TypeVar("Value")
Logits = TypeVar("Logits", contravariant=True)


class NetworkOps(Protocol[Value]):
    """The operations of a training step, on all shards of a network.

    A value is valid until the next step begins.
    """

    @property
    def layers(self) -> range:
        """Numbers of the layers of parameters."""

    def expect(self, rows: Rows) -> None:
        """Say for which rows `inputs` will be called after its next call.

        It is no more than a hint: what has to travel may do so while a step computes.
        """

    def inputs(self, rows: Rows) -> Value:
        """Return the features of `rows`, for layer 0."""

    def forward(self, layer: int, value: Value, *, training: bool) -> Value:
        """Return the activations of a hidden layer, or the logits of the last.

        Without `training`, nothing is kept for `backward`.
        """

    def output_delta(self, logits: Value, rows: Rows, batch: Rows) -> Value:
        """Add the loss of `rows` to the epoch's; return d loss / d logits.

        `batch` are the rows that the loss is averaged over: `rows`, or more.
        """

    def backward(self, layer: int, value: Value, delta: Value) -> Value:
        """Compute the gradient of a layer from its input and its delta.

        Returns the delta of the layer before; for layer 0, `delta` itself.
        """

    def update(self, rows: Rows, learning_rate: float) -> None:
        """Let the optimiser take a step; `rows` are those of the gradient."""


class Outputs(Protocol[Logits]):
    """Turns logits into predictions in this process."""

    def predictions(self, logits: Iterable[Logits]) -> Iterator[FloatArray]:
        """Yield the outputs, shape (n_rows, n_outputs), of each block of rows.

        `logits` is drawn on lazily, so that a bounded number is in flight.
        """


class Leader(Protocol):
    """Where discrete decisions are made: processors may differ in the last bit.

    Attributes
    ----------
    alone_s : float
        Seconds that it has computed alone, while the other processes waited for it.
    """

    alone_s: float

    @property
    def is_here(self) -> bool:
        """Whether it is this process."""

    def decides(self, value: float) -> float:
        """Return the value that the leader passed."""

    def computes(self, function: Callable[[], float]) -> float:
        """Return what a function returns, which only the leader calls."""


class EpochLoss(Protocol):
    """The losses of the steps of an epoch."""

    def pop(self) -> float:
        """Return the losses of all rows since the last call, with the penalties.

        The same number on every shard.
        """


class NetworkState(Protocol):
    """Parameters and optimiser, wherever they are held."""

    @property
    def current(self) -> Any:
        """What is held now: a `ShardState`, or futures of it."""

    def fetch(self) -> ShardState:
        """Return the state of the whole network, or of one shard among peers.

        Its arrays may still be trained on: copy them to keep them.
        """

    def keep_best(self) -> None:
        """Remember the parameters as they are now, in place of earlier ones."""


class Objective(Protocol):
    """Loss and gradient of all rows as functions of the parameters, for L-BFGS."""

    def parameters(self) -> FloatArray:
        """Return the parameters of the whole network, the same on every shard."""

    def set_parameters(self, parameters: FloatArray | None) -> bool:
        """Replace the parameters of the whole network; start a sum of gradients.

        Shards among peers take those that the leader passes. False when that is
        None: there is nothing more to evaluate.
        """

    def add_gradient(self, rows: Rows, batch: Rows) -> None:
        """Add the gradient that `backward` computed for `rows` of `batch`."""

    def loss_and_gradient(self, batch: Rows) -> tuple[float, FloatArray]:
        """Return the mean loss of `batch` and its gradient, both with the penalty.

        The gradient has the layout of one shard. The same on every shard.
        """


@dataclass(frozen=True)
class OpenNetwork(Generic[Value]):
    """A network whose parameters and rows are in place, on whatever engine.

    Attributes
    ----------
    network : Network
        The network, but for its parameters.
    ops : NetworkOps
        The operations of a step.
    outputs : Outputs
        From logits to predictions.
    leader : Leader
        Who decides.
    loss : EpochLoss
        The loss of an epoch.
    state : NetworkState
        Parameters, optimiser, and the best parameters.
    objective : Objective
        Loss and gradient of all rows.
    """

    network: Network
    ops: NetworkOps[Value]
    outputs: Outputs[Value]
    leader: Leader
    loss: EpochLoss
    state: NetworkState
    objective: Objective
