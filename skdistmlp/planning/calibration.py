"""From what was measured to how fast processes are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median_low

from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.cost import StepCost
from skdistmlp.planning.machines import Link, Machines, Speed
from skdistmlp.planning.rates import REFERENCE
from skdistmlp.planning.step_time import computation_s

EQUAL_WITHIN = 0.2
"""Share by which speeds may differ and still count as equal: what is measured in a
fraction of a second varies as much, and a plan should not."""

EQUAL_LINKS_WITHIN = 1.0
"""The same for links: one counts as slower if its exchanges take more than twice as
long. They vary more than computation does, and the rates of networks differ by 2.5
times or more."""

LINK_NOISE_S = 4e-4
"""Seconds that are added to each exchange before they are compared: on a busy machine
one takes 0.1 ms, and the same again 0.4 ms."""


@dataclass(frozen=True)
class FasterExchanges:
    """What was measured of exchanges without the workers whose links are slow.

    Attributes
    ----------
    workers : tuple of int
        Those that took part, by number.
    sizes, exchange_s : tuple of float
        As in `Timings`.
    here_bits_per_s, busy_share : float or None
        See `Link`.
    """

    workers: tuple[int, ...]
    sizes: tuple[float, ...]
    exchange_s: tuple[float, ...]
    here_bits_per_s: float | None = None
    busy_share: float | None = None


@dataclass(frozen=True)
class Timings:
    """What was measured of some processes.

    Attributes
    ----------
    layer_units : tuple of int
        Features, neurons of each hidden layer, outputs of the network whose steps were
        timed: where that of the job is large, a narrower one.
    grids : tuple of Grid
        Grids whose steps were timed; the first is a single process.
    here_s : float
        Seconds of a step in this process.
    worker_s : tuple of tuple of float
        Of each worker, on each grid, without exchanges.
    sizes : tuple of float
        Bytes that each worker sent in exchanges; empty for a single worker.
    exchange_s : tuple of float
        Seconds of these exchanges.
    n_rows : tuple of int
        Rows of the steps that were timed on each grid, of all replicas; 0 where the
        steps of the first grid stand for them. What a step with more rows takes was
        computed in proportion to them, but for the optimiser.
    here_bits_per_s, busy_share : float or None
        See `Link`.
    faster : tuple of FasterExchanges
        Exchanges without workers that seemed to have slow links, each among some of
        those before.
    """

    layer_units: tuple[int, ...]
    grids: tuple[Grid, ...]
    here_s: float
    worker_s: tuple[tuple[float, ...], ...]
    sizes: tuple[float, ...]
    exchange_s: tuple[float, ...]
    n_rows: tuple[int, ...] = ()
    here_bits_per_s: float | None = None
    busy_share: float | None = None
    faster: tuple[FasterExchanges, ...] = ()


def corners(n_workers: int, layer_units: Sequence[int], n_rows: int) -> list[Grid]:
    """Return the grids whose steps are timed.

    A single process, the most shards, and the most replicas: what is in between is
    interpolated.

    Parameters
    ----------
    n_workers : int
        Number of workers.
    layer_units : sequence of int
        Of the network that is timed: of a narrower one, fewer shards may have neurons.
    n_rows : int
        Rows of a step.
    """
    found = [Grid(1)]
    if (n_shards := min(n_workers, max(layer_units[1:-1], default=1))) > 1:
        found.append(Grid(n_shards))
    if (n_replicas := min(n_workers, n_rows)) > 1:
        found.append(Grid(1, n_replicas))
    return found


def machines_of(measurement: Timings, cost: StepCost) -> Machines:
    """Return how fast processes are, from steps of a job and from exchanges.

    Workers whose speeds are nearly equal get the same: that of their group's median.
    """
    grids = measurement.grids
    n_rows = measurement.n_rows or (cost.n_rows,) * len(grids)
    nominal_s = [
        _nominal_s(
            measurement.layer_units, cost, grid, n_timed or n_rows[0], bool(n_timed)
        )
        for grid, n_timed in zip(grids, n_rows, strict=True)
    ]

    def speed(each_s: Sequence[float]) -> Speed:
        ratios = [s / of for s, of in zip(each_s, nominal_s, strict=False)]
        return Speed(REFERENCE, dict(zip(grids, ratios, strict=False)))

    of_workers: dict[int, Speed] = {}
    for group in equal_groups([each_s[0] for each_s in measurement.worker_s]):
        its_s = [measurement.worker_s[worker] for worker in group]
        typical = speed([median_low(on_grid) for on_grid in zip(*its_s, strict=True)])
        of_workers |= dict.fromkeys(group, typical)
    return Machines(
        speed([measurement.here_s]),
        tuple(of_workers[worker] for worker in range(len(of_workers))),
        _links(measurement),
    )


def _links(measurement: Timings) -> tuple[Link, ...]:
    """Return the link of each worker.

    What seemed to be a slow link may have been noise, or two workers of one machine may
    have seemed to have fast ones: then exchanges without that worker are not faster.
    """
    n_workers = len(measurement.worker_s)
    link = _link(measurement, n_workers)
    links = [link] * n_workers
    for exchanges in measurement.faster:
        faster = _link(exchanges, len(exchanges.workers))
        first, *_ = equal_links([link.slowness, faster.slowness])
        if first == [1]:
            link = faster
            for worker in exchanges.workers:
                links[worker] = link
    return tuple(links)


def _link(exchanges: Timings | FasterExchanges, n_workers: int) -> Link:
    """Return the link on which some workers' exchanges were timed."""
    link = Link((0.0, 1.0), (0.0, 0.0))
    if exchanges.sizes:
        link = Link.of_timings(exchanges.sizes, exchanges.exchange_s, n_workers - 1)
    return replace(
        link,
        here_bits_per_s=exchanges.here_bits_per_s,
        busy_share=exchanges.busy_share,
    )


def _nominal_s(
    layer_units: Sequence[int],
    cost: StepCost,
    grid: Grid,
    n_timed: int,
    is_timed: bool,
) -> float:
    """Return what would have been measured of a step, if the rates were right.

    Products of few rows are slower per row, and what was computed from them is too.
    """
    split = NetworkSplit.even(layer_units, grid.n_shards)
    speed = Speed(REFERENCE)
    if is_timed and n_timed >= cost.n_rows:
        return computation_s(split, cost, grid, speed)
    few = replace(cost, n_rows=n_timed)
    # Without the optimiser.
    evaluation = replace(few, moves_parameters=True)
    update_s = computation_s(split, few, grid, speed)
    update_s -= computation_s(split, evaluation, grid, speed)
    n_replicas = 1 if is_timed else grid.n_replicas
    timed_on = grid if is_timed else Grid(1)
    computed_s = computation_s(split, evaluation, timed_on, speed)
    return computed_s * cost.n_rows / (n_timed * n_replicas) + update_s


def equal_groups(
    seconds: Sequence[float], within: float = EQUAL_WITHIN
) -> list[list[int]]:
    """Return groups of workers, by number, that count as equal, the fastest first.

    Around the median, since noise makes some workers faster and others slower; the
    workers that are left on either side of that group are grouped in the same way.

    Parameters
    ----------
    seconds : sequence of float
        What each worker takes.
    within : float
        Share by which those that count as equal may differ.
    """

    def groups(workers: list[int]) -> list[list[int]]:
        if not workers:
            return []
        # Of an even number not the mean of the two in the middle: between two groups,
        # it would be the speed of neither.
        median_s = seconds[workers[(len(workers) - 1) // 2]]
        equal = [its for its in workers if are_equal(seconds[its], median_s, within)]
        first = workers.index(equal[0])
        faster, slower = workers[:first], workers[first + len(equal) :]
        return [*groups(faster), equal, *groups(slower)]

    return groups(sorted(range(len(seconds)), key=seconds.__getitem__))


def equal_links(seconds: Sequence[float]) -> list[list[int]]:
    """Return groups of links, by number, that count as equal, the fastest first.

    Parameters
    ----------
    seconds : sequence of float
        What the same exchange takes on each of them.
    """
    return equal_groups([s + LINK_NOISE_S for s in seconds], EQUAL_LINKS_WITHIN)


def are_equal(speed: float, other: float, within: float = EQUAL_WITHIN) -> bool:
    """Return whether two speeds count as equal."""
    return max(speed, other) <= (1 + within) * min(speed, other)
