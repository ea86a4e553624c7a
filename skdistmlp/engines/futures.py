"""The "futures" engine: each layer's computation on each worker is a Dask task."""

import math
from typing import Any

from scipy.sparse import csr_array, issparse
from sklearn.utils import gen_batches

from skdistmlp.cluster.futures.driver import open_futures_network
from skdistmlp.cluster.futures.recovery import train_with_recovery
from skdistmlp.cluster.prediction.by_rows import predict_by_rows
from skdistmlp.engines.engine import with_step_time
from skdistmlp.nn.layers import Network
from skdistmlp.nn.types import Features, FloatArray
from skdistmlp.parallel.data import BaseDataset, Dataset
from skdistmlp.parallel.shard import ShardState
from skdistmlp.parallel.split import Parameters, flatten
from skdistmlp.parallel.whole_network import PREDICT_BLOCK_ROWS, WholeNetwork
from skdistmlp.planning.plan import Plan
from skdistmlp.training.job import Checkpoint, OnEpochEnd, TrainingJob
from skdistmlp.training.state import TrainingState
from skdistmlp.training.step import predict_blocks

ROWS_SENT_AT_ONCE = 10_000
"""The most rows that a worker is sent at a time, where it has the whole network."""


def rows_per_block(n_rows: int, n_workers: int) -> int:
    """Return how many rows a worker is sent at a time, so that all get equally many.

    Each gets a block in each turn. Of the largest blocks possible, the last turn might
    have a single one, for which all others would wait.

    Parameters
    ----------
    n_rows : int
        Rows of the prediction.
    n_workers : int
        Workers that share them.
    """
    n_turns = max(1, math.ceil(n_rows / (n_workers * ROWS_SENT_AT_ONCE)))
    return max(1, math.ceil(n_rows / (n_workers * n_turns)))


class FuturesEngine:
    """Train and predict by Dask tasks; see `Engine`.

    Parameters
    ----------
    plan : Plan
        Which worker holds which neurons, or which workers hold the whole network.
    client : Client
        A connected client.
    """

    def __init__(self, plan: Plan, client: Any) -> None:
        self.plan = plan
        self._client = client

    def train(
        self,
        job: TrainingJob,
        dataset: BaseDataset,
        on_epoch_end: OnEpochEnd | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> TrainingState:
        """Carry out a job, its loop in this process; see `Engine`.

        Raises
        ------
        ClusterError
            If a worker would hold more than its memory limit, or workers are lost more
            often than the settings allow.
        """
        state, training_s = train_with_recovery(
            self._client,
            self.plan,
            job,
            dataset.to_local(),
            on_epoch_end,
            self._note_plan,
            checkpoint,
        )
        if not self.plan.recoveries:
            # Otherwise some steps were taken twice, or on fewer workers.
            self.plan = with_step_time(self.plan, job, state, training_s)
        return state

    def _note_plan(self, plan: Plan) -> None:
        """Note how training goes on: callbacks may ask for it."""
        self.plan = plan

    def predict(
        self, network: Network, parameters: Parameters, X: Features
    ) -> FloatArray:
        """Return the outputs, split by rows or by neurons; see `Engine`."""
        # Compressed columns cannot be cut into blocks of rows cheaply.
        X = csr_array(X) if issparse(X) else X
        # When the user's array is gone, or another in its place, workers drop theirs.
        owner = parameters.coefs[0]
        workers = self.plan.workers
        if self.plan.split_by == "rows":
            return predict_by_rows(
                self._client,
                workers,
                WholeNetwork(network, parameters),
                X,
                rows_per_block(X.shape[0], len(workers)),
                parameters.nbytes,
                owner,
            )
        state = ShardState(flatten(parameters, parameters.coefs[0].dtype))
        dataset = Dataset(X)
        blocks = list(gen_batches(dataset.n_rows, PREDICT_BLOCK_ROWS))
        with open_futures_network(
            self._client,
            workers,
            network,
            self.plan.split,
            state,
            dataset,
            stream_rows=True,
            owner=owner,
        ) as opened:
            return predict_blocks(opened, blocks)
