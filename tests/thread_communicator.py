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
        self.n_ranks = n_ranks
        # By the number of the exchange: several may have been begun.
        self.values: dict[int, list[Any]] = {}
        self.n_begun = [0] * n_ranks
        self.lock = threading.Lock()
        self.barrier = threading.Barrier(n_ranks)
        self.timeout_s = timeout_s


class ThreadExchange:
    """An `Exchange` among threads: all of it happens when all finish it."""

    def __init__(self, finish: Callable[[], FloatArray]) -> None:
        self.finish = finish

    def advance(self) -> None:
        """Do nothing."""


class ThreadCollectives:
    """Exchanges among threads of one process, over a table that all can see."""

    def __init__(self, rank: int, table: Table) -> None:
        self.rank = rank
        self.n_ranks = table.n_ranks
        self._table = table

    def begin_all_gather(
        self,
        part: FloatArray,
        ranges: Sequence[NeuronRange],
        label: int,
        out: FloatArray | None,
    ) -> ThreadExchange:
        """Begin to concatenate the shards' columns; see `Collectives`."""

        def joined(parts: list[FloatArray]) -> FloatArray:
            if out is None:
                return np.concatenate(parts, 1)
            for other, columns in zip(parts, ranges, strict=True):
                # A part may be a view of its own columns, which others still read.
                if not np.may_share_memory(other, out):
                    out[:, columns.columns] = other
            return out

        return self._begin(part, joined)

    def begin_reduce_scatter(
        self,
        piece: FloatArray,
        ranges: Sequence[NeuronRange],
        label: int,
        out: FloatArray | None,
    ) -> ThreadExchange:
        """Begin to sum and keep this shard's columns; see `Collectives`."""
        columns = ranges[self.rank].columns
        return self._begin(
            piece, lambda pieces: sum_in_order([p[:, columns] for p in pieces], out)
        )

    def all_gather(
        self,
        part: FloatArray,
        ranges: Sequence[NeuronRange],
        label: int,
        out: FloatArray | None,
    ) -> FloatArray:
        """Concatenate the shards' columns; see `Collectives`."""
        return self.begin_all_gather(part, ranges, label, out).finish()

    def reduce_scatter(
        self,
        piece: FloatArray,
        ranges: Sequence[NeuronRange],
        label: int,
        out: FloatArray | None,
    ) -> FloatArray:
        """Sum and keep this shard's columns; see `Collectives`."""
        return self.begin_reduce_scatter(piece, ranges, label, out).finish()

    def all_reduce(
        self, piece: FloatArray, label: int, out: FloatArray | None
    ) -> FloatArray:
        """Sum the shards' pieces; see `Communicator`."""
        return self._begin(piece, lambda pieces: sum_in_order(pieces, out)).finish()

    def broadcast(self, array: FloatArray, label: int) -> FloatArray:
        """Overwrite `array` with shard 0's; see `Communicator`."""

        def copied(arrays: list[FloatArray]) -> FloatArray:
            if self.rank != 0:
                np.copyto(array, arrays[0])
            return array

        return self._begin(array, copied).finish()

    def _begin(
        self, mine: FloatArray, combine: Callable[[list[FloatArray]], FloatArray]
    ) -> ThreadExchange:
        table, number = self._table, self._table.n_begun[self.rank]
        table.n_begun[self.rank] += 1
        with table.lock:
            values = table.values.setdefault(number, [None] * self.n_ranks)
        values[self.rank] = mine

        def finish() -> FloatArray:
            # Whoever is here has begun this exchange, and all exchanges before it.
            self._wait()
            result = combine(values)
            # No shard may overwrite what others still read.
            self._wait()
            with table.lock:
                table.values.pop(number, None)
            return result

        return ThreadExchange(finish)

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
