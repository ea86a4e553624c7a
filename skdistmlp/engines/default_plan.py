"""The plan where nothing is measured, and the workers that have room for it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from skdistmlp.engines.engine import EngineRequest
from skdistmlp.parallel.rows import RowHolding
from skdistmlp.planning.cost import StepCost
from skdistmlp.planning.left_out import LeftOut
from skdistmlp.planning.memory import WorkerMemory
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


@dataclass(frozen=True)
class DefaultPlanner:
    """Plans that follow from what the user asked for and from memory alone.

    Parameters
    ----------
    request : EngineRequest
        What the user asked for.
    layer_units : sequence of int
        Features, neurons of each hidden layer, outputs.
    cost : StepCost
        Of a step.
    client : Client
        A connected client.
    trial : Trial, optional
        Says whether the fit will load compiled code, for which there has to be room.
    """

    request: EngineRequest
    layer_units: Sequence[int]
    cost: StepCost
    client: Any
    trial: Trial | None = None

    def plan(self, workers: tuple[str, ...]) -> Plan:
        """Return the plan of a fit on some workers, by their addresses."""
        plan_with = self._planning(workers)
        numbers = self._numbers_of_replicas(len(workers))
        first = plan_with(numbers[0])
        if self.request.engine == "futures":
            return first
        share = rows_memory_share()
        # If there is room for the first, it is the plan.
        if max(first.bytes_needed, default=0) < MEMORY_ASKED_FROM_BYTES and (
            share >= float(SETTINGS["rows.memory-share"].default)
        ):
            return first
        memory = self._memory_for(first, workers)
        return plan_that_fits(numbers, plan_with, memory, share)

    def workers_without_room(self, workers: tuple[str, ...]) -> list[LeftOut]:
        """Return the workers that have no room for a fit on them and on all that have.

        Those on which other fits train count as if they were empty: this one waits for
        them, and they free their memory.

        Parameters
        ----------
        workers : tuple of str
            Addresses.
        """
        from skdistmlp.cluster.run.reservation import unclaimed_workers

        # Of as few workers as there may be: none needs more.
        alone = workers[: self.request.n_replicas or 1]
        most = self._planning(alone)(self.request.n_replicas or 1)
        memory = dict(self._memory_for(most, workers))
        for worker in {*memory} - {*unclaimed_workers(self.client, workers)}:
            memory[worker] = replace(memory[worker], taken=0)
        left_out: list[LeftOut] = []
        while len(workers) >= len(alone):
            numbers = self._numbers_of_replicas(len(workers))
            plan_with = self._planning(workers)
            plan = plan_that_fits(numbers, plan_with, memory, rows_memory_share())
            needed = dict(zip(plan.workers, plan.bytes_needed, strict=True))
            short = LeftOut.short_of_memory(needed, memory)
            if not short:
                break
            left_out += short
            # Those that are left need as much or more.
            workers = tuple(
                w for w in workers if w not in {each.worker for each in short}
            )
        return left_out

    def _planning(self, workers: tuple[str, ...]) -> Callable[..., Plan]:
        """Return a function that plans a number of replicas and a way to hold the rows.

        Parameters
        ----------
        workers : tuple of str
            Addresses.
        """
        from skdistmlp.cluster.client.workers import threads_of

        request, threads = self.request, threads_of(self.client, workers)

        def plan_with(n_replicas: int, *rows: RowHolding) -> Plan:
            plan = self._plan_on(workers, threads, n_replicas, *rows)
            if request.must_share and request.engine == "auto":
                reason = "X does not fit this process, and there are workers"
                plan = replace(plan, reason=reason)
            return plan

        return plan_with

    def suitable_workers(
        self, n_workers: int, workers: tuple[str, ...]
    ) -> tuple[str, ...]:
        """Return the workers among which a fit on `n_workers` of them may choose.

        Parameters
        ----------
        n_workers : int
            The number of workers that will train.
        workers : tuple of str
            Addresses of all that are there.
        """

        def plan_with(n_replicas: int, *rows: RowHolding) -> Plan:
            # With equal shards: any of these workers may get any of them.
            return self._plan_on(workers[:n_workers], None, n_replicas, *rows)

        numbers = self._numbers_of_replicas(n_workers)
        first = plan_with(numbers[0])
        if not first.bytes_needed:
            # An engine of another table, of whose memory nothing is known.
            return workers
        plans = [first]
        if self.request.engine != "futures":
            plans = plans_by_preference(numbers, plan_with)
        memory = self._memory_for(first, workers)
        return workers_to_choose_from(
            plans, workers, n_workers, memory, rows_memory_share()
        )

    def _plan_on(
        self,
        workers: tuple[str, ...],
        threads: Sequence[int] | None,
        n_replicas: int,
        *rows: RowHolding,
    ) -> Plan:
        return plan_training(
            self.layer_units,
            self.request.engine,
            workers,
            self.cost,
            threads,
            n_replicas,
            *rows,
        )

    def _numbers_of_replicas(self, n_workers: int) -> list[int]:
        """Return the numbers of replicas to choose from, the best first."""
        if self.request.engine == "futures":
            return [1]
        if self.request.n_replicas is not None:
            return [self.request.n_replicas]
        return preferred_replicas(self.layer_units, n_workers, self.cost)

    def _memory_for(
        self, plan: Plan, workers: tuple[str, ...]
    ) -> Mapping[str, WorkerMemory]:
        """Return the memory of workers for a plan and those that need less."""
        needed = max(plan.bytes_needed)
        return memory_in_fit(self.trial, self.client, workers, needed)


def memory_in_fit(
    trial: Trial | None, client: Any, workers: tuple[str, ...], needed: int
) -> Mapping[str, WorkerMemory]:
    """Return the memory of workers once they have loaded the compiled code of a fit.

    Parameters
    ----------
    trial : Trial or None
        Of the fit; None if nothing is known of it.
    client : Client
        A connected client.
    workers : tuple of str
        Addresses.
    needed : int
        Bytes that the fit takes on a worker, at most.
    """
    from skdistmlp.cluster.client.workers import worker_memory
    from skdistmlp.cluster.peers import worker as module_of_fits
    from skdistmlp.cluster.run.loaded import room_for

    memory = worker_memory(client, workers)
    return room_for(trial, client, memory, needed, module_of_fits.__name__)
