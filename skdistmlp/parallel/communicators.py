"""How the shards of one network exchange arrays.

A communicator is one shard's end of the collectives. All shards call the same
collectives in the same order. Sums run in shard order, so that every shard
holds the same bits whoever computed first.
"""

from collections.abc import Sequence
from enum import IntEnum
from typing import Protocol

import numpy as np

from skdistmlp.nn.types import FloatArray
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


class StopRequested(Exception):  # noqa: N818 (a signal between shards, not an error)
    """A shard asked for a stop: every shard ends its training before the same step.

    Training catches it where it catches Ctrl-C. It never reaches a user, and is no
    `SkdistmlpError`, so that no handler of errors takes it for one.
    """


class Communicator(Protocol):
    """What a shard needs of its peers.

    Each collective may return one of its arguments, or `out`: the result is
    valid until the arguments are next written to. Each takes a label, the number of
    a layer or a `Label`, which must be the same on all shards.
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
        label: int,
        out: FloatArray | None,
    ) -> FloatArray:
        """Concatenate the shards' columns.

        The conjugate of `reduce_scatter`: gathering activations forward is
        scattering the sum of their deltas backward.

        Parameters
        ----------
        part : ndarray of shape (n_rows, len(ranges[rank]))
            This shard's columns.
        ranges : sequence of NeuronRange
            Columns of each shard; they tile the result.
        label : int
            What is gathered.
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
        label: int,
        out: FloatArray | None,
    ) -> FloatArray:
        """Sum the shards' pieces and keep this shard's columns of the sum.

        Parameters
        ----------
        piece : ndarray of shape (n_rows, n_columns)
            This shard's contribution.
        ranges : sequence of NeuronRange
            Columns that each shard keeps.
        label : int
            What is summed.
        out : ndarray of shape (n_rows, len(ranges[rank])), optional
            Overwritten with the result, where one is needed.

        Returns
        -------
        ndarray of shape (n_rows, len(ranges[rank]))
            This shard's columns.
        """

    def all_reduce(
        self, piece: FloatArray, label: int, out: FloatArray | None
    ) -> FloatArray:
        """Sum the shards' pieces.

        Parameters
        ----------
        piece : ndarray of one or two dimensions
            This shard's contribution.
        label : int
            What is summed.
        out : ndarray shaped like `piece`, optional
            Overwritten with the result, where one is needed.

        Returns
        -------
        ndarray shaped like `piece`
            The same bits on every shard.
        """

    def broadcast(self, array: FloatArray, label: int) -> FloatArray:
        """Overwrite `array` with shard 0's: this is how all shards decide alike."""

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
    n_shards = 1

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
