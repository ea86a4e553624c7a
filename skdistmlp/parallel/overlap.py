"""Where a shard computes in pieces, so that exchanges travel meanwhile.

Sizes alone decide, never what has arrived: a plan gives the same bits every time.
"""

from collections import deque
from collections.abc import Sequence

from skdistmlp.nn.types import Features, FloatArray
from skdistmlp.parallel.communicators import Collectives, Exchange, Finished
from skdistmlp.parallel.shard import gradient
from skdistmlp.parallel.split import NetworkSplit, NeuronRange, split_neurons

HALVED_BYTES = 200_000
"""Bytes of a layer's activations, of all shards and rows, from which the rows are
gathered in two halves."""

BLOCK_FLOP = 30e6
"""Floating point operations of a gradient between two looks at the sockets."""


def parts_of_rows(split: NetworkSplit, n_rows: int, itemsize: int) -> list[slice]:
    """Return the rows of a forward pass that are computed and gathered at a time.

    While the second half is computed, the activations of the first travel.

    Parameters
    ----------
    split : NetworkSplit
        Whose hidden layers but the last are gathered.
    n_rows : int
        Rows of the pass.
    itemsize : int
        Bytes per number.

    Returns
    -------
    list of slice
        One or two.
    """
    widest = max(split.layer_units[1:-2], default=0)
    if split.n_shards == 1 or n_rows * widest * itemsize < HALVED_BYTES:
        return [slice(0, n_rows)]
    return [slice(0, n_rows // 2), slice(n_rows // 2, n_rows)]


def gradient_meanwhile(
    exchange: Exchange,
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
    """
    fan_in, fan_out = coef_out.shape
    n_blocks = min(fan_in, round(2 * len(delta) * fan_in * fan_out / BLOCK_FLOP))
    if n_blocks <= 1 or isinstance(exchange, Finished):
        gradient(inputs, delta, coef_out, intercept_out)
        return
    for block in split_neurons(fan_in, [1.0] * n_blocks):
        some, rows = inputs[:, block.columns], block.columns
        # The intercept's gradient needs no inputs, and is computed with the first.
        intercept = intercept_out if block.start == 0 else intercept_out[:0]
        gradient(some, delta, coef_out[rows], intercept)
        exchange.advance()


class GatherInParts:
    """The input of a layer on its way: gathered while its rows are computed.

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
    """

    def __init__(
        self,
        collectives: Collectives,
        ranges: Sequence[NeuronRange],
        layer: int,
        out: FloatArray,
    ) -> None:
        self._collectives = collectives
        self._ranges = ranges
        self._layer = layer
        self._exchanges: deque[Exchange] = deque()
        # The input, once all of it has come.
        self.whole = out

    def begin(self, own: FloatArray, rows: slice) -> None:
        """Begin to gather some rows, of which this shard has its columns."""
        exchange = self._collectives.begin_all_gather(
            own, self._ranges, self._layer, self.whole[rows]
        )
        if self._exchanges:
            # Read what has come of the rows before, or the socket would fill up.
            exchange.advance()
        self._exchanges.append(exchange)

    def finish(self) -> FloatArray:
        """Wait for the first rows that have not been waited for, and return them."""
        exchange = self._exchanges.popleft()
        result = exchange.finish()
        if len(result) == len(self.whole):
            self.whole = result
        return result
