"""Dropout: which values are dropped in a step is a function, not a stream of draws.

Srivastava et al. (2014), scaled in training ("inverted"). The generator is NumPy's
Philox, which is counter-based (Salmon et al., 2011): its counter is set from the step,
the layer, a block of columns and the row's position in the mini-batch. So whoever holds
some of the columns, or of the rows, draws the same mask as whoever holds all.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.random import Philox
from numpy.typing import NDArray
from scipy.sparse import csr_array, csr_matrix

from skdistmlp.nn import compiled
from skdistmlp.nn.row_blocks import BLOCK_BYTES
from skdistmlp.nn.types import FloatArray

BLOCK_COLUMNS = 256
"""Columns that are drawn together. A shard whose neurons begin or end within a block
draws the rest of it in vain."""

LEVELS = 2**16
"""A drawn number is one of these; a rate is rounded to a multiple of one over them."""


@dataclass(frozen=True)
class Dropout:
    """What is dropped of the inputs of one layer in one step of training.

    Attributes
    ----------
    seed : int
        Of the whole training.
    step : int
        Steps of the optimiser before this one.
    layer : int
        Number of the layer.
    rate : float
        Share of the values to drop, in [0, 1).
    """

    seed: int
    step: int
    layer: int
    rate: float

    @property
    def threshold(self) -> int:
        """Number of the levels that are dropped."""
        return min(round(self.rate * LEVELS), LEVELS - 1)

    @property
    def scale(self) -> float:
        """What the others are multiplied by."""
        return LEVELS / (LEVELS - self.threshold)

    def mask(
        self,
        columns: slice,
        out: FloatArray,
        positions: NDArray[np.intp] | None = None,
    ) -> FloatArray:
        """Write zero where values are dropped, and `scale` elsewhere.

        Parameters
        ----------
        columns : slice
            Columns of the layer's whole input.
        out : ndarray of shape (n_rows, n_columns)
            Overwritten; row i is that of row ``positions[i]`` of the mini-batch.
        positions : ndarray of int, shape (n_rows,), optional
            Increasing. By default row i is that of row i.

        Returns
        -------
        ndarray of shape (n_rows, n_columns)
            `out`.
        """
        kernel = compiled.compiled(compiled.dropout_mask, out.size)
        scale = out.dtype.type(self.scale)
        first = columns.start // BLOCK_COLUMNS
        n_rows = BLOCK_BYTES // (2 * BLOCK_COLUMNS)
        for block in range(first, -(-columns.stop // BLOCK_COLUMNS)):
            origin = block * BLOCK_COLUMNS
            start = max(columns.start, origin)
            stop = min(columns.stop, origin + BLOCK_COLUMNS)
            these = start - origin, stop - origin
            generator = self._generator(block)
            for row, drawn in _drawn_rows(generator, len(out), positions, n_rows):
                part = out[row : row + len(drawn), start - columns.start :]
                if kernel is not None:
                    at = row, start - columns.start
                    kernel(drawn, self.threshold, scale, out, *at, *these)
                else:
                    is_kept = drawn[:, slice(*these)] >= self.threshold
                    np.multiply(is_kept, scale, out=part[:, : stop - start])
                    del is_kept
                del drawn
        return out

    def drop_stored(
        self,
        X: csr_array | csr_matrix,
        positions: NDArray[np.intp] | None = None,
    ) -> csr_array | csr_matrix:
        """Return a copy of sparse rows, all their columns, with values dropped.

        `positions` are those of the rows in the mini-batch; see `mask`.
        """
        factors = np.empty_like(X.data)
        if positions is None:
            positions = np.arange(X.shape[0])
        n_drawn = int(positions[-1]) + 1 if len(positions) else 0
        rows = np.repeat(positions, np.diff(X.indptr))
        blocks = X.indices // BLOCK_COLUMNS
        order = np.argsort(blocks, kind="stable")
        # Where each block begins among the values in that order.
        found, begins = np.unique(blocks[order], return_index=True)
        bounds = [*begins, len(order)]
        for block, start, stop in zip(found, bounds[:-1], bounds[1:], strict=True):
            these = order[start:stop]
            drawn = _next_rows(self._generator(int(block)), n_drawn)
            columns = X.indices[these] - block * BLOCK_COLUMNS
            is_kept = drawn[rows[these], columns] >= self.threshold
            factors[these] = is_kept * X.dtype.type(self.scale)
        dropped = X.copy()
        dropped.data *= factors
        return dropped

    def _generator(self, block: int) -> Philox:
        """Return the generator of a block of columns, before its first row."""
        return Philox(key=self.seed, counter=[0, block, self.layer, self.step])


def _drawn_rows(
    generator: Philox, n_rows: int, positions: NDArray[np.intp] | None, at_once: int
) -> Iterator[tuple[int, NDArray[np.uint16]]]:
    """Yield what is drawn for some rows, and the number of the first, in turn."""
    if positions is None:
        for row in range(0, n_rows, at_once):
            yield row, _next_rows(generator, min(at_once, n_rows - row))
        return
    row = 0
    for first in range(0, int(positions[-1]) + 1 if n_rows else 0, at_once):
        # Those of other replicas are drawn in vain: to skip them takes longer.
        drawn = _next_rows(generator, at_once)
        stop = int(np.searchsorted(positions, first + at_once))
        yield row, drawn[positions[row:stop] - first]
        row = stop


def _next_rows(generator: Philox, n_rows: int) -> NDArray[np.uint16]:
    """Return numbers below `LEVELS`, shape (n_rows, BLOCK_COLUMNS)."""
    words = generator.random_raw(n_rows * BLOCK_COLUMNS // 4)
    # Little-endian, whatever the machine.
    return words.astype("<u8", copy=False).view("<u2").reshape(n_rows, -1)
