"""Dask collections as features, targets and sample weights of a fit.

On a cluster, features stay on the workers, which describe each block to the client
(see `RemoteFeatures`). Targets and sample weights, a few numbers per row, are fetched
to the client, which needs the classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from distributed import Client, Future, futures_of
from scipy.sparse import issparse, vstack

from skdistmlp.cluster._dask import Cluster, array_meta, block_graph
from skdistmlp.cluster.client.errors import translate_dask_errors
from skdistmlp.cluster.client.lookup import connected
from skdistmlp.cluster.client.workers import choose_workers
from skdistmlp.cluster.data.blocks import MIXED_BLOCKS, Block
from skdistmlp.cluster.data.dask_collections import (
    COMPUTING,
    SeparateBlocks,
    compute_in_process,
    gather,
    header_of,
    in_whole_rows,
    is_collection,
    is_frame,
    naming_lost_data,
    persist_blocks,
    release,
)
from skdistmlp.cluster.data.remote_dataset import RemoteFeatures, described_blocks
from skdistmlp.cluster.run.free_memory import measured_memory
from skdistmlp.cluster.run.interrupts import shielded_from_interrupts
from skdistmlp.cluster.run.versions import check_versions
from skdistmlp.cluster.run.watch import Watch
from skdistmlp.exceptions import counted
from skdistmlp.settings import rows_memory_share
from skdistmlp.training.loop import Log, quiet


@contextmanager
def resolve_inputs(
    client: Client | Cluster | str | None,
    estimator_name: str,
    X: Any,
    y: Any,
    weight: Any,
    log: Log = quiet,
) -> Iterator[tuple[Any, Any, Any]]:
    """Turn Dask collections into arrays, or X into features on the cluster.

    Parameters
    ----------
    client : Client, Cluster, str or None
        The estimator's parameter.
    estimator_name : str
        For messages.
    X, y, weight : collection, array-like or None
        At least one of them is a Dask collection.
    log : callable
        Takes lines for the user, if they want any.

    Yields
    ------
    X : RemoteFeatures or array-like
        On a cluster, features that stay there.
    y, weight : array-like or None
        In this process.

    Raises
    ------
    ValueError
        If their numbers of rows differ, or X cannot be trained on.
    TypeError
        If a collection is neither an array nor a data frame.
    ClusterError
        If a worker runs another version of this package, or if workers died while
        computing X.
    """
    inputs = {"X": X, "y": y, "sample_weight": weight}
    collections = {
        name: in_whole_rows(name, value)
        for name, value in inputs.items()
        if is_collection(value)
    }
    _check_lengths(inputs)
    with connected(client) as connection:
        if connection is None:
            computed = compute_in_process(*collections.values())
            inputs |= dict(zip(collections, computed, strict=True))
            yield inputs["X"], inputs["y"], inputs["sample_weight"]
            return
        held: list[Future[Any]] = []
        with ExitStack() as on_exit:
            with translate_dask_errors(connection, (), COMPUTING):
                # Without workers Dask would wait for some.
                workers = choose_workers(connection, None, log=log)
                on_exit.enter_context(shielded_from_interrupts(connection, workers))
                # Released first: otherwise a worker that replaces one that has died
                # would begin what killed it.
                on_exit.callback(release, held)
                if "X" in collections:
                    watch = Watch(connection, workers)
                    try:
                        with watch.naming_losses():
                            check_versions(connection, workers, watch.check)
                            room = _room_for_blocks(connection, workers, watch)
                    finally:
                        watch.close()
                    blocks = _blocks_to_stream(collections["X"], room)
                    # A dense block for which no worker has room is not computed.
                    if blocks and (
                        blocks[0].nbytes > room / len(workers)
                        or _is_dense(connection, collections["X"], estimator_name, log)
                    ):
                        inputs["X"] = RemoteFeatures(
                            connection,
                            collections.pop("X"),
                            [],
                            blocks,
                            blocks[0].dtype,
                            log,
                            is_streamed=True,
                            estimator_name=estimator_name,
                        )
                futures = _persist_all(connection, collections)
                for name in futures:
                    held += futures[name]
                if "X" in futures:
                    inputs["X"] = _describe_features(
                        connection,
                        collections["X"],
                        futures.pop("X"),
                        estimator_name,
                        log,
                    )
                # All stay held until all have been fetched: y may be X, or the
                # weights be y, and releasing one would drop the other.
                for name, tasks in futures.items():
                    fetched = gather(connection, tasks, COMPUTING, log)
                    inputs[name] = _concatenate(fetched)
            _check_lengths(inputs)
            yield inputs["X"], inputs["y"], inputs["sample_weight"]


def _persist_all(
    client: Client, collections: dict[str, Any]
) -> dict[str, list[Future[Any]]]:
    """Compute collections together, so that what they share is computed once."""
    persisted = persist_blocks(client, list(collections.values()))
    return dict(zip(collections, persisted, strict=True))


def _room_for_blocks(client: Client, workers: tuple[str, ...], watch: Watch) -> float:
    """Return the bytes of blocks that all workers may hold together.

    Of each no more than half of what its process leaves free: blocks are copied from
    there. What Dask may write to disk counts as free.
    """
    memory = measured_memory(client, workers, watch.check)
    if len(memory) < len(workers):
        return math.inf
    share = rows_memory_share()
    return sum(min(share * its.limit, its.free / 2) for its in memory.values())


def _blocks_to_stream(X: Any, room: float) -> list[Block]:
    """Return what a collection says of its blocks, if they are to be streamed.

    That is if all together take more than `room`; persisted ones are there already. So
    far only of dense arrays of known size can it be told before they are computed. What
    they say of their dtype is taken for true.
    """
    meta: Any = None if is_frame(X) else array_meta(X)
    if not isinstance(meta, np.ndarray) or X.ndim != 2:
        return []
    # Unknown lengths make the size NaN, for which the comparison is false.
    persisted = {future.key for future in futures_of(X)}
    if not X.nbytes > room or persisted.issuperset(block_graph(X)[1]):
        return []
    is_single = meta.dtype == np.float32
    dtype = np.dtype(np.float32) if is_single else np.dtype(np.float64)
    n_columns = int(X.shape[1])
    return [
        Block((int(n), n_columns), dtype, None, int(n) * n_columns * meta.itemsize)
        for n in X.chunks[0]
    ]


def _is_dense(client: Client, X: Any, estimator_name: str, log: Log) -> bool:
    """Say whether the first block of an array is dense, as all of them are said to be.

    Dask takes blocks for dense unless it is told otherwise, as those of `from_delayed`.
    As such, sparse ones would seem to take far more memory than they do.
    """
    with naming_lost_data(client, X):
        futures = SeparateBlocks(X).compute(client, [0])
        try:
            (first,) = described_blocks(client, futures, estimator_name, log)
        finally:
            release(futures)
    return first.nnz is None


def _check_lengths(inputs: dict[str, Any]) -> None:
    """Compare the numbers of rows as far as they are known."""
    n_rows = {name: _n_rows(value) for name, value in inputs.items()}
    for name in ("y", "sample_weight"):
        of_x, of_other = n_rows["X"], n_rows[name]
        if of_x is not None and of_other is not None and of_x != of_other:
            raise ValueError(
                f"X has {counted(of_x, 'row')}, but {name} has {of_other:,}. Pass one "
                f"value of {name} for each row of X."
            )


def _n_rows(value: Any) -> int | None:
    """Return the number of rows; None if it is unknown or the value has no rows."""
    shape = getattr(value, "shape", None)
    if shape is None:
        return len(value) if isinstance(value, list | tuple) else None
    # An unknown length is NaN for an array, and a lazy value for a frame.
    known = len(shape) > 0 and isinstance(shape[0], int | np.integer)
    return int(shape[0]) if known else None


def _describe_features(
    client: Client,
    collection: Any,
    futures: list[Future[Any]],
    estimator_name: str,
    log: Log,
) -> RemoteFeatures:
    """Check all blocks of X on their workers; return the features they make up."""
    with naming_lost_data(client, collection):
        blocks = described_blocks(client, futures, estimator_name, log)
    widths = sorted({block.shape[1] for block in blocks})
    if len(widths) > 1:
        raise ValueError(
            f"the blocks of X have different numbers of columns: {widths}. Give all "
            f"blocks the same columns."
        )
    if widths != [expected := header_of(collection).shape[1]]:
        raise ValueError(
            f"X declares {expected} columns, but its blocks have {widths[0]}. Pass the "
            f"actual chunks to map_blocks, or to the function that made X."
        )
    if len({block.nnz is None for block in blocks}) > 1:
        raise ValueError(MIXED_BLOCKS)
    dtype = np.result_type(*(block.dtype for block in blocks))
    return RemoteFeatures(client, collection, futures, blocks, dtype, log)


def _concatenate(blocks: list[Any]) -> Any:
    """Concatenate blocks of rows of targets or sample weights."""
    if any(issparse(block) for block in blocks):
        return vstack(blocks, format="csr")
    if hasattr(blocks[0], "iloc"):
        import pandas as pd

        return pd.concat(blocks)
    return np.concatenate(blocks)
