"""How the shards of one network exchange arrays.

A communicator is one shard's end of the exchange. All shards call the same
collective in the same order. Sums run in shard order, so that every shard
holds the same bits whoever computed first.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

import numpy as np

from skdistmlp.exceptions import ExchangeError
from skdistmlp.nn.types import FloatArray
from skdistmlp.parallel.split import NeuronRange

Result = TypeVar("Result")


class Communicator(Protocol):
    """What a shard needs of its peers.

    Each collective may return one of its arguments, or `out`: the result is
    valid until the arrays handed in are next written to.
    """

    @property
    def rank(self) -> int:
        """Number of this shard, from 0."""

    @property
    def n_shards(self) -> int:
        """Number of shards."""

    def all_gather(
        self,
        part: FloatArray,
        ranges: Sequence[NeuronRange],
        layer: int,
        out: FloatArray | None,
    ) -> FloatArray:
        """Put the shards' columns side by side.

        The conjugate of `reduce_scatter`: gathering activations forward is
        scattering the sum of their deltas backward.

        Parameters
        ----------
        part : ndarray of shape (n_rows, len(ranges[rank]))
            This shard's columns.
        ranges : sequence of NeuronRange
            Columns of each shard; they tile the result.
        layer : int
            Number of the layer, by which packets are told apart.
        out : ndarray of shape (n_rows, n_columns), optional
            Overwritten with the result, where one is needed.

        Returns
        -------
        ndarray of shape (n_rows, n_columns)
            The same on every shard.
        """

    def reduce_scatter(
        self,
        piece: FloatArray,
        ranges: Sequence[NeuronRange],
        layer: int,
        out: FloatArray | None,
    ) -> FloatArray:
        """Sum the shards' pieces and keep this shard's columns of the sum.

        Parameters
        ----------
        piece : ndarray of shape (n_rows, n_columns)
            This shard's contribution.
        ranges : sequence of NeuronRange
            Columns that each shard keeps.
        layer : int
            Number of the layer.
        out : ndarray of shape (n_rows, len(ranges[rank])), optional
            Overwritten with the result, where one is needed.

        Returns
        -------
        ndarray of shape (n_rows, len(ranges[rank]))
            This shard's columns.
        """

    def all_reduce(
        self, piece: FloatArray, layer: int, out: FloatArray | None
    ) -> FloatArray:
        """Sum the shards' pieces.

        Parameters
        ----------
        piece : ndarray of one or two dimensions
            This shard's contribution.
        layer : int
            Number of the layer.
        out : ndarray shaped like `piece`, optional
            Overwritten with the result, where one is needed.

        Returns
        -------
        ndarray shaped like `piece`
            The same bits on every shard.
        """

    def broadcast(self, array: FloatArray) -> FloatArray:
        """Overwrite `array` with shard 0's: how all shards come to one decision."""

    def begin_step(self) -> None:
        """Note that the next exchanges belong to a new step, or block of rows.

        Raises
        ------
        StopRequested
            If a shard was asked to stop before the last step began: all shards
            end at the same step.
        """


class NobodyElse:
    """The communicator of a network that is one shard: nothing is copied."""

    rank = 0
    n_shards = 1

    def all_gather(
        self,
        part: FloatArray,
        ranges: Sequence[NeuronRange],
        layer: int,
        out: FloatArray | None,
    ) -> FloatArray:
        """Return `part`."""
        return part

    def reduce_scatter(
        self,
        piece: FloatArray,
        ranges: Sequence[NeuronRange],
        layer: int,
        out: FloatArray | None,
    ) -> FloatArray:
        """Return `piece`."""
        return piece

    def all_reduce(
        self, piece: FloatArray, layer: int, out: FloatArray | None
    ) -> FloatArray:
        """Return `piece`."""
        return piece

    def broadcast(self, array: FloatArray) -> FloatArray:
        """Return `array`."""
        return array

    def begin_step(self) -> None:
        """Do nothing: an interrupt reaches this process by itself."""


class InMemory:
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
        layer: int,
        out: FloatArray | None,
    ) -> FloatArray:
        """Put the shards' columns side by side; see `Communicator`."""
        return self._exchange(part, lambda parts: np.concatenate(parts, 1, out=out))

    def reduce_scatter(
        self,
        piece: FloatArray,
        ranges: Sequence[NeuronRange],
        layer: int,
        out: FloatArray | None,
    ) -> FloatArray:
        """Sum and keep this shard's columns; see `Communicator`."""
        columns = ranges[self.rank].columns
        return self._exchange(
            piece, lambda pieces: sum_in_order([p[:, columns] for p in pieces], out)
        )

    def all_reduce(
        self, piece: FloatArray, layer: int, out: FloatArray | None
    ) -> FloatArray:
        """Sum the shards' pieces; see `Communicator`."""
        return self._exchange(piece, lambda pieces: sum_in_order(pieces, out))

    def broadcast(self, array: FloatArray) -> FloatArray:
        """Overwrite `array` with shard 0's; see `Communicator`."""

        def copied(arrays: list[FloatArray]) -> FloatArray:
            if self.rank != 0:
                np.copyto(array, arrays[0])
            return array

        return self._exchange(array, copied)

    def begin_step(self) -> None:
        """Do nothing: threads are stopped by whoever runs them."""

    def _exchange(self, mine: Any, combine: Callable[[list[Any]], Result]) -> Result:
        self._table[self.rank] = mine
        self._wait()
        result = combine(self._table)
        # Nobody may overwrite what others still read.
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
    """Run `shard` once a shard, each in its own thread, and return their results.

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
            return shard(InMemory(rank, table, barrier, timeout_s))
        except BaseException as failure:
            failures.append(failure)
            barrier.abort()
            raise

    with ThreadPoolExecutor(n_shards) as pool:
        results = [pool.submit(guarded, rank) for rank in range(n_shards)]
    if failures:
        raise failures[0]
    return [result.result() for result in results]


def sum_in_order(
    pieces: Sequence[FloatArray], out: FloatArray | None = None
) -> FloatArray:
    """Add `pieces` from the first to the last, into `out` or a new array."""
    if out is None:
        out = np.empty_like(pieces[0], order="C")
    np.copyto(out, pieces[0])
    for piece in pieces[1:]:
        out += piece
    return out
