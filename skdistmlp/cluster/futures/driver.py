"""A network on the workers of a cluster, from placing it to cleaning up after it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Self

from distributed import Client, Future

from skdistmlp.cluster.futures import tasks
from skdistmlp.cluster.futures.ops import FuturesOps, TaskInputs, add_in_order
from skdistmlp.cluster.run.graph import PREDICT, TRAIN
from skdistmlp.cluster.run.placement import Placement
from skdistmlp.exceptions import ExchangeError, WorkerLostError
from skdistmlp.nn.layers import Network
from skdistmlp.nn.types import FloatArray, Rows
from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.ops import OpenNetwork
from skdistmlp.parallel.rows import COPIES
from skdistmlp.parallel.shard import ShardState, join_states
from skdistmlp.parallel.split import NetworkSplit, join_shards, take_shard
from skdistmlp.planning.cost import BLOCKS_AHEAD
from skdistmlp.planning.plan import Plan
from skdistmlp.training.loop import Log, quiet


@contextmanager
def open_futures_network(
    client: Client,
    workers: tuple[str, ...],
    network: Network,
    split: NetworkSplit,
    state: ShardState,
    dataset: Dataset,
    *,
    stream_rows: bool = False,
    owner: object = None,
    plan: Plan | None = None,
    log: Log = quiet,
) -> Iterator[OpenNetwork[TaskInputs]]:
    """Place every shard on its worker; afterwards, leave nothing on the cluster.

    Parameters
    ----------
    client : Client
        A connected client.
    workers : tuple of str
        Address of the worker of each shard.
    network : Network
        The whole network.
    split : NetworkSplit
        Which shard has which of its neurons.
    state : ShardState
        State of the whole network.
    dataset : Dataset
        The rows.
    stream_rows : bool
        Whether to send each block of rows when its turn comes, to be read
        once, instead of all rows at the start, to be read many times.
    owner : object, optional
        Whose network it is: it stays on the workers for the next run of the same
        owner; see `WorkerCache`. Only where it does not change.
    plan : Plan, optional
        Of training: says what each worker must have room for.
    log : callable
        Takes a line when workers that do other work are waited for.

    Yields
    ------
    OpenNetwork
        The network on its workers.

    Raises
    ------
    ClusterError
        If a worker has too little memory for the plan.
    """
    # Rows that are read once are predicted.
    group = PREDICT if stream_rows else TRAIN
    placement = Placement(client, workers, group, log=log)
    ops = FuturesOps(placement, network, split, dataset, stream_rows)
    state_of_network = FuturesState(ops, placement, split)
    try:
        placement.open()
        if plan is not None:
            placement.check_memory(plan, tasks.__name__)
        placement.phase = "placing the network"
        # Only the client's futures hold the initial states: once the first step
        # has replaced them, the scheduler can forget each step when it is done.
        ops.place_shards(state, owner)
        state_of_network.place_best(state)
        if not stream_rows:
            grid = Grid(split.n_shards)
            ops.rows = dataset.place_on(placement, grid, COPIES).futures
        yield OpenNetwork(
            network=network,
            ops=ops,
            outputs=FuturesOutputs(ops, placement),
            leader=ClientLeader(),
            loss=FuturesLoss(ops, placement),
            state=state_of_network,
            objective=FuturesObjective(ops, placement, split, dataset, state),
        )
    except (WorkerLostError, ExchangeError) as error:
        placement.note_silent(error)
        raise
    finally:
        try:
            placement.close()
        except KeyboardInterrupt:
            # It may have released only a part.
            placement.close()
            raise


class ClientLeader:
    """The client alone decides."""

    is_here = True
    alone_s = 0.0

    def decides(self, value: float) -> float:
        """Return `value`."""
        return value

    def computes(self, function: Callable[[], float]) -> float:
        """Return what a function returns."""
        return function()


class FuturesOutputs:
    """Predictions fetched a few blocks behind; see `Outputs`."""

    def __init__(self, ops: FuturesOps, placement: Placement) -> None:
        self._ops = ops
        self._placement = placement
        self._in_flight: deque[Future[Any]] = deque()

    def predictions(self, logits: Iterable[TaskInputs]) -> Iterator[FloatArray]:
        """Yield the outputs of each block of rows."""
        for number, value in enumerate(logits):
            rank = number % len(self._ops.ranks)
            key = self._ops.add(
                rank, "predict", tasks.predict, value.args_by_shard[rank]
            )
            self._placement.phase = "predicting"
            self._in_flight += self._placement.submit([key])
            if len(self._in_flight) > BLOCKS_AHEAD:
                yield self._next_outputs()
        while self._in_flight:
            yield self._next_outputs()

    def _next_outputs(self) -> FloatArray:
        """Wait for the oldest block in flight."""
        self._placement.phase = "predicting"
        outputs: FloatArray
        (outputs,) = self._placement.pop_results(self._in_flight[0])
        self._in_flight.popleft()
        return outputs


class FuturesLoss:
    """The loss of an epoch, from the tasks of its steps; see `EpochLoss`."""

    def __init__(self, ops: FuturesOps, placement: Placement) -> None:
        self._ops = ops
        self._placement = placement

    def pop(self) -> float:
        """Wait for the epoch's last steps; return its loss."""
        ops, placement = self._ops, self._placement
        if ops.is_epoch_start:
            return 0.0
        placement.phase = "training"
        placement.begin()
        sums = placement.submit(
            [ops.add(rank, "penalty", tasks.penalty) for rank in ops.ranks]
        )
        losses = placement.pop_results(*ops.losses)
        penalties = placement.pop_results(*sums)
        # In the order in which shards among peers add them.
        total = add_in_order(losses, ops.loss_sum) + add_in_order(penalties)
        ops.losses.clear()
        ops.loss_sum = 0.0
        ops.is_epoch_start = True
        return float(total)


class FuturesState:
    """The state of the shards on their workers; see `NetworkState`.

    No task changes what a future stands for, so keeping the best is to keep a future.
    """

    def __init__(
        self, ops: FuturesOps, placement: Placement, split: NetworkSplit
    ) -> None:
        self._ops = ops
        self._placement = placement
        self._split = split
        self._best: list[Future[Any]] = []

    @property
    def current(self) -> Self:
        """The object itself, which fetches the newest state.

        Not its futures: who kept those of an epoch's start would keep each of the
        epoch's tasks on the scheduler.
        """
        return self

    def fetch(self) -> ShardState:
        """Return the state of the whole network."""
        self._placement.phase = "collecting the parameters"
        shards: list[tasks.PlacedShard] = self._placement.fetch(*self._ops.shards)
        best = self._placement.fetch(*self._best)
        joined = join_states(self._split, [shard.state for shard in shards])
        if not best:
            return joined
        return replace(joined, best=join_shards(self._split, best))

    def keep_best(self) -> None:
        """Keep a reference to the parameters where they are."""
        self._placement.phase = "training"
        self._placement.begin()
        self._best = self._placement.submit(
            [
                self._ops.add(rank, "best", tasks.parameters_of)
                for rank in self._ops.ranks
            ]
        )

    def place_best(self, state: ShardState) -> None:
        """Send the best parameters of a state with which training continues."""
        if state.best is None:
            return
        split = self._split
        parts = [take_shard(split, rank, state.best) for rank in self._ops.ranks]
        self._best = self._placement.scatter("best", parts)


class FuturesObjective:
    """Loss and gradient of all rows, a few blocks in flight; see `Objective`."""

    def __init__(
        self,
        ops: FuturesOps,
        placement: Placement,
        split: NetworkSplit,
        dataset: Dataset,
        initial: ShardState,
    ) -> None:
        self._ops = ops
        self._placement = placement
        self._split = split
        self._dataset = dataset
        self._initial = initial
        self._gradient_sums: list[Any] = []
        # One list per block in flight: a future for each shard.
        self._ends: deque[list[Future[Any]]] = deque()

    def parameters(self) -> FloatArray:
        """Return the parameters that training starts from."""
        return self._initial.parameters

    def set_parameters(self, parameters: FloatArray | None) -> bool:
        """Send every shard its part of the parameters; see `Objective`."""
        if parameters is None:
            return False
        self._placement.phase = "sending parameters"
        self._placement.begin()
        dtype = self._initial.parameters.dtype
        self._ops.place_shards(ShardState(parameters.astype(dtype, copy=False)))
        self._gradient_sums = []
        self._ends.clear()
        self._ops.losses.clear()
        self._ops.loss_sum = 0.0
        return True

    def add_gradient(self, rows: Rows, batch: Rows) -> None:
        """Add one task per shard for its gradients, and submit the block."""
        ops = self._ops
        sums = self._gradient_sums or [None for _ in ops.ranks]
        added = [
            ops.add(
                rank,
                "gradient",
                tasks.add_gradient,
                *ops.gradient_arguments(rank),
                rows,
                batch,
                sums[rank],
            )
            for rank in ops.ranks
        ]
        ends = [
            ops.add(rank, "block-end", tasks.end_block, added[rank])
            for rank in ops.ranks
        ]
        self._placement.phase = "training"
        loss_key = self._placement.key(0, "loss")
        *sums, loss = self._placement.submit([*added, *ends, loss_key])
        self._gradient_sums = sums[: len(added)]
        self._ends.append(sums[len(added) :])
        ops.await_losses(loss, BLOCKS_AHEAD)
        # A worker whose gradient waits for the deltas of others begins the next block:
        # without this, the activations of all blocks could lie on it. Not the sums
        # themselves: to hold those of each block would take as many gradients.
        while len(self._ends) > BLOCKS_AHEAD:
            self._placement.wait_for(*self._ends[0])
            self._ends.popleft()

    def loss_and_gradient(self, batch: Rows) -> tuple[float, FloatArray]:
        """Fetch the loss and every shard's gradient; see `Objective`."""
        ops = self._ops
        n_rows, _ = self._dataset.batch_totals(batch)
        self._placement.phase = "training"
        self._placement.begin()
        ends = self._placement.submit(
            [
                ops.add(
                    rank,
                    "evaluation",
                    tasks.loss_and_gradient,
                    self._gradient_sums[rank],
                    ops.rows[rank],
                    batch,
                )
                for rank in ops.ranks
            ]
        )
        losses = self._placement.pop_results(*ops.losses)
        self._ends.clear()
        penalties, gradients = zip(*self._placement.pop_results(*ends), strict=True)
        total = add_in_order(losses, ops.loss_sum) + add_in_order(penalties)
        return float(total) / n_rows, join_shards(self._split, gradients)
