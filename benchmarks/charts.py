"""Plot the results of the benchmarks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from skdistmlp.crossover.output import Row
from skdistmlp.plotting.axes import COLOURS, GREY

BLUE, ORANGE, GREEN, *_ = COLOURS


def plot_results(path: Path, results: Mapping[str, Sequence[Row]]) -> None:
    """Plot `local` against scikit-learn, and from where on `futures` pays.

    Parameters
    ----------
    path : Path
        File to write; its extension sets the format.
    results : mapping of str to rows
        Tables by title; those that were not measured are left out.
    """
    from matplotlib.figure import Figure

    panels: list[tuple[Any, Any]] = []
    if "local" in results:
        panels.append((_plot_speedups, results["local"]))
    growing = [rows for name, rows in results.items() if name.startswith("futures 784")]
    if growing:
        panels.append((_plot_crossovers, growing))
    figure = Figure(figsize=(5 * max(1, len(panels)), 4), layout="constrained")
    for position, (plot_panel, rows) in enumerate(panels, start=1):
        plot_panel(figure.add_subplot(1, len(panels), position), rows)
    figure.savefig(path, dpi=120)


def _plot_speedups(axes: Any, rows: Sequence[Row]) -> None:
    names = [f"{row['network']}\n{row['variant']}" for row in rows]
    highest = max(max(row["speedup"], row["target"]) for row in rows)
    axes.bar(names, [row["speedup"] for row in rows], color=BLUE, label="measured")
    targets = [row["target"] for row in rows]
    axes.plot(names, targets, "_", markersize=36, color=ORANGE, label="target")
    axes.axhline(1, color=GREY, linewidth=1)
    axes.tick_params(axis="x", rotation=20)
    axes.set(
        title="engine='local' on the same threads",
        ylabel="speed-up over scikit-learn",
        ylim=(0, 1.25 * highest),
    )
    axes.legend(ncols=2, loc="upper center", markerscale=0.4)


def _plot_crossovers(axes: Any, series: Sequence[Sequence[Row]]) -> None:
    for rows, colour, marker in zip(series, [BLUE, GREEN], "os", strict=False):
        axes.semilogx(
            [row["GFLOP/step"] for row in rows],
            [row["speedup"] for row in rows],
            marker=marker,
            color=colour,
            label=rows[0]["network"],
        )
    axes.axhline(1, color=GREY, linewidth=1)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(
        title="engine='futures' on two one-thread workers",
        xlabel="work per step, GFLOP",
        ylabel="speed-up over one thread",
    )
    axes.legend()
