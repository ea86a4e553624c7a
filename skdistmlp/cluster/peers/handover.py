"""Hand the state of all shards over to the client, between two rounds.

Not by tasks, as copies are taken: those do not start on a worker that is being retired
or paused. Both still answer calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from distributed import Client

from skdistmlp.cluster.client.rpc import submit_rpc, wait_while
from skdistmlp.cluster.peers import worker
from skdistmlp.cluster.peers.shard import ShardCopy
from skdistmlp.cluster.run.placement import Placement
from skdistmlp.parallel.shard import join_states
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.training.state import TrainingState


class HandOver:
    """Calls to the shards of one run, outside of tasks.

    Parameters
    ----------
    client : Client
        A connected client.
    tasks : Placement
        Of the run.
    run : bytes
        The run.
    """

    def __init__(self, client: Client, tasks: Placement, run: bytes) -> None:
        self._client = client
        self._tasks = tasks
        self._workers = tasks.workers
        self._run = run

    def withhold(self, rank: int, n_rounds: int) -> bool:
        """Have a shard begin no further round, if it has begun this number of them.

        While its task is queued, the other shards wait for it before their first step.
        So once this has returned True, the state of no shard changes any more.
        """
        (is_withheld,) = self._call([rank], worker.withhold, n_rounds)
        return bool(is_withheld)

    def copies(self) -> list[ShardCopy]:
        """Return the state of all shards, by way of the scheduler."""
        return self._call(range(len(self._workers)), worker.copy_in_place)

    def _call(
        self, ranks: Sequence[int], function: Callable[..., Any], *args: Any
    ) -> list[Any]:
        """Call a function for shards on their workers; return the results."""
        workers = [self._workers[rank] for rank in ranks]
        self._tasks.phase = "collecting the state of the shards"
        # One may be lost meanwhile: only if it is named, others take its place.
        with self._tasks.translate_dask_errors(), self._tasks.watch.naming_losses():
            answers: list[Future[Any]] = [
                submit_rpc(
                    self._client,
                    self._client.run,
                    *(function, self._run, rank, *args),
                    workers=[at],
                )
                for rank, at in zip(ranks, workers, strict=True)
            ]
            wait_while(self._tasks.watch.check, answers)
            return [
                answer.result()[at] for at, answer in zip(workers, answers, strict=True)
            ]


def join_training_states(
    split: NetworkSplit, states: Sequence[TrainingState]
) -> TrainingState:
    """Return the state of the whole network from those of its shards."""
    network = join_states(split, [state.network for state in states])
    return replace(states[0], network=network)
