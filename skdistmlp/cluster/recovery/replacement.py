"""Workers in place of those that a fit has lost, and the plan to go on with."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from distributed import Client

from skdistmlp.cluster.client.errors import CONNECTION_ERRORS
from skdistmlp.cluster.client.rpc import answers_in_time, check_open
from skdistmlp.cluster.client.workers import (
    accepts_tasks,
    known_workers,
    memory_of,
    threads_of,
    worker_memory,
)
from skdistmlp.cluster.recovery.abandoned import AbandonedWorkers, Known, Process
from skdistmlp.cluster.recovery.departure import Departure
from skdistmlp.cluster.run.arithmetic import Arithmetic
from skdistmlp.cluster.run.free_memory import look_at_memory
from skdistmlp.cluster.run.liveness import silent_workers
from skdistmlp.cluster.run.loaded import room_for
from skdistmlp.cluster.run.reservation import freest_first
from skdistmlp.cluster.run.versions import check_versions
from skdistmlp.exceptions import ClusterError, counted
from skdistmlp.parallel.data import BaseDataset
from skdistmlp.parallel.rows import COPIES, RowHolding
from skdistmlp.planning.candidates import FitLength
from skdistmlp.planning.cost import cost_of_training
from skdistmlp.planning.memory import WorkerMemory
from skdistmlp.planning.plan import Plan, plan_training
from skdistmlp.planning.recovery import Kind, Recovery
from skdistmlp.planning.replicas import plan_that_fits, preferred_replicas
from skdistmlp.settings import rows_memory_share
from skdistmlp.timeouts import PING_ANSWER_S, RECOVERY_POLL_S
from skdistmlp.training.job import TrainingJob
from skdistmlp.training.progress import LbfgsProgress
from skdistmlp.training.trial import Trial


@dataclass(frozen=True)
class Spares:
    """How the fits of an engine find workers in place of lost ones.

    Attributes
    ----------
    unclaimed : callable
        From spare workers to those that no other fit has, the best first.
    claim : callable
        From workers that were found there, and all on which a fit goes on, to whether
        it has them. It has not if another fit was faster. Until it claims others, or
        ends, an adaptive cluster keeps them.
    module : str
        What a fit will load on its workers.
    """

    unclaimed: Callable[[Sequence[str]], Sequence[str]]
    claim: Callable[[Sequence[str], Sequence[str]], bool]
    module: str = __name__


def spare_workers(plan: Plan, abandoned: AbandonedWorkers, known: Known) -> list[str]:
    """Return the workers outside of a plan that accept tasks, and are not abandoned.

    Other fits may hold them.
    """
    usable = abandoned.others(known)
    return [
        worker
        for worker, info in known.items()
        if worker in usable
        and worker not in plan.workers
        and accepts_tasks(info["status"])
    ]


def usable_workers(client: Client, workers: Sequence[str]) -> Sequence[str]:
    """Return those that answer, and run the versions of this process."""
    # First, since what has told its version once is not asked for it again.
    silent = silent_workers(client, workers)
    return _compatible(client, [w for w in workers if w not in silent])


def replacements(
    client: Client,
    plan: Plan,
    ranks: Sequence[int],
    abandoned: AbandonedWorkers,
    spares: Spares,
    known: Known,
    is_last_look: bool = False,
) -> dict[int, str]:
    """Return workers in the place of those of some ranks of a plan, by rank.

    As far as there are any that no other fit holds and that have enough memory; first
    those with as many threads as the one before.

    Parameters
    ----------
    client : Client
        A connected client.
    plan : Plan
        Of before.
    ranks : sequence of int
        Those whose workers are missing, or may be.
    abandoned : AbandonedWorkers
        Those that are of no use.
    spares : Spares
        How to find others.
    known : mapping
        See `Known`.
    is_last_look : bool
        Whether a worker is taken although it has not said in time what memory it has,
        as one that has just started and imports this package.
    """
    spare = spare_workers(plan, abandoned, known) if ranks else []
    free = usable_workers(client, spares.unclaimed(spare)) if spare else []
    needed = max((n for r, n in enumerate(plan.bytes_needed) if r in ranks), default=0)
    memory = memory_of(known, free)
    now = _memory_now(client, memory, needed, spares.module)
    if not is_last_look:
        free = [worker for worker in free if worker in now or worker not in memory]
    return _seated(plan, ranks, free, memory | now, known, abandoned)


def _memory_now(
    client: Client, memory: Mapping[str, WorkerMemory], needed: int, module: str
) -> dict[str, WorkerMemory]:
    """Return the memory of workers as they say themselves, of those that do in time.

    Heartbeats know nothing of what a new worker takes once it has imported this
    package. A fit that is refused on it, for lack of memory, would end.

    Parameters
    ----------
    client : Client
        A connected client.
    memory : mapping of str to WorkerMemory
        As of the last heartbeats.
    needed : int
        Bytes. A worker that has less returns first what it has freed: only for that, a
        fit should not do without it.
    module : str
        What the workers load first.
    """
    now: dict[str, WorkerMemory] = {}
    asked = list(memory)
    for trim in (False, True):
        answers = answers_in_time(client, asked, look_at_memory, module, trim)
        for worker, (usable, taken) in answers.items():
            now[worker] = replace(memory[worker], usable=usable, taken=taken)
        asked = [worker for worker, its in now.items() if its.free < needed]
    return now


def _seated(
    plan: Plan,
    ranks: Sequence[int],
    workers: Sequence[str],
    memory: Mapping[str, WorkerMemory],
    known: Known,
    abandoned: AbandonedWorkers,
) -> dict[int, str]:
    """Return a worker with enough memory for each rank, as far as there are any.

    One with as many threads as the one before, if there is any: BLAS cuts products by
    them, which decides the last bits.
    """
    needed = dict.fromkeys(ranks, 0)
    needed.update((r, n) for r, n in enumerate(plan.bytes_needed) if r in ranks)
    n_threads = {worker: info["nthreads"] for worker, info in known.items()}
    n_threads_before = n_threads | abandoned.n_threads
    left, found = list(workers), {}
    # The largest first: a worker with room for it has room for any of the others too,
    # so it does not matter which one it takes.
    for rank in sorted(ranks, key=needed.__getitem__, reverse=True):
        n_before = n_threads_before.get(plan.workers[rank])
        for worker in sorted(left, key=lambda w: n_threads[w] != n_before):
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
    spares: Spares,
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
    spares : Spares
        How to find others. The workers that are returned are claimed, unless other
        fits hold them.

    Meanwhile the fit still claims the workers of the plan, though they are idle: an
    adaptive cluster keeps them.

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
        is_last_look = time.monotonic() >= deadline
        known = known_workers(client)
        usable = abandoned.others(known)
        # Those of the plan may be paused for a moment; others have to accept tasks.
        kept = [
            worker
            for worker in plan.workers
            if worker in usable and _stays(known[worker]["status"])
        ]
        # One may hang since the same fault that has ended another. It is not abandoned:
        # the next look pings it again.
        silent = silent_workers(client, kept)
        kept = [worker for worker in kept if worker not in silent]
        missing = [r for r, worker in enumerate(plan.workers) if worker not in kept]
        found = replacements(
            client, plan, missing, abandoned, spares, known, is_last_look
        )
        workers: tuple[str, ...] = ()
        if len(found) == len(missing):
            workers = tuple(found.get(r, w) for r, w in enumerate(plan.workers))
        elif is_last_look:
            workers = (*kept, *found.values())
            if not workers:
                if abandoned.allow_paused_again(known):
                    # Another look may find them.
                    continue
                return _held_by_others(client, plan, abandoned, known)
        # Another fit may have found them too, and be faster. Then it has them from now
        # on, so that the next look finds others or none: this ends.
        if workers and spares.claim(tuple(found.values()), workers):
            return workers
        time.sleep(RECOVERY_POLL_S)


def _stays(status: str) -> bool:
    """Say whether a worker with a status that Dask names is not about to leave."""
    return status == "paused" or accepts_tasks(status)


def _held_by_others(
    client: Client, plan: Plan, abandoned: AbandonedWorkers, known: Known
) -> tuple[str, ...]:
    """Return workers in the place of all of a plan, although other fits hold them.

    Those that fewest fits have or wait for come first.
    """
    spare = freest_first(client, spare_workers(plan, abandoned, known))
    spare = [*usable_workers(client, spare)]
    # As it will be when the fits that hold them have ended.
    memory = {w: replace(its, taken=0) for w, its in memory_of(known, spare).items()}
    ranks = range(plan.n_workers)
    return tuple(_seated(plan, ranks, spare, memory, known, abandoned).values())


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
    module: str,
) -> Plan:
    """Return the plan to resume on: the same if there are as many workers.

    Parameters
    ----------
    client : Client
        A connected client.
    plan : Plan
        Of before.
    workers : tuple of str
        Addresses of those that are left.
    job : TrainingJob
        The job.
    dataset : BaseDataset
        All rows.
    module : str
        What the fit loads on its workers.
    """
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
    # All steps of the fit count: workers that have been there from the beginning load
    # compiled code after as many as if nothing had been lost.
    whole = replace(job, initial=replace(job.initial, progress=None))
    n_steps = FitLength.of(whole, dataset).total
    trial = Trial.of(job, dataset, cost.n_rows, n_steps)
    needed = max(plan_with(numbers[0], COPIES).bytes_needed, default=0)
    memory = room_for(trial, client, worker_memory(client, workers), needed, module)
    fewer = plan_that_fits(numbers, plan_with, memory, rows_memory_share())
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
    processes: Mapping[str, Process],
    processes_now: Mapping[str, Process],
    arithmetic: Mapping[tuple[str, str], Arithmetic],
    retired: Collection[str],
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
    processes, processes_now : mapping of str to Process
        See `processes_of`; as of the beginning of the run that has ended, and now.
    arithmetic : mapping
        See `arithmetic_of`.
    retired : collection of str
        Workers that were being retired while the fit waited.
    """
    kinds: dict[str, Kind] = dict.fromkeys(departure.workers, departure.kind)
    if departure.kind != "moved":
        for worker in left_behind(before, plan, departure):
            kinds[worker] = "retired" if worker in retired else "lost"
        # First those of the plan, by rank.
        ranks = {worker: rank for rank, worker in enumerate(before.workers)}
        kinds = dict(
            sorted(kinds.items(), key=lambda its: ranks.get(its[0], len(ranks)))
        )
    progress = job.initial.progress
    restarts = isinstance(progress, LbfgsProgress)
    # As those of a fit that nothing has changed before, either.
    same = (
        _computes_the_same(before, plan, dataset)
        and _computes_alike(before, plan, processes, processes_now, arithmetic)
        and all(earlier.same_bits for earlier in before.recoveries)
        and not restarts
    )
    return Recovery(
        tuple(kinds),
        departure.why,
        after_s,
        waited_s,
        0 if progress is None else progress.n_iter,
        plan.workers,
        plan.n_replicas,
        same,
        departure.kind,
        restarts,
        tuple(kinds.values()) if {*kinds.values()} - {departure.kind} else (),
    )


def left_behind(before: Plan, plan: Plan, departure: Departure) -> tuple[str, ...]:
    """Return the workers that were left besides those that a departure names.

    The same fault may have ended one worker, which an error names, and have another
    hang, which is found only when the fit looks for workers. Or one was retired then.
    """
    there = {*plan.workers, *departure.workers}
    return tuple(worker for worker in before.workers if worker not in there)


def _computes_the_same(before: Plan, plan: Plan, dataset: BaseDataset) -> bool:
    """Say whether two plans add up the same numbers in the same order."""
    if (before.split, before.grid) != (plan.split, plan.grid):
        return False
    # Blocks stay where they are, so another replica may compute their rows.
    return plan.n_replicas == 1 or not dataset.is_in_blocks


def _computes_alike(
    before: Plan,
    plan: Plan,
    processes: Mapping[str, Process],
    processes_now: Mapping[str, Process],
    arithmetic: Mapping[tuple[str, str], Arithmetic],
) -> bool:
    """Say whether each rank rounds as before.

    With as many threads, by which BLAS cuts products, and with the same code for them.
    """
    for earlier, later in zip(before.workers, plan.workers, strict=True):
        if earlier not in processes or later not in processes_now:
            # A worker that has left again computes nothing.
            continue
        one, other = processes[earlier], processes_now[later]
        if one.n_threads != other.n_threads:
            return False
        code = arithmetic.get((earlier, one.directory))
        code_now = arithmetic.get((later, other.directory))
        # One that was lost before it was asked has computed nothing.
        if code is not None and code_now is not None and code != code_now:
            return False
    return True
