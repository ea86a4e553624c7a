"""The one definition of a training step and of a forward pass."""

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from skdistmlp.nn.types import FloatArray, Rows
from skdistmlp.parallel.ops import NetworkOps

Value = TypeVar("Value")


def training_step(group: NetworkOps[Value], rows: Rows, learning_rate: float) -> None:
    """Move every weight of the network once, by the gradient of `rows`."""
    backpropagate(group, rows, rows)
    group.update(rows, learning_rate)


def backpropagate(group: NetworkOps[Value], rows: Rows, batch: Rows) -> None:
    """Compute what `rows` add to the loss of `batch`, and its gradient."""
    activations = [group.inputs(rows)]
    for layer in group.layers:
        activations.append(group.forward(layer, activations[layer], training=True))
    delta = group.output_delta(activations[-1], rows, batch)
    for layer in reversed(group.layers):
        delta = group.backward(layer, activations[layer], delta)


def forward_pass(group: NetworkOps[Value], rows: Rows) -> Value:
    """Return the logits of `rows`."""
    value = group.inputs(rows)
    for layer in group.layers:
        value = group.forward(layer, value, training=False)
    return value


def predict_blocks(group: NetworkOps[Value], blocks: Sequence[Rows]) -> FloatArray:
    """Return the outputs of the rows of all `blocks`, shape (n_rows, n_outputs)."""
    logits = (forward_pass(group, rows) for rows in blocks)
    return np.concatenate(list(group.predictions(logits)))
