"""What training asks of one shard that computes in place, around its operations."""

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np

from skdistmlp.nn.layers import Network
from skdistmlp.nn.types import FloatArray, Rows
from skdistmlp.parallel.communicators import Communicator, Label
from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.grid import optimizer_parts
from skdistmlp.parallel.local_ops import LocalOps
from skdistmlp.parallel.ops import OpenNetwork
from skdistmlp.parallel.shard import ShardState, add_penalty
from skdistmlp.parallel.split import (
    NetworkSplit,
    consecutive_ranges,
    join_shards,
    take_shard,
)


def open_local_network(
    network: Network,
    split: NetworkSplit,
    state: ShardState,
    dataset: Dataset,
    communicator: Communicator,
    max_rows: int,
) -> OpenNetwork[FloatArray]:
    """Return one process's part, ready to train or predict; see `LocalOps`."""
    ops = LocalOps(network, split, state, dataset, communicator, max_rows)
    leader = CommunicatorLeader(communicator)
    loss = LocalLoss(ops, communicator)
    return OpenNetwork(
        network=network,
        ops=ops,
        outputs=LocalOutputs(network),
        leader=leader,
        loss=loss,
        state=LocalState(ops),
        objective=LocalObjective(ops, network, split, dataset, communicator, loss),
    )


class CommunicatorLeader:
    """Rank 0 decides, and the others are told.

    Parameters
    ----------
    communicator : Communicator
        This shard's end of the exchange.

    Attributes
    ----------
    alone_s : float
        See `Leader`; 0 at the other ranks.
    """

    def __init__(self, communicator: Communicator) -> None:
        self._communicator = communicator
        self.alone_s = 0.0

    @property
    def is_here(self) -> bool:
        """Whether this is rank 0."""
        return self._communicator.rank == 0

    def decides(self, value: float) -> float:
        """Return the value that rank 0 passed."""
        array = np.array([value], float)
        return float(self._communicator.broadcast(array, Label.DECISION)[0])

    def computes(self, function: Callable[[], float]) -> float:
        """Return what a function returns at rank 0, which alone calls it."""
        value = 0.0
        if self.is_here:
            begun = time.monotonic()
            value = function()
            self.alone_s += time.monotonic() - begun
        return self.decides(value)


class LocalOutputs:
    """Predictions from logits that are whole on every shard."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def predictions(self, logits: Iterable[FloatArray]) -> Iterator[FloatArray]:
        """Yield the outputs of each block in a new array; see `Outputs`."""
        for block in logits:
            outputs = block.copy()
            self._network.activate_output(outputs)
            yield outputs


class LocalLoss:
    """The loss of an epoch: of the rows of all replicas, and of all parameters."""

    def __init__(self, ops: LocalOps, communicator: Communicator) -> None:
        self._ops = ops
        self._communicator = communicator

    def pop(self) -> float:
        """Return the losses since the last call; see `EpochLoss`."""
        state = self._ops.state
        total = self.pop_with_penalty(state.penalty_sum)
        self._ops.state = replace(state, penalty_sum=0.0)
        return total

    def pop_with_penalty(self, penalty: float) -> float:
        """Return the losses summed so far plus the penalties of all parts."""
        losses = self._communicator.along("replicas").all_reduce(
            np.array([self._ops.loss_sum]), Label.ROW_LOSS, np.empty(1)
        )
        penalties = self._communicator.all_reduce(
            np.array([penalty]), Label.LOSS, np.empty(1)
        )
        total = float(losses[0]) + float(penalties[0])
        self._ops.loss_sum = 0.0
        return CommunicatorLeader(self._communicator).decides(total)


class LocalState:
    """The state that a shard trains in place; see `NetworkState`."""

    def __init__(self, ops: LocalOps) -> None:
        self._ops = ops

    @property
    def current(self) -> ShardState:
        """The state itself."""
        return self._ops.state

    def fetch(self) -> ShardState:
        """Return the state itself."""
        return self._ops.state

    def keep_best(self) -> None:
        """Copy the parameters, into the same array each time."""
        state, shown = self._ops.state, self._ops.shown()
        if state.best is None:
            self._ops.state = replace(state, best=shown.copy())
        else:
            np.copyto(state.best, shown)


class LocalObjective:
    """Loss and gradient of all rows, summed over blocks; see `Objective`."""

    def __init__(
        self,
        ops: LocalOps,
        network: Network,
        split: NetworkSplit,
        dataset: Dataset,
        communicator: Communicator,
        loss: LocalLoss,
    ) -> None:
        self._ops = ops
        self._network = network
        self._split = split
        self._dataset = dataset
        self._communicator = communicator
        self._shards = communicator.along("neurons")
        self._replicas = communicator.along("replicas")
        self._loss = loss
        self._leader = CommunicatorLeader(communicator)
        # The sum over earlier blocks, once there are any.
        self._gradient_sum: FloatArray | None = None
        self._spare_gradient: FloatArray | None = None

    def parameters(self) -> FloatArray:
        """Return the parameters of the whole network, in a new array."""
        return self._join(self._ops.state.parameters, Label.PARAMETERS)

    def set_parameters(self, parameters: FloatArray | None) -> bool:
        """Take over this shard's part of the parameters; see `Objective`."""
        if not self._leader.decides(parameters is not None):
            return False
        own = self._ops.state.parameters
        if parameters is None:
            parameters = np.empty(self._split.n_parameters, own.dtype)
        parameters = parameters.astype(own.dtype, copy=False)
        whole = self._communicator.broadcast(parameters, Label.PARAMETERS)
        take_shard(self._split, self._shards.rank, whole, out=own)
        self._gradient_sum = None
        self._ops.loss_sum = 0.0
        return True

    def add_gradient(self, rows: Rows, batch: Rows) -> None:
        """Add the gradient that `backward` wrote."""
        ops = self._ops
        if self._gradient_sum is not None:
            self._gradient_sum += ops.gradient
            return
        # The first block's gradient becomes the sum: `backward` writes elsewhere.
        self._gradient_sum = ops.gradient
        if self._spare_gradient is None:
            self._spare_gradient = np.empty_like(ops.gradient)
        ops.write_gradients_to(self._spare_gradient)
        self._spare_gradient = self._gradient_sum

    def loss_and_gradient(self, batch: Rows) -> tuple[float, FloatArray]:
        """Return loss and gradient of the whole network, in a new array."""
        assert self._gradient_sum is not None, "no block was computed"
        self._add_replicas(self._gradient_sum)
        n_rows, weight_sum = self._dataset.batch_totals(batch)
        penalty = add_penalty(
            self._network,
            self._split.layout(self._shards.rank).n_coefs,
            self._ops.state.parameters,
            self._gradient_sum,
            n_rows,
            weight_sum,
        )
        # Every replica has the same parameters, whose penalty counts once.
        if self._replicas.rank != 0:
            penalty = 0.0
        loss = self._loss.pop_with_penalty(penalty) / n_rows
        return loss, self._join(self._gradient_sum, Label.GRADIENT)

    def _add_replicas(self, gradient: FloatArray) -> None:
        """Overwrite a gradient of this replica's rows with that of all rows."""
        if self._replicas.n_ranks == 1:
            return
        parts = optimizer_parts(gradient.size, self._replicas.n_ranks)
        whole, label = gradient[np.newaxis], Label.GRADIENT
        own = self._replicas.reduce_scatter(whole, parts, label, None)
        self._replicas.all_gather(own, parts, label, whole)

    def _join(self, own: FloatArray, label: Label) -> FloatArray:
        """Return the flat array of the whole network from every shard's part."""
        split = self._split
        ranges = consecutive_ranges(
            [split.layout(rank).n_parameters for rank in range(split.n_shards)]
        )
        parts = self._shards.all_gather(
            own[np.newaxis],
            ranges,
            label,
            np.empty((1, ranges[-1].stop), own.dtype),
        )
        return join_shards(split, [parts[0, part.columns] for part in ranges])
