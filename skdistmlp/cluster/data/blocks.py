"""Blocks of rows: checked on their workers, copied to where they are needed."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

import numpy as np
from dask.sizeof import sizeof
from scipy.sparse import csr_array, issparse
from sklearn.utils import check_array

from skdistmlp.nn.types import Features
from skdistmlp.parallel.array_digest import array_digest
from skdistmlp.parallel.data import PIECE_BYTES, RowStore
from skdistmlp.parallel.rows import RowRange

BATCH_BYTES = PIECE_BYTES
"""Bytes of blocks that are fetched together. They take memory in addition to the
array that they are copied into; a larger block is fetched by itself."""


MIXED_BLOCKS = (
    "some blocks of X are sparse and others are dense. Convert all of them to one kind."
)
"""What is wrong with them, for errors."""


@dataclass(frozen=True)
class Block:
    """What planning has to know about a block of rows.

    Attributes
    ----------
    shape : tuple of int
        Rows and columns.
    dtype : dtype
        float32 or float64: that of the block converted to features.
    nnz : int or None
        Number of values that a sparse block stores; None for a dense one.
    nbytes : int
        Size of the block on its worker.
    digest : bytes or None
        Of its values; see `digest_of`. None if it has yet to be computed.
    """

    shape: tuple[int, int]
    dtype: np.dtype[np.floating]
    nnz: int | None
    nbytes: int
    digest: bytes | None = None


def describe_block(block: Any, estimator_name: str) -> Block:
    """Check a block as scikit-learn does, on the worker that holds it."""
    rows = as_features(block, estimator_name, ensure_all_finite=True)
    nnz = int(rows.nnz) if issparse(rows) else None
    return Block(rows.shape, rows.dtype, nnz, sizeof(block), digest_of(rows))


def digest_of(rows: Features) -> bytes:
    """Return what rows that differ, be it in their order only, do not share."""
    if issparse(rows):
        sparse: Any = rows
        n_columns = np.array(sparse.shape[1], np.int64)
        return array_digest(n_columns, sparse.data, sparse.indices, sparse.indptr)
    return array_digest(np.asarray(rows))


def index_dtype(shape: tuple[int, int], nnz: int) -> np.dtype[np.signedinteger]:
    """Return the dtype of the indices of compressed rows, chosen as SciPy does."""
    wide = max(*shape, nnz) > np.iinfo(np.int32).max
    return np.dtype(np.int64 if wide else np.int32)


def as_features(block: Any, estimator_name: str | None = None, **checks: Any) -> Any:
    """Return a block, which may be empty, as an array or as compressed rows."""
    return check_array(
        block,
        accept_sparse="csr",
        dtype=(np.float64, np.float32),
        ensure_min_samples=0,
        input_name="X",
        estimator=estimator_name,
        **checks,
    )


class Piece(NamedTuple):
    """Neighbouring rows of one block.

    Attributes
    ----------
    name : object
        What identifies the block.
    block : Block
        Its description.
    start, stop : int
        Which of its rows, the last excluded.
    """

    name: Any
    block: Block
    start: int
    stop: int

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return self.stop - self.start


def whole_blocks(names: Iterable[Any], blocks: Sequence[Block]) -> list[Piece]:
    """Return all rows of all blocks."""
    return [
        Piece(name, block, 0, block.shape[0])
        for name, block in zip(names, blocks, strict=True)
    ]


def pieces_in(
    ranges: Iterable[RowRange], names: Sequence[Any], blocks: Sequence[Block]
) -> list[Piece]:
    """Return the pieces of blocks that ranges of rows are, each within one block."""
    stops = np.array(list(accumulate(block.shape[0] for block in blocks)), np.intp)
    pieces = []
    for rows in ranges:
        number = int(np.searchsorted(stops, rows.start, "right"))
        first = int(stops[number]) - blocks[number].shape[0]
        pieces.append(
            Piece(names[number], blocks[number], rows.start - first, rows.stop - first)
        )
    return pieces


def part_of(block: Any, piece: Piece) -> Any:
    """Return the rows of a block, as features, that a piece is."""
    if piece.n_rows == block.shape[0]:
        return block
    # A copy: a view would keep the whole block in memory.
    return block[piece.start : piece.stop].copy()


class RowSink(Protocol):
    """Takes rows from the first to the last."""

    def append(self, rows: Any) -> None:
        """Take some rows of features: an array, or compressed rows."""

    @property
    def rows(self) -> Features | RowStore:
        """All rows that were appended."""


@dataclass(frozen=True)
class Extent:
    """How much a sink is to take.

    Attributes
    ----------
    shape : tuple of int
        Rows and columns.
    nnz : int or None
        The most values that sparse rows store; None for dense ones.
    dtype : dtype
        float32 or float64: of the features.
    likely_nnz : int
        How many values sparse rows store if those of a block are alike.
    """

    shape: tuple[int, int]
    nnz: int | None
    dtype: np.dtype[np.floating]
    likely_nnz: int = 0

    @classmethod
    def of(
        cls,
        pieces: Sequence[Piece],
        blocks: Sequence[Block],
        dtype: np.dtype[np.floating],
    ) -> "Extent":
        """Return that of some pieces of all blocks."""
        shape = sum(piece.n_rows for piece in pieces), blocks[0].shape[1]
        if blocks[0].nnz is None:
            return cls(shape, None, dtype)
        # Of a part of a block it is not known.
        most = sum(piece.block.nnz or 0 for piece in pieces)
        likely = sum(
            (piece.block.nnz or 0) * piece.n_rows / max(1, piece.block.shape[0])
            for piece in pieces
        )
        return cls(shape, most, dtype, math.ceil(likely))


def array_sink(extent: Extent) -> RowSink:
    """Return what makes one array of rows, or compressed rows if they are sparse."""
    if extent.nnz is None:
        return _DenseRows(extent.shape, extent.dtype)
    return _SparseRows(extent.shape, extent.nnz, extent.dtype)


def copy_pieces(
    pieces: Sequence[Piece],
    gather: Callable[[list[Any]], list[Any]],
    sink: RowSink,
) -> Features | RowStore:
    """Copy pieces of blocks, a few blocks at a time, to hold the rows only once.

    Parameters
    ----------
    pieces : sequence of Piece
        In the order of their rows.
    gather : callable
        Returns a list of the blocks with the given names. The list is emptied.
    sink : RowSink
        Takes the rows.
    """
    for batch in in_batches(pieces):
        fetched = gather([piece.name for piece in batch])
        for piece in batch:
            # Popped, so that each block is freed as soon as it has been copied.
            block = as_features(fetched.pop(0), ensure_all_finite=False)
            sink.append(part_of(block, piece))
            del block
    return sink.rows


class _DenseRows:
    """An array that is filled from the top."""

    def __init__(self, shape: tuple[int, int], dtype: np.dtype[np.floating]) -> None:
        self.rows = np.empty(shape, dtype)
        self._n_rows = 0

    def append(self, block: Any) -> None:
        end = self._n_rows + len(block)
        self.rows[self._n_rows : end] = block
        self._n_rows = end


class _SparseRows:
    """Compressed rows that are filled from the top."""

    def __init__(
        self, shape: tuple[int, int], nnz: int, dtype: np.dtype[np.floating]
    ) -> None:
        index = index_dtype(shape, nnz)
        self._shape = shape
        self._data = np.empty(nnz, dtype)
        self._indices = np.empty(nnz, index)
        self._indptr = np.zeros(shape[0] + 1, index)
        self._n_rows = self._n_stored = 0

    def append(self, block: Any) -> None:
        stored = slice(self._n_stored, self._n_stored + block.nnz)
        self._data[stored] = block.data
        self._indices[stored] = block.indices
        ends = slice(self._n_rows + 1, self._n_rows + 1 + block.shape[0])
        np.add(block.indptr[1:], self._n_stored, out=self._indptr[ends])
        self._n_rows += block.shape[0]
        self._n_stored += block.nnz

    @property
    def rows(self) -> csr_array:
        if self._n_stored < len(self._data):
            # Of some rows only: how many numbers they have was not known. In place:
            # there may be no room for a copy.
            for array in (self._data, self._indices):
                array.resize(self._n_stored, refcheck=False)
        return csr_array((self._data, self._indices, self._indptr), self._shape)


def in_batches(pieces: Sequence[Piece]) -> Iterator[list[Piece]]:
    """Yield consecutive pieces whose blocks are fetched together."""
    batch: list[Piece] = []
    n_bytes = 0
    for piece in pieces:
        if batch and n_bytes + piece.block.nbytes > BATCH_BYTES:
            yield batch
            batch, n_bytes = [], 0
        batch.append(piece)
        n_bytes += piece.block.nbytes
    if batch:
        yield batch
