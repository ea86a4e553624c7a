"""How the processes of a run exchange arrays.

A communicator is one process's end of the collectives. All processes call the same
collectives in the same order. Sums run in the order of ranks, so that everyone holds
the same bits whoever computed first.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Protocol

import numpy as np

from skdistmlp.nn.types import FloatArray
from skdistmlp.parallel.grid import Axis
from skdistmlp.parallel.split import NeuronRange


class Label(IntEnum):
    """Labels of the exchanges that belong to no layer.

    A label tells two exchanges apart that might be mistaken for each other. That of a
    layer's exchange is the number of the layer, so these count down from the largest
    number that fits into a packet.
    """

    HANDSHAKE = 2**16 - 1
    ROUND = 2**16 - 2
    DECISION = 2**16 - 3
    PARAMETERS = 2**16 - 4
    LOSS = 2**16 - 5
    GRADIENT = 2**16 - 6
    GRADIENT_NORM = 2**16 - 7
    ROW_LOSS = 2**16 - 8
    OUTPUTS = 2**16 - 9
    AVERAGE = 2**16 - 10
    FEATURES = 2**16 - 11
    FEATURE_COUNTS = 2**16 - 12
    FEATURE_COLUMNS = 2**16 - 13


SAVED_BYTES = 64_000
"""Bytes that a process must save in sending for a sum to be worth a second exchange.
Computed, not measured: they take 0.5 ms at 1 Gbit/s, and an exchange 0.1 to 0.2 ms."""


class StopRequested(Exception):  # noqa: N818 (a signal between shards, not an error)
    """A shard asked for a stop: every shard ends its training before the same step.

    Training catches it where it catches Ctrl-C. It never reaches a user, and is no
    `SkdistmlpError`, so that no handler of errors takes it for one.
    """


class Exchange(Protocol):
    """A collective that has begun, and travels while this process computes.

    Until it is finished, nobody may write to the arrays that it was given, nor read
    what it writes to. All processes begin their exchanges in the same order, and finish
    them in the same order.
    """

    def advance(self) -> None:
        """Send and receive what can be without waiting.

        Between two exchanges nobody else does: a socket takes no more than fits into
        its buffers until someone reads at the other end. It is called every millisecond
        or so while this process computes.
        """

    def finish(self) -> FloatArray:
        """Wait for the rest, and return the result."""


class Finished:
    """An `Exchange` that had nothing to wait for."""

    def __init__(self, result: FloatArray) -> None:
        self._result = result

    def advance(self) -> None:
        """Do nothing."""

    def finish(self) -> FloatArray:
        """Return the result."""
        return self._result


class Collectives(Protocol):
    """Exchanges among some processes, all of which take part in each.

    Each collective may return one of its arguments, or `out`: the result is
    valid until the arguments are next written to. Each takes a label, the number of
    a layer or a `Label`, which must be the same on all shards.
    """

    @property
    def rank(self) -> int:
        """Number of this process among them, from 0."""

    @property
    def n_ranks(self) -> int:
        """Number of processes."""

    def begin_all_gather(
        self,
        part: FloatArray,
        ranges: Sequence[NeuronRange],
        label: int,
        out: FloatArray | None,
    ) -> Exchange:
        """Begin to concatenate the columns of all.

        The conjugate of `begin_reduce_scatter`: gathering activations forward is
        scattering the sum of their deltas backward.

        Parameters
        ----------
        part : ndarray of shape (n_rows, len(ranges[rank]))
            The columns of this process.
        ranges : sequence of NeuronRange
            Columns of each; they tile the result, or with `out` some of its columns.
        label : int
            What is gathered.
        out : ndarray of shape (n_rows, n_columns), optional
            These columns of it are overwritten, where it is needed. `part` may be a
            view of its own columns.

        Returns
        -------
        Exchange
            Its result, an ndarray of shape (n_rows, n_columns), has the same columns
            everywhere.
        """

    def begin_reduce_scatter(
        self,
        piece: FloatArray,
        ranges: Sequence[NeuronRange],
        label: int,
        out: FloatArray | None,
    ) -> Exchange:
        """Begin to sum the pieces of all, and to keep this process's columns of it.

        Parameters
        ----------
        piece : ndarray of shape (n_rows, n_columns)
            What this process adds.
        ranges : sequence of NeuronRange
            Columns that each keeps.
        label : int
            What is summed.
        out : ndarray of shape (n_rows, len(ranges[rank])), optional
            Overwritten with the result, where one is needed.

        Returns
        -------
        Exchange
            Its result, an ndarray of shape (n_rows, len(ranges[rank])), has the columns
            of this process.
        """

    def all_gather(
        self,
        part: FloatArray,
        ranges: Sequence[NeuronRange],
        label: int,
        out: FloatArray | None,
    ) -> FloatArray:
        """Begin and finish `begin_all_gather`."""

    def reduce_scatter(
        self,
        piece: FloatArray,
        ranges: Sequence[NeuronRange],
        label: int,
        out: FloatArray | None,
    ) -> FloatArray:
        """Begin and finish `begin_reduce_scatter`."""

    def all_reduce(
        self, piece: FloatArray, label: int, out: FloatArray | None
    ) -> FloatArray:
        """Sum the pieces of all.

        Parameters
        ----------
        piece : ndarray of one or two dimensions
            What this process adds.
        label : int
            What is summed.
        out : ndarray shaped like `piece`, optional
            Overwritten with the result, where one is needed.

        Returns
        -------
        ndarray shaped like `piece`
            The same bits everywhere.
        """

    def broadcast(self, array: FloatArray, label: int) -> FloatArray:
        """Overwrite `array` with that of rank 0: this is how all decide alike."""


class Communicator(Collectives, Protocol):
    """What a process needs of the others in its run: collectives of all, or of some."""

    def along(self, axis: Axis) -> Collectives:
        """Return the exchange with those in the same row or column of the grid.

        Along "neurons" these are the other shards of the same replica, along
        "replicas" the same shard of the others. In a step, the last exchange along the
        replicas comes after one along the neurons, so that all learn of a stop.
        """

    def begin_step(self) -> None:
        """Note that the next exchanges belong to a new step, or block of rows.

        Raises
        ------
        StopRequested
            If a shard was asked to stop before the last step began: all shards
            end at the same step.
        """


class SingleProcess:
    """The communicator of an undivided network: nothing is copied."""

    rank = 0
    n_ranks = 1

    def begin_all_gather(
        self,
        part: FloatArray,
        ranges: Sequence[NeuronRange],
        label: int,
        out: FloatArray | None,
    ) -> Exchange:
        """Give back `part`."""
        return Finished(part)

    def begin_reduce_scatter(
        self,
        piece: FloatArray,
        ranges: Sequence[NeuronRange],
        label: int,
        out: FloatArray | None,
    ) -> Exchange:
        """Give back `piece`."""
        return Finished(piece)

    def all_gather(
        self,
        part: FloatArray,
        ranges: Sequence[NeuronRange],
        label: int,
        out: FloatArray | None,
    ) -> FloatArray:
        """Return `part`."""
        return part

    def reduce_scatter(
        self,
        piece: FloatArray,
        ranges: Sequence[NeuronRange],
        label: int,
        out: FloatArray | None,
    ) -> FloatArray:
        """Return `piece`."""
        return piece

    def all_reduce(
        self, piece: FloatArray, label: int, out: FloatArray | None
    ) -> FloatArray:
        """Return `piece`."""
        return piece

    def broadcast(self, array: FloatArray, label: int) -> FloatArray:
        """Return `array`."""
        return array

    def along(self, axis: Axis) -> "SingleProcess":
        """Return itself."""
        return self

    def begin_step(self) -> None:
        """Do nothing: an interrupt reaches this process by itself."""


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


def sums_in_parts(n_ranks: int, n_bytes: int) -> bool:
    """Return whether an all-reduce goes through a reduce-scatter and an all-gather.

    A process sends each part of its piece to the one that sums it, and its own sum to
    all: ``2 (n - 1) / n`` pieces in two exchanges. Otherwise it sends all to all,
    ``n - 1`` pieces in one.
    """
    saved = (n_ranks - 1) * (1 - 2 / n_ranks) * n_bytes
    return saved >= SAVED_BYTES
