"""What a step takes on a grid of processes, by what the time is spent on.

``docs/planning.md`` has the formulas.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.rows import COPIES, RowHolding
from skdistmlp.parallel.split import NetworkSplit, ShardLayout
from skdistmlp.planning.cost import StepCost, chained_tasks
from skdistmlp.planning.machines import Link, Speed
from skdistmlp.planning.rates import DASK_BYTE_S, SCIPY_PARAMETER_S, TASK_S, Rates
from skdistmlp.planning.traffic import Exchange, exchanges, exchanges_of_tasks
from skdistmlp.wire.packet import HEADER_BYTES


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step, or of an evaluation, by what they are spent on.

    Attributes
    ----------
    computed_s : float
        In which the core is busy with products, parameters and layers.
    handled_s : float
        In which it is busy with messages.
    travelled_s : float
        In which these are on the link.
    hidden_s : float
        Those of `travelled_s` in which something is computed.
    """

    computed_s: float
    handled_s: float = 0.0
    travelled_s: float = 0.0
    hidden_s: float = 0.0

    @property
    def seconds(self) -> float:
        """What the step is expected to take."""
        return self.computed_s + self.handled_s + self.travelled_s - self.hidden_s

    @property
    def without_overlap_s(self) -> float:
        """Seconds if nothing is computed while something travels: the upper bound."""
        return self.computed_s + self.handled_s + self.travelled_s

    @property
    def with_overlap_s(self) -> float:
        """Seconds if all that travels hides behind computation, or the reverse."""
        return max(self.computed_s + self.handled_s, self.travelled_s)


def step_time(
    split: NetworkSplit,
    cost: StepCost,
    grid: Grid,
    speeds: Sequence[Speed],
    link: Link,
    rows: RowHolding = COPIES,
) -> StepTime:
    """Return what a step takes on a grid: all wait for the slowest process.

    Parameters
    ----------
    split : NetworkSplit
        The layers, and the neurons of each shard.
    cost : StepCost
        What a step costs.
    grid : Grid
        Replicas and shards.
    speeds : sequence of Speed
        Of each process, or one for all.
    link : Link
        Between them.
    rows : RowHolding
        Which rows each process computes, and which features it has.
    """
    process = _slowest(split, cost, grid, speeds, rows)
    computed_s = process.computed_s
    handled_s = travelled_s = hidden_s = 0.0
    # No replica has more of them than the one with the most rows, and no other shard
    # more than the first, but for a neuron.
    n_replicas = grid.n_replicas
    rank = rows.fullest_replica * grid.n_shards
    found = exchanges(split, cost, n_replicas, rank, rows)
    # Features last: they hide behind what is left of the step, the others each behind
    # a product of their own.
    for exchange in sorted(found, key=lambda each: each.what == "features"):
        busy_s, away_s = _exchange_s(exchange, link, process.speed.rates)
        handled_s += busy_s
        travelled_s += away_s
        hidden_s += _hidden_s(exchange, away_s, process, computed_s - hidden_s)
    # Nothing hides behind it: the shards wait for SciPy's next question.
    computed_s += scipy_s(split, cost)
    return StepTime(computed_s, handled_s, travelled_s, hidden_s)


def step_time_of_tasks(
    split: NetworkSplit, cost: StepCost, speeds: Sequence[Speed], link: Link
) -> StepTime:
    """Return what a step of "futures" takes: nothing is computed while results travel.

    Parameters
    ----------
    split : NetworkSplit
        The layers, and the neurons of each shard.
    cost : StepCost
        What a step costs.
    speeds : sequence of Speed
        Of each worker, or one for all.
    link : Link
        Between them.
    """
    process = _slowest(split, cost, Grid(split.n_shards), speeds, COPIES)
    found = exchanges_of_tasks(split, cost)
    n_bytes = sum(
        max(exchange.sent.n_bytes, exchange.received.n_bytes) for exchange in found
    )
    latency_s = link.latency_s * sum(exchange.times for exchange in found)
    handled_s = TASK_S * chained_tasks(split, cost) + DASK_BYTE_S * n_bytes
    computed_s = process.computed_s + scipy_s(split, cost)
    return StepTime(computed_s, handled_s, latency_s + 8 * n_bytes / link.bits_per_s)


def computation_s(
    split: NetworkSplit, cost: StepCost, grid: Grid, speed: Speed
) -> float:
    """Return what a step of the first process takes without its exchanges."""
    n_rows = math.ceil(cost.n_rows / grid.n_replicas)
    return _Process(split.layout(0), cost, grid, speed, n_rows).computed_s


def computations_s(
    split: NetworkSplit,
    cost: StepCost,
    grid: Grid,
    speeds: Sequence[Speed],
    rows: RowHolding = COPIES,
) -> list[float]:
    """Return what a step takes each process without its exchanges.

    The parameters are those of `step_time`, with a speed for each process.
    """
    n_replicas = grid.n_replicas
    return [
        _Process(
            split.layout(grid.shard(rank)),
            cost,
            grid,
            speed,
            expected_rows(
                cost, n_replicas, float(rows.share(grid.replica(rank), n_replicas))
            ),
        ).computed_s
        for rank, speed in enumerate(speeds)
    ]


def scipy_s(split: NetworkSplit, cost: StepCost) -> float:
    """Return the seconds of SciPy's own work for each evaluation of "lbfgs".

    It is done in one process, whatever the grid.
    """
    return SCIPY_PARAMETER_S * split.n_parameters if cost.moves_parameters else 0.0


def expected_rows(cost: StepCost, n_replicas: int, share: float | None = None) -> float:
    """Return how many rows of a mini-batch the replica with the most has, on average.

    The rows of a shuffled one fall on the replicas by chance, and the others wait for
    the replica that has the most: of 200 rows, one of two has 105.6 on average. The
    mean of the greatest of some normal variables is approximated within 6%.

    Parameters
    ----------
    cost : StepCost
        What a step costs.
    n_replicas : int
        Number of replicas.
    share : float, optional
        Part of the rows that a replica computes; without it, all compute as many. Of
        replicas that differ, it has about as many more by chance.
    """
    share = 1 / n_replicas if share is None else share
    mean = cost.n_rows * share
    is_exact = cost.moves_parameters or not cost.rows_by_chance
    if is_exact or n_replicas == 1:
        return math.ceil(mean)
    deviation = math.sqrt(mean * (1 - share))
    return mean + 0.68 * math.sqrt(2 * math.log(n_replicas)) * deviation


@dataclass(frozen=True)
class _Process:
    """What one process of a grid computes in a step."""

    layout: ShardLayout
    cost: StepCost
    grid: Grid
    speed: Speed
    n_rows: float

    @property
    def computed_s(self) -> float:
        """Seconds of products, the optimiser, and what each layer takes anyway."""
        split, cost, rates = self.layout.split, self.cost, self.speed.rates
        seconds = len(split.layers) * rates.layer_s
        for layer in split.layers:
            # Forward, the gradient and, but for the first layer, the delta below.
            n_products = 1
            if cost.goes_backward:
                n_products += 2 if layer else 1
            seconds += n_products * self._uncorrected_s(layer)
        if cost.goes_backward and not cost.moves_parameters:
            n_parameters = self.layout.n_parameters / self.grid.n_replicas
            seconds += rates.update_s(bytes_of_update(cost, n_parameters))
        return seconds * self.speed.correction(self.grid)

    def product_s(self, layer: int) -> float:
        """Return the seconds of one of the products of a layer."""
        return self._uncorrected_s(layer) * self.speed.correction(self.grid)

    def _uncorrected_s(self, layer: int) -> float:
        rows, columns = self.layout.rows(layer), self.layout.columns(layer)
        fan_in = float(rows.stop - rows.start)
        if layer == 0 and self.cost.nnz_per_row is not None:
            fan_in = self.cost.nnz_per_row * SPARSE_PRODUCT
        shape = self.n_rows, fan_in, columns.stop - columns.start
        return self.speed.rates.product_s(*shape, itemsize=self.cost.itemsize)


SPARSE_PRODUCT = 10.0
"""Times that a stored number of sparse features takes as long as one of dense ones.
Not measured: trials correct it."""


def bytes_of_update(cost: StepCost, n_parameters: float) -> float:
    """Return the memory traffic of a step of the optimiser.

    It reads parameters, gradient and moments, and writes all but the gradient.
    """
    return (1 + 2 * (1 + cost.arrays_divided)) * n_parameters * cost.itemsize


def _slowest(
    split: NetworkSplit,
    cost: StepCost,
    grid: Grid,
    speeds: Sequence[Speed],
    rows: RowHolding,
) -> _Process:
    """Return the process that the others wait for."""
    layouts = [split.layout(shard) for shard in range(grid.n_shards)]
    if len(speeds) == 1:
        # Even shards have few different sizes. The first is not always the largest: 2
        # and 3 make 5.
        n_rows = expected_rows(cost, grid.n_replicas)
        processes = [
            _Process(layout, cost, grid, speeds[0], n_rows)
            for layout in {layout.size: layout for layout in layouts}.values()
        ]
        return max(processes, key=lambda process: process.computed_s)
    n_replicas = grid.n_replicas
    rows_of = [
        expected_rows(cost, n_replicas, float(rows.share(replica, n_replicas)))
        for replica in range(n_replicas)
    ]
    # Of many processes few differ in what they compute, and of those that do not, the
    # slowest counts.
    corrections = {
        id(speed): speed.correction(grid)
        for speed in {id(speed): speed for speed in speeds}.values()
    }
    slowest: dict[object, tuple[float, int]] = {}
    for rank, speed in enumerate(speeds):
        n_rows = rows_of[grid.replica(rank)]
        kind = layouts[grid.shard(rank)].size, n_rows, id(speed.rates)
        its = corrections[id(speed)], rank
        slowest[kind] = max(slowest.get(kind, its), its)
    return max(
        (
            _Process(
                layouts[grid.shard(rank)],
                cost,
                grid,
                speeds[rank],
                rows_of[grid.replica(rank)],
            )
            for _, rank in slowest.values()
        ),
        key=lambda process: process.computed_s,
    )


def _exchange_s(exchange: Exchange, link: Link, rates: Rates) -> tuple[float, float]:
    """Return the seconds of the processor for an exchange, and those on the link."""
    n_bytes, n_messages = map(max, exchange.sent, exchange.received)
    n_bytes += HEADER_BYTES * n_messages
    times = exchange.times
    seconds = times * link.exchange_s(n_bytes / times, n_messages // times, rates)
    if link.busy_share is not None:
        busy_s = link.busy_share * seconds
    else:
        busy_s = n_messages * rates.message_s + n_bytes / rates.exchanged_bytes_per_s
        busy_s = min(busy_s, seconds)
    return busy_s, seconds - busy_s


def _hidden_s(
    exchange: Exchange, away_s: float, process: _Process, left_s: float
) -> float:
    """Return the seconds of an exchange in which the process computes.

    Parameters
    ----------
    exchange : Exchange
        The exchange.
    away_s : float
        Seconds that it is on the link.
    process : _Process
        The process.
    left_s : float
        Seconds that the process computes while nothing else travels.
    """
    if exchange.what == "features":
        # Those of the next mini-batch.
        return min(away_s, left_s)
    if exchange.layer is None:
        return 0.0
    product_s = process.product_s(exchange.layer)
    if exchange.what == "deltas":
        # Meanwhile the gradient of the layer above is computed.
        return min(away_s, product_s)
    if not exchange.in_halves:
        return 0.0
    # In two halves. While one travels, the layer below computes the other; and while
    # that one does, this layer multiplies what it has itself.
    own_s = product_s / process.grid.n_shards
    below_s = process.product_s(exchange.layer - 1) / 2
    return min(away_s / 2, below_s) + min(away_s / 2, own_s)
