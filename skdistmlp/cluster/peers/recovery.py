"""Go on with a fit elsewhere, after a loss of workers or before one.

A run ends with the state of all shards, which they have handed over, or of which copies
are left; and the fit resumes from that state on another plan.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from distributed import Client

from skdistmlp.cluster.client.errors import translate_dask_errors
from skdistmlp.cluster.client.workers import (
    worker_statuses,
)
from skdistmlp.cluster.peers.departures import (
    Departure,
    Departures,
    departure_named,
)
from skdistmlp.cluster.peers.driver import PeersRun
from skdistmlp.cluster.peers.elastic import Elastic
from skdistmlp.cluster.peers.handover import join_training_states
from skdistmlp.cluster.peers.reservation import choose_free_workers
from skdistmlp.cluster.peers.worker import ShardCopy
from skdistmlp.cluster.run.announced import Announced
from skdistmlp.cluster.run.replacement import (
    RECOVERABLE,
    WAITING,
    await_workers,
    lost_among,
    note_recoveries,
    plan_on,
    processes_of,
    recovery_of,
)
from skdistmlp.exceptions import (
    ClusterError,
    ExchangeError,
    WorkerLostError,
    what_happened,
)
from skdistmlp.parallel.data import BaseDataset
from skdistmlp.planning.plan import Plan
from skdistmlp.settings import (
    elastic,
    max_recoveries,
    recovery_wait_s,
)
from skdistmlp.training.job import Checkpoint, OnEpochEnd, TrainingJob
from skdistmlp.training.progress import Progress
from skdistmlp.training.state import TrainingState

LOG = logging.getLogger("skdistmlp")


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
    hands_over = allowed > 0
    better_plans = None
    # L-BFGS begins again: a move may cost it more than it saves.
    if hands_over and elastic() and isinstance(job.initial.progress, Progress):
        better_plans = Elastic(client, job, dataset)
    announced = Announced()
    # Processes that are of no use any more, by address.
    gone: dict[str, str | None] = {}
    while True:
        with translate_dask_errors(client, (), "looking for workers"):
            processes = processes_of(client)
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
                note_recoveries(error, plan)
                raise
            if run.is_interrupted or allowed == 0:
                note_recoveries(error, plan)
                raise
            lost_at = time.monotonic()
            with translate_dask_errors(client, (), WAITING):
                departure = _departure(client, plan, processes, error)
            # The others are somebody's wish, or leave for good; and nothing was lost.
            n_lost = sum(recovery.kind == "lost" for recovery in plan.recoveries)
            if departure.kind == "lost" and n_lost >= allowed:
                note_recoveries(error, plan)
                raise
            others = _others(client, plan, departure, processes, gone, wait_s)
            if not others:
                raise
        except ClusterError as error:
            note_recoveries(error, plan)
            raise
        # What the run has on the cluster goes with it.
        del run
        waited_s = time.monotonic() - lost_at
        with translate_dask_errors(client, (), WAITING):
            before = plan
            plan = departure.plan or plan_on(client, plan, others, job, dataset)
        if copies is not None:
            state = join_training_states(job.split, [copy.state for copy in copies])
            job = replace(job, initial=state)
            announced.n_lines_copied = copies[0].n_lines
        job = replace(job, split=plan.split, n_replicas=plan.n_replicas)
        recovery = recovery_of(
            departure.workers,
            departure.why,
            lost_at - begun,
            waited_s,
            before,
            plan,
            job,
            dataset,
            departure.kind,
        )
        LOG.info("%s", recovery)
        plan = replace(plan, recoveries=(*before.recoveries, recovery))


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
    lost = lost_among(client, plan, processes, error)
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

    def choose(spare: Sequence[str], number: int) -> Sequence[str]:
        # Another fit may hold some of them for long. They are reserved at once.
        return choose_free_workers(client, spare, number, {}, False)

    with translate_dask_errors(client, (), WAITING):
        return await_workers(client, plan, gone, wait_s, choose)
