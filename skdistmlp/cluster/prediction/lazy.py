"""Predictions of Dask collections: Dask arrays, computed when they are asked for."""

from collections.abc import Callable
from functools import partial
from typing import Any

import dask
from dask.array import Array
from dask.delayed import delayed
from dask.utils import parse_bytes
from distributed import Client

from skdistmlp.cluster.client.lookup import active_client, address_of, scheduler_address
from skdistmlp.cluster.client.workers import can_connect
from skdistmlp.cluster.data.blocks import predict_rows
from skdistmlp.cluster.data.dask_inputs import header_of, is_frame, of_whole_rows
from skdistmlp.cluster.run.cache import WorkerCache, can_be_kept, content_hash

LARGE = "distributed.admin.large-graph-warning-threshold"
"""Dask's setting of the bytes beyond which it warns of what a graph has in it."""


def map_blocks_lazily(
    client: Client | str | None,
    collection: Any,
    function: Callable[[Any], Any],
    n_bytes: int,
    owner: object,
) -> Any:
    """Apply a function to every block of rows, when it is computed.

    Parameters
    ----------
    client : Client, str or None
        The estimator's parameter.
    collection : Array or DataFrame
        Features.
    function : callable
        From a block to an array of as many rows.
    n_bytes : int
        Its size.
    owner : object
        What the function is let go of with, where it is sent to a cluster.

    Returns
    -------
    Array
        Of one chunk a block.
    """
    collection = of_whole_rows("X", collection)
    meta = function(header_of(collection))[:0]
    # In the graph it is there for whoever computes what is made of the result.
    if n_bytes > parse_bytes(dask.config.get(LARGE, "10MB")):
        function = _sent(client, function, n_bytes, owner)
    shared = delayed(function, traverse=False)
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


def _sent(
    client: Client | str | None, function: Any, n_bytes: int, owner: object
) -> Any:
    """Return a function, or the future of it on a cluster that is at hand.

    The client keeps it too: of a graph that is being computed, the scheduler may hear
    later than that nobody has the future any more.
    """
    live = client if isinstance(client, Client) else active_client()
    if live is None or live.asynchronous or live.status != "running":
        return function
    address = address_of(client)
    if address is not None and scheduler_address(live) != address:
        # Another cluster is to compute.
        return function
    worker = next(iter(live.nthreads()), None)
    if worker is None:
        return function
    send = partial(
        live.scatter, workers=[worker], direct=can_connect(live, worker), hash=False
    )
    if not can_be_kept(live, [worker], n_bytes):
        return send(function)
    kept, token = WorkerCache.of(live), content_hash(function)
    future = kept.find(token, worker)
    if future is None:
        future = send(function)
        kept.keep(token, worker, future, n_bytes, owner)
    return future
