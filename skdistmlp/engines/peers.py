"""The "peers" engine: workers train by themselves and talk to each other directly."""

from typing import Any

from skdistmlp.cluster.peers.recovery import train_with_recovery
from skdistmlp.cluster.run.free_memory import check_memory_limits
from skdistmlp.engines.engine import with_step_time
from skdistmlp.engines.futures import FuturesEngine
from skdistmlp.nn.layers import Network
from skdistmlp.nn.types import Features, FloatArray
from skdistmlp.parallel.data import BaseDataset
from skdistmlp.parallel.split import Parameters
from skdistmlp.planning.plan import Plan
from skdistmlp.training.job import Checkpoint, OnEpochEnd, TrainingJob
from skdistmlp.training.state import TrainingState


class PeersEngine:
    """Train on workers that talk to each other directly; see `Engine`.

    Parameters
    ----------
    plan : Plan
        Which worker holds which neurons.
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
        """Carry out a job in rounds on the workers; see `Engine`.

        Raises
        ------
        ClusterError
            If a worker would hold more than its memory limit, or workers are lost more
            often than the settings allow.
        """
        # Before it queues for workers.
        check_memory_limits(self._client, self.plan)
        state, training_s = train_with_recovery(
            self._client,
            self.plan,
            job,
            dataset,
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
        """Return the outputs; a prediction needs no exchange, so Dask tasks serve."""
        return FuturesEngine(self.plan, self._client).predict(network, parameters, X)
