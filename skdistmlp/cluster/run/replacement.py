"""Workers in place of those that a fit has lost, and the plan to go on with."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from distributed import Client

from skdistmlp.cluster.client.errors import CONNECTION_ERRORS
from skdistmlp.cluster.client.rpc import answers_in_time, check_open
from skdistmlp.cluster.client.workers import (
    accepts_tasks,
    known_workers,
    threads_of,
    worker_memory,
    worker_statuses,
    workers_of,
)
from skdistmlp.cluster.run.departure import Departure
from skdistmlp.cluster.run.free_memory import look_at_memory
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
from skdistmlp.planning.plan import Plan, WorkerMemory, plan_training
from skdistmlp.planning.recovery import Recovery
from skdistmlp.planning.replicas import plan_that_fits, preferred_replicas
from skdistmlp.settings import rows_memory_share
from skdistmlp.timeouts import PING_ANSWER_S, RECOVERY_POLL_S
from skdistmlp.training.job import TrainingJob
from skdistmlp.training.progress import LbfgsProgress

Unclaimed = Callable[[Sequence[str]], Sequence[str]]
"""From spare workers to those that no other fit holds."""


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


@dataclass
class AbandonedWorkers:
    """Workers that a fit has left and does without.

    Attributes
    ----------
    lost : dict of str to str or None
        Processes that are of no use any more, by address; see `processes_of`.
    paused : set of str
        Addresses of those that are of no use until they accept tasks again.
    """

    lost: dict[str, str | None] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    # Of all processes that were left paused, also those that accept tasks again.
    _were_paused: set[tuple[str, str | None]] = field(default_factory=set)

    def add(
        self, departure: Departure, processes: Mapping[str, str], handed_over: bool
    ) -> None:
        """Note which workers a fit leaves.

        Parameters
        ----------
        departure : Departure
            Why it leaves them.
        processes : mapping of str to str
            See `processes_of`; as of the beginning of the run.
        handed_over : bool
            Whether they have handed their shards over.
        """
        if departure.kind in ("retired", "moved"):
            # Dask may refuse to retire one, such as the last. Then it is of use.
            return
        left = {(worker, processes.get(worker)) for worker in departure.workers}
        if departure.kind == "paused" and handed_over:
            again = left & self._were_paused
            self._were_paused |= left
            self.paused.update(worker for worker, _ in left - again)
            left = again
        # For good. One that hangs is still said to accept tasks. One that was paused
        # before the first round, or for a second time, probably was so by its shard and
        # rows: if it were of use once they are gone, it would be paused by them again,
        # and a fit would move to and fro without end.
        self.lost.update(left)

    def others(self, client: Client, statuses: Mapping[str, str]) -> set[str]:
        """Return all other workers of the cluster."""
        accepting = {w for w, status in statuses.items() if accepts_tasks(status)}
        self.paused -= accepting
        return {
            worker
            for worker, process in processes_of(client).items()
            if worker not in self.paused
            and (worker not in self.lost or process != self.lost[worker])
        }


def spare_workers(
    client: Client, plan: Plan, abandoned: AbandonedWorkers
) -> Sequence[str]:
    """Return the workers outside of a plan with which a fit could go on.

    They accept tasks, answer, and run the versions of this process. Other fits may hold
    them.
    """
    usable = abandoned.others(client, worker_statuses(client))
    spare = [
        worker
        for worker in workers_of(client)
        if worker in usable and worker not in plan.workers
    ]
    return _compatible(client, spare)


def replacements(
    client: Client,
    plan: Plan,
    ranks: Sequence[int],
    abandoned: AbandonedWorkers,
    unclaimed: Unclaimed,
) -> dict[int, str]:
    """Return workers in the place of those of some ranks of a plan, by rank.

    As far as there are any that no other fit holds and that have enough memory.
    """
    spare = spare_workers(client, plan, abandoned)
    free = unclaimed(spare) if spare else ()
    needed = max((n for r, n in enumerate(plan.bytes_held) if r in ranks), default=0)
    return _seated(plan, ranks, free, _memory_now(client, free, needed))


def _memory_now(
    client: Client, workers: Sequence[str], needed: int
) -> dict[str, WorkerMemory]:
    """Return the memory of workers, of each that has a limit.

    One that seems to have less than is needed is asked itself, and first returns what
    it has freed: only for that, a fit should not do without it.
    """
    memory = worker_memory(client, workers)
    short = [worker for worker, its in memory.items() if its.free < needed]
    if short:
        answers = answers_in_time(client, short, look_at_memory, __name__, True)
        for worker, (usable, taken) in answers.items():
            memory[worker] = replace(memory[worker], usable=usable, taken=taken)
    return memory


def _seated(
    plan: Plan,
    ranks: Sequence[int],
    workers: Sequence[str],
    memory: Mapping[str, WorkerMemory],
) -> dict[int, str]:
    """Return a worker with enough memory for each rank, as far as there are any."""
    needed = dict.fromkeys(ranks, 0)
    needed.update((r, n) for r, n in enumerate(plan.bytes_held) if r in ranks)
    left, found = list(workers), {}
    # The largest first: a worker with room for it has room for any of the others too,
    # so it does not matter which one it takes.
    for rank in sorted(ranks, key=needed.__getitem__, reverse=True):
        for worker in left:
            if worker not in memory or needed[rank] <= memory[worker].free:
                found[rank] = worker
                left.remove(worker)
                break
    return dict(sorted(found.items()))


def await_workers(
    client: Client,
    plan: Plan,
    abandoned: AbandonedWorkers,
    wait_s: float,
    unclaimed: Unclaimed,
) -> tuple[str, ...]:
    """Wait until as many workers are there as before, or for as long as is allowed.

    Parameters
    ----------
    client : Client
        A connected client.
    plan : Plan
        Of before.
    abandoned : AbandonedWorkers
        Those that are of no use.
    wait_s : float
        Seconds to wait.
    unclaimed : callable
        Says which spare workers no other fit holds.

    Returns
    -------
    tuple of str
        As many as before, each in the place of one that is still there, if they have
        come in time; otherwise all that are there, have enough memory, and that no
        other fit holds. If none is left, those that another holds: they can be waited
        for.
    """
    deadline = time.monotonic() + wait_s
    while True:
        check_open(client)
        statuses = worker_statuses(client)
        usable = abandoned.others(client, statuses)
        # Those of the plan may be paused for a moment; others have to accept tasks. One
        # that has left a moment ago has no status any more, but the client may not
        # know yet that it is gone.
        kept = [
            worker
            for worker in plan.workers
            if worker in usable
            and statuses.get(worker) not in (None, "closing_gracefully")
        ]
        missing = [r for r, worker in enumerate(plan.workers) if worker not in kept]
        found = {}
        if missing:
            found = replacements(client, plan, missing, abandoned, unclaimed)
        if len(found) == len(missing):
            return tuple(found.get(r, worker) for r, worker in enumerate(plan.workers))
        if time.monotonic() > deadline:
            if kept or found:
                return (*kept, *found.values())
            spare = spare_workers(client, plan, abandoned)
            # As it will be when the fits that hold them have ended.
            memory = {
                worker: replace(its, taken=0)
                for worker, its in worker_memory(client, spare).items()
            }
            return tuple(_seated(plan, missing, spare, memory).values())
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
