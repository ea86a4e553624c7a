"""What was measured on two workers, beside what the model says of them."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from benchmarks.network.links import RATES, Link, parse_rate
from benchmarks.network.plans import ONE_THREAD
from benchmarks.network.workloads import parse_network
from benchmarks.scaling.model import Plan, alone_s, step_time
from skdistmlp.crossover.output import Row
from skdistmlp.crossover.workloads import Workload
from skdistmlp.parallel.grid import Grid
from skdistmlp.planning.rates import Rates

FILE = Path(__file__).with_name("measured.json")
"""Figures of the notes of the design, and of a run of the lab if one was
added since."""

PLANS = {"neurons": "1 x 2", "replicas": "2 x 1"}
"""Grids of two workers, by the names that plans have in the network lab."""

ROUNDING = 0.01
"""By which a speed-up with two decimals may miss a bound and still be on it."""


class Cell(NamedTuple):
    """A network on a link and two workers.

    Attributes
    ----------
    source : str
        Which run it is of.
    link : Link
        Of each worker.
    workload : Workload
        What was trained.
    plan : Plan
        The grid.
    alone_ms : float or None
        Milliseconds per step on one thread, in the same run; None if not known.
    speedup : float or None
        Over one thread; None if only milliseconds are known.
    ms : float or None
        Milliseconds per step on two workers; None if only the speed-up is known.
    """

    source: str
    link: Link
    workload: Workload
    plan: Plan
    alone_ms: float | None
    speedup: float | None
    ms: float | None = None


def cells(found: Sequence[Mapping[str, Any]] | None = None) -> list[Cell]:
    """Return all cells; by default those of `FILE`."""
    if found is None:
        found = json.loads(FILE.read_text())
    return [cell for table in found for cell in _cells_of(table)]


def add_lab(results: Mapping[str, Any], date: str) -> None:
    """Add what a run of the network lab measured, in place of an earlier run.

    Parameters
    ----------
    results : mapping
        What ``python -m benchmarks network`` wrote as JSON.
    date : str
        Of the run.
    """
    kept = [t for t in json.loads(FILE.read_text()) if "cells" not in t]
    table = {"source": f"network lab, {date}", "cells": list(_of_lab(results))}
    FILE.write_text(json.dumps([*kept, table], indent=2, ensure_ascii=False) + "\n")


def _of_lab(results: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for row in results["network, 2 workers"]:
        for plan, grid in PLANS.items():
            if f"{plan}, speedup" in row:
                yield {
                    "link": row["link"],
                    "network": row["network"],
                    "batch_size": row["batch_size"],
                    "plan": grid,
                    "alone_ms": row[f"{ONE_THREAD}, ms"],
                    "speedup": row[f"{plan}, speedup"],
                }


def _cells_of(table: Mapping[str, Any]) -> Iterator[Cell]:
    """Yield the cells of a table: of the lab, or of networks by links."""
    source = table["source"]
    for cell in table.get("cells", ()):
        link = _link_named(cell["link"])
        if link is not None:
            units = cell["network"].replace("(", "").replace(")", "").replace(", ", "-")
            workload = parse_network(f"{units}@{cell['batch_size']}")
            plan, alone_ms = _plan(cell["plan"]), cell["alone_ms"]
            yield Cell(source, link, workload, plan, alone_ms, cell["speedup"])
    speedups, steps_ms = table.get("speedup", {}), table.get("ms", {})
    for number, network in enumerate(table.get("networks", ())):
        # One thread needs no link: the mean over the links of which both are known.
        alone = [
            steps_ms[rate][number] * speedups[rate][number]
            for rate in steps_ms.keys() & speedups.keys()
        ]
        for rate in speedups or steps_ms:
            yield Cell(
                source,
                Link(parse_rate(rate)),
                parse_network(network),
                _plan(table["plan"]),
                mean(alone) if alone else None,
                speedups[rate][number] if speedups else None,
                steps_ms[rate][number] if rate in steps_ms else None,
            )


def _link_named(name: str) -> Link | None:
    """Return the link of a row of the lab; None if it delays packets."""
    links = {link.name: link for link in map(Link, map(parse_rate, RATES))}
    return links.get(name)


def _plan(name: str) -> Plan:
    n_replicas, n_shards = map(int, name.split(" x "))
    return Plan(Grid(n_shards, n_replicas))


def compare(measured: Sequence[Cell], rates: Rates) -> Iterator[Row]:
    """Put the model's bounds beside each cell: a row per network, plan and link.

    Rates differ from machine to machine, so what one thread took in the same run, where
    that is known, says how fast its core is: only ratios are of this machine.
    """
    known = {cell.workload: cell.alone_ms for cell in measured if cell.alone_ms}
    for cell in measured:
        # Of a link that is not limited, nothing is known but that it is fast.
        mbit_per_s = cell.link.mbit_per_s or math.inf
        time = step_time(cell.workload, cell.plan, 1e6 * mbit_per_s, rates)
        here_s = alone_s(cell.workload, rates)
        alone_ms = cell.alone_ms or _alone_ms(cell.workload, known, rates)
        slower = 1e-3 * alone_ms / here_s
        time = replace(
            time,
            computed_s=slower * time.computed_s,
            handled_s=slower * time.handled_s,
        )
        least = 1e-3 * alone_ms / time.without_overlap_s
        most = 1e-3 * alone_ms / time.with_overlap_s
        speedup = cell.speedup
        if speedup is None:
            assert cell.ms is not None
            speedup = alone_ms / cell.ms
        yield {
            "run": cell.source,
            "network": cell.workload.name,
            "batch": cell.workload.batch_size,
            "link": cell.link.name,
            "grid": cell.plan.name,
            "one thread, ms": f"{alone_ms:.3g}{'' if cell.alone_ms else '*'}",
            "measured": f"{speedup:.2f}",
            "model": f"{least:.2f} to {most:.2f}",
            "expected": f"{1e-3 * alone_ms / time.seconds:.2f}",
            "measured is": _place(speedup, least, most),
        }


def summary(compared: Sequence[Row]) -> Iterator[Row]:
    """Count, for each link and grid, how often what was measured is within the bounds.

    Parameters
    ----------
    compared : sequence of row
        What `compare` yields.
    """
    for link, grid in dict.fromkeys((row["link"], row["grid"]) for row in compared):
        places = [
            str(row["measured is"])
            for row in compared
            if (row["link"], row["grid"]) == (link, grid)
        ]
        outside = {
            side: max(
                (int(place.split("%")[0]) for place in places if side in place),
                default=None,
            )
            for side in ("below", "above")
        }
        yield {
            "link": link,
            "replicas x shards": grid,
            "cells": len(places),
            "within the bounds": places.count("within"),
            **{
                f"farthest {side}": "-" if percent is None else f"{percent}%"
                for side, percent in outside.items()
            },
        }


def _alone_ms(
    workload: Workload, known: Mapping[Workload, float], rates: Rates
) -> float:
    """Return what one thread would take, from what it took in another run or cell.

    That of the same workload or, scaled by the rates, of the same network with other
    mini-batches, or of another network.
    """
    likeness = [
        (other == workload, other.layer_units == workload.layer_units, alone_ms, other)
        for other, alone_ms in known.items()
    ]
    _, _, alone_ms, other = max(likeness, key=lambda each: each[:3])
    return alone_ms * alone_s(workload, rates) / alone_s(other, rates)


def _place(speedup: float, least: float, most: float) -> str:
    if speedup < least - ROUNDING:
        return f"{1 - speedup / least:.0%} below"
    if speedup > most + ROUNDING:
        return f"{speedup / most - 1:.0%} above"
    return "within"
