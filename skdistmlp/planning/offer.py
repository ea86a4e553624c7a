"""The plans that a fit may choose from: engines, grids and workers with room."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from operator import truediv

from skdistmlp.exceptions import counted
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.rows import COPIES, RowHolding
from skdistmlp.parallel.split import NetworkSplit, split_neurons
from skdistmlp.planning.candidates import Candidate, FitLength, ranked
from skdistmlp.planning.cost import (
    StepCost,
    bytes_held,
    bytes_here_by_tasks,
    features_held,
)
from skdistmlp.planning.machines import Machines, Speed
from skdistmlp.planning.memory import WorkerMemory
from skdistmlp.planning.plan import Plan, local_plan, plan_training
from skdistmlp.planning.replicas import has_room
from skdistmlp.planning.row_fetches import fetch_s
from skdistmlp.planning.step_time import (
    StepTime,
    computation_s,
    scipy_s,
    step_time,
    step_time_of_tasks,
)
from skdistmlp.planning.traffic import exchanges_of_tasks, traffic
from skdistmlp.planning.worker_counts import group_with_room, worker_counts

PEERS_FIT_S = 0.15
"""Seconds of a fit on workers besides its steps, and besides sending rows: a dozen
messages through the scheduler, and three rounds of tasks."""

ROUND_ROWS = 32
"""Rows among which those of unequal replicas are shared in whole numbers: finer than
speeds can be told apart."""

HOLDINGS = COPIES, RowHolding("once"), RowHolding("once", on_disk=True)
"""What workers may have of the rows, the fastest first."""

PLACEMENTS_TRIED = 8
"""Choices of workers for a grid after the first, each without workers that had no room
in the one before. One is enough but where both speeds and memory differ widely."""


@dataclass(frozen=True)
class Offer:
    """What there is to choose from.

    Attributes
    ----------
    layer_units : tuple of int
        Features, neurons of each hidden layer, outputs.
    cost : StepCost
        What a step costs.
    length : FitLength
        How many steps there are.
    workers : tuple of str
        Addresses.
    machines : Machines
        How fast they are; in the same order.
    memory : mapping of str to WorkerMemory
        Of each worker; one that is missing has no limit.
    memory_share : float
        Share of a worker's limit that features in memory may take.
    memory_here : int or None
        Bytes that this process may still allocate; None without limit.
    local : bool
        Whether this process may train.
    n_workers, n_replicas : int or None
        What the user has fixed. If no grid of as many workers gives each neurons and
        rows, the most are taken that make one.
    min_workers : int
        The fewest workers to take, if there are as many.
    on_cluster : bool
        Whether the features are on the workers, and would have to be fetched to train
        here. Otherwise they are here, and are sent.
    bytes_on_workers : mapping of str to int
        Bytes of features that each worker has, by address. Empty if they are here, or
        if workers compute them during the fit.
    cluster_engines : tuple of {"peers", "futures"}
        Engines of a cluster that may train.
    """

    layer_units: tuple[int, ...]
    cost: StepCost
    length: FitLength
    workers: tuple[str, ...]
    machines: Machines
    memory: Mapping[str, WorkerMemory]
    memory_share: float = 1.0
    memory_here: int | None = None
    local: bool = True
    n_workers: int | None = None
    n_replicas: int | None = None
    min_workers: int = 1
    on_cluster: bool = False
    bytes_on_workers: Mapping[str, int] = field(default_factory=dict)
    cluster_engines: tuple[str, ...] = ("peers",)

    def candidates(self) -> list[Candidate]:
        """Return the plans for which there is room, the best first."""
        found: list[Candidate] = []
        if "peers" in self.cluster_engines:
            found += self._peers()
        if "futures" in self.cluster_engines:
            found += self._futures()
        if self.local and (here := self._local()) is not None:
            found.append(here)
        return ranked(found)

    def _local(self) -> Candidate | None:
        """Return the candidate of this process; None if there is no room for it."""
        split = NetworkSplit.even(self.layer_units, 1)
        needed = bytes_allocated_here(self.layer_units, self.cost, self.on_cluster)
        if not self._has_room_here(needed):
            return None
        seconds = computation_s(split, self.cost, Grid(1), self.machines.here)
        seconds += scipy_s(split, self.cost)
        plan = local_plan(self.layer_units, "")
        fetched = self.cost.feature_bytes if self.on_cluster else 0
        fixed_s = self.machines.sent_s(fetched)
        held = bytes_held(split.layout(0), self.cost)
        return Candidate(plan, StepTime(seconds), fixed_s, self.length, held)

    def _has_room_here(self, n_bytes: int) -> bool:
        """Return whether this process may allocate as many bytes."""
        return self.memory_here is None or n_bytes <= self.memory_here

    def _fit_on_workers_s(self, plan: Plan, places: Sequence[int], sent: int) -> float:
        """Return the seconds of a fit besides its steps.

        Parameters
        ----------
        plan : Plan
            The plan.
        places : sequence of int
            Its workers, by their place among all.
        sent : int
            Bytes of rows that are sent.
        """
        # At the end, the parameters come here.
        collected = plan.split.n_parameters * self.cost.itemsize
        return PEERS_FIT_S + self.machines.sent_s(sent + collected, places)

    def plan_of_tasks(self) -> Plan:
        """Return the plan of "futures", whether or not there is room for it."""
        workers = self.workers[: self.n_workers]
        speeds = self.machines.workers[: self.n_workers]
        shares = [1 / speed.correction(Grid(1)) for speed in speeds]
        return plan_training(self.layer_units, "futures", workers, self.cost, shares)

    def bytes_here(self, plan: Plan) -> int:
        """Return the bytes that this process holds during a plan of "futures"."""
        # All features are sent from here.
        fetched = self.cost.data_bytes if self.on_cluster else 0
        return bytes_here_by_tasks(plan.split, self.cost) + fetched

    def _futures(self) -> Iterator[Candidate]:
        """Yield the candidate of all workers by tasks, if there is room for it."""
        if self.n_replicas not in (None, 1):
            # It has none.
            return
        plan = self.plan_of_tasks()
        if not has_room(plan, self.memory, self.memory_share):
            return
        if not self._has_room_here(self.bytes_here(plan)):
            return
        # There may be fewer neurons than workers.
        n_shards = plan.n_shards
        places = range(n_shards)
        link = self.machines.link_among(places)
        of_shards = _distinct(self.machines.workers[:n_shards])
        step = step_time_of_tasks(plan.split, self.cost, of_shards, link)
        if self.cost.moves_parameters:
            # To the workers, and the gradient back.
            moved = 2 * plan.split.n_parameters * self.cost.itemsize
            travelled_s = step.travelled_s + self.machines.sent_s(moved, places)
            step = replace(step, travelled_s=travelled_s)
        # All features go to each worker from here, where they are fetched first.
        fixed_s = self._fit_on_workers_s(
            plan, places, self.cost.feature_bytes * n_shards
        )
        if self.on_cluster:
            fixed_s += self.machines.sent_s(self.cost.feature_bytes)
        n_messages = sum(
            exchange.sent.n_messages
            for exchange in exchanges_of_tasks(plan.split, self.cost)
        )
        yield Candidate(
            plan,
            step,
            fixed_s,
            self.length,
            messages_sent=n_messages,
            link=link if n_shards > 1 else None,
        )

    def _peers(self) -> Iterator[Candidate]:
        """Yield the candidates of peers that have room.

        First those of the workers with the fastest links, then those of more, up to
        all.
        """
        slowness = [link.slowness for link in self.machines.links]
        every = range(len(self.workers))
        # The fastest first; those that are equally fast stay in their order.
        order = sorted(
            every, key=lambda place: (self._slowness[place], slowness[place])
        )
        with_room: set[Grid] = set()
        for slowest in sorted(set(slowness)):
            among = [place for place in order if slowness[place] <= slowest]
            if len(among) < min(self.min_workers, len(self.workers)):
                continue
            links = [slowness[place] for place in among]
            n_before = links.index(slowest)
            for grid in self._grids(among):
                if grid.n_ranks <= n_before and grid in with_room:
                    # It would be on the same workers again.
                    continue
                if placed := self._placed(grid, among):
                    with_room.add(grid)
                    yield self._by_peers(*placed)

    def _grids(self, among: Sequence[int]) -> Iterator[Grid]:
        """Yield the grids to consider on some of the workers."""
        if self.n_workers is None:
            counts = self._counts(among)
        else:
            n_workers = self._most_workers(self.n_workers)
            counts = [n_workers] if n_workers <= len(among) else []
        for n_workers in counts:
            yield from self._grids_of(n_workers)

    def _grids_of(self, n_workers: int) -> Iterator[Grid]:
        """Yield the grids of this many workers."""
        for grid in grids_of(n_workers, self.layer_units, self.cost):
            if self.n_replicas in (None, grid.n_replicas):
                yield grid

    def _most_workers(self, n_workers: int) -> int:
        """Return the most workers, of this many, that make a grid; 0 if none do."""
        numbers = range(n_workers, 0, -1)
        return next((n for n in numbers if any(self._grids_of(n))), 0)

    def reason_for_fewer(self, n_workers: int) -> str | None:
        """Say why a plan takes fewer workers than were asked for; None if it does not.

        Parameters
        ----------
        n_workers : int
            How many it takes; 0 for none of them, which needs another reason.
        """
        if self.n_workers is None or not 0 < n_workers < self.n_workers:
            return None
        *hidden, _ = self.layer_units[1:]
        neurons = "the network has no hidden layer"
        if hidden:
            neurons = f"the widest hidden layer has {counted(max(hidden), 'neuron')}"
        rows = f"a step has {counted(self.cost.n_rows, 'row')}"
        if self.cost.in_ordered_blocks:
            rows = "rows in blocks that keep their order allow no replicas"
        replicas = ""
        if self.n_replicas is not None:
            replicas = f" of {counted(self.n_replicas, 'replica')}"
        return (
            f"{n_workers} of {counted(self.n_workers, 'worker')} train: no more of "
            f"them make a grid{replicas} in which each has neurons and rows, since "
            f"{neurons} and {rows}"
        )

    def _counts(self, among: Sequence[int]) -> list[int]:
        """Return how many of some workers to consider, in ascending order."""
        found: set[int] = set()
        for group in self._groups(among):
            slowness = sorted(self._slowness[place] for place in group)
            found |= {*worker_counts(slowness, self.n_replicas, self.min_workers)}
        least = min(self.min_workers, len(among))
        return sorted(count for count in found if count >= least)

    def _groups(self, among: Sequence[int]) -> set[tuple[int, ...]]:
        """Return some workers, and those of them that have room for their part.

        Rows may be held in several ways: those that have room with copies of them are
        a group, and so are those that have it without.
        """
        found = {tuple(among)}
        if self.memory:
            for holding in HOLDINGS:
                with_room = partial(self._with_room, among, holding)
                found.add(tuple(group_with_room(among, with_room)))
        return found

    def _with_room(
        self, among: Sequence[int], holding: RowHolding, n_workers: int
    ) -> list[int]:
        """Return the workers with room for a process of some grid of this many."""
        most = self._most_workers(n_workers)
        needs = [self._needs(grid, holding) for grid in self._grids_of(most)]
        return [
            place
            for place in among
            if any(
                needed <= self._free[place] and features <= self._room_for_rows[place]
                for needed, features in needs
            )
        ]

    def _needs(self, grid: Grid, holding: RowHolding) -> tuple[int, int]:
        """Return the bytes that most processes of a grid hold, and those of features.

        In memory, and on equal workers.
        """
        holding = self._possible(holding)
        n_shards, n_replicas = grid.n_shards, grid.n_replicas
        layout = NetworkSplit.even(self.layer_units, n_shards).layout(n_shards - 1)
        # Not the first one, where SciPy is.
        held = bytes_held(layout, self.cost, n_replicas, n_replicas - 1, holding)
        if holding.on_disk:
            return held, 0
        return held, features_held(self.cost, n_shards, n_replicas, holding)

    @cached_property
    def _slowness(self) -> tuple[float, ...]:
        """How slow each worker is."""
        return tuple(speed.correction(Grid(1)) for speed in self.machines.workers)

    @cached_property
    def _free(self) -> tuple[float, ...]:
        """The bytes that each worker may still allocate."""
        found = (self.memory.get(worker) for worker in self.workers)
        return tuple(math.inf if its is None else its.free for its in found)

    @cached_property
    def _room_for_rows(self) -> tuple[float, ...]:
        """The bytes of features that each worker may have in memory."""
        others = self.cost.data_bytes - self.cost.feature_bytes
        found = (self.memory.get(worker) for worker in self.workers)
        return tuple(
            math.inf
            if its is None
            else min(its.free - others, self.memory_share * its.limit)
            for its in found
        )

    def _placed(
        self, grid: Grid, among: Sequence[int]
    ) -> tuple[Plan, Sequence[int]] | None:
        """Return the plan of a grid, on the fastest workers that have room for it.

        Each has a copy of its rows, if there are enough workers with room for that, or
        else what takes less.

        Parameters
        ----------
        grid : Grid
            The grid.
        among : sequence of int
            From which workers to choose, by their place among all; the fastest first.

        Returns
        -------
        (Plan, sequence of int) or None
            The plan, and which workers, by their place among all; None if too few have
            room.
        """
        for holding in HOLDINGS:
            if grid.n_shards == 1 and holding == RowHolding("once"):
                # A shard that has nobody to gather rows from has a copy of them.
                continue
            able = self._with_room_for_rows(grid, holding, among)
            if len(able) < grid.n_ranks:
                continue
            if placed := self._placed_with(holding, grid, able):
                return placed
        return None

    def _with_room_for_rows(
        self, grid: Grid, holding: RowHolding, among: Sequence[int]
    ) -> Sequence[int]:
        """Return the workers that have room for their rows, if for nothing else.

        They are found before any plan is made: none gives each worker less.
        """
        if holding.on_disk or not self.memory:
            return among
        n_bytes = features_held(
            self.cost, grid.n_shards, grid.n_replicas, self._possible(holding)
        )
        room = self._room_for_rows
        return [place for place in among if n_bytes <= room[place]]

    def _possible(self, holding: RowHolding) -> RowHolding:
        """Return what workers have of the rows; all where a score needs them."""
        if self.cost.needs_all_features:
            return replace(holding, form="all")
        return holding

    def _placed_with(
        self, holding: RowHolding, grid: Grid, among: Sequence[int]
    ) -> tuple[Plan, Sequence[int]] | None:
        """Return the plan of a grid on workers that have their rows in one way."""
        places = self._preferred(among, grid.n_ranks)
        plan = self._on(grid, places, holding)
        if has_room(plan, self.memory, self.memory_share):
            return plan, places
        # Only where these have no room: memory that is free changes from fit to fit,
        # and plans should not.
        left = sorted(
            among, key=lambda place: (self._slowness[place], -self._free[place])
        )
        for _ in range(PLACEMENTS_TRIED):
            if places == left[: grid.n_ranks]:
                # So are those that have no room for any of its processes: if all need
                # about as much, the next try is the last.
                needs = dict(zip(places, plan.bytes_needed, strict=True))
                least = min(plan.bytes_needed)
                left = [
                    place
                    for place in left
                    if needs.get(place, least) <= self._free[place]
                    and plan.features_in_memory <= self._room_for_rows[place]
                ]
            if len(left) < grid.n_ranks:
                break
            places = left[: grid.n_ranks]
            plan = self._on(grid, places, holding)
            if has_room(plan, self.memory, self.memory_share):
                return plan, places
        return None

    def _preferred(self, among: Sequence[int], n_workers: int) -> Sequence[int]:
        """Return the fastest workers; of equally fast ones, those with most rows.

        They stay in their order, as where all have as many.
        """
        if not self.bytes_on_workers or n_workers == len(among):
            return among[:n_workers]
        held = [self.bytes_on_workers.get(worker, 0) for worker in self.workers]
        links = self.machines.links
        taken = sorted(
            among,
            key=lambda place: (
                self._slowness[place],
                links[place].slowness,
                -held[place],
            ),
        )[:n_workers]
        chosen = set(taken)
        return [place for place in among if place in chosen]

    def _on(self, grid: Grid, places: Sequence[int], holding: RowHolding) -> Plan:
        """Return the plan of a grid on some workers."""
        workers = tuple(self.workers[place] for place in places)
        shares = [1 / self._slowness[place] for place in places]
        return plan_training(
            self.layer_units,
            "auto",
            workers,
            self.cost,
            shares,
            grid.n_replicas,
            replace(holding, shares=row_shares(grid, shares)),
        )

    def _by_peers(self, plan: Plan, places: Sequence[int]) -> Candidate:
        """Return the candidate of a plan on some workers."""
        speeds = _distinct([self.machines.workers[place] for place in places])
        split, link = plan.split, self.machines.link_among(places)
        step = step_time(split, self.cost, plan.grid, speeds, link, plan.rows)
        sent = 0 if self.on_cluster else plan.features_held * len(places)
        fixed_s = self._fit_on_workers_s(plan, places, sent)
        if self.on_cluster:
            links = dict(zip(self.workers, self.machines.links, strict=True))
            n_bytes, held = self.cost.feature_bytes, self.bytes_on_workers
            fixed_s += fetch_s(plan, n_bytes, held, links)
        _, n_messages = traffic(split, self.cost, plan.n_replicas, 0, plan.rows)
        return Candidate(
            plan,
            step,
            fixed_s,
            self.length,
            messages_sent=n_messages,
            link=link if len(places) > 1 else None,
        )


def bytes_allocated_here(
    layer_units: Sequence[int], cost: StepCost, on_cluster: bool
) -> int:
    """Return the bytes that this process allocates to train a network by itself.

    Parameters
    ----------
    layer_units : sequence of int
        Features, neurons of each hidden layer, outputs.
    cost : StepCost
        What a step costs.
    on_cluster : bool
        Whether the data are on the cluster. Otherwise they are in memory already.
    """
    held = bytes_held(NetworkSplit.even(layer_units, 1).layout(0), cost)
    return held if on_cluster else held - cost.data_bytes


def row_shares(grid: Grid, speeds: Sequence[float]) -> tuple[int, ...]:
    """Return how many rows of a round each replica should compute; none if as many.

    A replica is as fast as the slowest of its shards, whose neurons are in proportion
    to the speeds of the last replica.

    Parameters
    ----------
    grid : Grid
        The grid.
    speeds : sequence of float
        Of each of its processes, the fastest first.
    """
    n_shards = grid.n_shards
    last = speeds[-n_shards:]
    of_replicas = [
        min(map(truediv, speeds[first : first + n_shards], last))
        for first in range(0, grid.n_ranks, n_shards)
    ]
    if min(of_replicas) == max(of_replicas):
        return ()
    n_rows = max(ROUND_ROWS, 4 * grid.n_replicas)
    shares = [len(part) for part in split_neurons(n_rows, of_replicas)]
    # One that would get none is too slow to take part, as its time will show.
    return tuple(max(1, share) for share in shares)


def _distinct(speeds: Sequence[Speed]) -> Sequence[Speed]:
    """Return one speed if all are the same: then the first process has most to do."""
    return speeds[:1] if all(speed == speeds[0] for speed in speeds) else speeds


def grids_of(
    n_workers: int, layer_units: Sequence[int], cost: StepCost
) -> Iterator[Grid]:
    """Yield the grids of this many workers in which each has neurons and rows."""
    most = 1 if cost.in_ordered_blocks else min(n_workers, cost.n_rows)
    for n_replicas in range(1, most + 1):
        n_shards, rest = divmod(n_workers, n_replicas)
        if not rest and n_shards <= max(layer_units[1:-1], default=1):
            yield Grid(n_shards, n_replicas)
