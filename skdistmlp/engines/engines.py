"""From an estimator's parameters to a plan, and from a plan to a shard group."""

import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from scipy.sparse import csr_array, issparse
from sklearn.utils import gen_batches

from skdistmlp.nn.types import Features, FloatArray, aligned
from skdistmlp.parallel.communicators import SingleProcess
from skdistmlp.parallel.data import Dataset, RemoteFeatures
from skdistmlp.parallel.ops import NetworkOps
from skdistmlp.parallel.shard import Network, ShardState, predict_whole
from skdistmlp.parallel.split import Parameters, flatten
from skdistmlp.planning.cost import StepCost, cost_of_training
from skdistmlp.planning.plan import (
    Plan,
    check_memory,
    local_plan,
    plan_training,
    reason_to_stay_local,
)
from skdistmlp.planning.prediction import (
    plan_shared_prediction,
    reason_to_predict_locally,
)
from skdistmlp.training.job import TrainingJob, run_to_end
from skdistmlp.training.loop import prefer_interrupt
from skdistmlp.training.progress import Progress
from skdistmlp.training.step import predict_blocks

if TYPE_CHECKING:
    from distributed import Client

PREDICT_BLOCK_ROWS = 2000
"""Rows forwarded at a time by predict."""

SPARSE_PREDICT_BLOCK_ROWS = 20_000
"""The same for sparse features, whose rows are copied to cut them off."""

ROWS_SENT_AT_ONCE = 10_000
"""Rows that a worker is sent at a time, where it has the whole network."""

NO_CLIENT = "no Dask client is active and none was given"

STACKLEVEL = 7
"""Frames from the warning below to the line that called `fit`."""


@dataclass(frozen=True)
class EngineRequest:
    """What the user asked for; the estimator's parameters of these names.

    `client_stayed_behind` says that `client` was a live one, in another process.
    """

    client: "Client | str | None"
    n_workers: int | None
    parameter_threshold: int | None
    engine: str
    client_stayed_behind: bool = False


@dataclass(frozen=True)
class WholeNetwork:
    """A network and all its weights: from rows to outputs, in any process.

    Attributes
    ----------
    network : Network
        The network, undivided.
    weights : Parameters
        All its layers.
    """

    network: Network
    weights: Parameters

    def __setstate__(self, state: dict[str, Any]) -> None:
        coefs, intercepts = state["weights"]
        weights = Parameters([aligned(coef) for coef in coefs], intercepts)
        self.__dict__.update(state, weights=weights)

    def __call__(self, X: Features) -> FloatArray:
        """Return the outputs, shape (n_samples, n_outputs)."""
        return _predict_here(self.network, self.weights, X)


@dataclass(frozen=True)
class TrainingResult:
    """What came of a job.

    Attributes
    ----------
    plan : Plan
        How the network was split, and why so.
    state : ShardState
        State of the whole network.
    progress : Progress or None
        Where training in epochs stands.
    outcome : Outcome, OptimizeResult or None
        What the training returned; None while it goes on.
    """

    plan: Plan
    state: ShardState
    progress: Progress | None
    outcome: Any


def train(
    request: EngineRequest,
    job: TrainingJob,
    dataset: Dataset,
    after_epoch: Callable[[Callable[[], TrainingResult]], bool] | None = None,
) -> TrainingResult:
    """Plan the training of a network, and carry it out.

    Parameters
    ----------
    request : EngineRequest
        What the user asked for.
    job : TrainingJob
        What is to be trained; its random state, progress and start are advanced.
    dataset : Dataset
        All rows.
    after_epoch : callable, optional
        Called in this process after every epoch but the last, with a function that
        returns a copy of what came of the job until there; says whether to stop.
    """
    dataset = dataset.prepared(job.dtype)
    network = job.network
    work = cost_of_training(job, dataset)
    if isinstance(dataset.X, RemoteFeatures):
        request = replace(request, client=dataset.X.client)
    with _planned(request, network.split.layer_units, work) as (plan, client):
        pause = after_epoch and partial(_paused, after_epoch, plan, job)
        if plan.engine == "peers":
            from skdistmlp.cluster.client.workers import memory_limits
            from skdistmlp.cluster.peers.driver import train_on_peers

            check_memory(plan, memory_limits(client, plan.workers))
            state, outcome = train_on_peers(client, plan, job, dataset, pause)
            return TrainingResult(plan, state, job.progress, outcome)
        if plan.reason == NO_CLIENT:
            _warn_of_missing_client(request)
        dataset = dataset.to_local()
        job = replace(job, network=replace(network, split=plan.split))
        with _group(plan, client, job, dataset) as group:
            training = job.run(group, dataset)
            outcome = run_to_end(training, pause and partial(pause, group.snapshot))
            with prefer_interrupt(outcome):
                state = group.collect()
        return TrainingResult(plan, state, job.progress, outcome)


def _paused(
    after_epoch: Callable[[Callable[[], TrainingResult]], bool],
    plan: Plan,
    job: TrainingJob,
    snapshot: Callable[[], ShardState],
) -> bool:
    """Tell of an epoch that has ended; return whether to stop."""
    return after_epoch(
        lambda: TrainingResult(plan, snapshot(), deepcopy(job.progress), None)
    )


def _warn_of_missing_client(request: EngineRequest) -> None:
    """Say once that what was asked for needs a cluster.

    In processes of joblib, for one, the client that is active elsewhere is not.
    """
    if request.n_workers is not None and request.n_workers > 1:
        _warn_once(f"n_workers={request.n_workers}")
    elif request.engine != "auto":
        _warn_once(f"engine={request.engine!r}")
    elif request.client_stayed_behind:
        _warn_once("an estimator whose live client= stayed behind in another process")


@cache
def _warn_once(asked: str) -> None:
    # Python's own filters forget what was said whenever somebody changes them.
    warnings.warn(
        f"{asked} needs a cluster, but {NO_CLIENT} in this process: training here. "
        f"Pass the address of the scheduler as client=, which other processes can "
        f"use too.",
        stacklevel=STACKLEVEL,
    )


@contextmanager
def _group(
    plan: Plan, client: Any, job: TrainingJob, dataset: Dataset
) -> Iterator[NetworkOps[Any]]:
    """Give the shard group of an engine whose loop runs in this process."""
    if plan.engine == "local":
        yield job.with_initial_state(plan.split.unsplit_layout()).shard(
            dataset, SingleProcess()
        )
        return
    from skdistmlp.cluster.futures.driver import FuturesOps

    start = job.with_initial_state(plan.split.unsplit_layout()).start
    assert start is not None
    with FuturesOps(client, plan.workers, job.network, start, dataset) as group:
        yield group


def predict(
    request: EngineRequest, network: Network, weights: Parameters, X: Features
) -> FloatArray:
    """Plan a prediction and carry it out.

    Parameters
    ----------
    request : EngineRequest
        What the user asked for.
    network : Network
        The network, however it is split.
    weights : Parameters
        All its layers.
    X : ndarray or sparse rows of shape (n_samples, n_features)
        Features.

    Returns
    -------
    ndarray of shape (n_samples, n_outputs)
        Outputs of the network.
    """
    # A few rows take microseconds: a plan is made only where it may matter.
    if _reason_to_stay_local(request, network.split.layer_units) is not None:
        return _predict_here(network, weights, X)
    work = _prediction(weights, X)
    with _planned(request, network.split.layer_units, work) as (plan, client):
        if plan.engine == "local":
            return _predict_here(network, weights, X)
        # Compressed columns cannot be cut into blocks of rows cheaply.
        X = csr_array(X) if issparse(X) else X
        # When they are gone, or others are in their place, workers let go of theirs.
        owner = weights.coefs[0]
        if plan.split_by == "rows":
            from skdistmlp.cluster.prediction.by_rows import predict_by_rows

            outputs = WholeNetwork(network, weights)
            share = math.ceil(X.shape[0] / len(plan.workers))
            return predict_by_rows(
                client,
                plan.workers,
                outputs,
                X,
                min(share, ROWS_SENT_AT_ONCE),
                weights.nbytes,
                owner,
            )
        from skdistmlp.cluster.futures.driver import FuturesOps

        network = replace(network, split=plan.split)
        state = ShardState(flatten(weights, weights.coefs[0].dtype))
        dataset = Dataset(X)
        blocks = list(gen_batches(dataset.n_rows, PREDICT_BLOCK_ROWS))
        with FuturesOps(
            client,
            plan.workers,
            network,
            state,
            dataset,
            stream_rows=True,
            owner=owner,
        ) as group:
            return predict_blocks(group, blocks)


def plan_of_prediction(
    request: EngineRequest, network: Network, weights: Parameters, X: Features
) -> Plan:
    """Return the plan that `predict` would follow."""
    work = _prediction(weights, X)
    with _planned(request, network.split.layer_units, work) as (plan, _):
        return plan


def _prediction(weights: Parameters, X: Features) -> StepCost:
    dataset = Dataset(X)
    return StepCost.of_prediction(
        dataset.n_rows,
        itemsize=weights.coefs[0].itemsize,
        nnz_per_row=dataset.nnz_per_row,
    )


def _predict_here(network: Network, weights: Parameters, X: Features) -> FloatArray:
    block = SPARSE_PREDICT_BLOCK_ROWS if issparse(X) else PREDICT_BLOCK_ROWS
    return predict_whole(network, weights, X, block)


def _reason_to_stay_local(
    request: EngineRequest, layer_units: Sequence[int]
) -> str | None:
    """Return why no cluster needs to be looked for, None if one does."""
    reason = reason_to_stay_local(
        layer_units,
        request.engine,
        request.parameter_threshold,
        read_settings=request.client is not None,
    )
    # Without an import of distributed nobody can have made a client.
    if reason is None and request.client is None and "distributed" not in sys.modules:
        return NO_CLIENT
    return reason


@contextmanager
def _planned(
    request: EngineRequest, layer_units: Sequence[int], work: StepCost
) -> Iterator[tuple[Plan, Any]]:
    """Give the plan, and the client to carry it out with, if it needs one.

    Dask is imported, and a cluster looked for, only when the network is large
    enough to be shared.
    """
    reason = _reason_to_stay_local(request, layer_units)
    if reason is None and not work.goes_backward and request.engine != "futures":
        # To ask the scheduler for workers may take longer than a small prediction.
        reason = reason_to_predict_locally(layer_units, work)
    if reason is not None:
        yield local_plan(layer_units, reason), None
        return
    from skdistmlp.cluster.client.lookup import connected
    from skdistmlp.cluster.client.workers import (
        choose_workers,
        memory_limits,
        threads_of,
        workers_of,
    )

    with connected(request.client) as client:
        if client is None:
            yield local_plan(layer_units, NO_CLIENT), None
            return
        if not work.goes_backward:
            # All that it takes is at hand: a cluster that has become smaller will do.
            workers = workers_of(client)[: request.n_workers]
            if not workers:
                yield local_plan(layer_units, "the cluster has no workers"), None
                return
            limits = memory_limits(client, workers).values()
            limit = min(limits, default=None)
            plan = plan_shared_prediction(
                layer_units, request.engine, workers, work, limit
            )
        else:
            workers = choose_workers(client, request.n_workers)
            threads = threads_of(client, workers)
            plan = plan_training(layer_units, request.engine, workers, work, threads)
        yield plan, client
