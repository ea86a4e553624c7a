"""How a prediction is shared: by rows, by neurons, or not at all."""

from collections.abc import Sequence
from dataclasses import replace

from skdistmlp.exceptions import counted
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.cost import (
    StepCost,
    bytes_sent_by_neurons,
    bytes_sent_by_rows,
    chained_tasks,
    flop,
)
from skdistmlp.planning.plan import Plan, local_plan

FLOP_PER_CHAINED_TASK = 1.8e9
"""Floating point operations that take as long as one task in a chain of Dask tasks:
what sharing a prediction must save per task to be faster. Training never chooses by
it. The larger of two figures measured for training, where two one-thread workers
overtake one thread: 1.1e9 for 784-(4096), 1.7e9 for 784-(2048, 2048)
(``python -m benchmarks futures``)."""

FLOP_PER_BYTE_SENT = {"rows": 400.0, "neurons": 500.0}
"""Floating point operations that take as long as sending one byte from the client to
a worker: what a prediction must save to be worth sending parameters and rows. By
rows, in large blocks, it measured as 200 to 440; by neurons as 440 to 850 for most
sizes (``python -m benchmarks futures``)."""

TASKS_BY_ROWS = 2
"""Chained tasks that take as long as a prediction by rows takes to begin, whatever its
size: the network and the first rows have to arrive before the first task."""


def plan_shared_prediction(
    layer_units: Sequence[int],
    engine: str,
    workers: Sequence[str],
    cost: StepCost,
    memory_limit: int | None,
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

    Returns
    -------
    Plan
        If "futures" was asked for: "futures", split by neurons. Otherwise "futures"
        if sharing saves more time than it costs, split by rows, or by neurons where
        the whole network does not fit a worker; else "local".
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
        how = "by rows"
    else:
        n_sharing, n_tasks = by_neurons.n_shards, chained_tasks(by_neurons, cost)
        sent = bytes_sent_by_neurons(by_neurons, cost)
        plan = Plan("futures", by_neurons, used, "")
        how = (
            f"by neurons (the whole network takes {n_bytes:,} bytes on its arrival, "
            f"and a worker has {memory_limit:,})"
        )
    saved = flop(whole, cost) * (1 - 1 / n_sharing)
    overhead = (
        n_tasks * FLOP_PER_CHAINED_TASK + sent * FLOP_PER_BYTE_SENT[plan.split_by]
    )
    reason = (
        f"sharing a prediction of {counted(cost.n_rows, 'row')} among "
        f"{counted(n_sharing, 'worker')} {how} saves {saved / 1e9:.3g} GFLOP; "
        f"its {n_tasks} chained tasks and "
        f"{sent / 1e6:.3g} MB to send cost as much time as {overhead / 1e9:.3g} GFLOP"
    )
    if saved > overhead:
        return replace(plan, reason=reason)
    return local_plan(layer_units, reason)


def reason_to_predict_locally(layer_units: Sequence[int], cost: StepCost) -> str | None:
    """Return why no number of workers could pay off; None if some might.

    Sharing saves less than all of the arithmetic, and costs its tasks and what is
    sent: the network and the rows at least once.
    """
    split = NetworkSplit.even(layer_units, 1)
    n_bytes = bytes_sent_by_rows(split, cost, n_workers=1)
    cheapest = min(FLOP_PER_BYTE_SENT.values())
    overhead = TASKS_BY_ROWS * FLOP_PER_CHAINED_TASK + n_bytes * cheapest
    if flop(split, cost) > overhead:
        return None
    return (
        f"a prediction of {counted(cost.n_rows, 'row')} takes "
        f"{flop(split, cost) / 1e9:.3g} GFLOP, less than the time of "
        f"{overhead / 1e9:.3g} GFLOP that sharing it costs"
    )
