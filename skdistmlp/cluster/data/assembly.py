"""What each worker of a fit runs to get all rows of a Dask collection."""

from collections.abc import Mapping, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from typing import Any

import numpy as np
from distributed import get_worker

from skdistmlp.cluster._dask import fetch_keys
from skdistmlp.cluster.data.blocks import Block, concatenate_blocks
from skdistmlp.cluster.run.task_context import task_cancellation
from skdistmlp.exceptions import ExchangeError, WorkerLostError
from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.grid import ALL_ROWS, RowShare
from skdistmlp.settings import CANCEL_POLL_S


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


def assemble_dataset(
    locations: BlockLocations,
    targets: tuple[np.ndarray, np.ndarray | None],
    share: RowShare = ALL_ROWS,
) -> Dataset:
    """Return the data set of one shard, its blocks fetched from the other workers."""
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
                f"connections between all of them, in both directions."
            )
        return [values[key] for key in keys]

    X = concatenate_blocks(
        list(locations.who_has), locations.blocks, locations.dtype, gather, share
    )
    return Dataset(X, *targets, share)
