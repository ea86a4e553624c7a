"""The "local" engine: everything in this process."""

from skdistmlp.engines.engine import with_step_time
from skdistmlp.nn.layers import Network
from skdistmlp.nn.types import Features, FloatArray
from skdistmlp.parallel.communicators import SingleProcess
from skdistmlp.parallel.data import BaseDataset
from skdistmlp.parallel.local_network import open_local_network
from skdistmlp.parallel.split import Parameters
from skdistmlp.parallel.whole_network import predict_in_blocks
from skdistmlp.planning.plan import Plan
from skdistmlp.training.job import Checkpoint, OnEpochEnd, TrainingJob
from skdistmlp.training.run import TrainingRun
from skdistmlp.training.state import TrainingState


class LocalEngine:
    """Train and predict in this process; see `Engine`.

    Parameters
    ----------
    plan : Plan
        Of one shard.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def train(
        self,
        job: TrainingJob,
        dataset: BaseDataset,
        on_epoch_end: OnEpochEnd | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> TrainingState:
        """Carry out a job; see `Engine`."""
        dataset = dataset.to_local()
        state = job.start(self.plan.split.unsplit_layout())
        network = open_local_network(
            job.network,
            job.split,
            state.network,
            dataset,
            SingleProcess(),
            job.max_rows(dataset),
        )
        run = TrainingRun(job, network, dataset, state, job.log)
        offer = None if checkpoint is None else checkpoint.offer
        trained = run.train(on_epoch_end, offer)
        self.plan = with_step_time(self.plan, job, trained, run.training_s)
        return trained

    def predict(
        self, network: Network, parameters: Parameters, X: Features
    ) -> FloatArray:
        """Return the outputs; see `Engine`."""
        return predict_in_blocks(network, parameters, X)
