"""The "peers" engine: workers train by themselves and talk to each other directly."""

from typing import Any

from skdistmlp.cluster.client.workers import memory_limits
from skdistmlp.cluster.peers.driver import PeersRun
from skdistmlp.engines.futures import FuturesEngine
from skdistmlp.nn.layers import Network
from skdistmlp.nn.types import Features, FloatArray
from skdistmlp.parallel.data import BaseDataset
from skdistmlp.parallel.split import Parameters
from skdistmlp.planning.plan import Plan, check_memory
from skdistmlp.training.job import OnEpochEnd, TrainingJob
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
    ) -> TrainingState:
        """Carry out a job in rounds on the workers; see `Engine`.

        Raises
        ------
        ClusterError
            If a worker would hold more than its memory limit.
        """
        limits = memory_limits(self._client, self.plan.workers)
        check_memory(self.plan, limits)
        with PeersRun(self._client, self.plan, job, dataset, on_epoch_end) as run:
            return run.train()

    def predict(
        self, network: Network, parameters: Parameters, X: Features
    ) -> FloatArray:
        """Return the outputs; a prediction needs no exchange, so Dask tasks serve."""
        return FuturesEngine(self.plan, self._client).predict(network, parameters, X)
