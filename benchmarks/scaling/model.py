"""What a step takes on a grid of workers: two bounds, from formulas and rates."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from skdistmlp.crossover.workloads import Workload
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.rows import RowForm, RowHolding
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.cost import StepCost
from skdistmlp.planning.machines import Link, Speed
from skdistmlp.planning.offer import grids_of
from skdistmlp.planning.rates import Rates
from skdistmlp.planning.step_time import StepTime, computation_s
from skdistmlp.planning.step_time import step_time as planned_time
from skdistmlp.planning.traffic import Exchange, exchanges

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
    return planned_time(
        split_of(workload.layer_units, plan.grid.n_shards),
        cost_of(workload),
        plan.grid,
        [Speed(rates)],
        Link.of_rate(bits_per_s, rates),
        RowHolding(plan.form),
    )


def exchanges_of(workload: Workload, plan: Plan) -> list[Exchange]:
    """Return the exchanges of the first process, which no other has more of."""
    grid = plan.grid
    split = split_of(workload.layer_units, grid.n_shards)
    return exchanges(
        split, cost_of(workload), grid.n_replicas, 0, RowHolding(plan.form)
    )


def grids(workload: Workload, n_workers: int) -> Iterator[Grid]:
    """Yield the grids of this many workers in which each has neurons and rows."""
    return grids_of(n_workers, workload.layer_units, cost_of(workload))


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
    split = split_of(workload.layer_units, 1)
    return computation_s(split, cost_of(workload), Grid(1), Speed(rates))
