"""The tasks of the "futures" engine: what runs on the workers.

A task never writes to its arguments. Dask may run it twice, after a worker's death,
with the same ones; and other tasks of the step read them too, without copies on the
same worker. So state is replaced, not changed, and a task writes only to arrays that it
has allocated itself.

What passes between layers is not one array but what its consumer evaluates, the
list `parts`: residuals of all shards to concatenate, or pieces to sum. So a
collective needs no task.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.sparse import issparse

from skdistmlp.nn import optimizers
from skdistmlp.nn.layers import Network
from skdistmlp.nn.types import Features, FloatArray, Rows
from skdistmlp.parallel.communicators import sum_in_order
from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.shard import (
    ShardState,
    add_penalty,
    affine,
    batch_loss,
    batch_penalty,
    gradient,
    output_delta,
    propagate,
)
from skdistmlp.parallel.split import NetworkSplit, Parameters, ShardLayout


@dataclass(frozen=True)
class PlacedShard:
    """One shard as it lies on its worker.

    Attributes
    ----------
    network : Network
        The whole network.
    split : NetworkSplit
        Which shard has which of its neurons.
    rank : int
        Number of the shard.
    state : ShardState
        Its part of the network.
    """

    network: Network
    split: NetworkSplit
    rank: int
    state: ShardState

    def __sizeof__(self) -> int:
        # What Dask takes the value to be, and its dashboard shows.
        return super().__sizeof__() + self.state.nbytes

    @property
    def layout(self) -> ShardLayout:
        """Layout of the flat arrays."""
        return self.split.layout(self.rank)

    @property
    def parameters(self) -> Parameters:
        """Coefficients and intercepts of each layer, as views of the flat array."""
        return self.layout.views(self.state.parameters)

    @property
    def shown(self) -> Parameters:
        """Those to predict with; see `ShardState`."""
        return self.layout.views(self.state.shown)


def forward(
    shard: PlacedShard,
    layer: int,
    parts: list[Any],
    rows: Rows | None,
    training: bool,
) -> FloatArray:
    """Compute one layer on one neuron partition.

    Parameters
    ----------
    shard : PlacedShard
        Its parameters are used, or without `training` those to predict with.
    layer : int
        Number of the layer.
    parts : list
        What the layer's input is made of; see `_inputs`.
    rows : slice or ndarray of int, or None
        The rows wanted, for layer 0.
    training : bool
        Whether this is part of a step, in which some of the input may be dropped.

    Returns
    -------
    ndarray
        The residual of this shard's neurons of a hidden layer, shape (n_rows, own
        neurons): their activations, or what `_activations` makes them of. Or this
        shard's piece of the logits, shape (n_rows, n_outputs).
    """
    coefs, intercepts = shard.parameters if training else shard.shown
    inputs = _inputs(shard, layer, parts, rows, training)
    z = affine(inputs, coefs[layer], intercepts[layer])
    activation = shard.network.layers[layer].nonlinearity
    if layer == shard.split.output_layer or activation.keeps_input:
        return z
    # `z` is this task's own.
    return activation(z)


def predict(shard: PlacedShard, pieces: list[FloatArray]) -> FloatArray:
    """Return the outputs, shape (n_rows, n_outputs), from pieces of the logits."""
    outputs = sum_in_order(pieces)
    shard.network.activate_output(outputs)
    return outputs


def loss(shard: PlacedShard, parts: list[Any], rows: Rows, batch: Rows) -> float:
    """Return the share of `rows` in the mean loss of `batch`, times its rows."""
    dataset, *pieces = parts
    return batch_loss(shard.network, predict(shard, pieces), dataset, rows, batch)


def backward(
    shard: PlacedShard, layer: int, parts: list[Any], rows: Rows, batch: Rows
) -> FloatArray:
    """Carry the delta of one layer to the layer before, on one neuron partition.

    Parameters
    ----------
    shard : PlacedShard
        Its parameters are used.
    layer : int
        Number of the layer.
    parts : list
        What the layer's delta is made of; see `_delta`.
    rows, batch : slice or ndarray of int
        Rows gone forward, and the rows that the loss is averaged over.

    Returns
    -------
    ndarray
        From the row-parallel output layer, the product for this shard's own
        neurons; else this shard's piece of a sum over all of them.
    """
    delta = _delta(shard, layer, parts, rows, batch)
    return propagate(delta, shard.parameters.coefs[layer])


def update(
    shard: PlacedShard,
    inputs: list[list[Any]],
    deltas: list[list[Any]],
    rows: Rows,
    learning_rate: float,
    first_of_epoch: bool,
) -> PlacedShard:
    """Compute all gradients of one shard and let its optimiser take a step.

    Parameters
    ----------
    shard : PlacedShard
        Left as it is.
    inputs, deltas : list of list
        For every layer, what its input and its delta are made of.
    rows : ndarray of int
        Rows of the mini-batch.
    learning_rate : float
        Rate of this step.
    first_of_epoch : bool
        Whether to restart the sum of penalties.

    Returns
    -------
    PlacedShard
        The shard after the step, in new arrays.
    """
    flat_gradient = _gradient(shard, inputs, deltas, rows, rows)
    return _after_step(
        shard, flat_gradient, inputs[0][0], rows, learning_rate, first_of_epoch
    )


def step_gradient(
    shard: PlacedShard, inputs: list[list[Any]], deltas: list[list[Any]], rows: Rows
) -> FloatArray:
    """Return all gradients of one shard, for `clipped_update`; see `update`."""
    return _gradient(shard, inputs, deltas, rows, rows)


def squared_norm(
    shard: PlacedShard, flat_gradient: FloatArray, dataset: Dataset, rows: Rows
) -> float:
    """Return the sum of squares of a shard's gradient, with that of the penalty."""
    _, weight_sum = dataset.batch_totals(rows)
    return optimizers.squared_gradient_norm(
        shard.state.parameters,
        flat_gradient,
        shard.layout.n_coefs,
        shard.network.alpha / weight_sum,
    )


def clipped_update(
    shard: PlacedShard,
    flat_gradient: FloatArray,
    squared_norms: list[float],
    dataset: Dataset,
    rows: Rows,
    learning_rate: float,
    first_of_epoch: bool,
) -> PlacedShard:
    """Let the optimiser of one shard take a step by a gradient that is clipped.

    Parameters
    ----------
    shard : PlacedShard
        Left as it is.
    flat_gradient : ndarray of shape (n_parameters,)
        From `step_gradient`.
    squared_norms : list of float
        From `squared_norm`, of every shard.
    dataset : Dataset
        All rows.
    rows, learning_rate, first_of_epoch
        See `update`.
    """
    max_norm = shard.network.max_grad_norm
    assert max_norm is not None
    # Summed as shards among peers sum them.
    total = sum_in_order([np.array([norm]) for norm in squared_norms])
    scale = optimizers.clipping_scale(float(total[0]), max_norm)
    return _after_step(
        shard, flat_gradient, dataset, rows, learning_rate, first_of_epoch, scale
    )


def _after_step(
    shard: PlacedShard,
    flat_gradient: FloatArray,
    dataset: Dataset,
    rows: Rows,
    learning_rate: float,
    first_of_epoch: bool,
    scale: float = 1.0,
) -> PlacedShard:
    """Return a shard after a step of its optimiser, in new arrays."""
    layout, network, state = shard.layout, shard.network, shard.state
    n_rows, weight_sum = dataset.batch_totals(rows)
    optimizer = state.optimizer
    assert optimizer is not None, "a network opened for prediction cannot train"
    # Copies, since the optimiser works in place: a second run of this task must start
    # from the same state, not from one that has taken the step already.
    parameters = state.parameters.copy()
    optimizer, squared_coefs = optimizers.update(
        optimizer.with_arrays([array.copy() for array in optimizer.arrays]),
        parameters,
        flat_gradient,
        learning_rate,
        n_coefs=layout.n_coefs,
        penalty=network.alpha / weight_sum,
        scale=scale,
    )
    penalty_sum = 0.0 if first_of_epoch else state.penalty_sum
    penalty_sum += batch_penalty(network, squared_coefs, n_rows, weight_sum)
    stepped = replace(
        state, parameters=parameters, optimizer=optimizer, penalty_sum=penalty_sum
    )
    return replace(shard, state=stepped)


def add_gradient(
    shard: PlacedShard,
    inputs: list[list[Any]],
    deltas: list[list[Any]],
    rows: Rows,
    batch: Rows,
    gradient_sum: FloatArray | None,
) -> FloatArray:
    """Compute all gradients of one shard, and add those of earlier blocks.

    Parameters
    ----------
    shard : PlacedShard
        Its parameters are used.
    inputs, deltas : list of list
        For every layer, what its input and its delta are made of.
    rows, batch : slice or ndarray of int
        Rows gone forward, and the rows that the loss is averaged over.
    gradient_sum : ndarray of shape (n_parameters,), or None
        The sum over the blocks before, if there are any; left as it is.

    Returns
    -------
    ndarray of shape (n_parameters,)
        The sum with these rows.
    """
    # Adds to the new array, not to `gradient_sum`: run twice, the task would count its
    # rows twice.
    total = _gradient(shard, inputs, deltas, rows, batch)
    if gradient_sum is not None:
        total += gradient_sum
    return total


def end_block(_shard: PlacedShard, _gradient_sum: FloatArray) -> None:
    """Return nothing, once a shard's gradients of a block are there."""


def loss_and_gradient(
    shard: PlacedShard, gradient_sum: FloatArray, dataset: Dataset, batch: Rows
) -> tuple[float, FloatArray]:
    """Return the penalty of one shard times the number of rows, and its gradient.

    Parameters
    ----------
    shard : PlacedShard
        Its parameters are used.
    gradient_sum : ndarray of shape (n_parameters,)
        The gradient of the loss without the penalty; left as it is.
    dataset : Dataset
        Says the number of rows, and their sample weights.
    batch : slice or ndarray of int
        The rows that the loss is averaged over.
    """
    # The penalty is added in place: to a copy, so that a second run adds it only once.
    total = gradient_sum.copy()
    own = add_penalty(
        shard.network,
        shard.layout.n_coefs,
        shard.state.parameters,
        total,
        *dataset.batch_totals(batch),
    )
    return own, total


def penalty(shard: PlacedShard) -> float:
    """Return the penalties of the epoch's steps."""
    return shard.state.penalty_sum


def parameters_of(shard: PlacedShard) -> FloatArray:
    """Return the parameters to predict with, which no later step will write to."""
    return shard.state.shown


def _gradient(
    shard: PlacedShard,
    inputs: list[list[Any]],
    deltas: list[list[Any]],
    rows: Rows,
    batch: Rows,
) -> FloatArray:
    """Return the gradient of all layers, without the penalty, in a new flat array."""
    flat = np.empty_like(shard.state.parameters)
    views = shard.layout.views(flat)
    for layer in shard.split.layers:
        gradient(
            _inputs(shard, layer, inputs[layer], rows, training=True),
            _delta(shard, layer, deltas[layer], rows, batch),
            views.coefs[layer],
            views.intercepts[layer],
        )
    return flat


def _inputs(
    shard: PlacedShard,
    layer: int,
    parts: Sequence[Any],
    rows: Rows | None,
    training: bool,
) -> Features:
    """Evaluate the input of a layer.

    `parts` holds the data set for layer 0; every shard's residuals for a hidden
    layer; this shard's residual for the output layer.
    """
    if layer == 0:
        dataset: Dataset = parts[0]
        whole = dataset.inputs(slice(None) if rows is None else rows)
        columns = slice(0, whole.shape[1])
        return _dropped(shard, layer, whole, columns) if training else whole
    ranges = shard.split.ranges[layer - 1]
    if layer == shard.split.output_layer:
        ranges = ranges[shard.rank : shard.rank + 1]
    activations = []
    for residual, part in zip(parts, ranges, strict=True):
        value: Features = _activations(shard, layer - 1, residual)
        if training:
            value = _dropped(shard, layer, value, part.columns)
        activations.append(value)
    if len(activations) == 1:
        return activations[0]
    return np.concatenate(activations, axis=1)


def _dropped(
    shard: PlacedShard, layer: int, value: Features, columns: slice
) -> Features:
    """Return some columns of a layer's input without what the step drops."""
    dropout = shard.state.dropout(shard.network, layer)
    if dropout is None:
        return value
    if issparse(value):
        return dropout.drop_stored(value)
    mask = dropout.mask(columns, np.empty_like(value))
    return np.multiply(value, mask, out=mask)


def _activations(shard: PlacedShard, layer: int, residual: FloatArray) -> FloatArray:
    """Return the activations of a hidden layer; both are of one shard's neurons.

    Where the residual is the pre-activation, it alone is sent, and each consumer
    applies the activation: that is cheaper than to send both.
    """
    activation = shard.network.layers[layer].nonlinearity
    if not activation.keeps_input:
        return residual
    activations = np.empty_like(residual)
    activation.forward(residual, activations)
    return activations


def _delta(
    shard: PlacedShard, layer: int, parts: Sequence[Any], rows: Rows, batch: Rows
) -> FloatArray:
    """Evaluate the delta of a layer, into a new array.

    `parts` holds the data set and every shard's piece of the logits for the
    output layer. For a hidden layer it holds this shard's residual and what
    `backward` returned: every shard's piece of the sum, or below the output
    layer, which is row-parallel, this shard's product.
    """
    network, split = shard.network, shard.split
    last = split.output_layer
    first, *pieces = parts
    if layer == last:
        # In place: `prediction` is this task's own.
        prediction = predict(shard, pieces)
        return output_delta(network, prediction, first, rows, batch, out=prediction)
    if layer < last - 1:
        columns = split.ranges[layer][shard.rank].columns
        pieces = [piece[:, columns] for piece in pieces]
    # A new array even of a single piece, since `backward` works in place.
    delta = sum_in_order(pieces)
    if (dropout := shard.state.dropout(network, layer + 1)) is not None:
        columns = split.ranges[layer][shard.rank].columns
        delta *= dropout.mask(columns, np.empty_like(delta))
    network.layers[layer].nonlinearity.backward(first, delta)
    return delta
