"""The "futures" engine: every operation of a step is a Dask task.

Per layer and shard there is one forward and one backward task; per shard, one
update; per step, one loss. Each is pinned to the worker that holds its shard.
Parameters and moments stay on the workers from the first step to the last; the
client holds a future for each shard's newest state and one for each loss that
has not arrived yet.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any

from distributed import Future

from skdistmlp.cluster.futures import tasks
from skdistmlp.cluster.run.graph import Key
from skdistmlp.cluster.run.placement import Placement
from skdistmlp.nn.layers import Network
from skdistmlp.nn.types import Rows
from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.shard import ShardState, split_state
from skdistmlp.parallel.split import NetworkSplit

STEPS_AHEAD = 2
"""Steps that may still be under way when the next is submitted: enough to hide
the client's own work. More would only keep more activations on the workers."""


@dataclass(frozen=True)
class TaskInputs:
    """A value: for every shard, what its consumer's task is given.

    Attributes
    ----------
    args_by_shard : list of list
        Keys and futures; `skdistmlp.cluster.futures.tasks` says what they mean.
    rows : slice or ndarray of int, or None
        Rows to take where the list begins with a data set; None for all.
    batch : slice or ndarray of int, or None
        For a delta, the rows that the loss is averaged over.
    """

    args_by_shard: list[list[Any]]
    rows: Rows | None = None
    batch: Rows | None = None


class FuturesOps:
    """All shards of a network on a cluster: a `NetworkOps` of Dask futures.

    Parameters
    ----------
    tasks : Placement
        The run that holds shards and rows.
    network : Network
        The whole network.
    split : NetworkSplit
        Which shard has which of its neurons.
    dataset : Dataset
        The rows.
    stream_rows : bool
        Whether to send each block of rows when its turn comes, to be read
        once, instead of all rows at the start, to be read many times.

    Attributes
    ----------
    shards, rows : list of Future
        Each shard's newest state, and its rows unless they are streamed.
    loss_sum : float
        Losses of the epoch's steps that have been fetched.
    losses : deque of Future
        Losses of the steps in flight.
    is_epoch_start : bool
        Whether no step was taken since the epoch's loss was last asked for.
    """

    def __init__(
        self,
        tasks: Placement,
        network: Network,
        split: NetworkSplit,
        dataset: Dataset,
        stream_rows: bool = False,
    ) -> None:
        self.layers = split.layers
        self.ranks = range(split.n_shards)
        self.shards: list[Future[Any]] = []
        self.rows: list[Future[Any]] = []
        self.losses: deque[Future[Any]] = deque()
        self.loss_sum = 0.0
        self.is_epoch_start = True
        self._tasks = tasks
        self._network = network
        self._split = split
        self._dataset = dataset
        self._stream_rows = stream_rows
        # What `backward` was called with for each layer of this step.
        self._backward_calls: dict[int, tuple[TaskInputs, TaskInputs]] = {}

    def expect(self, rows: Rows) -> None:
        """Do nothing: a graph is submitted before the last one has been computed."""

    def inputs(self, rows: Rows) -> TaskInputs:
        """Return the data sets on the workers; see `NetworkOps`."""
        self._tasks.begin()
        self._backward_calls = {}
        if not self._stream_rows:
            return TaskInputs([[future] for future in self.rows], rows)
        self._tasks.phase = "sending rows"
        block = Dataset(self._dataset.inputs(rows))
        placed = self._tasks.scatter("rows", [block for _ in self.ranks])
        return TaskInputs([[future] for future in placed])

    def forward(self, layer: int, value: TaskInputs, *, training: bool) -> TaskInputs:
        """Add one task per shard for a layer.

        Whether `training` or not, results stay on the workers until no task of the
        step needs them any more.
        """
        keys = [
            self.add(
                rank,
                f"forward-layer{layer}",
                tasks.forward,
                layer,
                value.args_by_shard[rank],
                value.rows,
                training,
            )
            for rank in self.ranks
        ]
        if layer + 1 == self._split.output_layer:
            return TaskInputs([[key] for key in keys])
        return TaskInputs([keys for _ in self.ranks])

    def output_delta(self, logits: TaskInputs, rows: Rows, batch: Rows) -> TaskInputs:
        """Add a task for the loss; tasks that need the delta evaluate it themselves."""
        delta = [
            [future, *pieces]
            for future, pieces in zip(self.rows, logits.args_by_shard, strict=True)
        ]
        self.add(0, "loss", tasks.loss, delta[0], rows, batch)
        return TaskInputs(delta, rows, batch)

    def backward(self, layer: int, value: TaskInputs, delta: TaskInputs) -> TaskInputs:
        """Add tasks for the delta of the layer before; `update` computes gradients."""
        self._backward_calls[layer] = value, delta
        if layer == 0:
            return delta
        keys = [
            self.add(
                rank,
                f"backward-layer{layer}",
                tasks.backward,
                layer,
                delta.args_by_shard[rank],
                delta.rows,
                delta.batch,
            )
            for rank in self.ranks
        ]
        row_parallel = layer == self._split.output_layer
        return TaskInputs(
            [
                [
                    self._tasks.key(rank, f"forward-layer{layer - 1}"),
                    *([keys[rank]] if row_parallel else keys),
                ]
                for rank in self.ranks
            ]
        )

    def update(self, rows: Rows, learning_rate: float) -> None:
        """Add one task per shard for gradients and optimiser, and submit the step."""
        clips = self._network.max_grad_norm is not None
        add_updates = self._add_clipped_updates if clips else self._add_updates
        updated = add_updates(rows, learning_rate)
        self._tasks.phase = "training"
        *shards, loss = self._tasks.submit([*updated, self._tasks.key(0, "loss")])
        # One assignment of all shards: an interrupt leaves all of them at one step, the
        # last or this one.
        self.shards = shards
        self.is_epoch_start = False
        self.await_losses(loss, STEPS_AHEAD)

    def _add_updates(self, rows: Rows, learning_rate: float) -> list[Key]:
        return [
            self.add(
                rank,
                "update",
                tasks.update,
                *self.gradient_arguments(rank),
                rows,
                learning_rate,
                self.is_epoch_start,
            )
            for rank in self.ranks
        ]

    def _add_clipped_updates(self, rows: Rows, learning_rate: float) -> list[Key]:
        """Add tasks for gradients and norms first: each update needs all norms."""
        gradients = [
            self.add(
                rank,
                "step-gradient",
                tasks.step_gradient,
                *self.gradient_arguments(rank),
                rows,
            )
            for rank in self.ranks
        ]
        norms = [
            self.add(
                rank, "norm", tasks.squared_norm, gradients[rank], self.rows[rank], rows
            )
            for rank in self.ranks
        ]
        return [
            self.add(
                rank,
                "update",
                tasks.clipped_update,
                gradients[rank],
                norms,
                self.rows[rank],
                rows,
                learning_rate,
                self.is_epoch_start,
            )
            for rank in self.ranks
        ]

    def add(
        self, rank: int, operation: str, function: Callable[..., Any], *args: Any
    ) -> Key:
        """Note a task whose first argument is the newest state of a shard."""
        return self._tasks.add(rank, operation, function, self.shards[rank], *args)

    def gradient_arguments(self, rank: int) -> tuple[list[Any], list[Any]]:
        """Return what each layer's input and delta are made of on a shard."""
        calls = [self._backward_calls[layer] for layer in self.layers]
        return (
            [value.args_by_shard[rank] for value, _ in calls],
            [delta.args_by_shard[rank] for _, delta in calls],
        )

    def await_losses(self, newest: Future[Any], n_ahead: int) -> None:
        """Note a loss that is being computed; wait until few enough are.

        This is what bounds the steps in flight: without it, the client would submit
        faster than the workers compute, and fill their memory with activations.
        """
        self.losses.append(newest)
        while len(self.losses) > n_ahead:
            # Removed only once it is added: an interrupt in between loses no loss.
            newly_done = self._tasks.pop_results(self.losses[0])
            self.loss_sum = add_in_order(newly_done, self.loss_sum)
            self.losses.popleft()

    def place_shards(self, state: ShardState, owner: object = None) -> None:
        """Send every shard its part of a state, but for the best parameters.

        With an `owner` it stays on the workers for the next run; see `WorkerCache`.
        """
        states = split_state(self._split, replace(state, best=None))
        shards = [
            tasks.PlacedShard(self._network, self._split, rank, part)
            for rank, part in enumerate(states)
        ]
        if owner is None:
            self.shards = self._tasks.scatter("shard", shards)
            return
        sizes = [part.parameters.nbytes for part in states]
        self.shards = self._tasks.scatter_cached("shard", shards, sizes, owner)


def add_in_order(values: Iterable[float], start: float = 0.0) -> float:
    """Add numbers one by one, as shards among peers do.

    From Python 3.12 on, `sum` of floats is more exact than that: its last bits differ.
    """
    return reduce(add, values, start)
