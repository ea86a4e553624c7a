"""Lazy predictions for Dask collections: Dask arrays, computed when asked for."""

import math
import pickle
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any

import dask
from dask.array import Array
from dask.delayed import delayed
from dask.utils import parse_bytes
from distributed import Client

from skdistmlp._version import __version__
from skdistmlp.cluster._dask import Cluster
from skdistmlp.cluster.client.errors import translate_dask_errors
from skdistmlp.cluster.client.lookup import address_of, scheduler_address, usable_client
from skdistmlp.cluster.client.rpc import submit_rpc, wait_while
from skdistmlp.cluster.client.workers import workers_of
from skdistmlp.cluster.data.dask_collections import header_of, in_whole_rows, is_frame
from skdistmlp.cluster.run.cache import WorkerCache, content_hash, is_cacheable
from skdistmlp.cluster.run.portable import PortableFunction
from skdistmlp.cluster.run.scatter import SIGNS_OF_LOSS, send_to_worker
from skdistmlp.cluster.run.watch import Watch

LARGE_GRAPH_SETTING = "distributed.admin.large-graph-warning-threshold"
"""Dask's setting of the size from which it warns about values inside a graph."""


def map_blocks(
    client: Client | Cluster | str | None,
    collection: Any,
    function: Callable[[Any], Any],
    n_bytes: int,
    owner: object,
) -> Any:
    """Apply a function to every block of rows, lazily.

    Parameters
    ----------
    client : Client, Cluster, str or None
        The estimator's parameter.
    collection : Array or DataFrame
        Features.
    function : callable
        From a block to an array with as many rows.
    n_bytes : int
        Size of the function.
    owner : object
        Where the function is sent to a cluster, it is released with this object at
        the latest; see `WorkerCache`.

    Returns
    -------
    Array
        With one chunk per block.
    """
    collection = in_whole_rows("X", collection)
    meta = function(header_of(collection))[:0]
    future = None
    # A small function travels inside the graph, which anyone can then compute. Dask
    # warns about large values there.
    if n_bytes > parse_bytes(dask.config.get(LARGE_GRAPH_SETTING, "10MB")):
        future = _scatter_function(client, function, n_bytes, owner)
    # As bytes: whoever computes the graph may lack this package.
    pickled = pickle.dumps(function) if future is None else future
    shared = delayed(pickled, traverse=False)
    predict_rows = PortableFunction("predict_rows", __version__)
    rows: Any = _array_of_partitions(collection) if is_frame(collection) else collection
    outputs = tuple((n,) for n in meta.shape[1:])
    features = tuple(range(1, rows.ndim))
    return rows.map_blocks(
        predict_rows,
        shared,
        drop_axis=features,
        new_axis=tuple(range(1, meta.ndim)) or None,
        chunks=(rows.chunks[0], *outputs),
        dtype=meta.dtype,
        meta=meta,
    )


def _array_of_partitions(frame: Any) -> Array:
    """Return a Dask array with one dimension whose blocks are a frame's partitions.

    Not with `map_partitions`: with the meta of an array, Dask would optimise the graph
    at once. It may then read several files in one task, so that the array has
    fewer blocks than the frame has partitions and cannot become one of its columns; and
    Dask cannot compute single blocks of what is optimised.
    """
    graph, keys = dict(frame.__dask_graph__()), frame.__dask_keys__()
    name, *_ = keys[0]
    return Array(graph, name, ((math.nan,) * len(keys),), dtype=object)


def _scatter_function(
    client: Client | Cluster | str | None, function: Any, n_bytes: int, owner: object
) -> Any:
    """Return a future of the pickled function; None without a cluster.

    The cache holds a second reference. While a graph is being computed, the scheduler
    may learn that the client has dropped the future before it learns that a task of
    the graph needs it, and would delete the function.
    """
    live = usable_client(client)
    if live is None:
        return None
    address = address_of(client)
    if address is not None and scheduler_address(live) != address:
        # The prediction will be computed on another cluster.
        return None
    workers = workers_of(live)
    if not workers:
        return None
    worker = workers[0]
    send = partial(_send, live, worker)
    if not is_cacheable(live, [worker], n_bytes):
        return send(pickle.dumps(function))
    cache, token = WorkerCache.of(live), content_hash(function)
    future = cache.find(token, worker)
    if future is None:
        future = send(pickle.dumps(function))
        cache.keep(token, worker, future, n_bytes, owner)
    return future


def _send(client: Client, worker: str, value: Any) -> Any:
    """Send a value to a worker; return its future."""
    watch = Watch(client, [worker])
    check = partial(watch.check, [worker])

    def wait_for_call(method: Callable[..., Any], *args: Any) -> Any:
        sending = submit_rpc(client, method, *args)
        wait_while(check, [sending])
        try:
            return sending.result()
        finally:
            # As in `Scatterer`: no error is to be reached from its own frames.
            del sending

    key = f"network-{uuid.uuid4().hex}"
    try:
        with translate_dask_errors(client, (worker,), "sending the network"):
            try:
                return send_to_worker(client, key, value, worker, wait_for_call, check)
            except SIGNS_OF_LOSS:
                watch.await_loss()
                raise
    finally:
        watch.close()
