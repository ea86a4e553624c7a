"""Plot the results of the benchmarks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from skdistmlp.crossover.output import Row
from skdistmlp.plotting.axes import COLOURS, GREY

BLUE, ORANGE, GREEN, *_ = COLOURS

SPEEDUP = ", speedup"
"""End of the columns that have the speed-up of one candidate among several."""


def plot_results(path: Path, results: Mapping[str, Sequence[Row]]) -> None:
    """Plot `local` against scikit-learn, when `futures` pays, and plans over links.

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
    panels += [
        (_plot_over_links, (name.removesuffix(SPEEDUP), rows))
        for title, rows in results.items()
        if title.startswith("network, ")
        for name in rows[0]
        if name.endswith(SPEEDUP)
    ]
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


def _plot_over_links(axes: Any, measured: tuple[str, Sequence[Row]]) -> None:
    """Draw one candidate: a line per network, over the links from left to right."""
    candidate, rows = measured
    networks = dict.fromkeys((row["network"], row["batch_size"]) for row in rows)
    for number, (network, batch_size) in enumerate(networks):
        of_network = [
            row
            for row in rows
            if (row["network"], row["batch_size"]) == (network, batch_size)
        ]
        axes.semilogy(
            [row["link"] for row in of_network],
            [row[f"{candidate}{SPEEDUP}"] for row in of_network],
            marker="osD^v"[number // len(COLOURS) % 5],
            color=COLOURS[number % len(COLOURS)],
            label=f"{network}, batches of {batch_size:,}",
        )
    axes.axhline(1, color=GREY, linewidth=1)
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter("")
    # The same in all panels, so that they can be compared.
    speedups = [row[name] for row in rows for name in row if name.endswith(SPEEDUP)]
    limits = (0.8 * min(speedups), 1.25 * max(1, *speedups))
    axes.set(title=candidate, ylabel="speed-up over one thread", ylim=limits)
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.08), "ncols": 2}
    axes.legend(fontsize="x-small", **below)
