"""What `engine="auto"` expected of a cell, next to what was measured."""

from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from benchmarks.network.cells import Cell
from benchmarks.network.plans import ONE_THREAD, name_of
from benchmarks.network.workloads import half_of
from skdistmlp.crossover.output import Row

WITHIN = 0.3
"""Error of most forecasts, at most."""

NEARLY, AT_MOST = 1.1, 1.25
"""Times as long as the best plan that nearly all choices take, and that all do."""


class Forecast(NamedTuple):
    """What was expected of each plan, as the lab's driver tells it.

    Attributes
    ----------
    rows : list of dict
        Fields of `ForecastRow`, of the chosen plan first.
    measuring_s : float
        Seconds that it took to measure and plan.
    """

    rows: Sequence[Mapping[str, Any]]
    measuring_s: float

    def expected_ms(self) -> dict[str, float]:
        """Return milliseconds per step of each plan, by its name in the lab."""
        return {name_of(row): 1e3 * row["step_s"] for row in reversed(self.rows)}

    @property
    def chosen(self) -> str:
        """The plan that would have been taken."""
        return name_of(self.rows[0])


def compare_forecast(
    cell: Cell, forecast: Forecast, steps_ms: Mapping[str, Sequence[float]]
) -> Iterator[Row]:
    """Yield a row for each plan that was both expected and measured."""
    expected_ms = forecast.expected_ms()
    measured_ms = {name: median(steps_ms[name]) for name in steps_ms}
    plans = [name for name in expected_ms if name in measured_ms]
    best_ms = min(measured_ms[name] for name in plans)
    for name in plans:
        error = expected_ms[name] / measured_ms[name] - 1
        is_chosen = name == forecast.chosen
        yield {
            "link": cell.link.name,
            "network": cell.workload.name,
            "batch_size": cell.workload.batch_size,
            "cells": half_of(cell.workload),
            "plan": name,
            "expected, ms": expected_ms[name],
            "measured, ms": measured_ms[name],
            "error": f"{error:+.0%}",
            "chosen, over the best": measured_ms[name] / best_ms if is_chosen else "",
            # However the repeats vary.
            "slower than one thread": (
                min(steps_ms[name]) > max(steps_ms[ONE_THREAD]) if is_chosen else ""
            ),
            "measuring, s": forecast.measuring_s,
        }


def errors_of(rows: Sequence[Row]) -> list[Row]:
    """Return how large the errors of forecasts are: by link, by half, and of all.

    The halves are the cells to which the model may be fitted, and those kept out.
    """
    links = dict.fromkeys(str(row["link"]) for row in rows)
    halves = dict.fromkeys(str(row["cells"]) for row in rows)
    table: list[Row] = []
    for link, cells in [
        *((link, "all") for link in links),
        *(("all", half) for half in sorted(halves)),
        ("all", "all"),
    ]:
        counted = [
            row
            for row in rows
            if link in (row["link"], "all") and cells in (row["cells"], "all")
        ]
        if not counted:
            continue
        errors = sorted(
            abs(row["expected, ms"] / row["measured, ms"] - 1) for row in counted
        )
        ratios = [row["chosen, over the best"] for row in counted]
        chosen = [ratio for ratio in ratios if ratio != ""]
        within = sum(error <= WITHIN for error in errors) / len(errors)
        table.append(
            {
                "link": link,
                "cells": cells,
                "plans": len(counted),
                "median error": f"{median(errors):.0%}",
                f"within {WITHIN:.0%}": f"{within:.0%}",
                "choices": len(chosen),
                f"within {NEARLY} of the best": sum(r <= NEARLY for r in chosen),
                f"within {AT_MOST}": sum(r <= AT_MOST for r in chosen),
                "worst choice, over the best": max(chosen, default=""),
                "slower than one thread": sum(
                    row["slower than one thread"] is True for row in counted
                ),
            }
        )
    return table
