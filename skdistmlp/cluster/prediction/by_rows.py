"""Prediction by rows: each worker has the whole network, and predicts some rows."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from typing import Any

import numpy as np
from distributed import Client, Future
from sklearn.utils import gen_batches

from skdistmlp.cluster.client.workers import workers_of
from skdistmlp.cluster.run.graph import PREDICT
from skdistmlp.cluster.run.placement import Placement
from skdistmlp.cluster.run.task_context import own_blas_threads
from skdistmlp.exceptions import ClusterError, WorkerLostError, counted, what_happened
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

    The network stays on the workers for the next call; see `WorkerCache`. If a worker
    is lost, the others go on with the rows that are not predicted yet, or, if none is
    left, this process does: each has the whole network. If none is, but the cluster
    dropped what was sent, the same workers go on, once.

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
    blocks = list(gen_batches(X.shape[0], rows_per_block))
    outputs: list[FloatArray] = []
    may_repeat = True
    while workers:
        rest = blocks[len(outputs) :]
        try:
            for found in _predict_in_turns(
                client, workers, function, X, rest, n_bytes, owner
            ):
                outputs += found
            return np.concatenate(outputs)
        except WorkerLostError as error:
            left = _workers_left(client, workers)
            where = f"on {len(left)} of the workers" if left else "here"
            if left == workers:
                # All of them are still there. One that hangs cannot be told from the
                # others; but if the cluster dropped what was sent, all can go on. Not
                # again and again: whatever dropped it may do so each time.
                if may_repeat and isinstance(error.__cause__, CancelledError):
                    where = "on the same workers"
                    may_repeat = False
                else:
                    left, where = (), "here"
            workers = left
            n_rows = sum(block.stop - block.start for block in blocks[len(outputs) :])
            warnings.warn(
                f"{what_happened(error)}: continuing with the other "
                f"{counted(n_rows, 'row')} {where}.",
                stacklevel=STACKLEVEL,
            )
    outputs += [function(X[block]) for block in blocks[len(outputs) :]]
    return np.concatenate(outputs)


STACKLEVEL = 6
"""Frames from there to the line that called `predict_proba`."""


def _workers_left(client: Client, workers: tuple[str, ...]) -> tuple[str, ...]:
    """Return the given workers that still accept tasks."""
    try:
        present = workers_of(client)
    except ClusterError:
        return ()
    return tuple(worker for worker in workers if worker in present)


def _predict_in_turns(
    client: Client,
    workers: tuple[str, ...],
    function: Callable[[Features], FloatArray],
    X: Features,
    blocks: Sequence[slice],
    n_bytes: int,
    owner: object,
) -> Iterator[list[FloatArray]]:
    """Yield the outputs of blocks of rows, in their order, some at a time."""
    with Placement(client, workers, PREDICT) as tasks:
        tasks.phase = "placing the network"
        n = len(workers)
        networks = tasks.scatter_cached("network", n * [function], n * [n_bytes], owner)
        tasks.phase = "predicting"
        under_way: deque[list[Future[Any]]] = deque()
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
                yield tasks.pop_results(*under_way.popleft())
        while under_way:
            yield tasks.pop_results(*under_way.popleft())


def predict_block(
    rows: Features, function: Callable[[Features], FloatArray]
) -> FloatArray:
    """Return the outputs for rows, computed with this worker's number of threads."""
    with own_blas_threads():
        return function(rows)
