"""What an engine is, and what the user asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

from scipy.optimize import OptimizeResult

from skdistmlp.exceptions import ExchangeError, counted, what_happened
from skdistmlp.nn.layers import Network
from skdistmlp.nn.types import Features, FloatArray
from skdistmlp.parallel.data import BaseDataset
from skdistmlp.parallel.split import Parameters
from skdistmlp.planning.cost import StepCost
from skdistmlp.planning.plan import Plan, Threshold, reason_to_stay_local
from skdistmlp.settings import parameter_threshold as configured_threshold
from skdistmlp.training.job import Checkpoint, OnEpochEnd, TrainingJob
from skdistmlp.training.progress import Progress
from skdistmlp.training.state import TrainingState

if TYPE_CHECKING:
    from distributed import Client

    from skdistmlp.cluster._dask import Cluster


@dataclass(frozen=True)
class EngineRequest:
    """What the user asked for; the estimator's parameters of these names.

    `client_stayed_behind` says that this had a live client in another process: one that
    was given as `client`, or the active one. `client_of_data` says that `client` was
    not given, but is that of a Dask collection. `must_share` says that X is on the
    cluster and does not fit this process. `only_plans` says that nothing will be
    trained. `without_peers` says why the workers cannot train as peers, as a first
    attempt has shown: the reason of the next plan.
    """

    client: "Client | Cluster | str | None"
    n_workers: int | None
    parameter_threshold: Threshold
    engine: str
    n_replicas: int | None = None
    client_stayed_behind: Literal["given", "active"] | None = None
    client_of_data: bool = False
    must_share: bool = False
    only_plans: bool = False
    without_peers: str | None = None

    def reason_to_stay_local(self, layer_units: Sequence[int]) -> str | None:
        """Return why no cluster needs to be looked for, None if one does."""
        if self.must_share and self.engine == "auto":
            return None
        return reason_to_stay_local(
            layer_units,
            self.engine,
            self.parameter_threshold,
            # Whoever wants a cluster will import Dask anyway: until then, settings in
            # files and the environment would go unnoticed.
            read_settings=self.client is not None
            or self.client_stayed_behind is not None
            or (self.n_workers or 1) > 1
            or (self.n_replicas or 1) > 1,
        )

    @property
    def may_stay_local(self) -> bool:
        """Whether this process may train a network that reaches the threshold."""
        if self.n_workers is not None or self.must_share:
            return False
        if self.n_replicas is not None and self.n_replicas > 1:
            return False
        if self.parameter_threshold is None:
            return configured_threshold() > 0
        return self.parameter_threshold != 0

    @property
    def may_do_without_peers(self) -> bool:
        """Whether there is another plan if the workers cannot train as peers.

        Both others need all features in this process, and have one copy of the network.
        """
        if self.engine != "auto" or self.must_share:
            return False
        return self.n_replicas in (None, 1) and self.without_peers is None

    @property
    def cluster_engines(self) -> tuple[str, ...]:
        """The engines of a cluster that `engine="auto"` may take."""
        if self.without_peers is not None:
            return ("futures",)
        return ("peers", "futures") if self.may_do_without_peers else ("peers",)

    def check_replicas(self, cost: StepCost) -> None:
        """Raise ValueError if the number of replicas does not fit what else was asked.

        Parameters
        ----------
        cost : StepCost
            Of a step of the training.
        """
        n_replicas = self.n_replicas
        if n_replicas is None or n_replicas == 1:
            return
        if self.engine == "futures":
            raise ValueError(
                f"n_replicas={n_replicas} has no meaning with engine='futures', whose "
                f"tasks share a network by its neurons only. Use engine='peers', or "
                f"leave n_replicas out."
            )
        if self.n_workers is not None and self.n_workers % n_replicas:
            raise ValueError(
                f"n_replicas={n_replicas} does not divide n_workers={self.n_workers}, "
                f"but each replica has as many workers as the others. Change one of "
                f"them, or leave n_workers out: as many workers are used as fit."
            )
        if n_replicas > cost.n_rows:
            rows = counted(cost.n_rows, "row")
            batch, advice = "a mini-batch", ", or raise batch_size"
            if cost.moves_parameters:
                batch, advice = "X", ""
            raise ValueError(
                f"n_replicas={n_replicas} is more than the {rows} of {batch}, which "
                f"the replicas divide among each other. Lower n_replicas{advice}."
            )


def out_of_reach(what: str) -> str:
    """Return the reason to do without peers that cannot connect to each other.

    Parameters
    ----------
    what : str
        What has happened.
    """
    return f"the workers cannot reach each other ({what})"


def reason_without_peers(error: ExchangeError) -> str:
    """Return the reason to do without peers after one of their runs has failed.

    Parameters
    ----------
    error : ExchangeError
        How it ended, before its first step.
    """
    if error.apart:
        return out_of_reach(what_happened(error))
    return f"peers failed before their first step ({what_happened(error)})"


def with_step_time(
    plan: Plan, job: TrainingJob, state: TrainingState, training_s: float
) -> Plan:
    """Return a plan with what a step of the training took, if that was expected.

    A step of "lbfgs" is an evaluation, with what SciPy does until the next.

    Parameters
    ----------
    plan : Plan
        Of the training.
    job : TrainingJob
        The job.
    state : TrainingState
        At the end of it.
    training_s : float
        Seconds of all steps.
    """
    if plan.forecast is None:
        return plan
    n_steps = _n_steps(job, state)
    if n_steps <= 0:
        return plan
    return replace(plan, forecast=plan.forecast.after(training_s / n_steps, n_steps))


def _n_steps(job: TrainingJob, state: TrainingState) -> int:
    """Return how many steps a job has taken: evaluations of "lbfgs"; 0 if unknown."""
    if isinstance(state.outcome, OptimizeResult):
        return int(state.outcome.nfev)
    before, after = job.initial.progress, state.progress
    if not isinstance(after, Progress):
        # SciPy was stopped, and has not said.
        return 0
    return after.n_steps - (before.n_steps if isinstance(before, Progress) else 0)


class Engine(Protocol):
    """Trains and predicts, on the workers of a plan."""

    @property
    def plan(self) -> Plan:
        """Which worker holds which neurons, and why this engine was chosen."""

    def train(
        self,
        job: TrainingJob,
        dataset: BaseDataset,
        on_epoch_end: OnEpochEnd | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> TrainingState:
        """Carry out a job to the end.

        Parameters
        ----------
        job : TrainingJob
            With the split of the plan. Its random state may be advanced.
        dataset : BaseDataset
            All rows, prepared.
        on_epoch_end : callable, optional
            See `OnEpochEnd`; called in this process.
        checkpoint : Checkpoint, optional
            Offered the state between epochs, at least every few seconds unless an
            epoch takes longer.

        Returns
        -------
        TrainingState
            Of the whole network, with its final parameters.
        """

    def predict(
        self, network: Network, parameters: Parameters, X: Features
    ) -> FloatArray:
        """Return the outputs for all rows, shape (n_samples, n_outputs)."""


EngineFactory: TypeAlias = Callable[[Plan, Any], Engine]
"""From a plan, and the connected client that it needs or None, to an engine."""
