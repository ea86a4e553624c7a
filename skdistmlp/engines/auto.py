"""The plan of ``engine="auto"``: the fastest one, by what was measured."""

import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

from skdistmlp.engines.default_plan import MEMORY_ASKED_FROM_BYTES, memory_in_fit
from skdistmlp.engines.engine import EngineRequest, out_of_reach
from skdistmlp.exceptions import ClusterError, what_happened
from skdistmlp.parallel.data import BaseDataset
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.split import NetworkSplit, count_parameters
from skdistmlp.planning.calibration import corners, machines_of
from skdistmlp.planning.candidates import FitLength, chosen_plan
from skdistmlp.planning.cost import StepCost, cost_of_training
from skdistmlp.planning.left_out import LeftOut, left_out_lines
from skdistmlp.planning.machines import Machines, reference_machines
from skdistmlp.planning.memory import WorkerMemory
from skdistmlp.planning.offer import Offer, bytes_allocated_here
from skdistmlp.planning.plan import Plan
from skdistmlp.planning.replicas import workers_with_room
from skdistmlp.planning.step_time import computation_s, scipy_s
from skdistmlp.settings import rows_memory_share
from skdistmlp.training.job import TrainingJob
from skdistmlp.training.trial import Trial

MEASURED_FROM_S = 0.5
"""Seconds that one thread is expected to need for a fit from which workers are
measured: as long as that takes (``python -m benchmarks network --forecast``). Whatever
the workers would save of a shorter fit is less than what measuring them costs."""

FETCHING_RATE = 1e8
"""Rate at which rows that are on a cluster might come here, as long as the link to it
was not measured: a slow one. To measure a faster link costs half a second; to take a
slow one for fast costs the whole fetch."""


@dataclass(frozen=True)
class FitOutline:
    """What can be said of a fit before it has a plan.

    Attributes
    ----------
    layer_units : tuple of int
        Features, neurons of each hidden layer, outputs.
    cost : StepCost
        Of a step.
    length : FitLength
        How many steps there are.
    trial : Trial
        What is timed.
    on_cluster : bool
        Whether the features are on workers.
    bytes_on_workers : callable
        Returns how many bytes of them each worker has, by address.
    """

    layer_units: tuple[int, ...]
    cost: StepCost
    length: FitLength
    trial: Trial
    on_cluster: bool = False
    bytes_on_workers: Callable[[], Mapping[str, int]] = dict

    @classmethod
    def of(cls, job: TrainingJob, dataset: BaseDataset) -> "FitOutline":
        """Return the outline of a job on a data set."""
        cost = cost_of_training(job, dataset)
        n_rows, length = cost.n_rows, FitLength.of(job, dataset)
        if cost.moves_parameters and cost.buffer_rows is not None:
            n_rows = cost.buffer_rows
        return cls(
            job.network.layer_units,
            cost,
            length,
            Trial.of(job, dataset, n_rows, length.total),
            dataset.client is not None,
            dataset.bytes_on_workers,
        )

    def with_more_rows(self, times: float) -> "FitOutline":
        """Return the outline of the same fit in epochs, with `times` as many rows."""
        cost, (n_steps, n_epochs) = self.cost, self.length
        cost = replace(
            cost,
            data_bytes=round(times * cost.data_bytes),
            feature_bytes=round(times * cost.feature_bytes),
            n_ordered_rows=round(times * cost.n_ordered_rows),
        )
        length = FitLength(times * n_steps, n_epochs)
        n_updates = length.total * count_parameters(self.layer_units)
        trial = self.trial.of_updates(n_updates)
        return replace(self, cost=cost, length=length, trial=trial)

    @property
    def cost_of_trial(self) -> StepCost:
        """What a step costs that is timed."""
        return replace(self.cost, n_rows=self.trial.n_rows)

    def grids_timed(self, n_workers: int) -> list[Grid]:
        """Return the grids whose steps are timed, for this many workers."""
        units = self.trial.network.layer_units
        return corners(n_workers, units, self.cost.n_rows)

    @property
    def nominal_s(self) -> float:
        """Seconds that this process would need with one thread of a reference core.

        Rows that are on the cluster would have to be fetched, over an assumed link.
        """
        split = NetworkSplit.even(self.layer_units, 1)
        assumed = reference_machines(1, FETCHING_RATE)
        step_s = computation_s(split, self.cost, Grid(1), assumed.here)
        fetched = self.cost.feature_bytes if self.on_cluster else 0
        steps_s = (step_s + scipy_s(split, self.cost)) * self.length.total
        return steps_s + assumed.sent_s(fetched)


def is_worth_measuring(request: EngineRequest, outline: FitOutline) -> bool:
    """Return whether there is a choice, and a fit that is long enough for it.

    Parameters
    ----------
    request : EngineRequest
        What the user asked for.
    outline : FitOutline
        Of the fit.
    """
    return has_choice(request) and outline.nominal_s >= MEASURED_FROM_S


def has_choice(request: EngineRequest) -> bool:
    """Return whether the user has left more than one plan to choose from."""
    if request.engine != "auto":
        return False
    n_workers = request.n_workers
    return n_workers is None or (n_workers > 1 and request.n_replicas is None)


def reason_too_short(request: EngineRequest, outline: FitOutline) -> str | None:
    """Return why a fit is too short for workers of which nothing is known.

    None if it is long enough, if the user has asked for workers, or if this process has
    no room for it.
    """
    if (
        request.engine != "auto"
        or not request.may_stay_local
        or outline.nominal_s >= MEASURED_FROM_S
        or not has_room_here(outline)
    ):
        return None
    return f"a fit of {_about(outline)} is too short for workers to pay off"


def _about(outline: FitOutline) -> str:
    """Say how long a fit is expected to take."""
    return f"about {outline.nominal_s:.1g} s"


def has_room_here(outline: FitOutline) -> bool:
    """Return whether this process may allocate what training here takes."""
    needed = bytes_allocated_here(outline.layer_units, outline.cost, outline.on_cluster)
    if needed < MEMORY_ASKED_FROM_BYTES:
        return True
    from skdistmlp.cluster.data.remote_dataset import available_memory

    return needed <= available_memory()


def is_anything_known(outline: FitOutline) -> bool:
    """Return whether this process has measured any workers on the network of a fit.

    If not, no scheduler need be asked who its workers are.
    """
    if "distributed" not in sys.modules:
        # Without it, nothing can have been measured.
        return False
    from skdistmlp.cluster.peers.measured import is_known

    return is_known(outline.trial, outline.layer_units)


def fastest_plan(
    request: EngineRequest, outline: FitOutline, workers: tuple[str, ...], client: Any
) -> Plan | None:
    """Measure workers and this process; return the plan that is expected to be fastest.

    If that is impossible at present, as when other fits hold the workers, what was
    measured of them for another job on the same network will do. Without that, workers
    that have no room for what is timed are left out, and the plan says so.

    Parameters
    ----------
    request : EngineRequest
        What the user asked for.
    outline : FitOutline
        Of the fit.
    workers : tuple of str
        Addresses of the workers that may train.
    client : Client
        A connected client.

    Returns
    -------
    Plan or None
        None if no plan has room.

    Raises
    ------
    MeasurementError
        If nothing could be measured, or a copy of the network has no room in too many
        processes, and nothing is known of these workers.
    """
    from skdistmlp.cluster.peers.measurement import NoRoomError

    # Before anything is measured: what that takes is given back a little later, but for
    # the compiled code that it loads, for which the plan leaves room.
    memory = _memory_for(outline, workers, client)
    memory_here = _memory_here(outline.trial)
    left_out: tuple[LeftOut, ...] = ()
    while True:
        try:
            plan = _measured_plan(
                request, outline, workers, client, memory, memory_here
            )
        except NoRoomError as error:
            others = _without(error.left_out, workers, request)
            if others is None:
                raise
            # Each turn with fewer of them.
            workers, left_out = others, left_out + error.left_out
        else:
            return None if plan is None else _naming(left_out, plan)


def _measured_plan(
    request: EngineRequest,
    outline: FitOutline,
    workers: tuple[str, ...],
    client: Any,
    memory: Mapping[str, WorkerMemory],
    memory_here: int,
) -> Plan | None:
    """Return what `fastest_plan` does, or raise if any worker has no room."""
    from skdistmlp.cluster.peers.measured import (
        MeasurementError,
        UnreachableError,
        keep_machines,
        known_machines,
        measured_before,
    )
    from skdistmlp.cluster.peers.measurement import (
        check_room_for_trial,
        measure_machines,
    )

    cost, layer_units, trial = outline.cost, outline.layer_units, outline.trial
    grids = outline.grids_timed(len(workers))
    note = ""
    try:
        measurement = measured_before(client, workers, trial, grids)
        if measurement is None:
            check_room_for_trial(cost, trial, grids, _of(workers, memory))
            measurement = measure_machines(client, workers, trial, grids)
    except UnreachableError as error:
        if not request.may_do_without_peers:
            raise
        request = replace(request, without_peers=out_of_reach(what_happened(error)))
        return plan_without_peers(request, outline, workers, client)
    except MeasurementError as error:
        known = known_machines(client, workers, layer_units)
        if known is None:
            raise
        machines = known
        note = f" (by an earlier measurement: {what_happened(error)})"
    else:
        machines = machines_of(measurement, outline.cost_of_trial)
        keep_machines(client, workers, layer_units, machines)
    offer = _offer(request, outline, workers, machines, memory, memory_here)
    plan = _plan_by(offer, request, client)
    return None if plan is None else replace(plan, reason=plan.reason + note)


def _of(
    workers: Sequence[str], memory: Mapping[str, WorkerMemory]
) -> dict[str, WorkerMemory]:
    """Return the memory of some workers; those without a limit are missing."""
    return {worker: memory[worker] for worker in workers if worker in memory}


def _without(
    left_out: Sequence[LeftOut], workers: Sequence[str], request: EngineRequest
) -> tuple[str, ...] | None:
    """Return the workers without some of them; None if too few are left for a request.

    None too if none is left out: then it is this process that has no room.
    """
    short = {each.worker for each in left_out}
    others = tuple(worker for worker in workers if worker not in short)
    least = request.n_workers or request.n_replicas or 1
    return others if short and len(others) >= least else None


def _naming(left_out: Sequence[LeftOut], plan: Plan) -> Plan:
    """Return a plan that says that these workers were not among those considered."""
    if not left_out:
        return plan
    forecast = plan.forecast
    if forecast is not None:
        forecast = replace(forecast, left_out=(*forecast.left_out, *left_out))
    reason = "; ".join([plan.reason, *left_out_lines(left_out)])
    return replace(plan, reason=reason, forecast=forecast)


def workers_with_room_for_trial(
    request: EngineRequest, outline: FitOutline, workers: tuple[str, ...], client: Any
) -> tuple[tuple[str, ...], tuple[LeftOut, ...]]:
    """Return the workers that have room for what is timed, and those that have none.

    All and none if those with room are too few for the request, or if this process has
    no room. The parameters are those of `fastest_plan`.
    """
    from skdistmlp.cluster.peers.measurement import NoRoomError, check_room_for_trial

    grids = outline.grids_timed(request.n_workers or len(workers))
    memory = _memory_for(outline, workers, client)
    try:
        check_room_for_trial(outline.cost, outline.trial, grids, memory)
    except NoRoomError as error:
        others = _without(error.left_out, workers, request)
        if others is not None:
            return others, error.left_out
    return workers, ()


def plan_by_known_machines(
    request: EngineRequest, outline: FitOutline, workers: tuple[str, ...], client: Any
) -> Plan | None:
    """Return the fastest plan by what was measured before; measure nothing.

    Of these workers or, as after a fit that has left others out, of those that have
    room for what is timed. The parameters are those of `fastest_plan`.

    Returns
    -------
    Plan or None
        None if nothing is known of these workers on this network, or no plan has room.
    """
    if not is_anything_known(outline):
        return None
    left_out: tuple[LeftOut, ...] = ()
    machines = _machines_before(outline, workers, client)
    if machines is None:
        workers, left_out = workers_with_room_for_trial(
            request, outline, workers, client
        )
        if left_out:
            machines = _machines_before(outline, workers, client)
    if machines is None:
        return None
    offer = _offer_at_present(request, outline, workers, client, machines)
    plan = _plan_by(offer, request, client)
    return None if plan is None else _naming(left_out, plan)


def plan_by_assumed_machines(
    request: EngineRequest,
    outline: FitOutline,
    workers: tuple[str, ...],
    client: Any,
    machines: Machines,
) -> Plan | None:
    """Return the plan of a short fit on workers of which nothing is known.

    The fastest one of peers if all machines were alike.

    Parameters
    ----------
    request : EngineRequest
        What the user asked for.
    outline : FitOutline
        Of the fit.
    workers : tuple of str
        Addresses of the workers that may train.
    client : Client
        A connected client.
    machines : Machines
        What the workers are taken for.

    Returns
    -------
    Plan or None
        Without forecast, since no step is expected to take what these machines would.
        None if no plan has room.
    """
    offer = _offer_at_present(request, outline, workers, client, machines)
    # Tasks would only be there for numbers of workers for which peers have no grid, and
    # take far longer than peers on fewer.
    offer = replace(offer, cluster_engines=("peers",))
    plan = _plan_by(offer, request, client)
    if plan is None:
        return None
    reason = (
        f"the fastest plan if all machines are alike (nothing was measured: a fit of "
        f"{_about(outline)} is too short for that)"
    )
    fewer = offer.reason_for_fewer(len(plan.workers))
    reason = reason if fewer is None else f"{reason}; {fewer}"
    return replace(plan, reason=reason, forecast=None)


def _machines_before(
    outline: FitOutline, workers: tuple[str, ...], client: Any
) -> Machines | None:
    """Return what was measured before of workers on this network; None if nothing was.

    Of this very job, if it was: other ones may have other mini-batches.
    """
    from skdistmlp.cluster.peers.measured import (
        MeasurementError,
        known_machines,
        measured_before,
    )

    with suppress(MeasurementError):
        grids = outline.grids_timed(len(workers))
        measurement = measured_before(client, workers, outline.trial, grids)
        if measurement is not None:
            return machines_of(measurement, outline.cost_of_trial)
    return known_machines(client, workers, outline.layer_units)


def _plan_by(offer: Offer, request: EngineRequest, client: Any) -> Plan | None:
    """Return the fastest plan of an offer; None if none has room."""
    candidates = offer.candidates()
    if not candidates:
        return None
    plan = chosen_plan(candidates, offer)
    return _on_free_workers(plan, request, offer, client)


def _on_free_workers(
    plan: Plan, request: EngineRequest, offer: Offer, client: Any
) -> Plan:
    """Return a plan on those workers that will be free soonest, if there is a choice.

    And let other fits know, unless this one is only planned.
    """
    from skdistmlp.cluster.run.reservation import choose_free_workers

    workers, n_taken = offer.workers, len(plan.workers)
    if plan.engine != "peers" or n_taken == len(workers):
        return plan
    suitable, equal = plan.workers, _equally_fast(plan.workers, offer)
    if n_taken < len(equal):
        # Any of them would do, and other fits may have taken the first ones.
        suitable = workers_with_room(plan, equal, offer.memory, offer.memory_share)
        if len(suitable) < n_taken:
            # Some may have room for their own shard only.
            suitable = plan.workers
    # Also if there is nothing to choose: fits that choose take others until this one
    # has reserved its workers.
    held, intends = offer.bytes_on_workers, not request.only_plans
    chosen = choose_free_workers(client, suitable, n_taken, held, intends)
    return replace(plan, workers=chosen)


def _equally_fast(taken: Sequence[str], offer: Offer) -> tuple[str, ...]:
    """Return all workers that are as fast as those that a plan takes, with their links.

    Empty if these differ: then each has the neurons and rows that suit its speed.
    """
    machines = offer.machines
    each = zip(machines.workers, machines.links, strict=True)
    speeds = dict(zip(offer.workers, each, strict=True))
    return tuple(
        worker
        for worker in offer.workers
        if all(speeds[worker] == speeds[other] for other in taken)
    )


def plan_without_peers(
    request: EngineRequest, outline: FitOutline, workers: tuple[str, ...], client: Any
) -> Plan:
    """Return the plan of a fit whose workers cannot train as peers.

    If none has room at present, it is that of tasks: when it runs, workers may have
    freed memory, and if they have not, it says what is missing.

    Parameters
    ----------
    request : EngineRequest
        What the user asked for, and why they cannot.
    outline : FitOutline
        Of the fit.
    workers : tuple of str
        Addresses of the workers that may train.
    client : Client
        A connected client.

    Returns
    -------
    Plan
        Without peers, or of a single one if nothing else has room.

    Raises
    ------
    ClusterError
        If none has room, whatever the workers free.
    """
    from skdistmlp.cluster.data.remote_dataset import available_memory

    known = _machines_before(outline, workers, client)
    machines = reference_machines(len(workers)) if known is None else known
    offer = _offer_at_present(request, outline, workers, client, machines)
    assert request.without_peers is not None
    candidates = offer.candidates()
    if not candidates and request.n_workers is None:
        # A single one connects to nobody.
        alone = replace(offer, cluster_engines=("peers",), n_workers=1)
        candidates = alone.candidates()
    if not candidates:
        plan = offer.plan_of_tasks()
        # Tasks load no compiled code here.
        memory_here = available_memory()
        if (needed := offer.bytes_here(plan)) > memory_here:
            raise ClusterError(
                f"{request.without_peers}, and without peers this process would hold "
                f"{needed:,} bytes, of which it can allocate {memory_here:,}. Let the "
                f"workers reach each other, or train in a process with more memory."
            )
        return replace(plan, reason=request.without_peers)
    plan = chosen_plan(candidates, offer)
    # Of machines that were assumed, no step is expected to take what they say.
    forecast = None if known is None else plan.forecast
    plan = replace(plan, reason=request.without_peers, forecast=forecast)
    return _on_free_workers(plan, request, offer, client)


def _memory_for(
    outline: FitOutline, workers: tuple[str, ...], client: Any
) -> Mapping[str, WorkerMemory]:
    """Return the memory of workers for any plan of a fit."""
    needed = bytes_allocated_here(outline.layer_units, outline.cost, on_cluster=True)
    return memory_in_fit(outline.trial, client, workers, needed)


def _memory_here(trial: Trial) -> int:
    """Return the bytes that this process may allocate besides compiled code."""
    from skdistmlp.cluster.data.remote_dataset import available_memory

    return available_memory() - trial.bytes_to_load


def _offer_at_present(
    request: EngineRequest,
    outline: FitOutline,
    workers: tuple[str, ...],
    client: Any,
    machines: Machines,
) -> Offer:
    """Return what there is to choose from, with the memory that is free now."""
    memory = _memory_for(outline, workers, client)
    memory_here = _memory_here(outline.trial)
    return _offer(request, outline, workers, machines, memory, memory_here)


def _offer(
    request: EngineRequest,
    outline: FitOutline,
    workers: tuple[str, ...],
    machines: Machines,
    memory: Mapping[str, WorkerMemory],
    memory_here: int,
) -> Offer:
    """Return what there is to choose from for a request."""
    return Offer(
        outline.layer_units,
        outline.cost,
        outline.length,
        workers,
        machines,
        memory,
        rows_memory_share(),
        memory_here,
        local=request.may_stay_local,
        n_workers=request.n_workers,
        n_replicas=request.n_replicas,
        min_workers=1 if request.may_stay_local or request.must_share else 2,
        on_cluster=outline.on_cluster,
        bytes_on_workers=outline.bytes_on_workers(),
        cluster_engines=request.cluster_engines,
    )
