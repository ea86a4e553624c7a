"""The plan where nothing is measured, and the workers that have room for it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from skdistmlp.engines.engine import EngineRequest
from skdistmlp.parallel.rows import RowHolding
from skdistmlp.planning.cost import StepCost
from skdistmlp.planning.plan import Plan, plan_training
from skdistmlp.planning.replicas import (
    plan_that_fits,
    plans_by_preference,
    preferred_replicas,
    workers_to_choose_from,
)
from skdistmlp.settings import SETTINGS, rows_memory_share
from skdistmlp.training.trial import Trial

MEMORY_ASKED_FROM_BYTES = 64 * 2**20
"""What a worker has to hold before the scheduler is asked how much memory it has.
Smaller networks and data fit anywhere, unless the user has set a lower share of the
memory for rows."""


def default_plan(
    request: EngineRequest,
    layer_units: Sequence[int],
    cost: StepCost,
    workers: tuple[str, ...],
    client: Any,
    trial: Trial | None = None,
) -> Plan:
    """Return the plan that follows from the request and from memory alone.

    Parameters
    ----------
    request : EngineRequest
        What the user asked for.
    layer_units : sequence of int
        Features, neurons of each hidden layer, outputs.
    cost : StepCost
        Of a step.
    workers : tuple of str
        Addresses of the workers that will train.
    client : Client
        A connected client.
    trial : Trial, optional
        Says whether the fit will load compiled code, for which there has to be room.
    """
    from skdistmlp.cluster.client.workers import threads_of, worker_memory
    from skdistmlp.cluster.peers.loaded import room_for

    threads = threads_of(client, workers)

    def plan_with(n_replicas: int, *rows: RowHolding) -> Plan:
        plan = plan_training(
            layer_units, request.engine, workers, cost, threads, n_replicas, *rows
        )
        if request.must_share and request.engine == "auto":
            reason = "X does not fit this process, and there are workers"
            plan = replace(plan, reason=reason)
        return plan

    numbers = _numbers_of_replicas(request, layer_units, cost, len(workers))
    first = plan_with(numbers[0])
    if request.engine == "futures":
        return first
    share = rows_memory_share()
    # If there is room for the first, it is the plan.
    needed = max(first.bytes_needed, default=0)
    if needed < MEMORY_ASKED_FROM_BYTES and share >= float(
        SETTINGS["rows.memory-share"].default
    ):
        return first
    memory = room_for(trial, client, worker_memory(client, workers), needed)
    return plan_that_fits(numbers, plan_with, memory, share)


def suitable_workers(
    request: EngineRequest,
    layer_units: Sequence[int],
    cost: StepCost,
    n_workers: int,
    workers: tuple[str, ...],
    client: Any,
    trial: Trial | None = None,
) -> tuple[str, ...]:
    """Return those workers among which a fit on `n_workers` of them may choose.

    Parameters
    ----------
    request : EngineRequest
        What the user asked for.
    layer_units : sequence of int
        Features, neurons of each hidden layer, outputs.
    cost : StepCost
        Of a step.
    n_workers : int
        The number of workers that will train.
    workers : tuple of str
        Addresses of all that are there.
    client : Client
        A connected client.
    trial : Trial, optional
        As in `default_plan`.
    """
    from skdistmlp.cluster.client.workers import worker_memory
    from skdistmlp.cluster.peers.loaded import room_for

    def plan_with(n_replicas: int, *rows: RowHolding) -> Plan:
        # With equal shards: any of these workers may get any of them.
        any_of_them = workers[:n_workers]
        return plan_training(
            layer_units, request.engine, any_of_them, cost, None, n_replicas, *rows
        )

    numbers = _numbers_of_replicas(request, layer_units, cost, n_workers)
    first = plan_with(numbers[0])
    if not first.bytes_needed:
        # An engine of another table, of whose memory nothing is known.
        return workers
    plans = [first]
    if request.engine != "futures":
        plans = plans_by_preference(numbers, plan_with)
    needed = max(first.bytes_needed)
    memory = room_for(trial, client, worker_memory(client, workers), needed)
    return workers_to_choose_from(
        plans, workers, n_workers, memory, rows_memory_share()
    )


def _numbers_of_replicas(
    request: EngineRequest, layer_units: Sequence[int], cost: StepCost, n_workers: int
) -> list[int]:
    """Return the numbers of replicas to choose from, the best first."""
    if request.engine == "futures":
        return [1]
    if request.n_replicas is not None:
        return [request.n_replicas]
    return preferred_replicas(layer_units, n_workers, cost)
