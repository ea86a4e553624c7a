"""One process that computes in place, in buffers that it allocates once."""

from dataclasses import replace

import numpy as np
from scipy.sparse import issparse

from skdistmlp.nn.layers import Network
from skdistmlp.nn.optimizers import (
    clipping_scale,
    new_scratch,
    squared_gradient_norm,
    update,
)
from skdistmlp.nn.types import Features, FloatArray, Rows, rows_at
from skdistmlp.parallel.communicators import Communicator, Exchange, Finished, Label
from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.gathered_inputs import GatheredInputs, HeldInputs
from skdistmlp.parallel.grid import optimizer_parts
from skdistmlp.parallel.overlap import GatherInHalves, gradient_meanwhile, part_of
from skdistmlp.parallel.shard import (
    ShardState,
    affine,
    batch_loss,
    batch_penalty,
    nonzero_totals,
    output_delta,
    propagate,
)
from skdistmlp.parallel.split import NetworkSplit, consecutive_ranges

OUTPUT_BLOCK_NUMBERS = 8192
"""Number of outputs whose loss is computed at a time: temporaries of 64 KiB in float64.
Dask's workers return larger ones to the system, and their pages then fault at every
step: with 200 rows of 400 outputs, logistic took 1.9 ms in blocks and 2.8 without."""


class LocalOps:
    """One shard of one replica: a `NetworkOps` whose values are arrays.

    With `SingleProcess` as its communicator, it is the whole network. A hidden value
    is this shard's part, of this replica's rows; its consumer gathers the others.
    The replicas meet in `update`, and where outputs are predicted.

    Parameters
    ----------
    network : Network
        The whole network.
    split : NetworkSplit
        Which shard has which of its neurons.
    state : ShardState
        This shard's parameters, and the part of its optimiser that belongs to this
        replica (see `optimizer_parts`). Its arrays are trained in place.
    dataset : Dataset
        All rows, or the features of those only that its distribution gives to this
        process; `X` in the dtype of the parameters.
    communicator : Communicator
        This process's end of the collectives.
    max_rows : int
        The largest number of rows of any step or block.

    Attributes
    ----------
    state : ShardState
        The state after the last step.
    gradient : ndarray of shape (n_parameters,)
        What `backward` wrote last, without the penalty: of this replica's rows.
    loss_sum : float
        Losses of this replica's rows since it was last set to 0, without the penalty.
    """

    def __init__(
        self,
        network: Network,
        split: NetworkSplit,
        state: ShardState,
        dataset: Dataset,
        communicator: Communicator,
        max_rows: int,
    ) -> None:
        self.state = state
        self.layers = split.layers
        self._network = network
        self._split = split
        self._activations = [layer.nonlinearity for layer in network.layers]
        self._communicator = communicator
        self._shards = communicator.along("neurons")
        self._replicas = communicator.along("replicas")
        self._dataset = dataset
        self._max_rows = max_rows
        self._layout = split.layout(self._shards.rank)
        self._trained = self._layout.views(state.parameters)
        n_replicas, n_parameters = self._replicas.n_ranks, self._layout.n_parameters
        self._parts = optimizer_parts(n_parameters, n_replicas)
        self._part = self._parts[self._replicas.rank]
        self._part_gradient = np.empty(
            (1, len(self._part) if n_replicas > 1 else 0), state.parameters.dtype
        )
        # The average of all parameters, where each replica keeps a part of it only.
        self._average: FloatArray | None = None
        if state.shown is not state.parameters and n_replicas > 1:
            self._average = np.empty_like(state.parameters)
        self._average_is_stale = True
        shown = state.shown if self._average is None else self._average
        self._shown = self._layout.views(shown)
        # Says which rows of a batch are this replica's; and those of the current one.
        self._distribution = dataset.distribution
        self._rows: Rows = slice(0, 0)
        self._features: HeldInputs | GatheredInputs = HeldInputs(dataset)
        if self._distribution.n_shards > 1:
            self._features = GatheredInputs(dataset, self._shards, max_rows)
        self.write_gradients_to(np.empty_like(state.parameters))
        self._scratch = new_scratch(state.parameters)
        self._buffers: dict[tuple[str, int], FloatArray] = {}
        # What `backward` needs of the last forward pass of training: the inputs of
        # each layer, all shards' gathered, and the residuals of the hidden ones.
        self._inputs: dict[int, Features] = {}
        self._residuals: dict[int, FloatArray] = {}
        self._masks: dict[int, FloatArray] = {}
        # How inputs of layers are gathered, by their number of rows; and those that are
        # on their way.
        self._gathers: dict[tuple[int, int], GatherInHalves] = {}
        self._arriving: dict[int, GatherInHalves] = {}
        self.loss_sum = 0.0

    def expect(self, rows: Rows) -> None:
        """Let the features of these rows travel while the next step computes."""
        self._features.expect(self._own(rows), self._inputs_buffer())

    def inputs(self, rows: Rows) -> Features:
        """Return the features of `rows`; see `NetworkOps`."""
        self._features.finish()
        self._communicator.begin_step()
        self._rows = rows
        return self._features.inputs(self._own(rows), self._inputs_buffer())

    def forward(self, layer: int, value: Features, *, training: bool) -> FloatArray:
        """Return this shard's activations, or the logits of the whole network.

        Without `training`, the logits are those of all replicas' rows.
        """
        if layer == 0 and not training:
            self.shown()
        coefs, intercepts = self._trained if training else self._shown
        coef, intercept = coefs[layer], intercepts[layer]
        # The layer before has begun to gather the input, if others have some of it.
        arriving = self._arriving.pop(layer, None)
        if training and arriving is None:
            value = self._dropped(layer, value)
        shape = value.shape[0], coef.shape[1]
        out = self._buffer("activations", layer, *shape)
        if layer == self._split.output_layer:
            piece = affine(value, coef, intercept, out)
            logits = self._buffer("logits", layer, *shape)
            if training:
                self._inputs[layer] = value
            logits = self._shards.all_reduce(piece, layer, logits)
            return logits if training else self._of_all_replicas(logits)
        activation = self._activations[layer]
        z = self._buffer("residuals", layer, *shape) if activation.keeps_input else out
        apply = activation.forward
        if training and activation.with_slope is not None:
            apply = activation.with_slope
        partial = z
        if arriving is not None and arriving.is_large:
            partial = self._buffer("partial", layer, *shape)
        following = self._following_gather(layer, len(out))
        for columns in [None] if following is None else following.columns:
            some = part_of(z, columns)
            if arriving is None:
                of_inputs = part_of(coef, columns), part_of(intercept, columns)
                affine(value, *of_inputs, some)
            else:
                arriving.affine(coef, intercept, z, partial, columns)
            some_out = part_of(out, columns)
            apply(some, some_out)
            if following is not None:
                if training:
                    some_out = self._dropped(layer + 1, out, columns)
                following.begin(some_out)
        if training:
            self._residuals[layer] = z
            self._inputs[layer] = value if arriving is None else arriving.whole
        return out

    def output_delta(self, logits: FloatArray, rows: Rows, batch: Rows) -> FloatArray:
        """Overwrite `logits` with their delta; see `NetworkOps`."""
        self._features.proceed()
        network = self._network
        own = self._own(rows)
        # Here too: this replica may have none of the rows, and no loss to divide.
        nonzero_totals(self._dataset, batch)
        network.activate_output(logits)
        block = max(1, OUTPUT_BLOCK_NUMBERS // logits.shape[1])
        for start in range(0, len(logits), block):
            part = slice(start, min(start + block, len(logits)))
            outputs, at = logits[part], rows_at(own, part)
            self.loss_sum += batch_loss(network, outputs, self._dataset, at, batch)
            output_delta(network, outputs, self._dataset, at, batch, out=outputs)
        return logits

    def backward(self, layer: int, value: Features, delta: FloatArray) -> FloatArray:
        """Write the layer's gradient; return this shard's delta below."""
        exchange = self._begin_propagating(layer, value, delta)
        gradient_meanwhile(
            exchange,
            0 if layer == 0 else value.nbytes,
            self._inputs[layer],
            delta,
            self._coef_gradients[layer],
            self._intercept_gradients[layer],
        )
        below = exchange.finish()
        if layer == 0:
            return below
        if layer in self._masks:
            below *= self._masks[layer]
        activation, residual = self._activations[layer - 1], self._residuals[layer - 1]
        if activation.with_slope is not None:
            below *= residual
        else:
            activation.backward(residual, below)
        return below

    def update(self, rows: Rows, learning_rate: float) -> None:
        """Take a step with the gradient that `backward` wrote."""
        state, network = self.state, self._network
        assert state.optimizer is not None, (
            "a network opened for prediction cannot train"
        )
        n_rows, weight_sum = self._dataset.batch_totals(rows)
        penalty = network.alpha / weight_sum
        parameters = state.parameters[self._part.columns]
        gradient = self._sum_of_replicas()
        n_coefs = max(0, min(self._layout.n_coefs, self._part.stop) - self._part.start)
        optimizer, squared_norm = update(
            state.optimizer,
            parameters,
            gradient,
            learning_rate,
            n_coefs=n_coefs,
            penalty=penalty,
            scale=self._clipping_scale(parameters, gradient, n_coefs, penalty),
            scratch=self._scratch,
        )
        self._gather_parts(parameters, Label.PARAMETERS, state.parameters)
        self._average_is_stale = True
        penalty = batch_penalty(network, squared_norm, n_rows, weight_sum)
        self.state = replace(
            state, optimizer=optimizer, penalty_sum=state.penalty_sum + penalty
        )

    def _clipping_scale(
        self,
        parameters: FloatArray,
        gradient: FloatArray,
        n_coefs: int,
        penalty: float,
    ) -> float:
        """Return what the gradient is multiplied by, from the norm of all its parts."""
        max_norm = self._network.max_grad_norm
        if max_norm is None:
            return 1.0
        own = squared_gradient_norm(
            parameters, gradient, n_coefs, penalty, self._scratch
        )
        total = self._communicator.all_reduce(
            np.array([own]), Label.GRADIENT_NORM, np.empty(1)
        )
        return clipping_scale(float(total[0]), max_norm)

    def shown(self) -> FloatArray:
        """Return the parameters to predict with; all replicas call it."""
        if self._average is None:
            return self.state.shown
        if self._average_is_stale:
            own = self.state.shown
            self._gather_parts(own, Label.AVERAGE, self._average)
            self._average_is_stale = False
        return self._average

    def write_gradients_to(self, flat: FloatArray) -> None:
        """Let `backward` write gradients into `flat`, shape (n_parameters,)."""
        self.gradient = flat
        self._coef_gradients, self._intercept_gradients = self._layout.views(flat)

    def _dropped(
        self, layer: int, value: Features, part: slice | None = None
    ) -> Features:
        """Return columns of a layer's input, this shard's part, thinned by dropout.

        The first call in a step is for the first columns, or for all: None. `value`
        always has all that are here.
        """
        dropout = self.state.dropout(self._network, layer)
        if dropout is None:
            return part_of(value, part)
        positions = None
        if self._replicas.n_ranks > 1:
            positions = self._distribution.positions(self._replicas.rank, self._rows)
        if issparse(value):
            return dropout.drop_stored(value, positions)
        if part is None or part.start == 0:
            columns = slice(0, value.shape[1])
            if layer > 0:
                columns = self._split.ranges[layer - 1][self._shards.rank].columns
            room = self._buffer("masks", layer, *value.shape)
            self._masks[layer] = dropout.mask(columns, room, positions)
        # Not in place: the activation may go backward from `value`, which may also be
        # the user's rows.
        return np.multiply(
            part_of(value, part),
            part_of(self._masks[layer], part),
            out=part_of(self._buffer("dropped", layer, *value.shape), part),
        )

    def _own(self, rows: Rows) -> Rows:
        """Return the rows of a batch that this replica computes."""
        return self._distribution.own(self._replicas.rank, rows)

    def _begin_propagating(
        self, layer: int, value: Features, delta: FloatArray
    ) -> Exchange:
        """Compute the delta below, and begin to sum it: it travels meanwhile."""
        if layer == 0:
            return Finished(delta)
        coef, split = self._trained.coefs[layer], self._split
        out = self._buffer("propagated", layer, len(delta), coef.shape[0])
        below = propagate(delta, coef, out)
        if layer == split.output_layer:
            return Finished(below)
        out = self._buffer("deltas", layer, *value.shape)
        ranges = split.ranges[layer - 1]
        return self._shards.begin_reduce_scatter(below, ranges, layer, out)

    def _following_gather(self, layer: int, n_rows: int) -> GatherInHalves | None:
        """Return how others get the output of a layer, if they need it."""
        following, split = layer + 1, self._split
        if following >= split.output_layer or self._shards.n_ranks == 1:
            return None
        gather = self._gathers.get((following, n_rows))
        if gather is None:
            size = n_rows, split.layer_units[following]
            out = self._buffer("gathered", following, *size)
            gather = GatherInHalves(self._shards, split.ranges[layer], following, out)
            self._gathers[following, n_rows] = gather
        self._arriving[following] = gather
        return gather

    def _of_all_replicas(self, logits: FloatArray) -> FloatArray:
        """Return the logits of all rows of the batch, in its order."""
        n_replicas = self._replicas.n_ranks
        if n_replicas == 1:
            return logits
        positions = [
            self._distribution.positions(replica, self._rows)
            for replica in range(n_replicas)
        ]
        shape = sum(map(len, positions)), logits.shape[1]
        gathered = self._buffer("gathered", self._split.output_layer, *shape)
        self._replicas.all_gather(
            logits.reshape(1, -1),
            consecutive_ranges([shape[1] * len(own) for own in positions]),
            Label.OUTPUTS,
            gathered.reshape(1, -1),
        )
        out = self._buffer("outputs", self._split.output_layer, *shape)
        out[np.concatenate(positions)] = gathered
        return out

    def _sum_of_replicas(self) -> FloatArray:
        """Return this replica's part of the gradient of all rows of the batch."""
        if self._replicas.n_ranks == 1:
            return self.gradient
        return self._replicas.reduce_scatter(
            self.gradient[np.newaxis], self._parts, Label.GRADIENT, self._part_gradient
        )[0]

    def _gather_parts(self, own: FloatArray, label: Label, out: FloatArray) -> None:
        """Write to `out` the parts of all replicas; `own` may be a view of it."""
        if self._replicas.n_ranks > 1:
            self._replicas.all_gather(
                own[np.newaxis], self._parts, label, out[np.newaxis]
            )

    def _inputs_buffer(self) -> FloatArray | None:
        """Return where dense features are put."""
        if self._dataset.nnz_per_row is not None:
            return None
        return self._buffer("inputs", 0, self._max_rows, self._dataset.X.shape[1])

    def _buffer(self, use: str, layer: int, n_rows: int, width: int) -> FloatArray:
        """Return rows of the buffer for one use, which is allocated at the first."""
        buffer = self._buffers.get((use, layer))
        if buffer is None:
            dtype = self.state.parameters.dtype
            buffer = np.empty((self._max_rows, width), dtype)
            self._buffers[use, layer] = buffer
        return buffer[:n_rows]
