"""A shard group: the operations that a training step is made of.

One definition of the step (`skdistmlp.training.step`) serves every engine. A
value that passes between operations is an array in one engine and a list of
Dask futures in another, and the step does not look inside it.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

from skdistmlp.nn.types import FloatArray, Rows
from skdistmlp.parallel.shard import ShardState

Value = TypeVar("Value")


class NetworkOps(Protocol[Value]):
    """All shards of a network, as the training loop sees them.

    A value is valid until the next step begins.
    """

    @property
    def is_leader(self) -> bool:
        """Whether this is the place where decisions are made."""

    @property
    def layers(self) -> range:
        """Numbers of the layers of weights."""

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
        """Compute the gradient of a layer from what it was given and its delta.

        Returns the delta of the layer before; for layer 0, `delta` itself.
        """

    def update(self, rows: Rows, learning_rate: float) -> None:
        """Let the optimiser take a step; `rows` are those of the gradient."""

    def pop_epoch_loss(self) -> float:
        """Return the losses of all rows since it was last called, and penalties.

        The same number on every shard.
        """

    def set_parameters(self, parameters: FloatArray | None) -> bool:
        """Replace the parameters of the whole network; begin a sum of gradients.

        Shards among peers take those that shard 0 hands in. False when that is
        None: there is nothing more to evaluate.
        """

    def add_gradient(self, rows: Rows, batch: Rows) -> None:
        """Add the gradient that `backward` computed for `rows` of `batch`."""

    def loss_and_gradient(self, batch: Rows) -> tuple[float, FloatArray]:
        """Return the mean loss of `batch` and its gradient, both with the penalty.

        The gradient has the layout of one shard. The same on every shard.
        """

    def predictions(self, logits: Iterable[Value]) -> Iterator[FloatArray]:
        """Yield the outputs, shape (n_rows, n_outputs), of each block of rows.

        `logits` is drawn on lazily, so that a bounded number is under way.
        """

    def from_leader(self, value: float) -> float:
        """Return the value that shard 0 has: decisions are made in one place."""

    def keep_best(self) -> None:
        """Remember the parameters as they are now, in place of those kept before."""

    def restore_best(self) -> None:
        """Go back to the parameters last kept."""

    def collect(self) -> ShardState:
        """Return the state of the whole network, or of one shard among peers."""

    def snapshot(self) -> ShardState:
        """Return a copy of what `collect` would return if training ended here.

        That is with the parameters last kept, if any were.
        """
