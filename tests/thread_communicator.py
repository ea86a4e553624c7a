"""A communicator between threads of one process, for tests with many shards."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, get_args

import numpy as np

from skdistmlp.exceptions import ExchangeError
from skdistmlp.nn.types import FloatArray
from skdistmlp.parallel.communicators import Communicator, sum_in_order
from skdistmlp.parallel.grid import Axis, Grid
from skdistmlp.parallel.split import NeuronRange

Result = TypeVar("Result")


class Table:
    """Where some threads lay what the others may read, and wait until all have."""

    def __init__(self, n_ranks: int, timeout_s: float) -> None:
        self.values: list[Any] = [None] * n_ranks
        self.barrier = threading.Barrier(n_ranks)
        self.timeout_s = timeout_s


class ThreadCollectives:
    """Exchanges among threads of one process, over a table that all can see."""

    def __init__(self, rank: int, table: Table) -> None:
        self.rank = rank
        self.n_ranks = len(table.values)
        self._table = table

    def all_gather(
        self,
        part: FloatArray,
        ranges: Sequence[NeuronRange],
        label: int,
        out: FloatArray | None,
    ) -> FloatArray:
        """Concatenate the shards' columns; see `Communicator`."""

        def joined(parts: list[FloatArray]) -> FloatArray:
            if out is None:
                return np.concatenate(parts, 1)
            for other, columns in zip(parts, ranges, strict=True):
                # A part may be a view of its own columns, which others still read.
                if not np.may_share_memory(other, out):
                    out[:, columns.columns] = other
            return out

        return self._exchange(part, joined)

    def reduce_scatter(
        self,
        piece: FloatArray,
        ranges: Sequence[NeuronRange],
        label: int,
        out: FloatArray | None,
    ) -> FloatArray:
        """Sum and keep this shard's columns; see `Communicator`."""
        columns = ranges[self.rank].columns
        return self._exchange(
            piece, lambda pieces: sum_in_order([p[:, columns] for p in pieces], out)
        )

    def all_reduce(
        self, piece: FloatArray, label: int, out: FloatArray | None
    ) -> FloatArray:
        """Sum the shards' pieces; see `Communicator`."""
        return self._exchange(piece, lambda pieces: sum_in_order(pieces, out))

    def broadcast(self, array: FloatArray, label: int) -> FloatArray:
        """Overwrite `array` with shard 0's; see `Communicator`."""

        def copied(arrays: list[FloatArray]) -> FloatArray:
            if self.rank != 0:
                np.copyto(array, arrays[0])
            return array

        return self._exchange(array, copied)

    def _exchange(self, mine: Any, combine: Callable[[list[Any]], Result]) -> Result:
        self._table.values[self.rank] = mine
        self._wait()
        result = combine(self._table.values)
        # No shard may overwrite what others still read.
        self._wait()
        return result

    def _wait(self) -> None:
        try:
            self._table.barrier.wait(self._table.timeout_s)
        except threading.BrokenBarrierError:
            raise ExchangeError(
                f"shard {self.rank} of {self.n_ranks} waited for a shard that has "
                f"failed, or that did not answer within {self._table.timeout_s:g} s"
            ) from None


class ThreadCommunicator(ThreadCollectives):
    """A communicator between threads of one process.

    Used where many shards are wanted and processes are not, above all in tests.
    """

    def __init__(self, rank: int, table: Table, axes: dict[Axis, ThreadCollectives]):
        super().__init__(rank, table)
        self._axes = axes

    def along(self, axis: Axis) -> ThreadCollectives:
        """Return the exchange along one axis; see `Communicator`."""
        return self._axes[axis]

    def begin_step(self) -> None:
        """Do nothing: the caller of the threads stops them."""


def run_in_threads(
    grid: Grid | int,
    shard: Callable[[Communicator], Result],
    timeout_s: float = 30.0,
) -> list[Result]:
    """Run `shard` once per rank, each in its own thread, and return the results.

    Parameters
    ----------
    grid : Grid or int
        The threads, or the number of shards of one replica.
    shard : callable
        Called with the communicator of each.
    timeout_s : float
        How long an exchange waits for the slowest.

    Returns
    -------
    list
        Results in the order of ranks.

    Raises
    ------
    Exception
        What the first shard to fail raised. The others end with
        `ExchangeError` instead of waiting for it.
    """
    if isinstance(grid, int):
        grid = Grid(grid)
    ranks = range(grid.n_ranks)
    # By the ranks that share them: all, those of each replica, those of each shard.
    tables: dict[range, Table] = {
        members: Table(len(members), timeout_s)
        for rank in ranks
        for members in (ranks, *(grid.along(axis, rank) for axis in get_args(Axis)))
    }
    failures: list[BaseException] = []

    def communicator(rank: int) -> ThreadCommunicator:
        axes = {}
        for axis in get_args(Axis):
            members = grid.along(axis, rank)
            axes[axis] = ThreadCollectives(members.index(rank), tables[members])
        return ThreadCommunicator(rank, tables[ranks], axes)

    def guarded(rank: int) -> Result:
        try:
            return shard(communicator(rank))
        except BaseException as failure:
            failures.append(failure)
            for table in tables.values():
                table.barrier.abort()
            raise

    with ThreadPoolExecutor(grid.n_ranks) as pool:
        results = [pool.submit(guarded, rank) for rank in ranks]
    if failures:
        raise failures[0]
    return [result.result() for result in results]
