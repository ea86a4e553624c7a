"""A communicator without others: what a process computes, and no exchange."""

from collections.abc import Sequence

import numpy as np

from skdistmlp.nn.types import FloatArray
from skdistmlp.parallel.communicators import Exchange, Finished
from skdistmlp.parallel.grid import Axis, Grid
from skdistmlp.parallel.split import NeuronRange


class Unconnected:
    """One process of a grid whose others are not there: a `Communicator`.

    Results have the right shapes and, where others would have written, the numbers of
    this process. A step takes as long as one that waits for nobody, and what it
    computes is of no use.

    Parameters
    ----------
    n_ranks : int
        Number of processes; this is the first.
    grid : Grid, optional
        Who would exchange with whom; by default all are shards of one replica.
    """

    rank = 0

    def __init__(self, n_ranks: int, grid: Grid | None = None) -> None:
        self.n_ranks = n_ranks
        self._grid = Grid(n_ranks) if grid is None else grid
        self._filled: set[tuple[int, int, NeuronRange]] = set()

    def begin_all_gather(
        self,
        part: FloatArray,
        ranges: Sequence[NeuronRange],
        label: int,
        out: FloatArray | None,
    ) -> Exchange:
        """Copy `part` to the columns of all."""
        if self.n_ranks == 1:
            return Finished(part)
        if out is None:
            out = np.empty((len(part), ranges[-1].stop), part.dtype)
        own = out[:, ranges[0].columns]
        if own.ctypes.data != part.ctypes.data:
            np.copyto(own, part)
        # Once: what nobody has written to might be denormal, which is slow. From then
        # on there is nothing that this process would do. Again for more rows, which
        # begin at the same address, and for other columns, such as the second halves of
        # all: then its own differ too.
        filled = out.ctypes.data, len(out), ranges[0]
        if filled not in self._filled:
            self._filled.add(filled)
            for other in ranges[1:]:
                n_copied = min(len(other), len(ranges[0]))
                out[:, other.columns] = 0
                out[:, other.start : other.start + n_copied] = own[:, :n_copied]
        return Finished(out)

    def begin_reduce_scatter(
        self,
        piece: FloatArray,
        ranges: Sequence[NeuronRange],
        label: int,
        out: FloatArray | None,
    ) -> Exchange:
        """Return this process's columns."""
        own = piece[:, ranges[0].columns]
        if out is None:
            return Finished(own)
        np.copyto(out, own)
        return Finished(out)

    def all_gather(
        self,
        part: FloatArray,
        ranges: Sequence[NeuronRange],
        label: int,
        out: FloatArray | None,
    ) -> FloatArray:
        """Begin and finish `begin_all_gather`."""
        return self.begin_all_gather(part, ranges, label, out).finish()

    def reduce_scatter(
        self,
        piece: FloatArray,
        ranges: Sequence[NeuronRange],
        label: int,
        out: FloatArray | None,
    ) -> FloatArray:
        """Begin and finish `begin_reduce_scatter`."""
        return self.begin_reduce_scatter(piece, ranges, label, out).finish()

    def all_reduce(
        self, piece: FloatArray, label: int, out: FloatArray | None
    ) -> FloatArray:
        """Return `piece`."""
        return piece

    def broadcast(self, array: FloatArray, label: int) -> FloatArray:
        """Return `array`."""
        return array

    def along(self, axis: Axis) -> "Unconnected":
        """Return the exchange with those along one axis, who are not there either."""
        n_ranks = len(self._grid.along(axis, 0))
        return self if n_ranks == self.n_ranks else Unconnected(n_ranks)

    def begin_step(self) -> None:
        """Do nothing."""
