"""Which process of a grid computes each row, and which one has its features.

Who computes a row decides in which order its gradient is added up, and so the last bits
of the answer; who has its features does not. Both follow from the number of the row in
the data set, so that all processes know them without asking.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from skdistmlp.nn.types import Rows
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.split import split_neurons

RowNumbers = NDArray[np.intp]

RowForm = Literal["all", "copies", "once"]
"""Which features each process of a grid has: those of all rows, a copy of those that
its replica computes, or some of these, which the other shards gather from it."""


@dataclass(frozen=True)
class RowHolding:
    """Which rows each process of a grid computes, and which features it has, and where.

    Attributes
    ----------
    form : RowForm
        Which features.
    on_disk : bool
        Whether in a file rather than in memory.
    shares : tuple of int
        How many rows each replica computes of as many as their sum. Empty if all
        compute as many.
    """

    form: RowForm = "copies"
    on_disk: bool = False
    shares: tuple[int, ...] = ()

    def share(self, replica: int, n_replicas: int) -> Fraction:
        """Return the part of all rows that a replica computes."""
        if not self.shares:
            return Fraction(1, n_replicas)
        return Fraction(self.shares[replica], sum(self.shares))

    @property
    def fullest_replica(self) -> int:
        """The first of the replicas that compute the most rows."""
        return self.shares.index(max(self.shares)) if self.shares else 0

    def largest_share(self, n_replicas: int) -> Fraction:
        """Return the part of all rows that the replica with the most computes."""
        return self.share(self.fullest_replica, n_replicas)


COPIES = RowHolding()
"""A copy per shard, in memory: what saves most time where there is room."""


class RowDistribution(Protocol):
    """Who has which rows.

    Attributes
    ----------
    n_replicas : int
        Number of replicas, each of which computes some of the rows.
    n_shards : int
        Number of shards among which each replica divides the features of its rows: 1
        if every shard has a copy of them.
    """

    @property
    def n_replicas(self) -> int:
        """See above, as for the other."""

    @property
    def n_shards(self) -> int:
        """Among how many shards a replica divides its rows."""

    def positions(self, replica: int, rows: Rows) -> RowNumbers:
        """Return where a replica's rows stand among those of a batch."""

    def own(self, replica: int, rows: Rows) -> Rows:
        """Return a replica's rows of a batch, in its order."""

    def shards(self, own: Rows) -> RowNumbers:
        """Return which shard has each of some rows of one replica."""

    def places(self, held: Rows) -> Rows:
        """Return where some rows stand among all that the process has that has them."""

    def held(self, replica: int, shard: int, n_rows: int) -> Rows:
        """Return the rows of a data set that one process has, in their order there."""


@dataclass(frozen=True)
class DealtRows:
    """Rows that are dealt out in turn, by their numbers: a `RowDistribution`.

    A batch of neighbours is shared evenly, and a batch of shuffled rows as evenly as
    chance has it.

    Attributes
    ----------
    n_replicas, n_shards : int
        See `RowDistribution`.
    """

    n_replicas: int = 1
    n_shards: int = 1

    def positions(self, replica: int, rows: Rows) -> RowNumbers:
        """Return where a replica's rows stand; see `RowDistribution`."""
        if isinstance(rows, slice):
            first = (replica - rows.start) % self.n_replicas
            return np.arange(first, rows.stop - rows.start, self.n_replicas)
        return np.flatnonzero(rows % self.n_replicas == replica)

    def own(self, replica: int, rows: Rows) -> Rows:
        """Return a replica's rows of a batch; see `RowDistribution`."""
        if self.n_replicas == 1:
            return rows
        if isinstance(rows, slice):
            first = rows.start + (replica - rows.start) % self.n_replicas
            return slice(min(first, rows.stop), rows.stop, self.n_replicas)
        return rows[self.positions(replica, rows)]

    def n_own_of_each(self, start: int, stop: int) -> list[int]:
        """Return how many of the rows from `start` to `stop - 1` each replica has."""
        n_each, n_more = divmod(stop - start, self.n_replicas)
        found = [n_each] * self.n_replicas
        for row in range(stop - n_more, stop):
            found[row % self.n_replicas] += 1
        return found

    def shards(self, own: Rows) -> RowNumbers:
        """Return which shard has each row; see `RowDistribution`."""
        return numbers_of(own) // self.n_replicas % self.n_shards

    def places(self, held: Rows) -> Rows:
        """Return where rows stand among all that are there; see `RowDistribution`."""
        n_processes = self.n_replicas * self.n_shards
        if n_processes == 1:
            return held
        if isinstance(held, slice) and held.step == n_processes:
            first = held.start // n_processes
            return slice(first, first + len(numbers_of(held)))
        return numbers_of(held) // n_processes

    def held(self, replica: int, shard: int, n_rows: int) -> Rows:
        """Return the rows that one process has; see `RowDistribution`."""
        first = replica + self.n_replicas * shard
        return slice(min(first, n_rows), n_rows, self.n_replicas * self.n_shards)


def holders(grid: Grid, form: RowForm) -> list[tuple[int, int]]:
    """Return which replica and shard of a distribution each process of a grid is.

    Where a replica's shards all have the same rows, each is the first.
    """
    return [
        (grid.replica(rank), grid.shard(rank) if form == "once" else 0)
        for rank in range(grid.n_ranks)
    ]


@dataclass(frozen=True)
class RowsByShares:
    """Rows that are dealt out in rounds, to some replicas more: a `RowDistribution`.

    Each replica's rows are spread over the round, so that a batch of neighbours is
    shared nearly as the data set is.

    Attributes
    ----------
    shares : tuple of int
        How many rows of a round each replica gets; at least one.
    n_shards : int
        See `RowDistribution`.
    """

    shares: tuple[int, ...]
    n_shards: int = 1

    @property
    def n_replicas(self) -> int:
        """See `RowDistribution`."""
        return len(self.shares)

    @cached_property
    def _turns(self) -> RowNumbers:
        """The replica of each row of a round."""
        when = [
            ((turn + 0.5) / share, replica)
            for replica, share in enumerate(self.shares)
            for turn in range(share)
        ]
        return np.array([replica for _, replica in sorted(when)], np.intp)

    @cached_property
    def _before(self) -> RowNumbers:
        """How many rows before each row of a round its replica has."""
        before = np.empty(len(self._turns), np.intp)
        for replica, share in enumerate(self.shares):
            before[self._turns == replica] = np.arange(share)
        return before

    def __getstate__(self) -> dict[str, Any]:
        """Return the shares, without what is computed from them."""
        return {"shares": self.shares, "n_shards": self.n_shards}

    def positions(self, replica: int, rows: Rows) -> RowNumbers:
        """Return where a replica's rows stand; see `RowDistribution`."""
        turns = self._turns[numbers_of(rows) % len(self._turns)]
        return np.flatnonzero(turns == replica)

    def own(self, replica: int, rows: Rows) -> Rows:
        """Return a replica's rows of a batch; see `RowDistribution`."""
        return numbers_of(rows)[self.positions(replica, rows)]

    def n_own_of_each(self, start: int, stop: int) -> list[int]:
        """Return how many of the rows from `start` to `stop - 1` each replica has."""

        def before(row: int) -> RowNumbers:
            rounds, rest = divmod(row, len(self._turns))
            in_round = np.bincount(self._turns[:rest], minlength=self.n_replicas)
            return rounds * np.array(self.shares) + in_round

        found: list[int] = (before(stop) - before(start)).tolist()
        return found

    def shards(self, own: Rows) -> RowNumbers:
        """Return which shard has each row; see `RowDistribution`."""
        return self._among_own(own) % self.n_shards

    def places(self, held: Rows) -> Rows:
        """Return where rows stand among all that are there; see `RowDistribution`."""
        return self._among_own(held) // self.n_shards

    def held(self, replica: int, shard: int, n_rows: int) -> Rows:
        """Return the rows that one process has; see `RowDistribution`."""
        own = numbers_of(self.own(replica, slice(0, n_rows)))
        return own[shard :: self.n_shards]

    def _among_own(self, rows: Rows) -> RowNumbers:
        """Return the number of each row among those of its replica."""
        rounds, turns = np.divmod(numbers_of(rows), len(self._turns))
        return rounds * np.array(self.shares)[self._turns[turns]] + self._before[turns]


def dealt_rows(grid: Grid, holding: RowHolding) -> DealtRows | RowsByShares:
    """Return how the rows of arrays are dealt out to a grid."""
    n_shards = grid.n_shards if holding.form == "once" else 1
    if holding.shares:
        return RowsByShares(holding.shares, n_shards)
    return DealtRows(grid.n_replicas, n_shards)


ALL_ROWS = DealtRows()
"""The distribution of a single process, which has all rows."""


@dataclass(frozen=True)
class RowRange:
    """Neighbouring rows that one process has.

    Attributes
    ----------
    start, stop : int
        Their numbers, the last excluded.
    replica, shard : int
        Whose they are.
    """

    start: int
    stop: int
    replica: int = 0
    shard: int = 0


@dataclass(frozen=True)
class RowsInRanges:
    """Rows that stay together in ranges, such as blocks: a `RowDistribution`.

    Attributes
    ----------
    ranges : tuple of RowRange
        They tile the rows, in order.
    n_replicas, n_shards : int
        See `RowDistribution`.
    """

    ranges: tuple[RowRange, ...]
    n_replicas: int = 1
    n_shards: int = 1

    @cached_property
    def _starts(self) -> RowNumbers:
        return np.array([part.start for part in self.ranges], np.intp)

    @cached_property
    def _owners(self) -> tuple[RowNumbers, RowNumbers]:
        """Replica and shard of each range."""
        replicas = np.array([part.replica for part in self.ranges], np.intp)
        shards = np.array([part.shard for part in self.ranges], np.intp)
        return replicas, shards

    @cached_property
    def _shifts(self) -> RowNumbers:
        """What to add to a row of each range to get its place where it is."""
        n_there: dict[tuple[int, int], int] = {}
        shifts = []
        for part in self.ranges:
            before = n_there.get((part.replica, part.shard), 0)
            shifts.append(before - part.start)
            n_there[part.replica, part.shard] = before + part.stop - part.start
        return np.array(shifts, np.intp)

    def __getstate__(self) -> dict[str, Any]:
        """Return the ranges, without what is computed from them."""
        names = "ranges", "n_replicas", "n_shards"
        return {name: getattr(self, name) for name in names}

    def positions(self, replica: int, rows: Rows) -> RowNumbers:
        """Return where a replica's rows stand; see `RowDistribution`."""
        return np.flatnonzero(self._owners[0][self._ranges_of(rows)] == replica)

    def own(self, replica: int, rows: Rows) -> Rows:
        """Return a replica's rows of a batch; see `RowDistribution`."""
        if self.n_replicas == 1:
            return rows
        return numbers_of(rows)[self.positions(replica, rows)]

    def shards(self, own: Rows) -> RowNumbers:
        """Return which shard has each row; see `RowDistribution`."""
        return self._owners[1][self._ranges_of(own)]

    def places(self, held: Rows) -> Rows:
        """Return where rows stand among all that are there; see `RowDistribution`."""
        return numbers_of(held) + self._shifts[self._ranges_of(held)]

    def held(self, replica: int, shard: int, n_rows: int) -> Rows:
        """Return the rows that one process has; see `RowDistribution`."""
        own = [
            np.arange(part.start, part.stop)
            for part in self.ranges
            if (part.replica, part.shard) == (replica, shard)
        ]
        return np.concatenate([np.arange(0), *own])

    def _ranges_of(self, rows: Rows) -> RowNumbers:
        """Return the number of the range that each row is in."""
        found: RowNumbers = np.searchsorted(self._starts, numbers_of(rows), "right") - 1
        return found


def numbers_of(rows: Rows) -> RowNumbers:
    """Return rows as an array of their numbers; a slice has a start and a stop."""
    if isinstance(rows, slice):
        return np.arange(rows.start, rows.stop, rows.step)
    return rows


def even_ranges(
    blocks: Sequence[tuple[int, Sequence[int]]],
    n_parts: int,
    shares: Sequence[float] = (),
) -> list[tuple[int, int, int]]:
    """Divide blocks of rows evenly, and move as few of them as that takes.

    Parameters
    ----------
    blocks : sequence of (int, sequence of int)
        Number of rows of each block, and the parts that have it already, if any.
    n_parts : int
        Number of parts, whose numbers of rows are to differ by one at most.
    shares : sequence of float
        In proportion to which they are to have rows instead, if there are any.

    Returns
    -------
    list of (int, int, int)
        Start, stop and part of each range of rows, in the order of the rows.
    """
    n_rows = sum(size for size, _ in blocks)
    # How many more rows each part may take.
    room = [len(range(part, n_rows, n_parts)) for part in range(n_parts)]
    if shares:
        room = [len(part) for part in split_neurons(n_rows, shares)]
    ranges: list[tuple[int, int, int]] = []
    homeless: list[tuple[int, int]] = []
    stops = list(accumulate(size for size, _ in blocks))
    # Those first that are in one place only.
    for number in sorted(range(len(blocks)), key=lambda n: len(blocks[n][1])):
        (size, at), stop = blocks[number], stops[number]
        start = stop - size
        if at:
            part = max(at, key=room.__getitem__)
            n_kept = min(size, room[part])
            room[part] -= n_kept
            if n_kept:
                ranges.append((start, start + n_kept, part))
            start += n_kept
        if start < stop:
            homeless.append((start, stop))
    for start, stop in sorted(homeless):
        while start < stop:
            part = max(range(n_parts), key=room.__getitem__)
            end = min(stop, start + room[part])
            room[part] -= end - start
            ranges.append((start, end, part))
            start = end
    return sorted(ranges)
