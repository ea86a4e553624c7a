"""How a prediction is shared: by rows, by neurons, or not at all."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from skdistmlp.exceptions import counted
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.candidates import MARGIN
from skdistmlp.planning.cost import (
    StepCost,
    bytes_sent_by_neurons,
    bytes_sent_by_rows,
    chained_tasks,
)
from skdistmlp.planning.left_out import left_out_lines, slow_workers
from skdistmlp.planning.machines import Machines, Speed
from skdistmlp.planning.memory import WorkerMemory
from skdistmlp.planning.plan import Plan, local_plan
from skdistmlp.planning.rates import DASK_BYTE_S, REFERENCE, TASK_S
from skdistmlp.planning.step_time import computation_s
from skdistmlp.planning.worker_counts import group_with_room, worker_counts

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
    memory: Mapping[str, WorkerMemory],
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
    memory : mapping of str to WorkerMemory
        Of each worker; one that is missing has no limit.
    machines : Machines
        How fast this process, the workers and their links are.

    Returns
    -------
    Plan
        If "futures" was asked for: "futures" on all workers, split by neurons.
        Otherwise what is expected to be fastest: "local", or "futures" on some of the
        workers, split by rows or by neurons. Of plans that are nearly as fast, the one
        on the fewest workers.
    """
    if engine == "futures":
        split = NetworkSplit.even(layer_units, len(workers))
        used = tuple(workers[: split.n_shards])
        return Plan("futures", split, used, "engine='futures' was asked for")
    offer = _PredictionOffer(tuple(layer_units), tuple(workers), cost, memory, machines)
    candidates = [offer.here(), *offer.by_rows(), *offer.by_neurons()]
    best_s = min(candidate.seconds for candidate in candidates)
    nearly = [its for its in candidates if its.seconds <= (1 + MARGIN) * best_s]
    chosen = min(nearly, key=lambda its: (len(its.plan.workers), its.seconds))
    reason = _reason(offer, candidates, chosen)
    left_out = slow_workers(chosen.plan.workers, workers, machines.workers)
    reason = "; ".join([reason, *left_out_lines(left_out)])
    return replace(chosen.plan, reason=reason)


@dataclass(frozen=True)
class _Candidate:
    """A plan that a prediction could follow.

    Attributes
    ----------
    plan : Plan
        The plan, without a reason.
    seconds : float
        What it is expected to take.
    sent : int
        Bytes that are sent.
    """

    plan: Plan
    seconds: float
    sent: int = 0

    @property
    def form(self) -> str:
        """How the prediction is shared."""
        return self.plan.split_by if self.plan.workers else "here"

    def __str__(self) -> str:
        if not self.plan.workers:
            return f"{self.seconds:.2g} s in this process"
        n_workers = counted(len(self.plan.workers), "worker")
        return (
            f"{self.seconds:.2g} s on {n_workers} by {self.plan.split_by} "
            f"({self.sent / 1e6:.3g} MB are sent)"
        )


@dataclass(frozen=True)
class _PredictionOffer:
    """What there is to choose from; see `plan_shared_prediction`."""

    layer_units: tuple[int, ...]
    workers: tuple[str, ...]
    cost: StepCost
    memory: Mapping[str, WorkerMemory]
    machines: Machines

    def here(self) -> _Candidate:
        """Return the candidate of this process."""
        n_rows = self.cost.n_rows
        seconds = self._computed_s(self._whole, self.machines.here, n_rows)
        return _Candidate(local_plan(self.layer_units, ""), seconds)

    def by_rows(self) -> Iterator[_Candidate]:
        """Yield the candidates of workers that each have the whole network."""
        places = self._with_room(self.bytes_on_arrival(self._whole))
        for n_workers in self._counts(places):
            taken = places[:n_workers]
            n_rows = math.ceil(self.cost.n_rows / n_workers)
            plan = self._plan(self._whole, taken, "rows")
            sent = bytes_sent_by_rows(self._whole, self.cost, n_workers)
            seconds = self._computed_s(self._whole, self._slowest(taken), n_rows)
            seconds += TASKS_BY_ROWS * TASK_S + self.machines.sent_s(sent, taken)
            yield _Candidate(plan, seconds, sent)

    def by_neurons(self) -> Iterator[_Candidate]:
        """Yield the candidates of workers that each have a shard of the network."""
        for n_workers in self._counts_by_neurons():
            split = self._split(n_workers)
            taken = self._with_room(self.bytes_on_arrival(split))[:n_workers]
            if len(taken) < n_workers:
                continue
            plan = self._plan(split, taken, "neurons")
            sent = bytes_sent_by_neurons(split, self.cost)
            seconds = self._computed_s(split, self._slowest(taken), self.cost.n_rows)
            seconds += chained_tasks(split, self.cost) * TASK_S
            seconds += self.machines.sent_s(sent, taken)
            yield _Candidate(plan, seconds, sent)

    def _counts_by_neurons(self) -> list[int]:
        """Return the numbers of shards to consider, in ascending order.

        Of all workers, and of those that have room for one of that many shards.
        """
        widest = max(self.layer_units[1:-1], default=1)

        def with_room(n_workers: int) -> list[int]:
            split = self._split(min(n_workers, widest))
            return self._with_room(self.bytes_on_arrival(split))

        every = self._fastest_first
        counts = {
            min(count, widest)
            for places in (every, group_with_room(every, with_room))
            for count in self._counts(places)
        }
        return sorted(counts - {1})

    def bytes_on_arrival(self, split: NetworkSplit) -> int:
        """Return the bytes of the largest shard as it arrives, and as it is used."""
        layouts = map(split.layout, range(split.n_shards))
        most = max(layout.n_parameters for layout in layouts)
        return 2 * most * self.cost.itemsize

    def most_free(self) -> float:
        """Return the bytes that the worker with the most memory may allocate."""
        return max(map(self._free, range(len(self.workers))))

    def _split(self, n_shards: int) -> NetworkSplit:
        """Return the network in this many equal shards."""
        return NetworkSplit.even(self.layer_units, n_shards)

    @cached_property
    def _whole(self) -> NetworkSplit:
        return self._split(1)

    @cached_property
    def _fastest_first(self) -> list[int]:
        """Workers by their place among all; equally fast ones stay in their order.

        Of those that compute equally fast, first those with the faster links.
        """
        speeds, links = self.machines.workers, self.machines.links
        return sorted(
            range(len(self.workers)),
            key=lambda place: (
                speeds[place].correction(Grid(1)),
                links[place].slowness,
            ),
        )

    def _free(self, place: int) -> float:
        """Return the bytes that a worker may allocate."""
        its = self.memory.get(self.workers[place])
        return math.inf if its is None else its.free

    def _with_room(self, n_bytes: int) -> list[int]:
        """Return the workers that may allocate as many bytes, the fastest first."""
        return [place for place in self._fastest_first if n_bytes <= self._free(place)]

    def _counts(self, places: Sequence[int]) -> list[int]:
        """Return how many of some workers to consider."""
        speeds = (self.machines.workers[place] for place in places)
        return worker_counts(sorted(speed.correction(Grid(1)) for speed in speeds))

    def _slowest(self, places: Sequence[int]) -> Speed:
        """Return the speed of the worker that the others wait for: the last one."""
        return self.machines.workers[places[-1]]

    def _computed_s(self, split: NetworkSplit, speed: Speed, n_rows: int) -> float:
        """Return the seconds in which a shard computes some rows."""
        cost = replace(self.cost, n_rows=n_rows)
        return computation_s(split, cost, Grid(1), speed)

    def _plan(
        self,
        split: NetworkSplit,
        places: Sequence[int],
        split_by: Literal["neurons", "rows"],
    ) -> Plan:
        """Return the plan of a split on some workers."""
        workers = tuple(self.workers[place] for place in places)
        return Plan("futures", split, workers, "", split_by=split_by)


def _reason(
    offer: _PredictionOffer, candidates: Sequence[_Candidate], chosen: _Candidate
) -> str:
    """Say what the chosen plan should take, and the fastest one of each other form."""
    fastest = {
        its.form: its
        for its in sorted(candidates, key=lambda its: its.seconds, reverse=True)
    } | {chosen.form: chosen}
    forms = ("here", "rows", "neurons")
    *first, last = [str(fastest[form]) for form in forms if form in fastest]
    compared = f"{', '.join(first)} and {last}" if first else last
    reason = (
        f"a prediction of {counted(offer.cost.n_rows, 'row')} should take {compared}"
    )
    if "rows" not in fastest:
        whole = offer.bytes_on_arrival(NetworkSplit.even(offer.layer_units, 1))
        reason += (
            f"; the whole network takes {whole:,} bytes on its arrival, and no worker "
            f"has more than {offer.most_free():,}"
        )
    if any(its.seconds < chosen.seconds for its in candidates):
        reason += (
            f"; more machines are taken only if they are more than {MARGIN:.0%} faster"
        )
    return reason


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
