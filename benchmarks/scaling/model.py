"""What a step takes on a grid of workers: two bounds, from formulas and rates."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from benchmarks.scaling.rates import Rates
from skdistmlp.crossover.workloads import Workload
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.rows import RowForm
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.cost import StepCost
from skdistmlp.planning.traffic import Exchange, exchanges
from skdistmlp.wire.packet import HEADER_BYTES

PAYLOAD = 1448 / 1538
"""Share of a link's rate that carries arrays: bytes of data in a packet of TCP, of
those that it occupies on Ethernet, with headers, preamble and gap."""

ITEMSIZE = 4
"""Of float32, in which all figures are."""


@dataclass(frozen=True)
class Plan:
    """A grid, and how the features are held.

    Attributes
    ----------
    grid : Grid
        Replicas and shards.
    form : RowForm
        Which features each worker has: a copy per shard of a replica, or each row once.
    """

    grid: Grid
    form: RowForm = "copies"

    @property
    def name(self) -> str:
        """Replicas x shards, such as "4 x 16"."""
        return f"{self.grid.n_replicas} x {self.grid.n_shards}"


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step, by what they are spent on.

    Attributes
    ----------
    computed_s : float
        In which the core is busy: with products, parameters and messages.
    travelled_s : float
        In which what it waits for is on the link.
    """

    computed_s: float
    travelled_s: float

    @property
    def without_overlap_s(self) -> float:
        """Seconds if nothing is computed while something travels: the upper bound."""
        return self.computed_s + self.travelled_s

    @property
    def with_overlap_s(self) -> float:
        """Seconds if all that travels hides behind computation, or the reverse."""
        return max(self.computed_s, self.travelled_s)


def cost_of(workload: Workload) -> StepCost:
    """Return the cost of a step of a workload, in float32."""
    return StepCost.of_step(workload.batch_size, itemsize=ITEMSIZE)


@lru_cache(maxsize=512)
def split_of(layer_units: tuple[int, ...], n_shards: int) -> NetworkSplit:
    """Return a network in equal shards."""
    return NetworkSplit.even(layer_units, n_shards)


def step_time(
    workload: Workload, plan: Plan, bits_per_s: float, rates: Rates
) -> StepTime:
    """Return what a step takes on a plan, on a link of this rate in each direction."""
    own = exchanges_of(workload, plan)
    computed_s = _computed_s(workload, plan.grid, rates)
    computed_s += sum(_handled_s(each, rates) for each in own)
    travelled_s = sum(_travelled_s(each, bits_per_s, rates) for each in own)
    return StepTime(computed_s, travelled_s)


def exchanges_of(workload: Workload, plan: Plan) -> list[Exchange]:
    """Return the exchanges of the first process, which no other has more of."""
    grid = plan.grid
    split = split_of(workload.layer_units, grid.n_shards)
    return exchanges(split, cost_of(workload), grid.n_replicas, 0, plan.form)


def grids(workload: Workload, n_workers: int) -> Iterator[Grid]:
    """Yield the grids of so many workers in which each has neurons and rows."""
    for n_replicas in range(1, min(n_workers, workload.batch_size) + 1):
        n_shards, rest = divmod(n_workers, n_replicas)
        if not rest and n_shards <= max(workload.hidden):
            yield Grid(n_shards, n_replicas)


def best_plan(
    workload: Workload,
    n_workers: int,
    bits_per_s: float,
    rates: Rates,
    form: RowForm = "copies",
) -> Plan | None:
    """Return the plan that is fastest without overlap; None if there is none."""
    plans = [Plan(grid, form) for grid in grids(workload, n_workers)]
    return min(
        plans,
        key=lambda plan: step_time(workload, plan, bits_per_s, rates).without_overlap_s,
        default=None,
    )


def alone_s(workload: Workload, rates: Rates) -> float:
    """Return what a step takes on one worker, which exchanges nothing."""
    return _computed_s(workload, Grid(1), rates)


def _handled_s(exchange: Exchange, rates: Rates) -> float:
    """Return the seconds for which the core is busy with an exchange."""
    n_bytes, n_messages = map(max, exchange.sent, exchange.received)
    return n_messages * rates.message_s + n_bytes / rates.exchanged_bytes_per_s


def _travelled_s(exchange: Exchange, bits_per_s: float, rates: Rates) -> float:
    # Both directions of a link at once. The packets of one exchange follow each other.
    n_bytes = max(
        traffic.n_bytes + HEADER_BYTES * traffic.n_messages
        for traffic in (exchange.sent, exchange.received)
    )
    latency_s = exchange.times * rates.round_trip_s / 2
    return latency_s + 8 * n_bytes / (PAYLOAD * bits_per_s)


def _computed_s(workload: Workload, grid: Grid, rates: Rates) -> float:
    """Return the seconds of products, optimiser and layers of one process."""
    split = split_of(workload.layer_units, grid.n_shards)
    layout = split.layout(0)
    n_rows = math.ceil(workload.batch_size / grid.n_replicas)
    seconds = len(split.layers) * rates.layer_s
    for layer in split.layers:
        rows, columns = layout.rows(layer), layout.columns(layer)
        shape = n_rows, rows.stop - rows.start, columns.stop - columns.start
        # Forward, the gradient and, but for the first layer, the delta below.
        seconds += (3 if layer else 2) * rates.product_s(*shape)
    return seconds + rates.update_s(layout.n_parameters / grid.n_replicas)
