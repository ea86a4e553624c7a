"""The one definition of a training step and of a forward pass."""

from collections.abc import Sequence
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


def predict_blocks(network: OpenNetwork[Value], blocks: Sequence[Rows]) -> FloatArray:
    """Return the outputs of the rows of all `blocks`, shape (n_rows, n_outputs)."""
    logits = (forward_pass(network.ops, rows) for rows in blocks)
    return np.concatenate(list(network.outputs.predictions(logits)))
