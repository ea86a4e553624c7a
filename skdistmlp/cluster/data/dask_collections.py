"""Dask arrays, data frames and series, without regard to what they are used for."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

import numpy as np
from dask.base import compute as compute_here
from dask.base import is_dask_collection, optimize
from distributed import Client, Future, futures_of
from scipy.sparse import issparse

from skdistmlp.cluster._dask import (
    Cluster,
    block_graph,
    event_loop_runs_here,
    release_futures,
)
from skdistmlp.cluster.client.calling_thread import is_left_behind
from skdistmlp.cluster.client.errors import translate_dask_errors
from skdistmlp.cluster.client.lookup import connected
from skdistmlp.cluster.client.rpc import submit_rpc, wait_while
from skdistmlp.cluster.client.scheduler import ask_scheduler
from skdistmlp.cluster.client.workers import known_workers
from skdistmlp.cluster.run.interrupts import shielded_from_interrupts
from skdistmlp.cluster.run.wait_notice import WaitNotice
from skdistmlp.cluster.run.watch import WorkersCheck
from skdistmlp.exceptions import ClusterError, WorkerLostError, counted
from skdistmlp.timeouts import WORKER_CHECK_S
from skdistmlp.training.loop import Log, quiet

COMPUTING = "computing the data"
"""The phase in which the blocks of collections are computed for a fit."""


def is_collection(value: Any) -> bool:
    """Say whether a value is lazy; a value of xarray, for example, may not be."""
    return bool(is_dask_collection(value))


def is_frame(collection: Any) -> bool:
    """Say whether a collection consists of partitions of a data frame or series."""
    return hasattr(collection, "divisions")


def in_whole_rows(name: str, collection: Any) -> Any:
    """Return an array or data frame with all columns in each block.

    Parameters
    ----------
    name : str
        What the user calls the collection, for messages.
    collection : collection
        An Array, DataFrame or Series.
    """
    if is_frame(collection):
        return collection
    if not hasattr(collection, "chunks") or collection.ndim not in (1, 2):
        raise TypeError(
            f"{name} is a Dask {type(collection).__name__}; expected an Array with one "
            f"or two dimensions, a DataFrame or a Series. Convert it to one of these."
        )
    if collection.ndim == 2 and np.isnan(collection.shape[1]):
        raise ValueError(
            f"the number of columns of {name} is unknown, but has to be known before "
            f"training. Call {name}.compute_chunk_sizes() first."
        )
    if collection.ndim == 2 and collection.numblocks[1] > 1:
        return collection.rechunk({1: -1})
    return collection


def header_of(collection: Any) -> Any:
    """Return one row of zeros with the columns and dtypes of a collection."""
    collection = in_whole_rows("X", collection)
    if hasattr(collection, "columns"):
        import pandas as pd

        zeros = np.zeros((1, len(collection.columns)), int)
        frame = pd.DataFrame(zeros, columns=collection.columns)
        return frame.astype(
            {
                name: _value_dtype(dtype)
                for name, dtype in zip(
                    collection.columns, collection.dtypes, strict=True
                )
            }
        )
    return np.zeros((1, *collection.shape[1:]), collection.dtype)


def concatenate_rows(collection: Any, following: Any) -> Any:
    """Return a collection of the rows of one and, after them, those of another.

    Parameters
    ----------
    collection : collection
        An Array or DataFrame.
    following : collection or array-like
        Of the same kind, with the same columns. After a DataFrame, it may also be an
        array in this process, whose columns are taken to be in the same order.

    Raises
    ------
    ValueError
        If the columns differ, or one is a frame and the other is a Dask array.
    """
    frames = is_frame(collection), hasattr(following, "columns")
    if frames == (True, False) and not is_dask_collection(following):
        following = _frame_with_columns(collection.columns, following)
        frames = True, True
    if frames[0] != frames[1]:
        kinds = ["a data frame" if frame else "an array" for frame in frames]
        raise ValueError(
            f"X is {kinds[0]} and X_val is {kinds[1]}. Pass both in the same form."
        )
    if frames[0]:
        import dask.dataframe as dd

        names = list(collection.columns), list(following.columns)
        if names[0] != names[1]:
            raise ValueError(
                f"X_val has the columns {names[1]}, but X has {names[0]}. Pass the "
                f"same columns in the same order."
            )
        if not is_dask_collection(following):
            following = dd.from_pandas(following, npartitions=1)
        if set(collection.dtypes) == {np.dtype(np.float32)}:
            # Otherwise the rows for validation would decide how training computes.
            following = following.astype(np.float32)
        return dd.concat([collection, following], interleave_partitions=False)
    import dask.array as da

    if not is_dask_collection(following):
        following = da.from_array(np.asarray(following), chunks=-1)
    first, second = in_whole_rows("X", collection), in_whole_rows("X_val", following)
    if first.ndim != second.ndim or first.shape[1:] != second.shape[1:]:
        raise ValueError(
            f"X_val has the shape {second.shape}, but X has {first.shape}. Pass a 2-D "
            f"array with the same columns."
        )
    if first.dtype == np.float32:
        second = second.astype(np.float32)
    return da.concatenate([first, second], allow_unknown_chunksizes=True)


def _frame_with_columns(columns: Any, values: Any) -> Any:
    """Return the values of `X_val` as a data frame with the columns of X."""
    import pandas as pd

    values = values.toarray() if issparse(values) else np.asarray(values)
    if values.ndim != 2 or values.shape[1] != len(columns):
        raise ValueError(
            f"X_val has the shape {values.shape}, but X has {len(columns)} columns. "
            f"Pass a 2-D array with the same columns."
        )
    return pd.DataFrame(values, columns=columns)


def n_blocks(collection: Any) -> int:
    """Return the number of blocks of rows."""
    return int(
        collection.npartitions if is_frame(collection) else collection.numblocks[0]
    )


class SeparateBlocks:
    """The blocks of a collection, to be computed some at a time.

    Parameters
    ----------
    collection : Array or DataFrame
        One column of blocks.
    """

    def __init__(self, collection: Any) -> None:
        (optimized,) = optimize(collection)
        # Only arrays are computed some blocks at a time, and theirs can be culled.
        self._graph, self._keys = block_graph(optimized)

    def compute(
        self,
        client: Client,
        numbers: Sequence[int],
        worker: str | None = None,
        may_move: bool = False,
    ) -> list[Future[Any]]:
        """Return futures of some blocks, on one worker or wherever Dask likes.

        Only what these need is sent: of an array in the client's memory, their rows.
        With `may_move`, others may compute them if that worker is lost.
        """
        keys = [self._keys[number] for number in numbers]
        futures: list[Future[Any]] = client.get(
            self._graph.cull(set(keys)),
            keys,
            workers=None if worker is None else [worker],
            allow_other_workers=may_move,
            sync=False,
        )
        return futures


def count_rows(collection: Any) -> int:
    """Return the number of rows, which may have to be computed in this process."""
    if is_frame(collection):
        return len(collection)
    if np.isnan(collection.shape[0]):
        collection = collection.compute_chunk_sizes()
    return int(collection.shape[0])


def _value_dtype(dtype: Any) -> Any:
    """Return the dtype of a column's values: 0 may not be one of its categories."""
    categories = getattr(dtype, "categories", None)
    if categories is None:
        return dtype
    known = getattr(categories.dtype, "kind", "O") in "biuf"
    return categories.dtype if known else int


def compute(client: Client | Cluster | str | None, *values: Any) -> tuple[Any, ...]:
    """Return values, the Dask collections among them computed together."""
    with connected(client) as connection:
        if connection is None:
            return compute_in_process(*values)
        with (
            translate_dask_errors(connection, (), "computing predictions"),
            shielded_from_interrupts(connection, tuple(known_workers(connection))),
        ):
            computing = _call_by_kind(connection.compute, values)
            try:
                return tuple(gather(connection, computing, "computing predictions"))
            finally:
                release([one for one in computing if isinstance(one, Future)])


def compute_in_process(*values: Any) -> tuple[Any, ...]:
    """Return values, the Dask collections among them computed without a cluster.

    Raises
    ------
    ClusterError
        If they are on a cluster that only another process can reach.
    """
    held = [
        future
        for value in values
        for future in futures_of(value)
        if not event_loop_runs_here(future.client)
    ]
    if held:
        raise ClusterError(
            f"{len(held)} blocks of the data are held by the Dask client of another "
            f"process, from which this one was forked. Create a client in this process "
            f"and the data with it, or compute the data before the fork."
        )
    if not is_left_behind(None):
        return tuple(_call_by_kind(lambda alike: compute_here(*alike), values))
    # Dask would use that client, and wait forever. A fork copies no threads, so Dask's
    # own pool has none left either.
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        compute_by = partial(compute_here, scheduler="threads", pool=pool)
        return tuple(_call_by_kind(lambda alike: compute_by(*alike), values))


def persist_blocks(
    client: Client, collections: list[Any], workers: Sequence[str] | None = None
) -> list[list[Future[Any]]]:
    """Compute collections together; return the futures of their blocks, in order.

    What has to be computed for them runs on `workers`, or wherever Dask likes.
    """
    persist = partial(client.persist, workers=workers)
    persisted = _call_by_kind(persist, collections)
    return [sorted(futures_of(one), key=_block_position) for one in persisted]


@contextmanager
def naming_lost_data(client: Client, collection: Any) -> Iterator[None]:
    """Say so if a context that computes X fails since data of X is gone for good.

    Parameters
    ----------
    client : Client
        A connected client.
    collection : Array or DataFrame
        The features, as the user has made them.

    Raises
    ------
    ClusterError
        If X was made of futures, and Dask cannot compute what some of them stood for.
    """
    try:
        yield
    # Tasks that need what is gone are cancelled; a run of a fit translates that.
    except (CancelledError, WorkerLostError) as error:
        futures = futures_of(collection)
        n_gone = _count_gone(client, futures)
        # Without any, it failed for another reason, and computing X once more can help.
        if n_gone == 0:
            raise
        raise ClusterError(
            f"the cluster has lost the data of {n_gone} of "
            f"{counted(len(futures), 'future')} that X was made of, so X cannot be "
            f"computed again. Dask does not keep how scattered data is made, nor "
            f"anything when the cluster is restarted. Scatter the data again and make "
            f"X of that, or make X of what Dask can read again, such as files."
        ) from error


def _count_gone(client: Client, futures: Sequence[Future[Any]]) -> int:
    """Return how many futures the cluster can neither fetch nor compute again."""
    missing = [one.key for one in futures if one.status in ("cancelled", "lost")]
    if not missing:
        return 0
    # Blocks that were persisted count as lost, too, while others compute them again.
    # What cannot be computed again, the scheduler forgets.
    # Of a client that is closed, nothing can be told.
    with suppress(CancelledError):
        states = ask_scheduler(client, "get_task_status", keys=missing)
        return sum(states[key] is None for key in missing)
    return 0


def gather(
    client: Client,
    futures: Sequence[Future[Any]],
    phase: str = "",
    log: Log = quiet,
    workers: Sequence[str] | None = None,
) -> list[Any]:
    """Return the results of tasks, as long as the cluster can compute them.

    Parameters
    ----------
    client : Client
        A connected client.
    futures : sequence of Future
        The tasks; other values among them are returned as they are.
    phase : str
        What is going on, as a gerund, if the tasks may still have to be computed: a
        line then says what a long wait is for. See `WaitNotice`.
    log : callable
        Takes the line.
    workers : sequence of str, optional
        Addresses of the only workers that may compute them.

    Raises
    ------
    ClusterError
        See `WorkersCheck`.
    """
    awaited = [one for one in futures if isinstance(one, Future)]
    # First: if a wait by Dask's `gather` is cancelled, each task in it ends in an error
    # that nobody looks at, and a message that says so.
    wait_for(client, awaited, phase, log, workers)
    gathering = submit_rpc(client, client.gather, list(futures))
    with closing(WorkersCheck(client, awaited)) as check:
        wait_while(check, [gathering])
    results: list[Any] = gathering.result()
    return results


def wait_for(
    client: Client,
    futures: Sequence[Future[Any]],
    phase: str = "",
    log: Log = quiet,
    workers: Sequence[str] | None = None,
) -> None:
    """Wait for tasks, as `gather` does; raise the error of the first that failed."""
    ended: SimpleQueue[Future[Any]] = SimpleQueue()
    notice, since = WaitNotice(client, "", log), time.monotonic()
    for future in futures:
        future.add_done_callback(ended.put)
    with closing(WorkersCheck(client, futures, workers)) as check:
        for _ in futures:
            while (done := _next_of(ended)) is None:
                check()
                if phase:
                    notice.check(phase, None, since)
            if done.status == "error":
                # It raises it, with the traceback of the worker.
                done.result()


def _next_of(ended: SimpleQueue[Future[Any]]) -> Future[Any] | None:
    """Return the next future; None if there is none for `WORKER_CHECK_S`."""
    try:
        return ended.get(timeout=WORKER_CHECK_S)
    except Empty:
        return None


def release(futures: list[Future[Any]]) -> None:
    """Release futures now, even if the traceback of an error still refers to them."""
    release_futures(futures)
    futures.clear()


def _call_by_kind(
    function: Callable[[list[Any]], Sequence[Any]], values: Sequence[Any]
) -> list[Any]:
    """Call a function with all frames, then with all other values; return its results.

    Dask warns about a call with both.
    """
    results = list(values)
    for frames in (True, False):
        positions = [n for n, value in enumerate(values) if is_frame(value) == frames]
        if positions:
            called = function([values[n] for n in positions])
            for position, result in zip(positions, called, strict=True):
                results[position] = result
    return results


def _block_position(future: Future[Any]) -> tuple[int, ...]:
    """Return the position of a block in its collection, which its key ends with."""
    key: Any = future.key
    return tuple(key[1:])
