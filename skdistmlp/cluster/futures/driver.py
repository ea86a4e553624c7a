"""The "futures" engine: every operation of a step is a Dask task.

One task a layer and shard goes forward, one backward; one a shard updates; one
a step computes the loss. Each is pinned to the worker that holds its shard.
Weights and moments stay on the workers from the first step to the last; the
client holds a future for each shard's newest state and one for each loss that
is still to come.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

from distributed import Client, Future

from skdistmlp.cluster.futures import tasks
from skdistmlp.cluster.run.placement import Key, Placement
from skdistmlp.nn.types import FloatArray, Rows
from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.shard import Network, ShardState, join_states, split_state
from skdistmlp.parallel.split import join_shards

STEPS_AHEAD = 2
"""Steps that may still be under way when the next is submitted: enough to hide
the client's own work. More would only keep more activations on the workers."""

BLOCKS_AHEAD = 4
"""Blocks of rows under way when predicting."""


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

    A context: on entry every shard is placed on its worker, on exit nothing
    of it is left on the cluster.

    Parameters
    ----------
    client : Client
        A connected client.
    workers : tuple of str
        Address of the worker of each shard.
    network : Network
        The network and its split.
    state : ShardState
        State of the whole network.
    dataset : Dataset
        The rows.
    stream_rows : bool
        Whether to send each block of rows when its turn comes, to be read
        once, instead of all rows at the start, to be read many times.
    owner : object, optional
        Whose network it is: it stays on the workers for the next group of the same
        owner; see `WorkerCache`. Only where it does not change.
    """

    def __init__(
        self,
        client: Client,
        workers: tuple[str, ...],
        network: Network,
        state: ShardState,
        dataset: Dataset,
        *,
        stream_rows: bool = False,
        owner: object = None,
    ) -> None:
        self.layers = network.split.layers
        self.is_leader = True
        self._tasks = Placement(client, workers)
        self._network = network
        self._initial = state
        self._dataset = dataset
        self._stream_rows = stream_rows
        self._owner = owner
        self._ranks = range(network.split.n_shards)
        self._shards: list[Future[Any]] = []
        self._rows: list[Future[Any]] = []
        self._best: list[Future[Any]] = []
        self._gradient_sums: list[Any] = []
        self._losses: deque[Future[Any]] = deque()
        self._under_way: deque[Future[Any]] = deque()
        # What `backward` was called with for each layer of this step.
        self._backward_calls: dict[int, tuple[TaskInputs, TaskInputs]] = {}
        self._loss_sum = 0.0
        self._first_of_epoch = True

    def __enter__(self) -> Self:
        try:
            self._tasks.open()
            self._place_all()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._release()

    def inputs(self, rows: Rows) -> TaskInputs:
        """Return the data sets on the workers; see `NetworkOps`."""
        self._tasks.begin()
        self._backward_calls = {}
        if not self._stream_rows:
            return TaskInputs([[future] for future in self._rows], rows)
        with self._tasks.translate_dask_errors("sending rows"):
            block = Dataset(self._dataset.inputs(rows))
            placed = self._tasks.place("rows", [block for _ in self._ranks])
            return TaskInputs([[future] for future in placed])

    def forward(self, layer: int, value: TaskInputs) -> TaskInputs:
        """Delegate one layer, a task a shard."""
        keys = [
            self._add(
                rank,
                f"forward-layer{layer}",
                tasks.forward,
                layer,
                value.args_by_shard[rank],
                value.rows,
            )
            for rank in self._ranks
        ]
        if layer + 1 == self._network.split.output_layer:
            return TaskInputs([[key] for key in keys])
        return TaskInputs([keys for _ in self._ranks])

    def output_delta(self, logits: TaskInputs, rows: Rows, batch: Rows) -> TaskInputs:
        """Delegate the loss; the delta is evaluated by the tasks that need it."""
        delta = [
            [future, *pieces]
            for future, pieces in zip(self._rows, logits.args_by_shard, strict=True)
        ]
        self._add(0, "loss", tasks.loss, delta[0], rows, batch)
        return TaskInputs(delta, rows, batch)

    def backward(self, layer: int, value: TaskInputs, delta: TaskInputs) -> TaskInputs:
        """Delegate what the layer before needs; gradients are left to `update`."""
        self._backward_calls[layer] = value, delta
        if layer == 0:
            return delta
        keys = [
            self._add(
                rank,
                f"backward-layer{layer}",
                tasks.backward,
                layer,
                delta.args_by_shard[rank],
                delta.rows,
                delta.batch,
            )
            for rank in self._ranks
        ]
        row_parallel = layer == self._network.split.output_layer
        return TaskInputs(
            [
                [
                    self._tasks.key(rank, f"forward-layer{layer - 1}"),
                    *([keys[rank]] if row_parallel else keys),
                ]
                for rank in self._ranks
            ]
        )

    def update(self, rows: Rows, learning_rate: float) -> None:
        """Delegate gradients and optimiser, a task a shard, and submit the step."""
        updated = [
            self._add(
                rank,
                "update",
                tasks.update,
                *self._gradient_arguments(rank),
                rows,
                learning_rate,
                self._first_of_epoch,
            )
            for rank in self._ranks
        ]
        with self._tasks.translate_dask_errors("training"):
            *shards, loss = self._tasks.submit([*updated, self._tasks.key(0, "loss")])
            # One assignment: an interrupt leaves all shards at the same step.
            self._shards = shards
            self._first_of_epoch = False
            self._await_losses(loss, STEPS_AHEAD)

    def set_parameters(self, parameters: FloatArray | None) -> bool:
        """Send every shard its part of the parameters; see `NetworkOps`."""
        if parameters is None:
            return False
        with self._tasks.translate_dask_errors("sending parameters"):
            self._tasks.begin()
            dtype = self._initial.parameters.dtype
            self._place_shards(ShardState(parameters.astype(dtype, copy=False)))
        self._gradient_sums = []
        self._losses.clear()
        self._loss_sum = 0.0
        return True

    def add_gradient(self, rows: Rows, batch: Rows) -> None:
        """Delegate gradients, a task a shard, and submit the block."""
        sums = self._gradient_sums or [None for _ in self._ranks]
        added = [
            self._add(
                rank,
                "gradient",
                tasks.add_gradient,
                *self._gradient_arguments(rank),
                rows,
                batch,
                sums[rank],
            )
            for rank in self._ranks
        ]
        with self._tasks.translate_dask_errors("training"):
            *sums, loss = self._tasks.submit([*added, self._tasks.key(0, "loss")])
            self._gradient_sums = sums
            self._await_losses(loss, BLOCKS_AHEAD)

    def loss_and_gradient(self, batch: Rows) -> tuple[float, FloatArray]:
        """Fetch the loss and every shard's gradient; see `NetworkOps`."""
        n_rows, _ = self._dataset.batch_totals(batch)
        with self._tasks.translate_dask_errors("training"):
            self._tasks.begin()
            ends = self._tasks.submit(
                [
                    self._add(
                        rank,
                        "evaluation",
                        tasks.loss_and_gradient,
                        self._gradient_sums[rank],
                        self._rows[rank],
                        batch,
                    )
                    for rank in self._ranks
                ]
            )
            losses = self._tasks.pop_results(*self._losses)
            penalties, gradients = zip(*self._tasks.pop_results(*ends), strict=True)
        total = sum(losses, self._loss_sum) + sum(penalties)
        return float(total) / n_rows, join_shards(self._network.split, gradients)

    def pop_epoch_loss(self) -> float:
        """Wait for the epoch's last steps; see `NetworkOps`."""
        if self._first_of_epoch:
            return 0.0
        with self._tasks.translate_dask_errors("training"):
            self._tasks.begin()
            sums = self._tasks.submit(
                [self._add(rank, "penalty", tasks.penalty) for rank in self._ranks]
            )
            losses = self._tasks.pop_results(*self._losses)
            penalties = self._tasks.pop_results(*sums)
        # In the order in which shards among peers add them.
        total = sum(losses, self._loss_sum) + sum(penalties)
        self._losses.clear()
        self._loss_sum = 0.0
        self._first_of_epoch = True
        return float(total)

    def predictions(self, logits: Iterable[TaskInputs]) -> Iterator[FloatArray]:
        """Fetch the outputs of each block, a few blocks behind; see `NetworkOps`."""
        for number, value in enumerate(logits):
            rank = number % len(self._ranks)
            key = self._add(rank, "predict", tasks.predict, value.args_by_shard[rank])
            with self._tasks.translate_dask_errors("predicting"):
                self._under_way += self._tasks.submit([key])
            if len(self._under_way) > BLOCKS_AHEAD:
                yield self._next_outputs()
        while self._under_way:
            yield self._next_outputs()

    def from_leader(self, value: float) -> float:
        """Return `value`: the client decides alone."""
        return value

    def keep_best(self) -> None:
        """Keep a reference to the parameters where they are."""
        with self._tasks.translate_dask_errors("training"):
            self._tasks.begin()
            self._best = self._tasks.submit(
                [self._add(rank, "best", tasks.parameters_of) for rank in self._ranks]
            )

    def restore_best(self) -> None:
        """Put the parameters last kept in place of the shards' own."""
        if not self._best:
            return
        with self._tasks.translate_dask_errors("training"):
            self._tasks.begin()
            self._shards = self._tasks.submit(
                [
                    self._add(rank, "restore", tasks.with_parameters, self._best[rank])
                    for rank in self._ranks
                ]
            )

    def collect(self) -> ShardState:
        """Return the state of the whole network."""
        with self._tasks.translate_dask_errors("collecting the weights"):
            shards: list[tasks.PlacedShard] = self._tasks.fetch(*self._shards)
        return join_states(self._network.split, [shard.state for shard in shards])

    def snapshot(self) -> ShardState:
        """Return the same, with the parameters last kept; no task changes a state."""
        state = self.collect()
        if not self._best:
            return state
        with self._tasks.translate_dask_errors("collecting the weights"):
            best = join_shards(self._network.split, self._tasks.fetch(*self._best))
        return replace(state, parameters=best)

    def _place_all(self) -> None:
        """Send every shard, and the rows if not streamed, to its worker.

        Nothing but the client's futures holds on to the initial states: once
        the first step has replaced them, the scheduler can forget each step as
        soon as it is done.
        """
        with self._tasks.translate_dask_errors("placing the network"):
            self._place_shards(self._initial)
            if not self._stream_rows:
                n, dataset = len(self._ranks), self._dataset
                sizes = n * [dataset.nbytes]
                self._rows = self._tasks.scatter_cached("rows", n * [dataset], sizes)

    def _place_shards(self, state: ShardState) -> None:
        states = split_state(self._network.split, state)
        shards = [
            tasks.PlacedShard(self._network, rank, part)
            for rank, part in enumerate(states)
        ]
        if self._owner is None:
            self._shards = self._tasks.place("shard", shards)
            return
        sizes = [part.parameters.nbytes for part in states]
        self._shards = self._tasks.scatter_cached("shard", shards, sizes, self._owner)

    def _release(self) -> None:
        """Let go of everything on the cluster."""
        self._backward_calls = {}
        self._tasks.close()

    def _add(
        self, rank: int, operation: str, function: Callable[..., Any], *args: Any
    ) -> Key:
        """Note a task whose first argument is the newest state of a shard."""
        return self._tasks.add(rank, operation, function, self._shards[rank], *args)

    def _gradient_arguments(self, rank: int) -> tuple[list[Any], list[Any]]:
        """Return what each layer's input and delta are made of on a shard."""
        calls = [self._backward_calls[layer] for layer in self.layers]
        return (
            [value.args_by_shard[rank] for value, _ in calls],
            [delta.args_by_shard[rank] for _, delta in calls],
        )

    def _await_losses(self, newest: Future[Any], n_ahead: int) -> None:
        """Count on a loss to come; wait until few enough are still to come."""
        self._losses.append(newest)
        while len(self._losses) > n_ahead:
            self._loss_sum += sum(self._tasks.pop_results(self._losses[0]))
            self._losses.popleft()

    def _next_outputs(self) -> FloatArray:
        """Wait for the oldest block under way."""
        with self._tasks.translate_dask_errors("predicting"):
            outputs: FloatArray
            (outputs,) = self._tasks.pop_results(self._under_way[0])
        self._under_way.popleft()
        return outputs
