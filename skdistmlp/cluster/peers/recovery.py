"""Go on with a fit elsewhere, after a loss of workers or before one.

A run ends with the state of all shards, which they have handed over, or of which copies
are left; and the fit resumes from that state on another plan.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import wait
from dataclasses import replace

from distributed import Client

from skdistmlp.cluster.client.errors import translate_dask_errors
from skdistmlp.cluster.client.rpc import check_open, run_on_workers
from skdistmlp.cluster.client.workers import (
    known_workers,
    threads_of,
    worker_memory,
    worker_statuses,
    workers_of,
)
from skdistmlp.cluster.peers.departures import (
    Departure,
    Departures,
    departure_named,
)
from skdistmlp.cluster.peers.driver import PeersRun
from skdistmlp.cluster.peers.elastic import Elastic
from skdistmlp.cluster.peers.handover import join_training_states
from skdistmlp.cluster.peers.messages import Announced
from skdistmlp.cluster.peers.reservation import choose_free_workers
from skdistmlp.cluster.peers.worker import ShardCopy
from skdistmlp.cluster.run.liveness import ping
from skdistmlp.exceptions import (
    ClusterError,
    ExchangeError,
    WorkerLostError,
    counted,
    what_happened,
)
from skdistmlp.parallel.data import BaseDataset
from skdistmlp.parallel.rows import RowHolding
from skdistmlp.planning.cost import cost_of_training
from skdistmlp.planning.plan import Plan, plan_training
from skdistmlp.planning.recovery import Recovery
from skdistmlp.planning.replicas import plan_that_fits, preferred_replicas
from skdistmlp.settings import (
    PING_ANSWER_S,
    RECOVERY_POLL_S,
    elastic,
    max_recoveries,
    recovery_wait_s,
    rows_memory_share,
)
from skdistmlp.training.job import Checkpoint, OnEpochEnd, TrainingJob
from skdistmlp.training.state import TrainingState

LOG = logging.getLogger("skdistmlp")

RECOVERABLE = (WorkerLostError, ExchangeError)
"""What a lost worker ends a run with: shards that hear nothing of one that hangs end
before anybody knows that it does."""


WAITING = "waiting for workers in place of those that were lost"
"""The phase, for errors."""


def train_with_recovery(
    client: Client,
    plan: Plan,
    job: TrainingJob,
    dataset: BaseDataset,
    on_epoch_end: OnEpochEnd | None,
    note_plan: Callable[[Plan], None],
    checkpoint: Checkpoint | None = None,
) -> tuple[TrainingState, float]:
    """Train to the end; resume elsewhere whenever workers are lost or leave.

    Parameters
    ----------
    client : Client
        A connected client.
    plan : Plan
        Where to begin.
    job : TrainingJob
        What to train, with the split of the plan.
    dataset : BaseDataset
        All rows.
    on_epoch_end : callable, optional
        See `PeersRun`; it is called once for each epoch, also if some are repeated.
    note_plan : callable
        Called with each plan before training starts or resumes on it. It says which
        rows each worker has, and what was lost so far.
    checkpoint : Checkpoint, optional
        Offered the state after each round.

    Returns
    -------
    state : TrainingState
        Of the whole network.
    training_s : float
        Seconds that the first shard has trained.

    Raises
    ------
    WorkerLostError
        If workers are lost more often than the setting allows, or none are left.
    """
    begun, training_s = time.monotonic(), 0.0
    # Before anything is lost: they may be wrong.
    allowed, wait_s = max_recoveries(), recovery_wait_s()
    # L-BFGS begins again: what SciPy knows is no part of a state that is handed over.
    hands_over = allowed > 0 and job.method.pauses_cost_little
    better_plans = Elastic(client, job, dataset) if hands_over and elastic() else None
    announced = Announced()
    # Processes that are of no use any more, by address.
    gone: dict[str, str | None] = {}
    while True:
        with translate_dask_errors(client, (), "looking for workers"):
            processes = _processes(client)
        departures = None
        if hands_over:
            look = None
            if better_plans is not None:
                better_plans.begin(plan, job.initial.progress)
                look = better_plans.look
            departures = Departures(client, plan.workers, look)
        run = PeersRun(
            client,
            plan,
            job,
            dataset,
            on_epoch_end,
            announced,
            checkpoint,
            departures,
        )
        copies: list[ShardCopy] | None = None
        try:
            with run:
                note_plan(replace(plan, row_ranges=run.row_ranges))
                try:
                    state = run.train()
                except RECOVERABLE:
                    copies = run.last_copies()
                    raise
                finally:
                    training_s += run.training_s
            if run.departure is None:
                return state, training_s
            departure, lost_at = run.departure, time.monotonic()
            job = replace(job, initial=state)
            if departure.plan is not None:
                others = departure.plan.workers
            else:
                others = _others(client, plan, departure, processes, gone, wait_s)
            if not others:
                raise WorkerLostError(
                    f"{departure.why}. It handed its shard over, but no other worker "
                    f"came in its place. Start workers, and call again."
                )
        except RECOVERABLE as error:
            if run.departure is not None:
                # Nobody is there to go on.
                _note_recoveries(error, plan)
                raise
            n_lost = sum(recovery.kind == "lost" for recovery in plan.recoveries)
            if run.is_interrupted or n_lost >= allowed:
                _note_recoveries(error, plan)
                raise
            lost_at = time.monotonic()
            with translate_dask_errors(client, (), WAITING):
                departure = _departure(client, plan, processes, error)
            others = _others(client, plan, departure, processes, gone, wait_s)
            if not others:
                raise
        except ClusterError as error:
            _note_recoveries(error, plan)
            raise
        # What the run has on the cluster goes with it.
        del run
        waited_s = time.monotonic() - lost_at
        with translate_dask_errors(client, (), WAITING):
            before = plan
            plan = departure.plan or _plan_on(client, plan, others, job, dataset)
        if copies is not None:
            state = join_training_states(job.split, [copy.state for copy in copies])
            job = replace(job, initial=state)
            announced.n_lines_copied = copies[0].n_lines
        job = replace(job, split=plan.split, n_replicas=plan.n_replicas)
        progress = job.initial.progress
        recovery = Recovery(
            departure.workers,
            departure.why,
            lost_at - begun,
            waited_s,
            0 if progress is None else progress.n_iter,
            plan.workers,
            plan.n_replicas,
            _computes_the_same(before, plan, dataset),
            departure.kind,
        )
        LOG.info("%s", recovery)
        plan = replace(plan, recoveries=(*before.recoveries, recovery))


def _computes_the_same(before: Plan, plan: Plan, dataset: BaseDataset) -> bool:
    """Say whether two plans add up the same numbers in the same order."""
    if (before.split, before.grid) != (plan.split, plan.grid):
        return False
    # Blocks stay where they are, so another replica may compute their rows.
    return plan.n_replicas == 1 or not dataset.is_in_blocks


def _note_recoveries(error: ClusterError, plan: Plan) -> None:
    """Note in an error what the fit had recovered from before."""
    if plan.recoveries:
        before = ". ".join(map(str, plan.recoveries))
        error.add_note(
            f"Before that, the fit recovered (at most skdistmlp.max-recoveries times): "
            f"{before}."
        )


def _processes(client: Client) -> dict[str, str]:
    """Return what tells the process at each worker's address from others there.

    A nanny may restart a worker at the same address, with another directory.
    """
    return {
        worker: info["local_directory"]
        for worker, info in known_workers(client).items()
    }


def _departure(
    client: Client,
    plan: Plan,
    processes: Mapping[str, str],
    error: WorkerLostError | ExchangeError,
) -> Departure:
    """Return what an error means: which workers a fit has to do without, and why."""
    if isinstance(error, WorkerLostError):
        # Before anything was trained, or while its state could not be handed over.
        departure = departure_named(error, worker_statuses(client))
        if departure is not None:
            return departure
    lost = _lost(client, plan, processes, error)
    return Departure("lost", lost, what_happened(error))


def _others(
    client: Client,
    plan: Plan,
    departure: Departure,
    processes: Mapping[str, str],
    gone: dict[str, str | None],
    wait_s: float,
) -> tuple[str, ...]:
    """Wait for workers to go on with; none if no worker is to be replaced.

    Nothing is held while this waits.
    """
    if not departure.workers:
        return ()
    if departure.kind != "retired":
        # Dask may refuse to retire a worker, such as the last one. Then it is of use.
        gone.update((worker, processes.get(worker)) for worker in departure.workers)
    with translate_dask_errors(client, (), WAITING):
        return _await_workers(client, plan, gone, wait_s)


def _lost(
    client: Client,
    plan: Plan,
    processes: Mapping[str, str],
    error: WorkerLostError | ExchangeError,
) -> tuple[str, ...]:
    """Return the workers that have left, that an error names, or that hang."""
    present = _processes(client)
    lost = {worker for worker in plan.workers if worker not in present}
    lost |= {w for w in plan.workers if present.get(w) != processes.get(w)}
    if isinstance(error, WorkerLostError):
        lost |= {*error.workers}
    elif not lost:
        lost |= {*_silent(client, plan.workers)}
    return tuple(worker for worker in plan.workers if worker in lost)


def _silent(client: Client, workers: tuple[str, ...]) -> list[str]:
    """Return the workers that do not answer."""
    answers = run_on_workers(client, workers, ping)
    answered, _ = wait(answers.values(), PING_ANSWER_S)
    for answer in answers.values():
        answer.cancel()
    return [worker for worker, answer in answers.items() if answer not in answered]


def _await_workers(
    client: Client, plan: Plan, gone: Mapping[str, str | None], wait_s: float
) -> tuple[str, ...]:
    """Wait until as many workers are there as before, or for as long as is allowed.

    Returns
    -------
    tuple of str
        As many as before, each in the place of one that is still there, if they have
        come in time; otherwise all that are there.
    """
    deadline = time.monotonic() + wait_s
    while True:
        check_open(client)
        present = {
            worker: process
            for worker, process in _processes(client).items()
            if worker not in gone or process != gone[worker]
        }
        statuses = worker_statuses(client)
        # Those of the plan may be paused for a moment; others have to accept tasks.
        kept = [
            worker
            for worker in plan.workers
            if worker in present and statuses.get(worker) != "closing_gracefully"
        ]
        spare = [
            worker
            for worker in workers_of(client)
            if worker in present and worker not in kept
        ]
        n_missing = plan.n_workers - len(kept)
        if len(spare) >= n_missing:
            # Another fit may hold some of them for long. They are reserved at once.
            taken = iter(choose_free_workers(client, spare, n_missing, {}, False))
            return tuple(
                worker if worker in kept else next(taken) for worker in plan.workers
            )
        if time.monotonic() > deadline:
            return (*kept, *spare)
        time.sleep(RECOVERY_POLL_S)


def _plan_on(
    client: Client,
    plan: Plan,
    workers: tuple[str, ...],
    job: TrainingJob,
    dataset: BaseDataset,
) -> Plan:
    """Return the plan to resume on: the same if there are as many workers."""
    if len(workers) == plan.n_workers:
        return replace(plan, workers=workers, row_ranges=())
    cost = cost_of_training(job, dataset)
    units, threads = plan.split.layer_units, threads_of(client, workers)

    def plan_with(n_replicas: int, rows: RowHolding) -> Plan:
        return plan_training(units, "peers", workers, cost, threads, n_replicas, rows)

    fewer = plan_that_fits(
        preferred_replicas(units, len(workers), cost),
        plan_with,
        worker_memory(client, workers),
        rows_memory_share(),
    )
    reason = (
        f"{counted(len(plan.workers) - len(workers), 'worker')} fewer than before "
        f"({plan.reason})"
    )
    return replace(fewer, reason=reason, recoveries=plan.recoveries, fixed=plan.fixed)
