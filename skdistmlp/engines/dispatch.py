"""Train and predict with whichever engine a request leads to."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from skdistmlp.checkpoints.checkpointing import Checkpointing, checkpointing
from skdistmlp.engines.auto import FitOutline
from skdistmlp.engines.choice import ENGINES, open_engine, warn_of_local_prediction
from skdistmlp.engines.engine import (
    Engine,
    EngineFactory,
    EngineRequest,
    reason_without_peers,
)
from skdistmlp.exceptions import ClusterError, ExchangeError
from skdistmlp.nn.layers import Network
from skdistmlp.nn.types import Features, FloatArray
from skdistmlp.parallel.data import BaseDataset, Dataset
from skdistmlp.parallel.split import Parameters
from skdistmlp.parallel.whole_network import predict_in_blocks
from skdistmlp.planning.cost import StepCost
from skdistmlp.planning.plan import Plan
from skdistmlp.planning.recovery import Recovery
from skdistmlp.training.job import OnEpochEnd, TrainingJob
from skdistmlp.training.state import TrainingState


@dataclass(frozen=True)
class TrainingResult:
    """A plan, and the state that training on it has reached.

    Attributes
    ----------
    plan : Plan
        How the network was split, and why.
    state : TrainingState
        Of the whole network.
    checkpoint : Checkpointing or None
        To be removed once the fit has ended well; says how to go on if not.
    """

    plan: Plan
    state: TrainingState
    checkpoint: Checkpointing | None = None


OnResult = Callable[[TrainingState, Callable[[], TrainingResult]], bool]
"""As `OnEpochEnd`, but with a function that returns what training would end with."""


class _CallbackError(Exception):
    """Carries the error of a callback past whatever recovers from errors of a fit."""

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def train(
    request: EngineRequest,
    job: TrainingJob,
    dataset: BaseDataset,
    on_epoch_end: OnResult | None = None,
    engines: Mapping[str, EngineFactory] = ENGINES,
    checkpoint: str | os.PathLike[str] | None = None,
    on_begin: Callable[[int], None] | None = None,
) -> TrainingResult:
    """Plan the training of a network, and carry it out.

    Parameters
    ----------
    request : EngineRequest
        What the user asked for.
    job : TrainingJob
        The training job, not yet split; its random state is advanced.
    dataset : BaseDataset
        All rows.
    on_epoch_end : callable, optional
        See `OnResult`.
    engines : mapping of str to callable
        The table of engines.
    checkpoint : str or path, optional
        Directory, or URL of one, of the file that the training resumes from if it was
        cut off, and that is written meanwhile.
    on_begin : callable, optional
        Called before the first epoch, with the number of those that the training had
        ended when it was cut off.
    """
    dataset = dataset.prepared(job.dtype)
    if dataset.client is not None:
        # Features on a cluster train on that cluster.
        request = replace(
            request,
            client=dataset.client,
            client_of_data=request.client is None,
            must_share=not dataset.fits_here,
        )
    random_state = job.initial.random_state
    if request.only_plans:
        checkpoint = None
    n_before = 0
    try:
        with checkpointing(checkpoint, job, dataset) as kept:
            if kept is not None and (found := kept.load()) is not None:
                job = replace(job, initial=found)
                n_before = found.progress.n_iter
                job.log(f"Resuming: {kept.advice}")
            if on_begin is not None:
                on_begin(n_before)
            outline = FitOutline.of(job, dataset)
            layer_units = job.network.layer_units
            state = None
            recovered: tuple[Recovery, ...] = ()
            while state is None:
                try:
                    with open_engine(
                        request, layer_units, outline.cost, engines, outline, job.log
                    ) as engine:
                        plan = engine.plan
                        job = replace(job, split=plan.split, n_replicas=plan.n_replicas)
                        report = _reporting(engine, on_epoch_end)
                        try:
                            state = engine.train(job, dataset, report, kept)
                        finally:
                            recovered = (*recovered, *engine.plan.recoveries)
                        plan = replace(engine.plan, recoveries=recovered)
                except ExchangeError as error:
                    # Once: the next plan has no connections between workers.
                    if not (error.before_training and request.may_do_without_peers):
                        raise
                    reason = reason_without_peers(error)
                    request = replace(request, without_peers=reason)
            if kept is not None:
                kept.end(state.outcome)
    except _CallbackError as carrier:
        failed = carrier.error
    else:
        if state.random_state is not random_state:
            # Another process, or one before, has drawn from a copy of the user's.
            random_state.set_state(state.random_state.get_state(legacy=False))
        return TrainingResult(plan, state, kept)
    try:
        # Not in the handler, where its context would become what has carried it.
        raise failed
    finally:
        # Its traceback refers to this frame: a cycle.
        del failed


def _reporting(engine: Engine, on_epoch_end: OnResult | None) -> OnEpochEnd | None:
    """Return what an engine calls after each epoch.

    It raises the errors of `on_epoch_end` in a carrier, and those of a snapshot as they
    are: a fit may recover from the loss of its workers, whatever a callback does.
    """
    if on_epoch_end is None:
        return None

    def report(state: TrainingState, snapshot: Callable[[], TrainingState]) -> bool:
        is_lost = False

        def result() -> TrainingResult:
            nonlocal is_lost
            # Unless this returns.
            is_lost = True
            ended = TrainingResult(engine.plan, snapshot().as_if_ended())
            is_lost = False
            return ended

        try:
            return on_epoch_end(state, result)
        except Exception as error:
            if is_lost:
                raise
            raise _CallbackError(error) from error

    return report


def predict(
    request: EngineRequest,
    network: Network,
    parameters: Parameters,
    X: Features,
    engines: Mapping[str, EngineFactory] = ENGINES,
) -> FloatArray:
    """Plan a prediction, and carry it out.

    With ``engine="auto"`` it is carried out in this process if the cluster fails, since
    everything that it takes is here.

    Parameters
    ----------
    request : EngineRequest
        What the user asked for.
    network : Network
        The network.
    parameters : Parameters
        All its layers.
    X : ndarray or sparse rows of shape (n_samples, n_features)
        Features.
    engines : mapping of str to callable
        The table of engines.

    Returns
    -------
    ndarray of shape (n_samples, n_outputs)
        Outputs of the network.
    """
    layer_units = network.layer_units
    # A few rows take microseconds: a plan is made only where it may matter.
    if request.reason_to_stay_local(layer_units) is not None:
        return predict_in_blocks(network, parameters, X)
    cost = cost_of_prediction(parameters, X)
    with open_engine(request, layer_units, cost, engines) as engine:
        try:
            return engine.predict(network, parameters, X)
        except ClusterError as error:
            if request.engine != "auto":
                raise
            warn_of_local_prediction(error, STACKLEVEL)
    # Outside the context, which may hold a connection that is of no use any more.
    return predict_in_blocks(network, parameters, X)


STACKLEVEL = 4
"""Frames from `predict` to the line that called the estimator's."""


def plan_prediction(
    request: EngineRequest,
    network: Network,
    parameters: Parameters,
    X: Features,
    engines: Mapping[str, EngineFactory] = ENGINES,
) -> Plan:
    """Return the plan that `predict` would follow."""
    cost = cost_of_prediction(parameters, X)
    with open_engine(request, network.layer_units, cost, engines) as engine:
        return engine.plan


def cost_of_prediction(parameters: Parameters, X: Features) -> StepCost:
    """Return what it costs to predict for all rows of `X`."""
    dataset = Dataset(X)
    return StepCost.of_prediction(
        dataset.n_rows,
        itemsize=parameters.coefs[0].itemsize,
        nnz_per_row=dataset.nnz_per_row,
    )
