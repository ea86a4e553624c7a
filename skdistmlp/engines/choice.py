"""The table of engines, and the choice of one for a request."""

import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Literal

from skdistmlp.engines.auto import (
    FitOutline,
    fastest_plan,
    has_choice,
    has_room_here,
    is_anything_known,
    is_worth_measuring,
    plan_by_assumed_machines,
    plan_by_known_machines,
    plan_without_peers,
    reason_too_short,
    workers_with_room_for_trial,
)
from skdistmlp.engines.default_plan import DefaultPlanner
from skdistmlp.engines.engine import (
    Engine,
    EngineFactory,
    EngineRequest,
    out_of_reach,
)
from skdistmlp.engines.local import LocalEngine
from skdistmlp.exceptions import ClusterError, ExchangeError, what_happened
from skdistmlp.planning.cost import StepCost
from skdistmlp.planning.left_out import left_out_lines
from skdistmlp.planning.machines import Machines, reference_machines
from skdistmlp.planning.plan import Plan, local_plan
from skdistmlp.planning.prediction import (
    ASSUMED_RATE,
    plan_shared_prediction,
    reason_to_predict_locally,
)
from skdistmlp.training.loop import Log, quiet

NO_CLIENT = "no Dask client is active and none was given"


def _local_engine(plan: Plan, _client: Any) -> Engine:
    return LocalEngine(plan)


def _futures_engine(plan: Plan, client: Any) -> Engine:
    from skdistmlp.engines.futures import FuturesEngine

    return FuturesEngine(plan, client)


def _peers_engine(plan: Plan, client: Any) -> Engine:
    from skdistmlp.engines.peers import PeersEngine

    return PeersEngine(plan, client)


ENGINES: Mapping[str, EngineFactory] = MappingProxyType(
    {"local": _local_engine, "futures": _futures_engine, "peers": _peers_engine}
)
"""The engines by name; only those of a cluster import Dask."""


@contextmanager
def open_engine(
    request: EngineRequest,
    layer_units: Sequence[int],
    cost: StepCost,
    engines: Mapping[str, EngineFactory] = ENGINES,
    outline: FitOutline | None = None,
    log: Log = quiet,
) -> Iterator[Engine]:
    """Plan training or a prediction, and make the engine of the plan.

    Dask is imported, and a cluster looked for, only when the network is large
    enough to be split, and its training long enough.

    Parameters
    ----------
    request : EngineRequest
        What the user asked for.
    layer_units : sequence of int
        Features, neurons of each hidden layer, outputs.
    cost : StepCost
        Of a step of training, or of the prediction.
    engines : mapping of str to callable
        The table of engines.
    outline : FitOutline, optional
        Of training: with it, "auto" takes the plan that is expected to be fastest.
    log : callable
        Takes a line if a training waits for workers that were lost.

    Yields
    ------
    Engine
        Inside the context its client, if it has one, is connected.
    """
    reason = request.reason_to_stay_local(layer_units)
    is_prediction = not cost.goes_backward
    if reason is None and is_prediction and request.engine != "futures":
        # Asking the scheduler for workers may take longer than a small prediction.
        reason = reason_to_predict_locally(layer_units, cost)
    elif not is_prediction:
        if reason is None:
            request.check_replicas(cost)
        else:
            _warn_of_unused_cluster(request, reason)
    if reason is not None:
        plan = local_plan(layer_units, reason)
        yield engines[plan.engine](plan, None)
        return
    # Without an import of distributed nobody can have made a client.
    if request.client is None and "distributed" not in sys.modules:
        plan = _plan_without_client(request, layer_units, is_prediction)
        yield engines[plan.engine](plan, None)
        return
    if outline is not None:
        reason = reason_too_short(request, outline)
        if reason is not None and not is_anything_known(outline):
            # Asking the scheduler for workers may take longer than the fit.
            _warn_of_unused_cluster(request, reason)
            plan = local_plan(layer_units, reason)
            yield engines[plan.engine](plan, None)
            return
    from skdistmlp.cluster.client.calling_thread import is_left_behind
    from skdistmlp.cluster.client.lookup import connected

    if is_left_behind(request.client):
        kind: Literal["given", "active"] = (
            "active" if request.client is None else "given"
        )
        request = replace(request, client_stayed_behind=kind)
    with ExitStack() as context:
        client = None
        try:
            client = context.enter_context(connected(request.client))
            if client is None:
                plan = _plan_without_client(request, layer_units, is_prediction)
            elif is_prediction:
                plan = _plan_prediction(request, layer_units, cost, client)
            else:
                plan = _plan_training(request, layer_units, cost, client, outline, log)
                plan = replace(plan, fixed=(request.n_workers, request.n_replicas))
        except ClusterError as error:
            if not is_prediction or request.engine != "auto":
                raise
            # Everything that a prediction takes is here.
            warn_of_local_prediction(error, PREDICTION_STACKLEVEL)
            plan = local_plan(layer_units, "the cluster cannot be used")
        engine = engines[plan.engine](plan, client)
        try:
            yield engine
        except ExchangeError as error:
            if error.before_training and request.may_do_without_peers:
                _note_unreachable(error, engine.plan, client)
            raise
        if outline is not None:
            _note_steps(engine.plan, outline, client)


def _note_steps(plan: Plan, outline: FitOutline, client: Any) -> None:
    """Have a job measured again if steps do not take what was expected."""
    if plan.forecast is None or plan.forecast.step_s is None:
        return
    from skdistmlp.cluster.peers.measured import note_steps

    units, missed_s = outline.layer_units, plan.forecast.missed_s
    # The fit has ended well, whether or not the scheduler still answers.
    with suppress(Exception):
        note_steps(client, plan.workers, outline.trial, units, missed_s)


def _note_unreachable(error: ExchangeError, plan: Plan, client: Any) -> None:
    """Let other fits know for a while if the workers of a plan cannot connect.

    Not if a worker was lost, or a port in use: that passes.
    """
    from skdistmlp.cluster.peers.measured import note_unreachable

    if error.apart and client is not None:
        note_unreachable(client, plan.workers, what_happened(error))


def _plan_without_client(
    request: EngineRequest, layer_units: Sequence[int], is_prediction: bool
) -> Plan:
    if not is_prediction:
        _warn_of_missing_client(request)
    return local_plan(layer_units, NO_CLIENT)


def _plan_prediction(
    request: EngineRequest, layer_units: Sequence[int], cost: StepCost, client: Any
) -> Plan:
    from skdistmlp.cluster.client.workers import (
        describe_paused,
        worker_memory,
        workers_of,
    )
    from skdistmlp.cluster.peers.measured import known_machines

    # Everything it takes is here: a cluster that has become smaller will do.
    workers = workers_of(client)[: request.n_workers]
    if not workers:
        paused = describe_paused(client)
        suffix = f" that accept tasks: {paused}" if paused else ""
        return local_plan(layer_units, f"the cluster has no workers{suffix}")
    memory = worker_memory(client, workers)
    machines = known_machines(client, workers, tuple(layer_units))
    if machines is None:
        machines = assumed_machines(workers)
    return plan_shared_prediction(
        layer_units, request.engine, workers, cost, memory, machines
    )


def assumed_machines(workers: Sequence[str]) -> Machines:
    """Return what workers are taken for of which nothing was measured.

    Parameters
    ----------
    workers : sequence of str
        Addresses: links between those of one machine count as unlimited.
    """
    from skdistmlp.cluster.client.workers import is_on_loopback

    is_one_machine = all(is_on_loopback(worker) for worker in workers)
    rate = math.inf if is_one_machine else ASSUMED_RATE
    return reference_machines(len(workers), rate)


def _plan_training(
    request: EngineRequest,
    layer_units: Sequence[int],
    cost: StepCost,
    client: Any,
    outline: FitOutline | None,
    log: Log,
) -> Plan:
    from skdistmlp.cluster.client.workers import choose_workers, workers_of
    from skdistmlp.cluster.run.reservation import choose_free_workers, withdraw_choice

    trial = None if outline is None else outline.trial
    planner = DefaultPlanner(request, layer_units, cost, client, trial)
    workers = choose_workers(client, request.n_workers, request.n_replicas, log)
    if request.n_workers is None:
        if request.engine == "auto" and (request.n_replicas or 1) > 1:
            # Not only as many as the replicas can share: some may have no room.
            workers = workers_of(client)
        return _plan_on(planner, outline, workers)
    present = workers_of(client)
    # One may have left meanwhile, which the fit will notice.
    if len(present) <= len(workers):
        return _plan_on(planner, outline, workers)
    # Of those with room the ones that will be free soonest: fits share a cluster.
    n_workers = len(workers)
    held = {} if outline is None else outline.bytes_on_workers()
    intends = not request.only_plans
    present = planner.suitable_workers(n_workers, present)
    if outline is not None and is_worth_measuring(request, outline):
        present, _ = workers_with_room_for_trial(request, outline, present, client)
    workers = choose_free_workers(client, present, n_workers, held, intends)
    plan = None
    try:
        plan = _plan_on(planner, outline, workers)
        return plan
    finally:
        # No fit will arrive with them: others need not go out of its way.
        if intends and (plan is None or {*plan.workers} != {*workers}):
            withdraw_choice(client, workers)


def _plan_on(
    planner: DefaultPlanner, outline: FitOutline | None, workers: tuple[str, ...]
) -> Plan:
    """Return the plan of a training that may use these workers.

    Parameters
    ----------
    planner : DefaultPlanner
        Where nothing is measured; it has the request and the client.
    outline : FitOutline or None
        Of the fit.
    workers : tuple of str
        Addresses.
    """
    request, client, note = planner.request, planner.client, ""
    if outline is not None:
        request = _without_unreachable(request, workers, client)
    if outline is not None and request.without_peers is not None:
        return plan_without_peers(request, outline, workers, client)
    if outline is not None and has_choice(request):
        from skdistmlp.cluster.peers.measured import MeasurementError

        is_long = is_worth_measuring(request, outline)
        find_plan = fastest_plan if is_long else plan_by_known_machines
        try:
            plan = find_plan(request, outline, workers, client)
        except MeasurementError as error:
            note = f" (nothing was measured: {what_happened(error)})"
            if request.parameter_threshold == "auto" and request.may_stay_local:
                default = replace(request, parameter_threshold=None)
                reason = default.reason_to_stay_local(planner.layer_units)
                if reason is not None:
                    return local_plan(planner.layer_units, reason + note)
            if request.n_workers is None:
                plan = _plan_on_those_with_room(planner, outline, workers)
                return replace(plan, reason=plan.reason + note)
        else:
            if plan is not None:
                return plan
            reason = reason_too_short(request, outline)
            if reason is not None:
                return local_plan(planner.layer_units, reason)
            if not is_long:
                machines = assumed_machines(workers)
                plan = plan_by_assumed_machines(
                    request, outline, workers, client, machines
                )
                if plan is not None:
                    return plan
            if request.n_workers is None:
                return _plan_on_those_with_room(planner, outline, workers)
    plan = planner.plan(workers)
    return replace(plan, reason=plan.reason + note)


def _plan_on_those_with_room(
    planner: DefaultPlanner, outline: FitOutline, workers: tuple[str, ...]
) -> Plan:
    """Return the plan of a training where nothing is measured.

    On all workers that have room for it, or in this process if it may train and fewer
    than two have. If all are too few, one on all: an error will say what is missing.

    Parameters
    ----------
    planner : DefaultPlanner
        It has the request, in which the number of workers is open, and the client.
    outline : FitOutline
        Of the fit.
    workers : tuple of str
        Addresses.
    """
    request = planner.request
    left_out = planner.workers_without_room(workers)
    short = {each.worker for each in left_out}
    others = tuple(worker for worker in workers if worker not in short)
    lines = left_out_lines(left_out)
    is_local = request.may_stay_local and has_room_here(outline)
    if is_local and len(others) < min(2, len(workers)):
        reason = "too few workers have room for this network"
        return local_plan(planner.layer_units, "; ".join([reason, *lines]))
    if len(others) < (request.n_replicas or 1):
        return planner.plan(workers)
    plan = planner.plan(others)
    return replace(plan, reason="; ".join([plan.reason, *lines]))


def _without_unreachable(
    request: EngineRequest, workers: tuple[str, ...], client: Any
) -> EngineRequest:
    """Return a request that says so if its workers cannot connect to each other.

    As another fit has found out a moment ago: this one need not wait for it again.
    """
    from skdistmlp.cluster.peers.measured import unreachable_before

    if not request.may_do_without_peers:
        return request
    reason = unreachable_before(client, workers)
    if reason is None:
        return request
    return replace(request, without_peers=out_of_reach(reason))


def warn_of_local_prediction(error: ClusterError, stacklevel: int) -> None:
    """Warn that a prediction does without the cluster, and why.

    Parameters
    ----------
    error : ClusterError
        What is wrong with the cluster.
    stacklevel : int
        Frames from the caller of this to the line that called `predict`.
    """
    warnings.warn(
        f"the cluster cannot be used for this prediction: {what_happened(error)}. "
        f"Predicting in this process.",
        stacklevel=stacklevel + 1,
    )


def _warn_of_missing_client(request: EngineRequest) -> None:
    """Warn, once per process, that what was asked for needs a cluster.

    In joblib's processes, for one, the client that is active elsewhere is not.
    """
    if request.n_workers is not None and request.n_workers > 1:
        requested = f"n_workers={request.n_workers}"
    elif request.n_replicas is not None and request.n_replicas > 1:
        requested = f"n_replicas={request.n_replicas}"
    elif request.engine != "auto":
        requested = f"engine={request.engine!r}"
    elif request.client_stayed_behind:
        requested = "an estimator that had a Dask client in another process"
    else:
        return
    if _is_first("missing"):
        warnings.warn(
            f"{requested} needs a cluster, but {NO_CLIENT} in this process: training "
            f"here. Pass the address of the scheduler as client=, which other "
            f"processes can use too.",
            stacklevel=STACKLEVEL + 1,
        )


def _warn_of_unused_cluster(request: EngineRequest, reason: str) -> None:
    """Warn, once per process, that a small network does not use the given cluster.

    Not if the user has given the threshold too, or no client and no workers.
    """
    if request.engine != "auto" or request.parameter_threshold is not None:
        return
    advice = "parameter_threshold=0"
    if request.client is not None and not request.client_of_data:
        given = "client="
    elif request.client_stayed_behind == "given":
        given = "client="
        advice += ", and the address of the scheduler as client=,"
    elif request.n_workers is not None and request.n_workers > 1:
        given = f"n_workers={request.n_workers}"
    elif request.n_replicas is not None and request.n_replicas > 1:
        given = f"n_replicas={request.n_replicas}"
    else:
        return
    if _is_first("unused"):
        warnings.warn(
            f"{given} was given, but training stays in this process: {reason}. Pass "
            f"{advice} to train on the cluster all the same, or "
            f"engine='local' if this is what you want.",
            stacklevel=STACKLEVEL,
        )


PREDICTION_STACKLEVEL = 6
"""Frames from `open_engine` to the line that called `predict`."""

STACKLEVEL = 8
"""Frames from a function that `open_engine` calls to the line that called `fit`."""

_warned: set[tuple[int, str]] = set()
"""What each process has warned of. Python's own filters forget what was said whenever
somebody changes them; and a search would ask for many numbers of workers."""


def _is_first(subject: str) -> bool:
    """Say whether nothing has been said on a subject yet."""
    # A process that was forked has inherited the set.
    said = os.getpid(), subject
    is_first = said not in _warned
    _warned.add(said)
    return is_first
