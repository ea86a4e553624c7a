"""What each process sends in a step: bytes and messages, exchange by exchange.

``docs/scaling.md`` has the formulas, and what follows from them. Tests hold them to
what goes over the wire.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple

from skdistmlp.parallel import overlap
from skdistmlp.parallel.communicators import sums_in_parts
from skdistmlp.parallel.grid import Axis, Grid, optimizer_parts
from skdistmlp.parallel.rows import (
    COPIES,
    DealtRows,
    RowHolding,
    RowsByShares,
    dealt_rows,
)
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.cost import StepCost

Collective = Literal["all_gather", "reduce_scatter", "all_reduce", "broadcast"]

SCALAR_BYTES = 8
"""Of what is decided or summed for all: a number of float64."""

INTEGER_BYTES = 4
"""Of the length of a row of sparse features, and of the column of a stored number."""


class Traffic(NamedTuple):
    """What one process sends, or receives.

    Attributes
    ----------
    n_bytes : int
        Bytes of arrays.
    n_messages : int
        Number of packets, each of which has a header too.
    """

    n_bytes: int
    n_messages: int


@dataclass(frozen=True)
class Exchange:
    """A collective that a step, or an evaluation, calls: one process's view of it.

    Attributes
    ----------
    what : str
        What travels, such as "activations".
    collective : {"all_gather", "reduce_scatter", "all_reduce", "broadcast"}
        How.
    axis : {"neurons", "replicas", "all"}
        Along which axis of the grid, or among all processes.
    n_others : int
        Number of the other processes that take part.
    place : int
        Of this process among them.
    whole : int
        Bytes of what is gathered, summed or sent to all.
    own : int
        Bytes of this process's part of it.
    times : int
        How often it is called. `whole` and `own` are those of all calls together.
    layer : int or None
        Whose input, or the delta of whose input, travels while something is computed.
    in_halves : bool
        Whether it is called twice for each block of rows.
    """

    what: str
    collective: Collective
    axis: Axis | Literal["all"]
    n_others: int
    place: int
    whole: int
    own: int = 0
    times: int = 1
    layer: int | None = None
    in_halves: bool = False

    @property
    def sent(self) -> Traffic:
        """What this process sends: directly to each of the others."""
        n_messages = self.n_others * self.times
        match self.collective:
            case "all_gather":
                return Traffic(self.own * self.n_others, n_messages)
            case "reduce_scatter":
                return Traffic(self.whole - self.own, n_messages)
            case "all_reduce":
                return Traffic(self.whole * self.n_others, n_messages)
            case "broadcast":
                is_first = self.place == 0
                return Traffic(
                    is_first * self.whole * self.n_others, is_first * n_messages
                )

    @property
    def received(self) -> Traffic:
        """What this process receives."""
        n_messages = self.n_others * self.times
        match self.collective:
            case "all_gather":
                return Traffic(self.whole - self.own, n_messages)
            case "reduce_scatter":
                return Traffic(self.own * self.n_others, n_messages)
            case "all_reduce":
                return Traffic(self.whole * self.n_others, n_messages)
            case "broadcast":
                is_told = self.place > 0
                return Traffic(is_told * self.whole, is_told * self.times)


def exchanges(
    split: NetworkSplit,
    cost: StepCost,
    n_replicas: int = 1,
    rank: int = 0,
    rows: RowHolding = COPIES,
) -> list[Exchange]:
    """Return what one process of "peers" exchanges in a step, or an evaluation.

    Parameters
    ----------
    split : NetworkSplit
        The layers, and the neurons of each shard.
    cost : StepCost
        What a step costs. The rows of its mini-batch are taken to be dealt out in turn
        among the replicas; those of a shuffled one are, up to chance.
    n_replicas : int
        Number of replicas.
    rank : int
        Of the process, replica by replica.
    rows : RowHolding
        Which rows each process computes, and which features it has.

    Returns
    -------
    list of Exchange
        In the order of a step. Those with nobody to exchange with are left out.
    """
    grid = Grid(split.n_shards, n_replicas)
    found = [
        *_along_neurons(split, cost, grid, rank, rows),
        *_along_replicas(split, cost, grid, rank),
        *_among_all(split, cost, grid, rank),
    ]
    return [exchange for exchange in found if exchange.n_others]


def traffic(
    split: NetworkSplit,
    cost: StepCost,
    n_replicas: int = 1,
    rank: int = 0,
    rows: RowHolding = COPIES,
) -> Traffic:
    """Return what one process sends in a step, or an evaluation; see `exchanges`."""
    sent = [each.sent for each in exchanges(split, cost, n_replicas, rank, rows)]
    return Traffic(sum(s.n_bytes for s in sent), sum(s.n_messages for s in sent))


def bytes_gathered(split: NetworkSplit, cost: StepCost) -> int:
    """Return the bytes of features that all processes send where rows are held once.

    Each row of a mini-batch goes to all other shards of its replica.
    """
    return features_sent(split, cost, cost.n_rows) * (split.n_shards - 1)


def features_sent(split: NetworkSplit, cost: StepCost, n_rows: int) -> int:
    """Return the bytes in which the features of some rows go to another process.

    Sparse ones are sent as the lengths of rows, columns and numbers.
    """
    if cost.nnz_per_row is None:
        return n_rows * split.layer_units[0] * cost.itemsize
    stored_bytes = cost.nnz_per_row * (cost.itemsize + INTEGER_BYTES)
    return round(n_rows * (stored_bytes + INTEGER_BYTES))


def bytes_exchanged(
    split: NetworkSplit,
    cost: StepCost,
    n_replicas: int = 1,
    rows: RowHolding = COPIES,
) -> int:
    """Return the bytes that all processes together send in a step, or an evaluation.

    Each hidden layer but the last gathers activations and scatters deltas: for
    every neuron, one copy to each other shard. The output layer sums logits. Each
    replica does so for its rows; along the replicas, each gradient and each updated
    parameter is sent to all but one. Rows that are held once are gathered too.
    `exchanges` has the part of one process.
    """
    others, n_ranks = split.n_shards - 1, split.n_shards * n_replicas
    n_numbers = 2 * sum(split.layer_units[1:-2]) * cost.n_rows * others
    # Once for all replicas: a round of hundreds of unequal ones has thousands of rows.
    dealt = dealt_rows(Grid(1, n_replicas), rows)
    for of_replicas in _rows_of_blocks(cost, dealt):
        # Of hundreds of replicas, few differ.
        for n_rows, times in Counter(of_replicas).items():
            n_logits = n_rows * split.layer_units[-1]
            in_parts = sums_in_parts(split.n_shards, n_logits * cost.itemsize)
            n_sums = 2 if in_parts else split.n_shards
            n_numbers += times * n_logits * others * n_sums
    n_numbers += 2 * split.n_parameters * (n_replicas - 1)
    # Numbers of float64: of the norm, of losses, and of two decisions.
    n_scalars = cost.clips_gradient * n_ranks * (n_ranks - 1)
    if cost.moves_parameters:
        # All parameters to everyone; the gradient to all shards of each replica.
        n_numbers += split.n_parameters * (n_ranks - 1 + others * n_replicas)
        n_scalars += n_ranks * (n_replicas - 1) + (n_ranks + 2) * (n_ranks - 1)
    n_bytes = n_numbers * cost.itemsize + n_scalars * SCALAR_BYTES
    return n_bytes + bytes_gathered(split, cost) if rows.form == "once" else n_bytes


def exchanges_of_tasks(
    split: NetworkSplit, cost: StepCost, shard: int = 0
) -> list[Exchange]:
    """Return what the worker of one shard of "futures" exchanges, as `exchanges` does.

    Dask moves results of tasks whole: of what shards among peers add up part by part,
    each sends all that it has to all others.

    Parameters
    ----------
    split : NetworkSplit
        The layers, and the neurons of each shard.
    cost : StepCost
        What a step costs.
    shard : int
        Which shard.
    """
    n_others, row_bytes = split.n_shards - 1, cost.n_rows * cost.itemsize
    if not n_others:
        return []
    n_blocks = len(_rows_of_blocks(cost, dealt_rows(Grid(1), COPIES)))

    def exchange(
        what: str, collective: Collective, n_units: int, n_own: int = 0
    ) -> Exchange:
        whole, own = n_units * row_bytes, n_own * row_bytes
        return Exchange(
            what, collective, "neurons", n_others, shard, whole, own, n_blocks
        )

    found = []
    for layer in split.layers[1:-1]:
        n_units = split.layer_units[layer]
        n_own = len(split.ranges[layer - 1][shard])
        found.append(exchange("activations", "all_gather", n_units, n_own))
        found.append(exchange("deltas", "all_reduce", n_units))
    return [*found, exchange("logits", "all_reduce", split.layer_units[-1])]


def bytes_exchanged_by_tasks(split: NetworkSplit, cost: StepCost) -> int:
    """Return the bytes that all workers of "futures" send each other in a step."""
    return sum(
        exchange.sent.n_bytes
        for shard in range(split.n_shards)
        for exchange in exchanges_of_tasks(split, cost, shard)
    )


def _along_neurons(
    split: NetworkSplit, cost: StepCost, grid: Grid, rank: int, rows: RowHolding
) -> Iterator[Exchange]:
    """Yield what the shards of a replica exchange: values of its rows."""
    shard, replica = grid.shard(rank), grid.replica(rank)
    dealt = dealt_rows(Grid(1, grid.n_replicas), rows)
    blocks = [each[replica] for each in _rows_of_blocks(cost, dealt)]
    n_rows, n_blocks = sum(blocks), len(blocks)

    def along(
        what: str, collective: Collective, whole: int, own: int = 0, times: int = 1
    ) -> Exchange:
        others = grid.n_shards - 1
        return Exchange(what, collective, "neurons", others, shard, whole, own, times)

    if rows.form == "once":
        n_own = _dealt(n_rows, shard, grid.n_shards)
        whole, own = (features_sent(split, cost, n) for n in (n_rows, n_own))
        # Of sparse features: lengths of rows, columns and numbers.
        n_arrays = 1 if cost.nnz_per_row is None else 3
        yield along("features", "all_gather", whole, own, n_arrays * n_blocks)
    row_bytes = n_rows * cost.itemsize
    for layer in split.layers[1:-1]:
        whole = split.layer_units[layer] * row_bytes
        own = len(split.ranges[layer - 1][shard]) * row_bytes
        row_length = split.layer_units[layer] * cost.itemsize
        # In two halves, where the layer is large.
        n_gathers = sum(1 + (n * row_length >= overlap.HALVED_BYTES) for n in blocks)
        gathered = along("activations", "all_gather", whole, own, n_gathers)
        yield replace(gathered, layer=layer, in_halves=n_gathers > n_blocks)
        scattered = along("deltas", "reduce_scatter", whole, own, n_blocks)
        yield replace(scattered, layer=layer)
    for n_block, times in Counter(blocks).items():
        n_logits = n_block * split.layer_units[-1]
        whole = times * n_logits * cost.itemsize
        if sums_in_parts(grid.n_shards, n_logits * cost.itemsize):
            own = times * _parts(n_logits, grid.n_shards)[shard] * cost.itemsize
            yield along("logits", "reduce_scatter", whole, own, times)
            yield along("logits", "all_gather", whole, own, times)
        else:
            yield along("logits", "all_reduce", whole, times=times)
    if cost.moves_parameters:
        whole = split.n_parameters * cost.itemsize
        own = split.layout(shard).n_parameters * cost.itemsize
        yield along("gradient", "all_gather", whole, own)


def _along_replicas(
    split: NetworkSplit, cost: StepCost, grid: Grid, rank: int
) -> Iterator[Exchange]:
    """Yield what the same shard of all replicas exchanges: values of parameters."""
    replica = grid.replica(rank)
    n_parameters = split.layout(grid.shard(rank)).n_parameters
    whole = n_parameters * cost.itemsize
    own = _parts(n_parameters, grid.n_replicas)[replica] * cost.itemsize
    along = Exchange("", "all_gather", "replicas", grid.n_replicas - 1, replica, 0)
    along = replace(along, whole=whole, own=own)
    yield replace(along, what="gradient", collective="reduce_scatter")
    # In an evaluation, these are gradients too.
    yield replace(along, what="gradient" if cost.moves_parameters else "parameters")
    if cost.moves_parameters:
        yield replace(along, what="loss", collective="all_reduce", whole=SCALAR_BYTES)


def _among_all(
    split: NetworkSplit, cost: StepCost, grid: Grid, rank: int
) -> Iterator[Exchange]:
    """Yield what all processes exchange."""
    scalar = Exchange("", "all_reduce", "all", grid.n_ranks - 1, rank, SCALAR_BYTES)
    if cost.clips_gradient:
        yield replace(scalar, what="norm of the gradient")
    if cost.moves_parameters:
        yield replace(scalar, what="loss")
        # Whether to go on, and the loss.
        decided = replace(scalar, collective="broadcast", times=2)
        yield replace(decided, what="decisions", whole=2 * SCALAR_BYTES)
        whole = split.n_parameters * cost.itemsize
        yield replace(decided, what="parameters", whole=whole, times=1)


def _dealt(n_rows: int, part: int, n_parts: int) -> int:
    """Return how many of some rows one part gets, if they are dealt out in turn."""
    return len(range(part, n_rows, n_parts))


def _rows_of_blocks(cost: StepCost, dealt: DealtRows | RowsByShares) -> list[list[int]]:
    """Return how many rows of each block each replica computes; a step is one block."""
    n_rows, size = cost.n_rows, cost.n_rows
    if cost.moves_parameters and cost.buffer_rows is not None:
        size = cost.buffer_rows
    return [
        dealt.n_own_of_each(start, min(start + size, n_rows))
        for start in range(0, n_rows, max(1, size))
    ]


@lru_cache(maxsize=64)
def _parts(n_numbers: int, n_parts: int) -> tuple[int, ...]:
    """Return how many parameters, or logits, each process has of all."""
    return tuple(len(part) for part in optimizer_parts(n_numbers, n_parts))
