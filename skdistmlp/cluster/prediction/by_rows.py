"""Prediction by rows: each worker has the whole network, and gets some of the rows."""

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
"""Blocks on their way to a worker, or being predicted there, at a time."""


def predict_by_rows(
    client: Client,
    workers: tuple[str, ...],
    function: Callable[[Features], FloatArray],
    X: Features,
    rows_per_block: int,
    n_bytes: int,
    owner: object,
) -> FloatArray:
    """Send the network to every worker once, and blocks of rows in turn.

    The network stays there for the next call; see `WorkerCache`.

    Parameters
    ----------
    client : Client
        A connected client.
    workers : tuple of str
        Addresses.
    function : callable
        The whole network: from features to outputs.
    X : ndarray or csr_array of shape (n_samples, n_features)
        Features.
    rows_per_block : int
        Rows sent at a time.
    n_bytes : int
        Size of the network.
    owner : object
        What the network is let go of with.

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
    """Return the outputs for rows, computed with the threads of this worker."""
    with own_blas_threads():
        return function(rows)
