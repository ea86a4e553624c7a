"""Prediction by rows: each worker has the whole network, and predicts some rows."""

from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from distributed import Client, Future
from sklearn.utils import gen_batches

from skdistmlp.cluster.run.placement import Placement
from skdistmlp.cluster.run.task_context import own_blas_threads
from skdistmlp.nn.types import Features, FloatArray

TURNS_AHEAD = 2
"""Blocks per worker that are sent or predicted while one more is submitted: enough to
keep a worker busy while its next block is under way. More would only fill memory."""


def predict_by_rows(
    client: Client,
    workers: tuple[str, ...],
    function: Callable[[Features], FloatArray],
    X: Features,
    rows_per_block: int,
    n_bytes: int,
    owner: object,
) -> FloatArray:
    """Send the network to every worker once, then one block of rows per worker in turn.

    The network stays on the workers for the next call; see `WorkerCache`.

    Parameters
    ----------
    client : Client
        A connected client.
    workers : tuple of str
        Addresses.
    function : callable
        The whole network, from features to outputs.
    X : ndarray or csr_array of shape (n_samples, n_features)
        Features.
    rows_per_block : int
        Number of rows that a worker is sent at a time.
    n_bytes : int
        Size of the network.
    owner : object
        The network is released with this object at the latest.

    Returns
    -------
    ndarray of shape (n_samples, n_outputs)
        Outputs.
    """
    with Placement(client, workers) as tasks:
        tasks.phase = "placing the network"
        n = len(workers)
        networks = tasks.scatter_cached("network", n * [function], n * [n_bytes], owner)
        tasks.phase = "predicting"
        blocks = list(gen_batches(X.shape[0], rows_per_block))
        under_way: deque[list[Future[Any]]] = deque()
        outputs: list[FloatArray] = []
        for first in range(0, len(blocks), n):
            tasks.begin()
            turn = [X[block] for block in blocks[first : first + n]]
            rows = tasks.scatter("rows", turn)
            keys = [
                tasks.add(rank, "predict", predict_block, rows[rank], network)
                for rank, network in enumerate(networks[: len(turn)])
            ]
            under_way.append(tasks.submit(keys))
            # A bound, so that rows do not pile up on workers slower than this process.
            if len(under_way) > TURNS_AHEAD:
                outputs += tasks.pop_results(*under_way.popleft())
        while under_way:
            outputs += tasks.pop_results(*under_way.popleft())
    return np.concatenate(outputs)


def predict_block(
    rows: Features, function: Callable[[Features], FloatArray]
) -> FloatArray:
    """Return the outputs for rows, computed with this worker's number of threads."""
    with own_blas_threads():
        return function(rows)
