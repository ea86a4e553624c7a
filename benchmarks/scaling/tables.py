"""The tables of the page about scaling: all of them are computed from the rates."""

from collections.abc import Callable, Iterator

from benchmarks.network.links import Link, parse_rate
from benchmarks.network.workloads import parse_network
from benchmarks.scaling.measured import cells, compare, summary
from benchmarks.scaling.model import (
    Plan,
    alone_s,
    best_plan,
    cost_of,
    exchanges_of,
    grids,
    split_of,
    step_time,
)
from skdistmlp.crossover.output import Row
from skdistmlp.crossover.workloads import Workload
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.rows import RowHolding
from skdistmlp.planning.rates import Rates
from skdistmlp.planning.step_time import StepTime
from skdistmlp.planning.traffic import bytes_exchanged, traffic

LINKS = [Link(parse_rate(rate)) for rate in ("1G", "10G", "100G")]

N_WORKERS = [2**power for power in range(11)]

NETWORKS = [
    "64-256-256@2000",
    "784-1024-1024",
    "784-1024-1024@8000",
    "784-4096-4096@2000",
]
"""A small network and large ones, with small mini-batches and large ones."""

SPEEDUPS = {f"speed-up of {text}": text for text in NETWORKS}

NAMES = ["rates", "bytes", "crossover", "rows", "measured", "summary", *SPEEDUPS]
"""Of all tables of the page."""

OF_SIXTEEN = 16
"""Workers of the table of bytes and messages, and of that of rows held once."""

LARGEST_BATCH = 1_000_000
"""At which the search for the batch from which replicas win ends."""


def workloads() -> list[Workload]:
    """Return the networks of the tables."""
    return [parse_network(text) for text in NETWORKS]


def all_tables(rates: Rates) -> dict[str, list[Row]]:
    """Return every table, by its name on the page."""
    compared = list(compare(cells(), rates))
    return {
        "rates": list(of_rates(rates)),
        "bytes": list(of_bytes()),
        "crossover": list(of_crossovers(rates)),
        "rows": list(of_rows(rates)),
        "measured": compared,
        "summary": list(summary(compared)),
        **{
            name: list(of_speedups(parse_network(text), rates))
            for name, text in SPEEDUPS.items()
        },
    }


def of_rates(rates: Rates) -> Iterator[Row]:
    """Yield what was measured on this machine."""
    for width, rate in rates.flop_per_s.items():
        what = f"products whose least dimension is {width:,}, GFLOP/s"
        yield {"rate of one thread": what, "measured": rate / 1e9}
    others = {
        "a step of Adam, GB/s": rates.optimizer_bytes_per_s / 1e9,
        "each layer of a step, µs": 1e6 * rates.layer_s,
        "each message, sent and received, µs": 1e6 * rates.message_s,
        "long messages, sent and received, GB/s": rates.exchanged_bytes_per_s / 1e9,
        "round trip between processes, µs": 1e6 * rates.round_trip_s,
    }
    for what, measured in others.items():
        yield {"rate of one thread": what, "measured": measured}


def of_bytes() -> Iterator[Row]:
    """Yield what is sent on every grid of sixteen workers, and in both forms."""
    for workload in workloads():
        for grid in grids(workload, OF_SIXTEEN):
            split = split_of(workload.layer_units, grid.n_shards)
            cost = cost_of(workload)
            copied = traffic(split, cost, grid.n_replicas)
            once = traffic(split, cost, grid.n_replicas, rows=RowHolding("once"))
            yield {
                "network": workload.name,
                "batch": workload.batch_size,
                "replicas x shards": Plan(grid).name,
                "kB, all workers": _kb(bytes_exchanged(split, cost, grid.n_replicas)),
                "kB per worker": _kb(copied.n_bytes),
                "messages": copied.n_messages,
                "kB, rows once": _kb(once.n_bytes),
                "messages, rows once": once.n_messages,
            }


def _kb(n_bytes: int) -> str:
    return f"{n_bytes / 1000:,.0f}"


def of_speedups(workload: Workload, rates: Rates) -> Iterator[Row]:
    """Yield the fastest grid of each number of workers, and what it gains."""
    one_s = alone_s(workload, rates)
    for n_workers in N_WORKERS:
        row: dict[str, object] = {"workers": n_workers}
        for link in LINKS:
            rate = _bits_per_s(link)
            plan = best_plan(workload, n_workers, rate, rates)
            row[link.name] = "none"
            if plan is not None:
                time = step_time(workload, plan, rate, rates)
                row[link.name] = f"{plan.name}: {_bounds(one_s, time)}"
        yield row


def of_crossovers(rates: Rates) -> Iterator[Row]:
    """Yield the batch from which replicas alone are faster than shards alone."""
    for units in dict.fromkeys(workload.layer_units for workload in workloads()):
        for n_workers in (2, 8, 64):
            if n_workers > max(units[1:-1]):
                continue
            row: dict[str, object] = {
                "network": "-".join(map(str, units[:-1])),
                "workers": n_workers,
                "fewer bytes": f"{_least_batch_by_bytes(units, n_workers):,}",
            }
            for link in LINKS:
                rate = _bits_per_s(link)
                batch = _least_batch(units, n_workers, rate, rates)
                row[f"faster at {link.name}"] = batch
            yield row


def _least_batch_by_bytes(units: tuple[int, ...], n_workers: int) -> int:
    def is_better(batch_size: int) -> bool:
        by_shards, by_replicas = (
            bytes_exchanged(
                split_of(units, n_workers // n_replicas),
                cost_of(_workload(units, batch_size)),
                n_replicas,
            )
            for n_replicas in (1, n_workers)
        )
        return by_replicas < by_shards

    return _first(n_workers, is_better) or LARGEST_BATCH


def _least_batch(
    units: tuple[int, ...], n_workers: int, bits_per_s: float, rates: Rates
) -> str:
    def is_better(batch_size: int) -> bool:
        workload = _workload(units, batch_size)
        by_shards, by_replicas = (
            step_time(workload, Plan(grid), bits_per_s, rates).without_overlap_s
            for grid in (Grid(n_workers), Grid(1, n_workers))
        )
        return by_replicas < by_shards

    batch = _first(n_workers, is_better)
    if batch is None:
        return f"not up to {LARGEST_BATCH:,}"
    # More digits would say more than the model knows.
    return f"{float(f'{batch:.2g}'):,.0f}"


def _first(least: int, holds: Callable[[int], bool]) -> int | None:
    """Return the first number from which something holds, by bisection."""
    if holds(least):
        return least
    low, high = least, LARGEST_BATCH
    if not holds(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def _workload(units: tuple[int, ...], batch_size: int) -> Workload:
    return Workload(units[0], units[1:-1], 1, 1, batch_size)


def of_rows(rates: Rates) -> Iterator[Row]:
    """Yield what rows held once cost on sixteen workers, if nothing is hidden."""
    for workload in workloads():
        for link in LINKS:
            rate = _bits_per_s(link)
            copied = best_plan(workload, OF_SIXTEEN, rate, rates)
            once = best_plan(workload, OF_SIXTEEN, rate, rates, "once")
            if copied is None or once is None:
                continue
            of_copies = step_time(workload, copied, rate, rates)
            of_once = step_time(workload, once, rate, rates)
            slower = of_once.without_overlap_s / of_copies.without_overlap_s - 1
            hidden = of_once.with_overlap_s / of_copies.with_overlap_s - 1
            features = [e for e in exchanges_of(workload, once) if e.what == "features"]
            yield {
                "network": workload.name,
                "batch": workload.batch_size,
                "link": link.name,
                "copies": f"{copied.name}, {copied.grid.n_shards} of each row",
                "once": once.name,
                "kB of features": _kb(sum(e.sent.n_bytes for e in features)),
                "once is slower by": f"{slower:.0%}",
                "with perfect overlap": f"{hidden:.0%}",
            }


def _bits_per_s(link: Link) -> float:
    assert link.mbit_per_s is not None
    return 1e6 * link.mbit_per_s


def _bounds(one_s: float, time: StepTime) -> str:
    least, most = one_s / time.without_overlap_s, one_s / time.with_overlap_s
    return f"{least:.3g} to {most:.3g}"
