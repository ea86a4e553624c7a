"""Time every plan, and torch, on every link."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from statistics import median
from typing import NamedTuple

from benchmarks.network.cells import Cell
from benchmarks.network.forecasts import Forecast, compare_forecast, errors_of
from benchmarks.network.links import MAX_BURST_S, Link
from benchmarks.network.namespaces import Lab
from benchmarks.network.plans import ONE_THREAD
from benchmarks.network.probe import LinkRates
from benchmarks.network.processes import N_TORCH_PROCESSES, Driver, torch_step_ms
from benchmarks.network.workloads import sized_for
from benchmarks.timing import with_progress
from skdistmlp.crossover.output import Row
from skdistmlp.crossover.timing import median_ratio
from skdistmlp.crossover.workloads import Workload

TORCH = {
    "torch, one thread": ("one process", 1),
    "torch, data-parallel": ("data-parallel", N_TORCH_PROCESSES),
    "torch, tensor-parallel": ("tensor-parallel", N_TORCH_PROCESSES),
}
"""Mode and number of processes, by what it is called in tables."""

TOGETHER = ["torch, data-parallel", "torch, tensor-parallel"]
"""The two of which the better one is compared with the best of our plans."""


class Turn(NamedTuple):
    """One measurement of one candidate."""

    cell: Cell
    candidate: str
    repeat: int

    def describe(self) -> str:
        """Say what is measured."""
        link, workload = self.cell
        network = f"{workload.name}, batches of {workload.batch_size:,}"
        return f"{link.name}: {network}: {self.candidate}"


@dataclass
class Results:
    """What has been measured so far; all of it counts, whatever ends the run.

    Attributes
    ----------
    rates : list of row
        Rate and round trip of every link.
    steps_ms : dict
        Milliseconds per step of each repeat, by cell and candidate.
    forecasts : dict of Cell to Forecast
        What was expected of cells, if that was asked for.
    """

    rates: list[Row] = field(default_factory=list)
    steps_ms: dict[Cell, dict[str, list[float]]] = field(default_factory=dict)
    forecasts: dict[Cell, Forecast] = field(default_factory=dict)

    def tables(self, n_workers: int, repeats: int) -> dict[str, list[Row]]:
        """Return tables by title, of the cells that are complete."""
        complete = {
            cell: steps_ms
            for cell, steps_ms in self.steps_ms.items()
            if all(len(each) == repeats for each in steps_ms.values())
        }
        rows = [compare(cell, steps_ms) for cell, steps_ms in complete.items()]
        tables = {"network links": self.rates, f"network, {n_workers} workers": rows}
        expected = [
            row
            for cell, forecast in self.forecasts.items()
            if cell in complete
            for row in compare_forecast(cell, forecast, complete[cell])
        ]
        tables["network, forecasts"] = expected
        tables["network, errors of forecasts"] = errors_of(expected)
        return {title: rows for title, rows in tables.items() if rows}


def measure(
    lab: Lab,
    driver: Driver,
    links: Sequence[Link],
    workloads: Sequence[Workload],
    candidates: Sequence[str],
    repeats: int,
    results: Results,
    with_forecasts: bool = False,
) -> None:
    """Time all candidates in turn, network by network and link by link.

    Parameters
    ----------
    lab : Lab
        Where to measure.
    driver : Driver
        Of this lab, for the plans.
    links : sequence of Link
        Links, one after the other.
    workloads : sequence of Workload
        Networks to train on each.
    candidates : sequence of str
        Names of plans, and of `TORCH`.
    repeats : int
        Timed repeats of each.
    results : Results
        What is measured is added to it.
    with_forecasts : bool
        Whether to ask, before each cell, what is expected of it.
    """
    cells = [Cell(link, workload) for link in links for workload in workloads]
    turns = [
        Turn(cell, candidate, repeat)
        for cell in cells
        for repeat in range(repeats)
        for candidate in candidates
    ]
    link = None
    for turn in with_progress("network", turns, Turn.describe):
        cell, candidate, _ = turn
        if cell.link != link:
            link = cell.link
            results.rates.append({"link": link.name, **_shape(lab, driver, link)})
        if cell not in results.steps_ms:
            results.steps_ms[cell] = {name: [] for name in candidates}
            if with_forecasts:
                results.forecasts[cell] = driver.forecast(cell.workload)
        if candidate in TORCH:
            mode, n_processes = TORCH[candidate]
            step_ms = torch_step_ms(lab, mode, cell.workload, n_processes)
        else:
            workload, forecast = cell.workload, results.forecasts.get(cell)
            expected_ms = {} if forecast is None else forecast.expected_ms()
            if candidate in expected_ms:
                workload = sized_for(workload, expected_ms[candidate] / 1e3)
            step_ms = driver.step_ms(candidate, workload)
        results.steps_ms[cell][candidate].append(step_ms)


def _shape(lab: Lab, driver: Driver, link: Link) -> Row:
    """Shape all links; let them burst for longer where they carry too little."""
    while True:
        lab.shape(link)
        rates = driver.probe()
        longer_s = 2 * link.burst_s
        # A delayed link is shaped otherwise, and waits for each answer.
        is_final = link.delay_ms > 0 or longer_s > MAX_BURST_S
        if is_final or link.carries(rates.mbit_per_s):
            return {**_columns(rates), "bursts, us": 1e6 * link.burst_s}
        link = replace(link, burst_s=longer_s)


def _columns(rates: LinkRates) -> Row:
    return {
        "Mbit/s": rates.mbit_per_s,
        "round trip, us": rates.round_trip_us,
        "TCP": rates.congestion_control,
    }


def compare(cell: Cell, steps_ms: Mapping[str, Sequence[float]]) -> Row:
    """Return a row of milliseconds per step, and speed-ups over one thread."""
    row: dict[str, object] = {
        "link": cell.link.name,
        "network": cell.workload.name,
        "batch_size": cell.workload.batch_size,
    }
    speedup = partial(median_ratio, steps_ms[ONE_THREAD])
    for name, each_ms in steps_ms.items():
        row[f"{name}, ms"] = median(each_ms)
        if name != ONE_THREAD:
            row[f"{name}, speedup"] = speedup(each_ms)
    ours = [name for name in steps_ms if name not in (ONE_THREAD, *TORCH)]
    theirs = [name for name in TOGETHER if name in steps_ms]
    if ours and theirs:
        best, rival = (
            min((steps_ms[name] for name in names), key=median)
            for names in (ours, theirs)
        )
        row["best plan over torch"] = median_ratio(rival, best)
    return row
