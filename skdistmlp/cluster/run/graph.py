"""Tasks pinned to the workers that hold the shards of one network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from distributed import Client, Future

from skdistmlp.cluster._dask import pinned_graph
from skdistmlp.cluster.run.garbage import run_task
from skdistmlp.cluster.run.held import HeldFutures

Key: TypeAlias = tuple[str, str, str, int]
"""What the run does, the operation and its shard, run and step.

Dask's dashboard groups tasks by the first. A step of training needs the result of the
last one: if operations were groups, these would depend on each other in a circle, and
on groups that are gone. The page that draws groups can do neither.
"""

TRAIN, PREDICT, MEASURE = "mlp-train", "mlp-predict", "mlp-measure"
"""What runs do."""

SHARD = "shard{}".format
"""What names of tasks call a shard, where there is no more to say of it."""

RUN_DIGITS = 8
"""Length of the name of a run."""


def run_of(key: object) -> str | None:
    """Return the run that a key belongs to; None if it is not one of this package."""
    match key:
        case (str(), str(), str(run), int()) if len(run) == RUN_DIGITS:
            return run
    return None


class PinnedGraph:
    """Tasks of a run: noted one by one with `add`, sent together with `submit`.

    Parameters
    ----------
    client : Client
        A connected client.
    workers : tuple of str
        Address of the worker of each shard.
    run : str
        The third part of every key, and of no other run's.
    held : HeldFutures
        Takes all futures.
    group : str
        What the run does: the first part of every key.
    name : callable
        From a rank to what names of tasks call its shard.
    """

    def __init__(
        self,
        client: Client,
        workers: tuple[str, ...],
        run: str,
        held: HeldFutures,
        group: str = TRAIN,
        name: Callable[[int], str] = SHARD,
    ) -> None:
        self._client = client
        self._workers = workers
        self._run = run
        self._held = held
        self._group = group
        self._name = name
        self._step = 0
        self._tasks = self._no_tasks()

    def begin(self) -> None:
        """Start a step; forget tasks that an interrupt kept from being submitted.

        Each step has its own keys: Dask would return the result of the last step for a
        key that it has seen.
        """
        self._tasks = self._no_tasks()
        self._step += 1

    def key(self, rank: int, operation: str) -> Key:
        """Return the key of a task of this step."""
        task = f"{operation}-{self._name(rank)}"
        return self._group, task, self._run, self._step

    def add(
        self, rank: int, operation: str, function: Callable[..., Any], *args: Any
    ) -> Key:
        """Note a task on the worker of a shard, to be submitted with the others."""
        key = self.key(rank, operation)
        self._tasks[rank][key] = (run_task, function, *args)
        return key

    def submit(self, keys: list[Key]) -> list[Future[Any]]:
        """Send all noted tasks, each to its worker; return the futures of `keys`."""
        graph = pinned_graph(list(zip(self._tasks, self._workers, strict=True)))
        rank_of = {key: rank for rank, tasks in enumerate(self._tasks) for key in tasks}
        # The arguments of noted tasks hold the futures of the last states, whose memory
        # the workers free once these tasks have used them, unless they are kept here.
        self._tasks = self._no_tasks()
        futures: list[Future[Any]] = self._client.get(graph, keys, sync=False)
        self._held.add(
            (future, rank_of[key]) for future, key in zip(futures, keys, strict=True)
        )
        return futures

    def _no_tasks(self) -> list[dict[Key, tuple[Any, ...]]]:
        return [{} for _ in self._workers]
