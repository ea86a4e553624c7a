"""The one definition of a training step and of a forward pass."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from skdistmlp.nn.types import FloatArray, Rows
from skdistmlp.parallel.ops import NetworkOps, OpenNetwork

Value = TypeVar("Value")


def training_step(ops: NetworkOps[Value], rows: Rows, learning_rate: float) -> None:
    """Move every parameter of the network once, by the gradient of `rows`."""
    backpropagate(ops, rows, rows)
    ops.update(rows, learning_rate)


def backpropagate(ops: NetworkOps[Value], rows: Rows, batch: Rows) -> None:
    """Compute what `rows` add to the loss of `batch`, and its gradient."""
    activations = [ops.inputs(rows)]
    for layer in ops.layers:
        activations.append(ops.forward(layer, activations[layer], training=True))
    delta = ops.output_delta(activations[-1], rows, batch)
    for layer in reversed(ops.layers):
        delta = ops.backward(layer, activations[layer], delta)


def forward_pass(ops: NetworkOps[Value], rows: Rows) -> Value:
    """Return the logits of `rows`."""
    value = ops.inputs(rows)
    for layer in ops.layers:
        value = ops.forward(layer, value, training=False)
    return value


def announce(ops: NetworkOps[Value], batches: Iterable[Rows]) -> Iterator[Rows]:
    """Yield batches of rows; let the operations expect each one step before."""
    following = iter(batches)
    rows = next(following, None)
    while rows is not None:
        expected = next(following, None)
        if expected is not None:
            ops.expect(expected)
        yield rows
        rows = expected


def predict_blocks(network: OpenNetwork[Value], blocks: Sequence[Rows]) -> FloatArray:
    """Return the outputs of the rows of all `blocks`, shape (n_rows, n_outputs)."""
    ops = network.ops
    logits = (forward_pass(ops, rows) for rows in announce(ops, blocks))
    return np.concatenate(list(network.outputs.predictions(logits)))
