"""One shard that computes in place, in buffers that it allocates once."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import accumulate

import numpy as np
from scipy.sparse import issparse

from skdistmlp.nn.optimizers import block_size, update
from skdistmlp.nn.types import Features, FloatArray, Rows, rows_at
from skdistmlp.parallel.communicators import Communicator
from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.shard import (
    Network,
    ShardState,
    add_penalty,
    affine,
    batch_loss,
    batch_penalty,
    gradient,
    hidden_forward,
    output_delta,
    propagate,
)
from skdistmlp.parallel.split import NeuronRange, join_shards, take_shard

OUTPUT_BLOCK_NUMBERS = 8192
"""Outputs whose loss is computed at a time: temporaries of 64 KiB in float64. Larger
ones go back to the system on Dask's workers, and their pages fault anew at each step:
with 200 rows of 400 outputs, logistic took 1.9 ms in blocks and 2.8 without."""


class LocalOps:
    """One shard among its peers: a `NetworkOps` whose values are arrays.

    With a communicator that has nobody to talk to, it is the whole network.
    A hidden value is this shard's part; whoever consumes it gathers.

    Parameters
    ----------
    network : Network
        The network and its split.
    state : ShardState
        This shard's part. Its arrays are trained in place.
    dataset : Dataset
        All rows, with all features; `X` in the dtype of the parameters.
    communicator : Communicator
        This shard's end of the exchange; its rank says which shard this is.
    max_rows : int
        The most rows of any step or block.
    """

    def __init__(
        self,
        network: Network,
        state: ShardState,
        dataset: Dataset,
        communicator: Communicator,
        max_rows: int,
    ) -> None:
        self._state = state
        self.layers = network.split.layers
        self._network = network
        self._communicator = communicator
        self._dataset = dataset
        self._max_rows = max_rows
        self._layout = network.split.layout(communicator.rank)
        self._coefs, self._intercepts = self._layout.views(state.parameters)
        self._write_gradients_to(np.empty_like(state.parameters))
        self._scratch = np.empty(block_size(state.parameters), state.parameters.dtype)
        self._buffers: dict[tuple[str, int], FloatArray] = {}
        # What a layer was last given, gathered forward and used again backward.
        self._given: dict[int, Features] = {}
        self._loss_sum = 0.0
        # Gradients of the blocks before, once there are any.
        self._gradient_sum: FloatArray | None = None
        self._spare_gradient: FloatArray | None = None
        self._best: FloatArray | None = None

    @property
    def is_leader(self) -> bool:
        """Whether this is shard 0."""
        return self._communicator.rank == 0

    def inputs(self, rows: Rows) -> Features:
        """Return the features of `rows`; see `NetworkOps`."""
        self._communicator.begin_step()
        if issparse(self._dataset.X):
            return self._dataset.inputs(rows)
        return self._dataset.inputs(
            rows, self._buffer("inputs", 0, self._max_rows, self._dataset.X.shape[1])
        )

    def forward(self, layer: int, value: Features) -> FloatArray:
        """Return this shard's activations, or everybody's logits."""
        coef, intercept = self._coefs[layer], self._intercepts[layer]
        n_rows = value.shape[0]
        out = self._buffer("activations", layer, n_rows, coef.shape[1])
        if layer == self._network.split.output_layer:
            self._given[layer] = value
            piece = affine(value, coef, intercept, out)
            logits = self._buffer("logits", layer, n_rows, coef.shape[1])
            return self._communicator.all_reduce(piece, layer, logits)
        given = self._gather(layer, value)
        self._given[layer] = given
        return hidden_forward(self._network, given, coef, intercept, out)

    def output_delta(self, logits: FloatArray, rows: Rows, batch: Rows) -> FloatArray:
        """Overwrite `logits` with their delta; see `NetworkOps`."""
        network = self._network
        network.output_head.apply(logits)
        block = max(1, OUTPUT_BLOCK_NUMBERS // logits.shape[1])
        for start in range(0, len(logits), block):
            part = slice(start, min(start + block, len(logits)))
            outputs, there = logits[part], rows_at(rows, part)
            self._loss_sum += batch_loss(network, outputs, self._dataset, there, batch)
            output_delta(outputs, self._dataset, there, batch, out=outputs)
        return logits

    def backward(self, layer: int, value: Features, delta: FloatArray) -> FloatArray:
        """Write the layer's gradient; return this shard's delta below."""
        coef = self._coefs[layer]
        gradient(
            self._given[layer],
            delta,
            self._coef_gradients[layer],
            self._intercept_gradients[layer],
        )
        if layer == 0:
            return delta
        below = propagate(
            delta, coef, self._buffer("propagated", layer, len(delta), coef.shape[0])
        )
        if layer != self._network.split.output_layer:
            below = self._communicator.reduce_scatter(
                below,
                self._network.split.ranges[layer - 1],
                layer,
                self._buffer("deltas", layer, *value.shape),
            )
        self._network.hidden_activation.chain(value, below)
        return below

    def update(self, rows: Rows, learning_rate: float) -> None:
        """Take a step with the gradient that `backward` wrote."""
        state, network = self._state, self._network
        assert state.optimizer is not None, "a group to predict with cannot train"
        n_rows, weight_sum = self._dataset.batch_totals(rows)
        optimizer, squared_norm = update(
            state.optimizer,
            state.parameters,
            self._gradient,
            learning_rate,
            n_penalised=self._layout.n_coefs,
            penalty=network.alpha / weight_sum,
            scratch=self._scratch,
        )
        penalty = batch_penalty(network, squared_norm, n_rows, weight_sum)
        self._state = replace(
            state, optimizer=optimizer, penalty_sum=state.penalty_sum + penalty
        )

    def pop_epoch_loss(self) -> float:
        """Return the epoch's loss, the same number on every shard."""
        loss = self._settled_loss(self._state.penalty_sum)
        self._state = replace(self._state, penalty_sum=0.0)
        return loss

    def set_parameters(self, parameters: FloatArray | None) -> bool:
        """Take over this shard's part of the parameters; see `NetworkOps`."""
        if not self.from_leader(parameters is not None):
            return False
        own = self._state.parameters
        if parameters is None:
            parameters = np.empty(self._network.split.n_parameters, own.dtype)
        whole = self._communicator.broadcast(parameters.astype(own.dtype, copy=False))
        take_shard(self._network.split, self._communicator.rank, whole, out=own)
        self._gradient_sum = None
        self._loss_sum = 0.0
        return True

    def add_gradient(self, rows: Rows, batch: Rows) -> None:
        """Add the gradient that `backward` wrote."""
        if self._gradient_sum is not None:
            self._gradient_sum += self._gradient
            return
        self._gradient_sum = self._gradient
        if self._spare_gradient is None:
            self._spare_gradient = np.empty_like(self._gradient)
        self._write_gradients_to(self._spare_gradient)
        self._spare_gradient = self._gradient_sum

    def loss_and_gradient(self, batch: Rows) -> tuple[float, FloatArray]:
        """Return loss and gradient of the whole network, in a new array."""
        assert self._gradient_sum is not None, "no block was computed"
        n_rows, weight_sum = self._dataset.batch_totals(batch)
        penalty = add_penalty(
            self._network,
            self._layout.n_coefs,
            self._state.parameters,
            self._gradient_sum,
            n_rows,
            weight_sum,
        )
        return self._settled_loss(penalty) / n_rows, self._joined(self._gradient_sum)

    def predictions(self, logits: Iterable[FloatArray]) -> Iterator[FloatArray]:
        """Yield the outputs of each block, as arrays of their own."""
        for block in logits:
            outputs = block.copy()
            self._network.output_head.apply(outputs)
            yield outputs

    def from_leader(self, value: float) -> float:
        """Return the value that shard 0 has."""
        return float(self._communicator.broadcast(np.array([value], float))[0])

    def keep_best(self) -> None:
        """Copy the parameters."""
        if self._best is None:
            self._best = np.empty_like(self._state.parameters)
        np.copyto(self._best, self._state.parameters)

    def restore_best(self) -> None:
        """Copy back the parameters last kept, if any were."""
        if self._best is not None:
            np.copyto(self._state.parameters, self._best)

    def collect(self) -> ShardState:
        """Return this shard's state."""
        return self._state

    def snapshot(self) -> ShardState:
        """Return a copy of this shard's state, with the parameters last kept."""
        optimizer = self._state.optimizer
        if optimizer is not None:
            moments = tuple(moment.copy() for moment in optimizer.moments)
            optimizer = replace(optimizer, moments=moments)
        parameters = self._state.parameters if self._best is None else self._best
        return ShardState(parameters.copy(), optimizer)

    def _write_gradients_to(self, flat: FloatArray) -> None:
        self._gradient = flat
        self._coef_gradients, self._intercept_gradients = self._layout.views(flat)

    def _settled_loss(self, penalty: float) -> float:
        """Return the losses summed so far, and all shards' penalties; begin anew."""
        penalties = self._communicator.all_reduce(
            np.array([penalty]), self._network.split.output_layer, np.empty(1)
        )
        total = self._loss_sum + float(penalties[0])
        self._loss_sum = 0.0
        return self.from_leader(total)

    def _joined(self, own: FloatArray) -> FloatArray:
        """Return the flat array of the whole network from every shard's part."""
        split = self._network.split
        sizes = [split.layout(rank).n_parameters for rank in range(split.n_shards)]
        stops = list(accumulate(sizes))
        ranges = [NeuronRange(b - n, b) for b, n in zip(stops, sizes, strict=True)]
        parts = self._communicator.all_gather(
            own[np.newaxis],
            ranges,
            split.output_layer,
            np.empty((1, stops[-1]), own.dtype),
        )
        return join_shards(split, [parts[0, part.columns] for part in ranges])

    def _gather(self, layer: int, part: Features) -> Features:
        if layer == 0:
            return part
        split = self._network.split
        out = self._buffer("gathered", layer, len(part), split.layer_units[layer])
        return self._communicator.all_gather(part, split.ranges[layer - 1], layer, out)

    def _buffer(self, use: str, layer: int, n_rows: int, width: int) -> FloatArray:
        """Return rows of the buffer for one use, allocated at its first."""
        buffer = self._buffers.get((use, layer))
        if buffer is None:
            dtype = self._state.parameters.dtype
            buffer = np.empty((self._max_rows, width), dtype)
            self._buffers[use, layer] = buffer
        return buffer[:n_rows]
