"""How a prediction is shared: by rows, by neurons, or not at all."""

import math
from collections.abc import Sequence
from dataclasses import replace

from skdistmlp.exceptions import counted
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.cost import (
    StepCost,
    bytes_sent_by_neurons,
    bytes_sent_by_rows,
    chained_tasks,
)
from skdistmlp.planning.machines import Machines, Speed
from skdistmlp.planning.plan import Plan, local_plan
from skdistmlp.planning.rates import DASK_BYTE_S, REFERENCE, TASK_S
from skdistmlp.planning.step_time import computation_s

TASKS_BY_ROWS = 2
"""Chained tasks that take as long as a prediction by rows takes to begin, whatever its
size: the network and the first rows have to arrive before the first task."""

ASSUMED_RATE = 1e9
"""Of the links of workers on other machines, where nothing was measured."""


def plan_shared_prediction(
    layer_units: Sequence[int],
    engine: str,
    workers: Sequence[str],
    cost: StepCost,
    memory_limit: int | None,
    machines: Machines,
) -> Plan:
    """Choose how to predict with a network that a cluster may share.

    Parameters
    ----------
    layer_units : sequence of int
        Features, neurons of each hidden layer, outputs.
    engine : {"auto", "futures", "peers"}
        The engine that the user asked for.
    workers : sequence of str
        Addresses of the workers that may share the prediction.
    cost : StepCost
        What the prediction costs.
    memory_limit : int or None
        Bytes that each worker may use; None if there is no limit.
    machines : Machines
        How fast this process, the workers and their links are.

    Returns
    -------
    Plan
        If "futures" was asked for: "futures", split by neurons. Otherwise "futures"
        if that is expected to be faster, split by rows, or by neurons where the whole
        network does not fit a worker; else "local".
    """
    by_neurons = NetworkSplit.even(layer_units, len(workers))
    used = tuple(workers[: by_neurons.n_shards])
    if engine == "futures":
        return Plan("futures", by_neurons, used, "engine='futures' was asked for")
    whole = NetworkSplit.even(layer_units, 1)
    # As it arrives, and where the processor wants it.
    n_bytes = 2 * whole.n_parameters * cost.itemsize
    if memory_limit is None or n_bytes <= memory_limit:
        n_sharing, n_tasks = len(workers), TASKS_BY_ROWS
        sent = bytes_sent_by_rows(whole, cost, n_sharing)
        plan = Plan("futures", whole, tuple(workers), "", split_by="rows")
        of_each = replace(cost, n_rows=math.ceil(cost.n_rows / n_sharing))
        how = "by rows"
    else:
        n_sharing, n_tasks = by_neurons.n_shards, chained_tasks(by_neurons, cost)
        sent = bytes_sent_by_neurons(by_neurons, cost)
        plan, of_each = Plan("futures", by_neurons, used, ""), cost
        how = (
            f"by neurons (the whole network takes {n_bytes:,} bytes on its arrival, "
            f"and a worker has {memory_limit:,})"
        )
    here_s = computation_s(whole, cost, Grid(1), machines.here)
    # All wait for the slowest.
    computed_s = max(
        computation_s(plan.split, of_each, Grid(1), speed) for speed in machines.workers
    )
    shared_s = computed_s + n_tasks * TASK_S + machines.sent_s(sent)
    reason = (
        f"a prediction of {counted(cost.n_rows, 'row')} should take {here_s:.2g} s in "
        f"this process, and {shared_s:.2g} s on {counted(n_sharing, 'worker')} {how}, "
        f"to which {sent / 1e6:.3g} MB are sent"
    )
    if shared_s < here_s:
        return replace(plan, reason=reason)
    return local_plan(layer_units, reason)


def reason_to_predict_locally(layer_units: Sequence[int], cost: StepCost) -> str | None:
    """Return why no number of workers could pay off; None if some might.

    Sharing saves less than all that there is to compute, and costs its tasks and what
    is sent: the network and the rows at least once.
    """
    split = NetworkSplit.even(layer_units, 1)
    here_s = computation_s(split, cost, Grid(1), Speed(REFERENCE))
    sent = bytes_sent_by_rows(split, cost, n_workers=1)
    least_s = TASKS_BY_ROWS * TASK_S + sent * DASK_BYTE_S
    if here_s > least_s:
        return None
    return (
        f"a prediction of {counted(cost.n_rows, 'row')} takes about {here_s:.2g} s, "
        f"and sharing it {least_s:.2g} s or more"
    )
