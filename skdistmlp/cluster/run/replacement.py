"""Workers in place of those that a fit has lost, and the plan to go on with."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from distributed import Client

from skdistmlp.cluster.client.errors import CONNECTION_ERRORS
from skdistmlp.cluster.client.rpc import check_open
from skdistmlp.cluster.client.workers import (
    known_workers,
    threads_of,
    worker_memory,
    worker_statuses,
    workers_of,
)
from skdistmlp.cluster.run.departure import Departure
from skdistmlp.cluster.run.liveness import silent_workers
from skdistmlp.cluster.run.versions import check_versions
from skdistmlp.exceptions import (
    ClusterError,
    ExchangeError,
    WorkerLostError,
    counted,
)
from skdistmlp.parallel.data import BaseDataset
from skdistmlp.parallel.rows import RowHolding
from skdistmlp.planning.cost import cost_of_training
from skdistmlp.planning.plan import Plan, plan_training
from skdistmlp.planning.recovery import Recovery
from skdistmlp.planning.replicas import plan_that_fits, preferred_replicas
from skdistmlp.settings import rows_memory_share
from skdistmlp.timeouts import PING_ANSWER_S, RECOVERY_POLL_S
from skdistmlp.training.job import TrainingJob
from skdistmlp.training.progress import LbfgsProgress

Choose = Callable[[Sequence[str], int], Sequence[str]]
"""Takes spare workers and a number; returns as many of them, or those that are free."""


def processes_of(client: Client) -> dict[str, str]:
    """Return what tells the process at each worker's address from others there.

    A nanny may restart a worker at the same address, with another directory.
    """
    return {
        worker: info["local_directory"]
        for worker, info in known_workers(client).items()
    }


def lost_among(
    client: Client,
    plan: Plan,
    processes: Mapping[str, str],
    error: WorkerLostError | ExchangeError,
) -> tuple[str, ...]:
    """Return the workers that have left, that an error names, or that hang."""
    present = processes_of(client)
    lost = {worker for worker in plan.workers if worker not in present}
    lost |= {w for w in plan.workers if present.get(w) != processes.get(w)}
    if isinstance(error, WorkerLostError):
        lost |= {*error.workers}
    elif not lost:
        lost |= {*silent_workers(client, plan.workers)}
    # Of the others, one may have had blocks of the rows.
    others = sorted(lost.difference(plan.workers))
    return (*(worker for worker in plan.workers if worker in lost), *others)


def await_workers(
    client: Client,
    plan: Plan,
    gone: Mapping[str, str | None],
    wait_s: float,
    choose: Choose,
) -> tuple[str, ...]:
    """Wait until as many workers are there as before, or for as long as is allowed.

    Parameters
    ----------
    client : Client
        A connected client.
    plan : Plan
        Of before.
    gone : mapping of str to str or None
        Processes that are of no use any more, by address; see `processes_of`.
    wait_s : float
        Seconds to wait.
    choose : callable
        Which spare workers to take, if there are more than enough.

    Returns
    -------
    tuple of str
        As many as before, each in the place of one that is still there, if they have
        come in time; otherwise all that are there and that no other fit holds. If none
        is left, those that another holds: they can be waited for.
    """
    deadline = time.monotonic() + wait_s
    while True:
        check_open(client)
        present = {
            worker: process
            for worker, process in processes_of(client).items()
            if worker not in gone or process != gone[worker]
        }
        statuses = worker_statuses(client)
        # Those of the plan may be paused for a moment; others have to accept tasks. One
        # that has left a moment ago has no status any more, but the client may not
        # know yet that it is gone.
        kept = [
            worker
            for worker in plan.workers
            if worker in present
            and statuses.get(worker) not in (None, "closing_gracefully")
        ]
        spare = _compatible(
            client,
            [
                worker
                for worker in workers_of(client)
                if worker in present and worker not in kept
            ],
        )
        n_missing = plan.n_workers - len(kept)
        free = choose(spare, n_missing) if spare and n_missing else ()
        if len(free) == n_missing:
            taken = iter(free)
            return tuple(
                worker if worker in kept else next(taken) for worker in plan.workers
            )
        if time.monotonic() > deadline:
            return (*kept, *free) or tuple(spare[:n_missing])
        time.sleep(RECOVERY_POLL_S)


def _compatible(client: Client, workers: Sequence[str]) -> Sequence[str]:
    """Return those that run the versions of this process, of those that answer."""
    deadline = time.monotonic() + PING_ANSWER_S

    def check() -> None:
        check_open(client)
        if time.monotonic() > deadline:
            raise TimeoutError

    try:
        # What has been asked before, no worker is asked again.
        check_versions(client, workers, check)
    except (ClusterError, TimeoutError, *CONNECTION_ERRORS):
        if len(workers) == 1:
            return ()
        return [worker for worker in workers if _compatible(client, [worker])]
    return workers


def plan_on(
    client: Client,
    plan: Plan,
    workers: tuple[str, ...],
    job: TrainingJob,
    dataset: BaseDataset,
) -> Plan:
    """Return the plan to resume on: the same if there are as many workers."""
    if len(workers) == plan.n_workers:
        return replace(plan, workers=workers, row_ranges=())
    engine, cost = plan.engine, cost_of_training(job, dataset)
    units, threads = plan.split.layer_units, threads_of(client, workers)

    def plan_with(n_replicas: int, rows: RowHolding) -> Plan:
        return plan_training(units, engine, workers, cost, threads, n_replicas, rows)

    # Tasks share a network by its neurons only.
    numbers = [1]
    if engine == "peers":
        numbers = preferred_replicas(units, len(workers), cost)
    fewer = plan_that_fits(
        numbers,
        plan_with,
        worker_memory(client, workers),
        rows_memory_share(),
    )
    reason = (
        f"{counted(len(plan.workers) - len(workers), 'worker')} fewer than before "
        f"({plan.reason})"
    )
    return replace(fewer, reason=reason, recoveries=plan.recoveries, fixed=plan.fixed)


def recovery_of(
    departure: Departure,
    after_s: float,
    waited_s: float,
    before: Plan,
    plan: Plan,
    job: TrainingJob,
    dataset: BaseDataset,
) -> Recovery:
    """Return the account of how a job, which goes on from its start, has recovered.

    Parameters
    ----------
    departure : Departure
        Which workers were left, and why.
    after_s, waited_s : float
        See `Recovery`.
    before, plan : Plan
        The plan of before, and that on which the job goes on.
    job : TrainingJob
        The job.
    dataset : BaseDataset
        All rows.
    """
    progress = job.initial.progress
    restarts = isinstance(progress, LbfgsProgress)
    # As those of a fit that nothing has changed before, either.
    same = (
        _computes_the_same(before, plan, dataset)
        and all(earlier.same_bits for earlier in before.recoveries)
        and not restarts
    )
    return Recovery(
        departure.workers,
        departure.why,
        after_s,
        waited_s,
        0 if progress is None else progress.n_iter,
        plan.workers,
        plan.n_replicas,
        same,
        departure.kind,
        restarts,
    )


def _computes_the_same(before: Plan, plan: Plan, dataset: BaseDataset) -> bool:
    """Say whether two plans add up the same numbers in the same order."""
    if (before.split, before.grid) != (plan.split, plan.grid):
        return False
    # Blocks stay where they are, so another replica may compute their rows.
    return plan.n_replicas == 1 or not dataset.is_in_blocks
