"""Predictions of Dask collections: Dask arrays, computed when they are asked for."""

from collections.abc import Callable
from typing import Any

from dask.array import Array
from dask.delayed import delayed
from distributed import Client

from skdistmlp.cluster.blocks import predict_rows
from skdistmlp.cluster.client import active_client, reaches
from skdistmlp.cluster.collections import header_of, is_frame, of_whole_rows


def map_rows(
    client: Client | str | None, collection: Any, function: Callable[[Any], Any]
) -> Any:
    """Apply a function to every block of rows, when it is computed.

    Parameters
    ----------
    client : Client, str or None
        The estimator's parameter. If it is the active client, or there is one and
        none was given, the function is sent to the cluster at once, and Dask brings
        it to each worker that needs it; else it is part of the graph, since another
        client could not compute with what this one has sent.
    collection : Array or DataFrame
        Features.
    function : callable
        From a block to an array of as many rows.

    Returns
    -------
    Array
        Of one chunk a block.
    """
    collection = of_whole_rows("X", collection)
    meta = function(header_of(collection))[:0]
    shared = delayed(_sent(client, function))
    if is_frame(collection):
        lazy = collection.map_partitions(
            predict_rows, shared, meta=meta, enforce_metadata=False
        )
        # Dask takes an array of any type for one of NumPy.
        return Array(lazy.dask, lazy.name, lazy.chunks, meta=meta)
    if meta.ndim == 1:
        return collection.map_blocks(
            predict_rows, shared, drop_axis=1, dtype=meta.dtype, meta=meta
        )
    chunks = collection.chunks[0], (meta.shape[1],)
    return collection.map_blocks(
        predict_rows, shared, chunks=chunks, dtype=meta.dtype, meta=meta
    )


def _sent(client: Client | str | None, function: Any) -> Any:
    """Return a function, or the future of it on a cluster that is at hand."""
    live = active_client()
    if live is None or live.asynchronous or live.status != "running":
        return function
    if client is not None and client is not live:
        return function
    worker = next(iter(live.nthreads()), None)
    if worker is None:
        return function
    return live.scatter(
        function, workers=[worker], direct=reaches(live, worker), hash=False
    )
