"""Rows that reach the workers of a fit piece by piece, a few pieces at a time.

So it is for rows that live in files, and for blocks of a collection that all workers
together have no memory for: each is computed, written and released before the next.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
from distributed import Client, Future, get_worker

from skdistmlp.cluster.data.assembly import RowsOfProcess
from skdistmlp.cluster.data.blocks import (
    BATCH_BYTES,
    Block,
    Extent,
    Piece,
    RowSink,
    as_features,
)
from skdistmlp.cluster.data.dask_collections import blocks_of, release
from skdistmlp.cluster.run.placement import Placement
from skdistmlp.nn.losses import Targets
from skdistmlp.nn.types import FloatArray
from skdistmlp.parallel.class_codes import ClassCodes
from skdistmlp.parallel.data import BaseDataset, Dataset, PlacedRows
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.rows import DealtRows, RowHolding, numbers_of

Labels = tuple[Targets | ClassCodes | None, FloatArray | None]
"""Targets and sample weights of all rows, which every process has."""


class Written(NamedTuple):
    """A piece that is on its worker, or will be.

    Attributes
    ----------
    future : Future
        The block, computed or being computed.
    piece : Piece
        Which of its rows are written.
    """

    future: Future[Any]
    piece: Piece


Wave = Mapping[int, Written]
"""Pieces that are written at the same time, by rank."""


def computed_waves(
    client: Client,
    collection: Any,
    pieces: Sequence[Sequence[Piece]],
    workers: Sequence[str],
) -> Generator[Wave]:
    """Have each worker compute its pieces of a collection, one after the other.

    Parameters
    ----------
    client : Client
        A connected client.
    collection : Array or DataFrame
        One column of blocks.
    pieces : sequence of sequence of Piece
        What each rank gets; the name of a block is its number.
    workers : sequence of str
        Address of the worker of each rank.
    """
    blocks = blocks_of(collection)
    computing: list[Future[Any]] = []
    for at_once in zip_longest(*pieces):
        wave = {}
        try:
            for rank, piece in enumerate(at_once):
                if piece is not None:
                    block = blocks[piece.name]
                    computing.append(client.compute(block, workers=[workers[rank]]))
                    wave[rank] = Written(computing[-1], piece)
            yield wave
        finally:
            release(computing)


def stream_arrays(
    placement: Placement, dataset: Dataset, grid: Grid, holding: RowHolding
) -> PlacedRows:
    """Send each worker its rows of arrays in this process, to write them to a file.

    Parameters
    ----------
    placement : Placement
        Of the run that needs the rows.
    dataset : Dataset
        All rows, prepared.
    grid : Grid
        The workers.
    holding : RowHolding
        Which features each of them gets.

    Returns
    -------
    PlacedRows
        As futures.
    """
    n_shards = grid.n_shards if holding.form == "once" else 1
    distribution = DealtRows(grid.n_replicas, n_shards)
    ranks = range(grid.n_ranks)
    labels = [(dataset.y, dataset.sample_weight) for _ in ranks]
    targets = placement.scatter("targets", labels)
    X: Any = dataset.X
    row_bytes = max(1, dataset.features_nbytes // max(1, dataset.n_rows))
    n_at_once = max(1, BATCH_BYTES // row_bytes)
    own_rows = [
        numbers_of(
            distribution.held(
                grid.replica(rank), grid.shard(rank) % n_shards, dataset.n_rows
            )
        )
        for rank in ranks
    ]
    owns, extents = [], []
    for rank in ranks:
        process = grid.replica(rank), grid.shard(rank) % n_shards
        owns.append(RowsOfProcess(*process, distribution, holding, is_whole=False))
        nnz = None
        if dataset.nnz_per_row is not None:
            nnz = int(np.diff(X.indptr)[own_rows[rank]].sum())
        shape = len(own_rows[rank]), X.shape[1]
        extents.append(Extent(shape, nnz, X.dtype))

    def waves() -> Generator[Wave]:
        for start in range(0, max(map(len, own_rows)), n_at_once):
            parts = {
                rank: X[rows[start : start + n_at_once]]
                for rank, rows in enumerate(own_rows)
                if start < len(rows)
            }
            sent = placement.scatter("piece", list(parts.values()), list(parts))
            try:
                yield {
                    rank: Written(future, _all_of(part))
                    for future, (rank, part) in zip(sent, parts.items(), strict=True)
                }
            finally:
                release(sent)

    rows = fill_sinks(placement, targets, owns, extents, waves(), _as_they_are)
    release(targets)
    return PlacedRows(rows, distribution)


def _all_of(rows: Any) -> Piece:
    """Return the piece that is all of some rows, which are no block."""
    return Piece(None, Block(rows.shape, rows.dtype, None, 0), 0, rows.shape[0])


def place_rows(
    dataset: BaseDataset, placement: Placement, grid: Grid, holding: RowHolding
) -> PlacedRows:
    """Put the rows on the workers of a grid; see `BaseDataset.place_on`."""
    if holding.on_disk and isinstance(dataset, Dataset):
        return stream_arrays(placement, dataset, grid, holding)
    return dataset.place_on(placement, grid, holding)


def fill_sinks(
    placement: Placement,
    targets: Sequence[Future[Any]],
    owns: Sequence[RowsOfProcess],
    extents: Sequence[Extent],
    waves: Generator[Wave],
    as_rows: Callable[[Any, Block], Any],
) -> list[Future[Any]]:
    """Have each worker keep its rows, wave after wave.

    Parameters
    ----------
    placement : Placement
        Of the run that needs the rows.
    targets : sequence of Future
        Of targets and sample weights, on the worker of each rank.
    owns : sequence of RowsOfProcess
        What each rank gets.
    extents : sequence of Extent
        How much that is.
    waves : generator of Wave
        All pieces; the next wave is asked for when the last one is written.
    as_rows : callable
        From a block and its description to features; called on the worker.

    Returns
    -------
    list of Future
        A `Dataset` on the worker of each rank.
    """
    check = pickle.dumps(as_rows)
    ranks = range(len(owns))
    add = placement.add
    placement.begin()
    sinks = placement.submit(
        [add(rank, "rows", open_sink, owns[rank], extents[rank]) for rank in ranks]
    )
    _wait_for(placement, sinks)
    # Closed: otherwise the traceback of an error would keep what it has computed.
    with closing(waves):
        for wave in waves:
            placement.begin()
            written = placement.submit(
                [
                    add(rank, "write", write_rows, sinks[rank], future, piece, check)
                    for rank, (future, piece) in wave.items()
                ]
            )
            _wait_for(placement, written)
            release(written)
    placement.begin()
    rows = placement.submit(
        [
            add(rank, "rows", finished_rows, sinks[rank], targets[rank], owns[rank])
            for rank in ranks
        ]
    )
    _wait_for(placement, rows)
    # The data sets have them.
    release(sinks)
    return rows


def _wait_for(placement: Placement, futures: Sequence[Future[Any]]) -> None:
    placement.wait_for(*futures)
    for future in futures:
        if (error := placement.error_of(future)) is not None:
            raise error


def open_sink(own: RowsOfProcess, extent: Extent) -> RowSink:
    """Return what takes the rows of one process, on its worker."""
    return own.sink(extent, get_worker().local_directory)


def write_rows(sink: RowSink, block: Any, piece: Piece, check: bytes) -> None:
    """Append a piece of a block; one task of a sink runs at a time."""
    as_rows: Callable[[Any, Block], Any] = pickle.loads(check)
    rows = as_rows(block, piece.block)
    if piece.n_rows < rows.shape[0]:
        rows = rows[piece.start : piece.stop]
    sink.append(rows)


def checked_rows(block: Any, expected: Block, estimator_name: str) -> Any:
    """Return a block as features; raise if it is not what its collection says."""
    rows = as_features(block, estimator_name, ensure_all_finite=True)
    if rows.shape != expected.shape:
        raise ValueError(
            f"X declares a block of the shape {expected.shape}, but it has "
            f"{rows.shape}. Pass the actual chunks to map_blocks, or to the function "
            f"that made X."
        )
    return rows


def _as_they_are(rows: Any, _: Block) -> Any:
    """Return rows that were checked before they were sent."""
    return rows


def finished_rows(sink: RowSink, targets: Labels, own: RowsOfProcess) -> Dataset:
    """Return the data set of one process, whose features are all there."""
    return Dataset(sink.rows, *targets, own.distribution, own.is_whole)
