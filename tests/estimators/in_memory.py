"""An engine for tests: under an estimator, a network split among threads."""

import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np

from skdistmlp.estimators import base
from skdistmlp.estimators.engines import EngineRequest
from skdistmlp.exceptions import ExchangeError
from skdistmlp.nn.types import FloatArray, Rows
from skdistmlp.parallel.buffered import BufferedShard
from skdistmlp.parallel.communicators import InMemory
from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.plan import Plan, Work
from skdistmlp.parallel.shard import Network, ShardState, join_states, split_state
from skdistmlp.parallel.split import NetworkSplit

TIMEOUT_S = 30.0


class PerShard(list[Any]):
    """A value: one array a shard."""


class ThreadsGroup:
    """Real shards, each in a thread of its own: a `ShardGroup` of `PerShard`."""

    leads = True

    def __init__(
        self, network: Network, state: ShardState, dataset: Dataset, max_rows: int
    ) -> None:
        self.layers = network.split.layers
        self._split = network.split
        n_shards = network.split.n_shards
        self._barrier = threading.Barrier(n_shards)
        table: list[Any] = [None] * n_shards
        self._shards = [
            BufferedShard(
                network,
                part,
                dataset,
                InMemory(rank, table, self._barrier, TIMEOUT_S),
                max_rows,
            )
            for rank, part in enumerate(split_state(network.split, state))
        ]
        self._pool = ThreadPoolExecutor(n_shards)

    def __enter__(self) -> "ThreadsGroup":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def inputs(self, rows: Rows) -> PerShard:
        return self._each("inputs", rows)

    def forward(self, layer: int, value: PerShard) -> PerShard:
        return self._each("forward", layer, value)

    def output_delta(self, logits: PerShard, rows: Rows, batch: Rows) -> PerShard:
        return self._each("output_delta", logits, rows, batch)

    def backward(self, layer: int, value: PerShard, delta: PerShard) -> PerShard:
        return self._each("backward", layer, value, delta)

    def update(self, rows: Rows, learning_rate: float) -> None:
        self._each("update", rows, learning_rate)

    def epoch_loss(self) -> float:
        return self._same("epoch_loss")

    def evaluate_at(self, parameters: FloatArray | None) -> bool:
        """Only shard 0 is told where."""
        others = [None] * (len(self._shards) - 1)
        return self._same("evaluate_at", PerShard([parameters, *others]))

    def accumulate(self, rows: Rows, batch: Rows) -> None:
        self._each("accumulate", rows, batch)

    def evaluation(self, batch: Rows) -> tuple[float, FloatArray]:
        return self._same("evaluation", batch)

    def predictions(self, logits: Iterable[PerShard]) -> Iterator[FloatArray]:
        for block in logits:
            (outputs,) = self._same("_listed", PerShard([one] for one in block))
            yield outputs

    def agree(self, value: float) -> float:
        return self._same("agree", value)

    def keep_best(self) -> None:
        self._each("keep_best")

    def restore_best(self) -> None:
        self._each("restore_best")

    def collect(self) -> ShardState:
        return join_states(self._split, self._each("collect"))

    def _each(self, operation: str, *args: Any) -> PerShard:
        """Call an operation of every shard at once; the first true error counts."""

        def call(rank: int, shard: BufferedShard) -> Any:
            own = [arg[rank] if isinstance(arg, PerShard) else arg for arg in args]
            try:
                if operation == "_listed":
                    return list(shard.predictions(*own))
                return getattr(shard, operation)(*own)
            except BaseException:
                self._barrier.abort()
                raise

        calls = [self._pool.submit(call, *item) for item in enumerate(self._shards)]
        errors = [error for c in calls if (error := c.exception()) is not None]
        for error in sorted(errors, key=lambda e: isinstance(e, ExchangeError)):
            raise error
        return PerShard(c.result() for c in calls)

    def _same(self, operation: str, *args: Any) -> Any:
        """Return what shard 0 does, after a look at whether all others agree."""
        first, *others = self._each(operation, *args)
        for other in others:
            np.testing.assert_equal(other, first)
        return first


@contextmanager
def split_by(shares: Sequence[float]) -> Iterator[None]:
    """Let every estimator train on a shard for each of `shares`, in this process."""

    @contextmanager
    def training_group(
        request: EngineRequest,
        network: Network,
        work: Work,
        state: ShardState,
        dataset: Dataset,
        max_rows: int,
    ) -> Iterator[tuple[Plan, ThreadsGroup]]:
        split = NetworkSplit.by_shares(network.split.layer_units, shares)
        network = replace(network, split=split)
        dataset = dataset.prepared(state.parameters.dtype)
        with ThreadsGroup(network, state, dataset, max_rows) as group:
            yield Plan("in memory", split, (), "a test asked for it"), group

    with patch.object(base, "training_group", training_group):
        yield
