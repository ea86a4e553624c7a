"""A communicator between threads of one process, for tests with many shards."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from skdistmlp.exceptions import ExchangeError
from skdistmlp.nn.types import FloatArray
from skdistmlp.parallel.communicators import Communicator, sum_in_order
from skdistmlp.parallel.split import NeuronRange

Result = TypeVar("Result")


class ThreadCommunicator:
    """A communicator between threads of one process.

    Every shard lays what it has on a table that all can see, and waits until
    all have. Used where many shards are wanted and processes are not, above
    all in tests.
    """

    def __init__(
        self, rank: int, table: list[Any], barrier: threading.Barrier, timeout_s: float
    ) -> None:
        self.rank = rank
        self.n_shards = len(table)
        self._table = table
        self._barrier = barrier
        self._timeout_s = timeout_s

    def all_gather(
        self,
        part: FloatArray,
        ranges: Sequence[NeuronRange],
        label: int,
        out: FloatArray | None,
    ) -> FloatArray:
        """Concatenate the shards' columns; see `Communicator`."""
        return self._exchange(part, lambda parts: np.concatenate(parts, 1, out=out))

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

    def begin_step(self) -> None:
        """Do nothing: the caller of the threads stops them."""

    def _exchange(self, mine: Any, combine: Callable[[list[Any]], Result]) -> Result:
        self._table[self.rank] = mine
        self._wait()
        result = combine(self._table)
        # No shard may overwrite what others still read.
        self._wait()
        return result

    def _wait(self) -> None:
        try:
            self._barrier.wait(self._timeout_s)
        except threading.BrokenBarrierError:
            raise ExchangeError(
                f"shard {self.rank} of {self.n_shards} waited for a shard that has "
                f"failed, or that did not answer within {self._timeout_s:g} s"
            ) from None


def run_in_threads(
    n_shards: int,
    shard: Callable[[Communicator], Result],
    timeout_s: float = 30.0,
) -> list[Result]:
    """Run `shard` once per shard, each in its own thread, and return the results.

    Parameters
    ----------
    n_shards : int
        Number of threads.
    shard : callable
        Called with the shard's communicator.
    timeout_s : float
        How long an exchange waits for the slowest shard.

    Returns
    -------
    list
        Results in shard order.

    Raises
    ------
    Exception
        What the first shard to fail raised. The others end with
        `ExchangeError` instead of waiting for it.
    """
    table: list[Any] = [None] * n_shards
    barrier = threading.Barrier(n_shards)
    failures: list[BaseException] = []

    def guarded(rank: int) -> Result:
        try:
            return shard(ThreadCommunicator(rank, table, barrier, timeout_s))
        except BaseException as failure:
            failures.append(failure)
            barrier.abort()
            raise

    with ThreadPoolExecutor(n_shards) as pool:
        results = [pool.submit(guarded, rank) for rank in range(n_shards)]
    if failures:
        raise failures[0]
    return [result.result() for result in results]
