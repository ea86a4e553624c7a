"""The "futures" engine: every operation of a step is a Dask task.

One task a layer and shard goes forward, one backward; one a shard updates; one
a step computes the loss. Each is pinned to the worker that holds its shard.
Weights and moments stay on the workers from the first step to the last; the
client holds a future for each shard's newest state and one for each loss that
is still to come.
"""

import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from types import TracebackType
from typing import Any, Self, TypeAlias

from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from distributed import Client, Future

from skdistmlp.cluster import tasks
from skdistmlp.cluster.client import explained
from skdistmlp.nn.types import FloatArray, Rows
from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.shard import Network, ShardState, join_states, split_state

Key: TypeAlias = tuple[str, str, int]

STEPS_AHEAD = 2
"""Steps that may still be under way when the next is submitted: enough to hide
the client's own work. More would only keep more activations on the workers."""

WORKER_CHECK_S = 2.0
"""Seconds between looks at the list of workers while waiting for a task."""

BLOCKS_AHEAD = 4
"""Blocks of rows under way when predicting."""


@dataclass(frozen=True)
class Given:
    """A value: for every shard, what its consumer's task is given.

    Attributes
    ----------
    by_shard : list of list
        Keys and futures; `skdistmlp.cluster.tasks` says what they mean.
    rows : slice or ndarray of int, or None
        Rows to take where the list begins with a data set; None for all.
    """

    by_shard: list[list[Any]]
    rows: Rows | None = None


class FuturesGroup:
    """All shards of a network on a cluster: a `ShardGroup` of Dask futures.

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
    ) -> None:
        self.layers = network.split.layers
        self._client = client
        self._workers = workers
        self._network = network
        self._initial = state
        self._dataset = dataset
        self._stream_rows = stream_rows
        self._ranks = range(network.split.n_shards)
        self._outside_tasks = ThreadPoolExecutor(1)
        self._run = uuid.uuid4().hex[:8]
        self._step = 0
        # Tasks of each shard that are still to be submitted.
        self._tasks: list[dict[Key, tuple[Any, ...]]] = []
        self._shards: list[Future[Any]] = []
        self._rows: list[Future[Any]] = []
        self._best: list[Future[Any]] = []
        self._losses: deque[Future[Any]] = deque()
        self._under_way: deque[Future[Any]] = deque()
        # What `backward` was called with for each layer of this step.
        self._backward_calls: dict[int, tuple[Given, Given]] = {}
        self._loss_sum = 0.0
        self._first_of_epoch = True

    def __enter__(self) -> Self:
        try:
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

    def inputs(self, rows: Rows) -> Given:
        """Return the data sets on the workers; see `ShardGroup`."""
        self._begin()
        if not self._stream_rows:
            return Given([[future] for future in self._rows], rows)
        with self._explained("sending rows"):
            block = Dataset(self._dataset.inputs(rows))
            return Given([[self._place("rows", rank, block)] for rank in self._ranks])

    def forward(self, layer: int, value: Given) -> Given:
        """Delegate one layer, a task a shard."""
        keys = [
            self._add(
                rank,
                f"forward-layer{layer}",
                tasks.forward,
                layer,
                value.by_shard[rank],
                value.rows,
            )
            for rank in self._ranks
        ]
        if layer + 1 == self._network.split.output_layer:
            return Given([[key] for key in keys])
        return Given([keys for _ in self._ranks])

    def output_delta(self, logits: Given, rows: Rows) -> Given:
        """Delegate the loss; the delta is evaluated by the tasks that need it."""
        delta = [
            [future, *pieces]
            for future, pieces in zip(self._rows, logits.by_shard, strict=True)
        ]
        self._add(0, "loss", tasks.loss, delta[0], rows)
        return Given(delta, rows)

    def backward(self, layer: int, value: Given, delta: Given) -> Given:
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
                delta.by_shard[rank],
                delta.rows,
            )
            for rank in self._ranks
        ]
        row_parallel = layer == self._network.split.output_layer
        return Given(
            [
                [
                    self._key(rank, f"forward-layer{layer - 1}"),
                    *([keys[rank]] if row_parallel else keys),
                ]
                for rank in self._ranks
            ]
        )

    def update(self, rows: Rows, learning_rate: float) -> None:
        """Delegate gradients and optimiser, a task a shard, and submit the step."""
        calls = [self._backward_calls[layer] for layer in self.layers]
        updated = [
            self._add(
                rank,
                "update",
                tasks.update,
                [value.by_shard[rank] for value, _ in calls],
                [delta.by_shard[rank] for _, delta in calls],
                rows,
                learning_rate,
                self._first_of_epoch,
            )
            for rank in self._ranks
        ]
        with self._explained("training"):
            *shards, loss = self._submit([*updated, self._key(0, "loss")])
            # One assignment: an interrupt leaves all shards at the same step.
            self._shards = shards
            self._first_of_epoch = False
            self._losses.append(loss)
            while len(self._losses) > STEPS_AHEAD:
                self._wait_for(self._losses[0])
                self._loss_sum += self._losses[0].result()
                self._losses.popleft()

    def epoch_loss(self) -> float:
        """Wait for the epoch's last steps; see `ShardGroup`."""
        if self._first_of_epoch:
            return 0.0
        with self._explained("training"):
            self._begin()
            sums = self._submit(
                [self._add(rank, "penalty", tasks.penalty) for rank in self._ranks]
            )
            self._wait_for(*self._losses, *sums)
            losses, penalties = self._client.gather([list(self._losses), sums])
        # In the order in which shards among peers add them.
        total = sum(losses, self._loss_sum) + sum(penalties)
        self._losses.clear()
        self._loss_sum = 0.0
        self._first_of_epoch = True
        return float(total)

    def predictions(self, logits: Iterable[Given]) -> Iterator[FloatArray]:
        """Fetch the outputs of each block, a few blocks behind; see `ShardGroup`."""
        for number, value in enumerate(logits):
            rank = number % len(self._ranks)
            key = self._add(rank, "predict", tasks.predict, value.by_shard[rank])
            with self._explained("predicting"):
                self._under_way += self._submit([key])
            if len(self._under_way) > BLOCKS_AHEAD:
                yield self._next_outputs()
        while self._under_way:
            yield self._next_outputs()

    def agree(self, value: float) -> float:
        """Return `value`: the client decides alone."""
        return value

    def keep_best(self) -> None:
        """Keep a reference to the parameters where they are."""
        with self._explained("training"):
            self._begin()
            self._best = self._submit(
                [self._add(rank, "best", tasks.parameters_of) for rank in self._ranks]
            )

    def restore_best(self) -> None:
        """Put the parameters last kept in place of the shards' own."""
        if not self._best:
            return
        with self._explained("training"):
            self._begin()
            self._shards = self._submit(
                [
                    self._add(rank, "restore", tasks.with_parameters, self._best[rank])
                    for rank in self._ranks
                ]
            )

    def collect(self) -> ShardState:
        """Return the state of the whole network."""
        with self._explained("collecting the weights"):
            self._wait_for(*self._shards)
            shards: Sequence[tasks.PlacedShard] = self._client.gather(self._shards)
        return join_states(self._network.split, [shard.state for shard in shards])

    def _place_all(self) -> None:
        """Send every shard, and the rows if not streamed, to its worker.

        Nothing but the client's futures holds on to the initial states: once
        the first step has replaced them, the scheduler can forget each step as
        soon as it is done.
        """
        with self._explained("placing the network"):
            states = split_state(self._network.split, self._initial)
            for rank, state in enumerate(states):
                shard = tasks.PlacedShard(self._network, rank, state)
                self._shards.append(self._place("shard", rank, shard))
                if not self._stream_rows:
                    self._rows.append(self._place("rows", rank, self._dataset))

    def _release(self) -> None:
        """Let go of everything on the cluster."""
        held = (self._shards, self._rows, self._best, self._losses, self._under_way)
        for future in chain.from_iterable(held):
            future.release()
        self._outside_tasks.shutdown(wait=False)
        self._begin()

    def _begin(self) -> None:
        """Forget tasks that an interrupt kept from being submitted; count on."""
        self._tasks = [{} for _ in self._ranks]
        self._backward_calls = {}
        self._step += 1

    def _next_outputs(self) -> FloatArray:
        """Wait for the oldest block under way."""
        with self._explained("predicting"):
            self._wait_for(self._under_way[0])
            outputs: FloatArray = self._under_way[0].result()
        self._under_way.popleft()
        return outputs

    def _wait_for(self, *futures: Future[Any]) -> None:
        """Wait for tasks, but not for a worker that is not coming back.

        When a worker dies, Dask cancels what depends on its shard. When it is
        retired, Dask saves the shard elsewhere, and the tasks that are pinned
        to the worker would wait without end.
        """
        for future in futures:
            while not future.done():
                try:
                    future.exception(timeout=WORKER_CHECK_S)
                except TimeoutError:
                    if not set(self._workers) <= set(self._client.nthreads()):
                        raise CancelledError from None

    def _key(self, rank: int, operation: str) -> Key:
        """Name a task; the dashboard groups tasks by the first part."""
        return f"{operation}-shard{rank}", self._run, self._step

    def _add(
        self, rank: int, operation: str, function: Callable[..., Any], *args: Any
    ) -> Key:
        """Note a task on one shard, to be submitted with the others."""
        key = self._key(rank, operation)
        self._tasks[rank][key] = (function, self._shards[rank], *args)
        return key

    def _submit(self, keys: list[Key]) -> list[Future[Any]]:
        """Send all tasks noted, pinned to their workers; return futures of `keys`."""
        layers = {
            f"shard{rank}": MaterializedLayer(
                self._tasks[rank], annotations={"workers": [self._workers[rank]]}
            )
            for rank in self._ranks
        }
        graph = HighLevelGraph(layers, {name: set() for name in layers})
        # What is noted holds the states of before; they are to go when used.
        self._tasks = [{} for _ in self._ranks]
        futures: list[Future[Any]] = self._client.get(graph, keys, sync=False)
        return futures

    def _place(self, name: str, rank: int, value: Any) -> Future[Any]:
        """Send one value to the worker of a shard.

        Inside a task, Dask would keep it on the task's own worker, whatever
        `workers` says. A thread of our own is not inside a task.
        """
        key = (f"{name}-shard{rank}", self._run, self._step)
        worker = self._workers[rank]
        placed: dict[Key, Future[Any]] = self._outside_tasks.submit(
            self._client.scatter, {key: value}, workers=[worker]
        ).result()
        return placed[key]

    def _explained(self, phase: str) -> Any:
        return explained(self._client, self._workers, phase)
