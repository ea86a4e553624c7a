"""What each worker of a fit runs to get its rows of a Dask collection."""

from collections.abc import Mapping, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from typing import Any

import numpy as np
from distributed import get_worker

from skdistmlp.cluster._dask import fetch_keys
from skdistmlp.cluster.data.block_rows import BlockRows
from skdistmlp.cluster.data.blocks import (
    Block,
    Extent,
    Piece,
    RowSink,
    array_sink,
    copy_pieces,
    pieces_in,
    whole_blocks,
)
from skdistmlp.cluster.data.row_files import file_sink
from skdistmlp.cluster.run.task_context import task_cancellation
from skdistmlp.exceptions import ExchangeError, WorkerLostError
from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.rows import (
    ALL_ROWS,
    COPIES,
    RowDistribution,
    RowHolding,
    RowsInRanges,
)
from skdistmlp.timeouts import CANCEL_POLL_S


@dataclass(frozen=True)
class BlockLocations:
    """Which workers hold the blocks of X, for a worker that concatenates them.

    A task is given this instead of the blocks themselves: as arguments, Dask would
    hold all of them on the worker until the task ends, in addition to the array that
    they are copied into, and would keep copies of the user's persisted blocks there
    for a few more seconds.

    Attributes
    ----------
    who_has : mapping
        From the keys of the blocks, in the order of their rows, to the addresses of
        the workers that hold them.
    blocks : sequence of Block
        Their descriptions.
    dtype : dtype
        Of the array to concatenate them in.
    """

    who_has: Mapping[Any, Sequence[str]]
    blocks: Sequence[Block]
    dtype: np.dtype[np.floating]


@dataclass(frozen=True)
class RowsOfProcess:
    """Which rows one process of a grid gets, and where to.

    Attributes
    ----------
    replica, shard : int
        Which process.
    distribution : RowDistribution
        Who has which rows. Pieces of blocks are `RowsInRanges`, each within one block.
    holding : RowHolding
        In memory or in a file.
    is_whole : bool
        Whether it gets all rows, whatever the distribution says.
    """

    replica: int = 0
    shard: int = 0
    distribution: RowDistribution = ALL_ROWS
    holding: RowHolding = COPIES
    is_whole: bool = True

    def pieces(self, names: Sequence[Any], blocks: Sequence[Block]) -> list[Piece]:
        """Return the pieces of blocks that its rows are."""
        if self.is_whole:
            return whole_blocks(names, blocks)
        assert isinstance(self.distribution, RowsInRanges)
        process = self.replica, self.shard
        ranges = self.distribution.ranges
        own = (rows for rows in ranges if (rows.replica, rows.shard) == process)
        return pieces_in(own, names, blocks)

    def sink(self, extent: Extent, directory: str) -> RowSink:
        """Return what takes its rows."""
        if self.holding.on_disk:
            return file_sink(directory, extent)
        if self.holding.form == "once":
            # No copy: there may be no room for one, and the user may keep the blocks.
            return BlockRows(extent.shape[1], extent.dtype, extent.nnz is not None)
        return array_sink(extent)


def assemble_dataset(
    locations: BlockLocations,
    targets: tuple[np.ndarray, np.ndarray | None],
    own: RowsOfProcess | None = None,
) -> Dataset:
    """Return the data set of one shard, its blocks fetched from the other workers."""
    own = RowsOfProcess() if own is None else own
    worker = get_worker()
    is_cancelled = task_cancellation()

    def gather(keys: list[Any]) -> list[Any]:
        who_has = {key: locations.who_has[key] for key in keys}
        # The locations were true when the fit asked the scheduler. A worker may have
        # died since, or Dask may have moved a block to another one.
        fetching = fetch_keys(worker, who_has)
        try:
            # In intervals: a worker that hangs never answers, and Dask may take minutes
            # to give it up. Once the fit has, others need this thread.
            while not wait([fetching], CANCEL_POLL_S).done:
                if is_cancelled():
                    raise ExchangeError("cancelled because the fit ended")
        finally:
            fetching.cancel()
        values, missing, lost = fetching.result()
        if missing:
            raise WorkerLostError(
                f"worker {worker.address} could not fetch {len(missing)} of the blocks "
                f"of X from {', '.join(lost) or 'the workers that held them'}: they "
                f"were lost, or could not be reached, or were too busy to answer, "
                f"within Dask's timeout for connections "
                f"(distributed.comm.timeouts.connect). Call again: Dask computes lost "
                f"blocks once more if it can. If the workers are still there, allow "
                f"connections between all of them, in both directions.",
                # Also those without a shard: what recovers the fit does without them.
                tuple(lost),
            )
        return [values[key] for key in keys]

    pieces = own.pieces(list(locations.who_has), locations.blocks)
    extent = Extent.of(pieces, locations.blocks, locations.dtype)
    X = copy_pieces(pieces, gather, own.sink(extent, worker.local_directory))
    return Dataset(X, *targets, own.distribution, own.is_whole)
