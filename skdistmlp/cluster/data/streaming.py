"""Rows that reach the workers of a fit piece by piece, a few pieces at a time.

So it is for rows that live in files, and for blocks of a collection that all workers
together have no memory for. Each worker opens a sink, which takes its rows in order;
the client has it write wave after wave, each of which is computed or sent, written, and
released before the next; and the rows of the sink become the features of a data set.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
from distributed import Client, Future, get_worker
from scipy.sparse import issparse

from skdistmlp.cluster.data.assembly import RowsOfProcess
from skdistmlp.cluster.data.blocks import (
    BATCH_BYTES,
    MIXED_BLOCKS,
    Block,
    Extent,
    Piece,
    RowSink,
    as_features,
    digest_of,
    in_batches,
    part_of,
)
from skdistmlp.cluster.data.dask_collections import SeparateBlocks, release
from skdistmlp.cluster.run.placement import Placement
from skdistmlp.nn.losses import Targets
from skdistmlp.nn.types import FloatArray
from skdistmlp.parallel.class_codes import ClassCodes
from skdistmlp.parallel.data import BaseDataset, Dataset, PlacedRows
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.rows import RowHolding, dealt_rows, holders, numbers_of

Labels = tuple[Targets | ClassCodes | None, FloatArray | None]
"""Targets and sample weights of all rows, which every process has."""


class Written(NamedTuple):
    """Pieces that one worker writes in one task.

    Attributes
    ----------
    futures : list of Future
        Their blocks, computed or being computed.
    pieces : list of Piece
        Which of the rows of each block are written.
    """

    futures: list[Future[Any]]
    pieces: list[Piece]


Wave = Mapping[int, Written]
"""What is written at the same time, by rank."""


def computed_waves(
    client: Client,
    collection: Any,
    pieces: Sequence[Sequence[Piece]],
    workers: Sequence[str],
    may_move: bool = False,
) -> Generator[Wave]:
    """Have each worker compute its pieces of a collection, some after the others.

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
    may_move : bool
        Whether others may compute them if a worker is lost.
    """
    blocks = SeparateBlocks(collection)
    computing: list[Future[Any]] = []
    for at_once in zip_longest(*map(in_batches, pieces)):
        wave = {}
        try:
            for rank, batch in enumerate(at_once):
                if batch is not None:
                    numbers = [piece.name for piece in batch]
                    futures = blocks.compute(client, numbers, workers[rank], may_move)
                    computing += futures
                    wave[rank] = Written(futures, batch)
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
    distribution, is_whole = dealt_rows(grid, holding), holding.form == "all"
    processes = holders(grid, holding.form)
    labels = [(dataset.y, dataset.sample_weight) for _ in processes]
    targets = placement.scatter("targets", labels)
    X: Any = dataset.X
    row_bytes = max(1, dataset.features_nbytes // max(1, dataset.n_rows))
    n_at_once = max(1, BATCH_BYTES // row_bytes)
    everything = slice(0, dataset.n_rows)
    own_rows = [
        numbers_of(everything if is_whole else distribution.held(*one, dataset.n_rows))
        for one in processes
    ]
    owns, extents = [], []
    for one, numbers in zip(processes, own_rows, strict=True):
        owns.append(RowsOfProcess(*one, distribution, holding, is_whole))
        nnz = None
        if dataset.nnz_per_row is not None:
            nnz = int(np.diff(X.indptr)[numbers].sum())
        extents.append(Extent((len(numbers), X.shape[1]), nnz, X.dtype, nnz or 0))

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
                    rank: Written([future], [_all_of(part)])
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
    note_digests: Callable[[Sequence[Any], Sequence[bytes]], None] | None = None,
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
    note_digests : callable, optional
        Takes the names of blocks that a worker has written rows of, and the digests
        of these blocks; see `digest_of`. Without it they are not computed.

    Returns
    -------
    list of Future
        A `Dataset` on the worker of each rank.
    """
    phase, placement.phase = placement.phase, "writing rows on the workers"
    check = pickle.dumps(as_rows)
    ranks = range(len(owns))
    add = placement.add
    placement.begin()
    sinks = placement.submit(
        [add(rank, "open-rows", open_sink, owns[rank], extents[rank]) for rank in ranks]
    )
    wait_for_all(placement, sinks)
    # Closed: otherwise the traceback of an error would keep what it has computed.
    with closing(waves):
        for wave in waves:
            placement.begin()
            written = placement.submit(
                [
                    add(
                        rank,
                        "write",
                        write_rows,
                        sinks[rank],
                        check,
                        note_digests is not None,
                        pieces,
                        *blocks,
                    )
                    for rank, (blocks, pieces) in wave.items()
                ]
            )
            wait_for_all(placement, written)
            if note_digests is not None:
                found = placement.fetch(*written)
                for (_, pieces), digests in zip(wave.values(), found, strict=True):
                    note_digests([piece.name for piece in pieces], digests)
            release(written)
    placement.begin()
    rows = placement.submit(
        [
            add(rank, "rows", finished_rows, sinks[rank], targets[rank], owns[rank])
            for rank in ranks
        ]
    )
    wait_for_all(placement, rows)
    # The data sets have them.
    release(sinks)
    placement.phase = phase
    return rows


def wait_for_all(placement: Placement, futures: Sequence[Future[Any]]) -> None:
    """Wait for tasks; raise the error of the first that failed."""
    placement.wait_for(*futures)
    for future in futures:
        if (error := placement.error_of(future)) is not None:
            raise error


def open_sink(own: RowsOfProcess, extent: Extent) -> RowSink:
    """Return what takes the rows of one process, on its worker."""
    return own.sink(extent, get_worker().local_directory)


def write_rows(
    sink: RowSink, check: bytes, digests: bool, pieces: Sequence[Piece], *blocks: Any
) -> list[bytes]:
    """Append pieces of blocks; return the digests of the blocks, if they are wanted.

    One task of a sink runs at a time. Whole blocks are digested, whatever part of them
    is appended: when they are placed again, it may be another part.
    """
    as_rows: Callable[[Any, Block], Any] = pickle.loads(check)
    found = []
    for piece, block in zip(pieces, blocks, strict=True):
        rows = as_rows(block, piece.block)
        if digests:
            found.append(digest_of(rows))
        sink.append(part_of(rows, piece))
    return found


def checked_rows(block: Any, expected: Block, estimator_name: str) -> Any:
    """Return a block as features; raise if it is not what its collection says."""
    rows = as_features(block, estimator_name, ensure_all_finite=True)
    if issparse(rows):
        raise ValueError(MIXED_BLOCKS)
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
