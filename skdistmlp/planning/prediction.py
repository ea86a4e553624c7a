"""How a prediction is shared: by rows, by neurons, or not at all."""

from collections.abc import Sequence
from dataclasses import replace

from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.cost import (
    FLOP_PER_CHAINED_TASK,
    StepCost,
    bytes_sent,
    bytes_sent_by_rows,
    chained_tasks,
    flop,
)
from skdistmlp.planning.plan import Plan, local_plan

FLOP_PER_BYTE_SENT = {"rows": 400.0, "neurons": 500.0}
"""Floating point operations that cost as much time as sending a byte from the
client to a worker: what a prediction must save to be worth sending weights and
rows for. By rows, in large blocks, it measured as 200 to 440; by neurons as 440 to
850 for most sizes (``python -m benchmarks futures``)."""

TASKS_OF_ROWS = 2
"""Tasks that a prediction by rows costs as much time as, whatever its size: the
network and the first rows have to be there before the first task."""


def prediction_plan(
    layer_units: Sequence[int],
    engine: str,
    workers: Sequence[str],
    work: StepCost,
    memory_limit: int | None,
) -> Plan:
    """Choose how to predict with a network that a cluster may share.

    Parameters
    ----------
    layer_units : sequence of int
        Features, neurons of each hidden layer, outputs.
    engine : {"auto", "futures", "peers"}
        What was asked for.
    workers : sequence of str
        Addresses of the workers to share it.
    work : StepCost
        What is to be shared.
    memory_limit : int or None
        Bytes that each of them may use; None if there is no limit.

    Returns
    -------
    Plan
        "futures", split by neurons, if asked for. Else split by "rows", or by neurons
        where the whole network does not fit a worker, if that saves more time than it
        costs; else "local".
    """
    neurons = NetworkSplit.even(layer_units, len(workers))
    used = tuple(workers[: neurons.n_shards])
    if engine == "futures":
        return Plan("futures", neurons, used, "engine='futures' was asked for")
    whole = NetworkSplit.even(layer_units, 1)
    # As it arrives, and where the processor wants it.
    n_bytes = 2 * whole.n_parameters * work.itemsize
    if memory_limit is None or n_bytes <= memory_limit:
        n_sharing, n_tasks = len(workers), TASKS_OF_ROWS
        sent = bytes_sent_by_rows(whole, work, n_sharing)
        plan, how = (
            Plan("futures", whole, tuple(workers), "", split_by="rows"),
            "by rows",
        )
    else:
        n_sharing, n_tasks = neurons.n_shards, chained_tasks(neurons, work)
        sent = bytes_sent(neurons, work)
        plan = Plan("futures", neurons, used, "")
        how = (
            f"by neurons (the whole network takes {n_bytes:,} bytes on its arrival, "
            f"and a worker has {memory_limit:,})"
        )
    saved = flop(whole, work) * (1 - 1 / n_sharing)
    cost = n_tasks * FLOP_PER_CHAINED_TASK + sent * FLOP_PER_BYTE_SENT[plan.split_by]
    reason = (
        f"sharing a prediction of {work.n_rows:,} rows among {n_sharing} {how} saves "
        f"{saved / 1e9:.3g} GFLOP, its {n_tasks} chained tasks and "
        f"{sent / 1e6:.3g} MB to send cost as much time as {cost / 1e9:.3g} GFLOP"
    )
    if saved > cost:
        return replace(plan, reason=reason)
    return local_plan(layer_units, reason)


def reason_not_to_share(layer_units: Sequence[int], work: StepCost) -> str | None:
    """Return why no number of workers is worth asking, None if some may be.

    Sharing saves less than all of the work, and costs its tasks and what is sent: the
    network and the rows once at least.
    """
    split = NetworkSplit.even(layer_units, 1)
    n_bytes = bytes_sent_by_rows(split, work, n_workers=1)
    cheapest = min(FLOP_PER_BYTE_SENT.values())
    cost = TASKS_OF_ROWS * FLOP_PER_CHAINED_TASK + n_bytes * cheapest
    if flop(split, work) > cost:
        return None
    return (
        f"a prediction of {work.n_rows:,} rows takes {flop(split, work) / 1e9:.3g} "
        f"GFLOP, less than the time of {cost / 1e9:.3g} GFLOP that sharing it costs"
    )
