"""How many replicas, and which features each worker has: the plans to choose from."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from skdistmlp.parallel.rows import COPIES, RowHolding
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.cost import StepCost
from skdistmlp.planning.memory import WorkerMemory, memory_shortage
from skdistmlp.planning.plan import Plan
from skdistmlp.planning.traffic import bytes_exchanged

REPLICAS_FROM_BYTES = 2**20
"""Bytes that a worker sends in a step from which replicas are considered. Fewer take so
little time that what counts is the number of exchanges, of which shards of a network
without a second hidden layer have one, and replicas two. Not measured."""


def preferred_replicas(
    layer_units: Sequence[int], n_workers: int, cost: StepCost
) -> list[int]:
    """Return numbers of replicas, the best first; take the first that fits into memory.

    Along the neurons, workers exchange activations, whose number grows with the rows of
    a mini-batch; along the replicas, gradients and parameters, whose number does not.
    First come those numbers of replicas that send less than shards alone, then 1, then
    the others, in which each worker has fewer rows of the data set. Of blocks in order,
    one replica would compute whole mini-batches alone: there is 1 only.

    Parameters
    ----------
    layer_units : sequence of int
        Features, neurons of each hidden layer, outputs.
    n_workers : int
        Number of workers.
    cost : StepCost
        What a step costs.

    Returns
    -------
    list of int
        Numbers that divide the workers and give each replica a row of a mini-batch.
    """
    if cost.in_ordered_blocks:
        return [1]
    sent = {
        n_replicas: bytes_exchanged(
            NetworkSplit.even(layer_units, n_workers // n_replicas), cost, n_replicas
        )
        for n_replicas in range(1, min(n_workers, cost.n_rows) + 1)
        if n_workers % n_replicas == 0
    }
    better = []
    if sent[1] / n_workers >= REPLICAS_FROM_BYTES:
        better = [n for n in sent if sent[n] < sent[1]]
    by_bytes = sorted(sent, key=sent.__getitem__)
    return sorted(by_bytes, key=lambda n: 0 if n in better else 1 if n == 1 else 2)


def plan_that_fits(
    numbers_of_replicas: Sequence[int],
    plan_with: Callable[[int, RowHolding], Plan],
    memory: Mapping[str, WorkerMemory],
    share: float,
) -> Plan:
    """Return the best plan for which the workers have room.

    Parameters
    ----------
    numbers_of_replicas : sequence of int
        The best first.
    plan_with : callable
        From a number of replicas and what each worker has of the rows to the plan.
    memory : mapping of str to WorkerMemory
        By address; a worker that is missing has no limit.
    share : float
        Share of a worker's limit that features in memory may take.

    Returns
    -------
    Plan
        If none fits, the one that needs the least memory: an error will say what is
        missing.
    """
    plans = plans_by_preference(numbers_of_replicas, plan_with)
    fitting = (plan for plan in plans if has_room(plan, memory, share))
    return next(fitting, min(plans, key=lambda plan: max(plan.bytes_needed)))


def plans_by_preference(
    numbers_of_replicas: Sequence[int], plan_with: Callable[[int, RowHolding], Plan]
) -> list[Plan]:
    """Return all plans, the best first; take the first that fits into memory.

    That is the first number of replicas with a copy of the rows per shard, which needs
    no exchange of features, whatever the link. Then all others in memory, with copies
    or each row on one worker, the one that exchanges the fewest bytes in a step first;
    and last those with each row in a file.

    Parameters
    ----------
    numbers_of_replicas : sequence of int
        The best first.
    plan_with : callable
        From a number of replicas and what each worker has of the rows to the plan.
    """

    def plans_with(*holdings: RowHolding) -> list[Plan]:
        made = [plan_with(n, each) for each in holdings for n in numbers_of_replicas]
        return sorted(made, key=lambda plan: plan.bytes_exchanged)

    return [
        plan_with(numbers_of_replicas[0], COPIES),
        *plans_with(COPIES, RowHolding("once")),
        *plans_with(RowHolding("once", on_disk=True)),
    ]


def workers_to_choose_from(
    plans: Sequence[Plan],
    workers: Sequence[str],
    n_workers: int,
    memory: Mapping[str, WorkerMemory],
    share: float,
) -> tuple[str, ...]:
    """Return the workers with room for the best plan for which enough of them have it.

    If too few have room for any, those that will have it once other fits have freed
    what they hold; and if these are too few as well, all: an error will say what is
    missing.

    Parameters
    ----------
    plans : sequence of Plan
        The best first, each of a fit on `n_workers`, whichever these will be.
    workers : sequence of str
        Addresses of all that are there.
    n_workers : int
        How many of them will train.
    memory : mapping of str to WorkerMemory
        By address; a worker that is missing has no limit.
    share : float
        Share of a worker's limit that features in memory may take.
    """
    emptied = {worker: replace(its, taken=0) for worker, its in memory.items()}
    for state in (memory, emptied):
        for plan in plans:
            suitable = workers_with_room(plan, workers, state, share)
            if len(suitable) >= n_workers:
                return suitable
    return tuple(workers)


def workers_with_room(
    plan: Plan,
    workers: Sequence[str],
    memory: Mapping[str, WorkerMemory],
    share: float,
) -> tuple[str, ...]:
    """Return the workers that have room for any shard of a plan.

    Parameters
    ----------
    plan : Plan
        Of training.
    workers : sequence of str
        Addresses, also of workers that the plan does not name.
    memory : mapping of str to WorkerMemory
        By address; a worker that is missing has no limit.
    share : float
        Share of a worker's limit that features in memory may take.
    """
    n_taken = len(plan.workers)
    return tuple(
        worker
        for worker in workers
        if has_room(replace(plan, workers=(worker,) * n_taken), memory, share)
    )


def has_room(plan: Plan, memory: Mapping[str, WorkerMemory], share: float) -> bool:
    """Return whether all workers of a plan have room for what it gives them.

    Parameters
    ----------
    plan : Plan
        Of training.
    memory : mapping of str to WorkerMemory
        By address; a worker that is missing has no limit.
    share : float
        Share of a worker's limit that features in memory may take.
    """
    if memory_shortage(plan, memory) is not None:
        return False
    limits = [memory[worker].limit for worker in plan.workers if worker in memory]
    return not limits or plan.features_in_memory <= share * min(limits)
