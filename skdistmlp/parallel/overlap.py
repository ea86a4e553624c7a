"""Where a shard computes in pieces, so that exchanges travel meanwhile.

Sizes alone decide, never what has arrived: a plan gives the same bits every time.
"""

from collections.abc import Sequence

import numpy as np

from skdistmlp.nn.types import Features, FloatArray
from skdistmlp.parallel.communicators import Collectives, Exchange, Finished
from skdistmlp.parallel.shard import affine, gradient
from skdistmlp.parallel.split import NeuronRange, split_neurons

HALVED_BYTES = 4_000_000
"""Bytes of a layer's activations, of all shards, from which they are gathered in two
halves. Below, halves may cost over loopback: 4% of a step of 784-(1024, 1024) with 0.8
MB, and 9% of one of 64-(256, 256) with 2 MB; though they save 4 to 21% of these at 2
Gbit/s (``python -m benchmarks overlap``; the link by ``tc tbf`` on the loopback of a
network namespace, which both directions share). How fast a link is, nobody knows yet
where this is decided."""

BLOCK_BYTES = 400_000
"""Bytes of deltas on their way to each other shard, for each block of the gradient that
is computed meanwhile. Where the system is left as it is, a socket's buffers take about
that many. Blocks half as large cost 1 to 2% of a step over loopback, for which they are
not needed (``python -m benchmarks overlap``)."""

BLOCK_FLOP = 30e6
"""The fewest floating point operations of such a block."""


def n_gathers(n_ranks: int, n_bytes: int) -> int:
    """Return in how many pieces so many bytes of activations are gathered."""
    return 2 if n_ranks > 1 and n_bytes >= HALVED_BYTES else 1


Ranges = tuple[NeuronRange, ...]


class GatherInHalves:
    """The input of a layer on its way: gathered while others of it are computed.

    The first half of each shard's columns travels while it computes the second, and
    the second while it multiplies what it has itself. Halves of rows would do the same
    with fewer sums, but each product would copy all coefficients for itself, as BLAS
    does: that cost 3% of a step of 784-(1024, 1024) over loopback.

    Parameters
    ----------
    collectives : Collectives
        Among the shards.
    ranges : sequence of NeuronRange
        Columns of each.
    layer : int
        Number of the layer whose input it is.
    out : ndarray of shape (n_rows, fan_in)
        Overwritten with the input, where others have some of it.

    Attributes
    ----------
    is_large : bool
        Whether it is gathered in halves.
    columns : list of slice or None
        Those of this shard's columns that are gathered at a time: two halves, or all,
        which is None.
    whole : ndarray of shape (n_rows, fan_in)
        The input, once `affine` has waited for it.
    """

    def __init__(
        self,
        collectives: Collectives,
        ranges: Sequence[NeuronRange],
        layer: int,
        out: FloatArray,
    ) -> None:
        self._collectives = collectives
        self._layer = layer
        self._out = out
        self.whole = out
        self._own = ranges[collectives.rank].columns
        self.is_large = n_gathers(collectives.n_ranks, out.nbytes) > 1
        self._pieces = _cut(tuple(ranges), 2 if self.is_large else 1)
        self._exchanges: list[Exchange] = []
        self.columns: list[slice | None] = [None]
        if self.is_large:
            mine = [piece[collectives.rank] for piece in self._pieces]
            start = self._own.start
            self.columns = [slice(r.start - start, r.stop - start) for r in mine]

    def begin(self, part: FloatArray) -> None:
        """Begin to gather the next columns, which `part` has of this shard's."""
        ranges = self._pieces[len(self._exchanges)]
        if self.is_large:
            mine = self._out[:, ranges[self._collectives.rank].columns]
            np.copyto(mine, part)
            part = mine
        exchange = self._collectives.begin_all_gather(
            part, ranges, self._layer, self._out
        )
        if self._exchanges:
            # Read what has come of the first half, or the buffers would fill up.
            exchange.advance()
        self._exchanges.append(exchange)

    def affine(
        self,
        coef: FloatArray,
        intercept: FloatArray,
        z: FloatArray,
        partial: FloatArray,
        columns: slice | None,
    ) -> None:
        """Write columns of ``inputs @ coef + intercept``, from the first on.

        Parameters
        ----------
        coef : ndarray of shape (fan_in, fan_out)
            Coefficients.
        intercept : ndarray of shape (fan_out,)
            Intercepts.
        z : ndarray of shape (n_rows, fan_out)
            Overwritten: all columns with something, these with the result.
        partial : ndarray of shape (n_rows, fan_out)
            Overwritten if the input is gathered in halves.
        columns : slice or None
            Which columns; None for all.
        """
        own, some = self._own, part_of(z, columns)
        if self._exchanges and self.is_large:
            # Meanwhile what others have arrives.
            np.matmul(self._out[:, own], coef[own], out=z)
        for exchange in self._exchanges:
            self.whole = exchange.finish()
        self._exchanges = []
        coef, intercept = part_of(coef, columns), part_of(intercept, columns)
        if not self.is_large:
            affine(self.whole, coef, intercept, some)
            return
        for others in (slice(0, own.start), slice(own.stop, len(coef))):
            if others.start < others.stop:
                product = part_of(partial, columns)
                np.matmul(self._out[:, others], coef[others], out=product)
                some += product
        some += intercept


def part_of(array: FloatArray, columns: slice | None) -> FloatArray:
    """Return some columns of an array, or the array itself for None."""
    return array if columns is None else array[..., columns]


def _cut(ranges: Ranges, n_pieces: int) -> list[Ranges]:
    """Return the columns of all shards that are gathered at a time."""
    if n_pieces == 1:
        return [ranges]
    by_shard = [
        [
            NeuronRange(whole.start + piece.start, whole.start + piece.stop)
            for piece in split_neurons(len(whole), [1.0] * n_pieces)
        ]
        for whole in ranges
    ]
    return list(zip(*by_shard, strict=True))


def gradient_meanwhile(
    exchange: Exchange,
    n_bytes: int,
    inputs: Features,
    delta: FloatArray,
    coef_out: FloatArray,
    intercept_out: FloatArray,
) -> None:
    """Write a layer's gradient in blocks, between which an exchange advances.

    The other parameters are those of `shard.gradient`.

    Parameters
    ----------
    exchange : Exchange
        That of the delta below.
    n_bytes : int
        Bytes that it sends to each other shard, and receives from it.
    """
    n_blocks = 1
    if not isinstance(exchange, Finished):
        fan_in, fan_out = coef_out.shape
        n_flop = 2 * len(delta) * fan_in * fan_out
        n_blocks = min(fan_in, n_bytes // BLOCK_BYTES, int(n_flop / BLOCK_FLOP))
    if n_blocks <= 1:
        gradient(inputs, delta, coef_out, intercept_out)
        return
    for block in split_neurons(fan_in, [1.0] * n_blocks):
        some, rows = inputs[:, block.columns], block.columns
        # The intercept's gradient needs no inputs, and is computed with the first.
        intercept = intercept_out if block.start == 0 else intercept_out[:0]
        gradient(some, delta, coef_out[rows], intercept)
        exchange.advance()
