"""Draw what the benchmark measured."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from skdistmlp.crossover.timing import Row
from skdistmlp.plotting.axes import COLOURS, GREY

BLUE, ORANGE, GREEN, *_ = COLOURS


def draw(path: Path, results: Mapping[str, Sequence[Row]]) -> None:
    """Write a picture: `local` against scikit-learn, and where `futures` pays.

    Parameters
    ----------
    path : Path
        File to write; its suffix sets the format.
    results : mapping of str to rows
        As the benchmark collects them; parts that were not measured stay out.
    """
    from matplotlib.figure import Figure

    panels: list[tuple[Any, Any]] = []
    if "local" in results:
        panels.append((_speedups, results["local"]))
    growing = [rows for name, rows in results.items() if name.startswith("futures 784")]
    if growing:
        panels.append((_crossovers, growing))
    figure = Figure(figsize=(5 * max(1, len(panels)), 4), layout="constrained")
    for place, (panel, rows) in enumerate(panels, start=1):
        panel(figure.add_subplot(1, len(panels), place), rows)
    figure.savefig(path, dpi=120)


def _speedups(axes: Any, rows: Sequence[Row]) -> None:
    names = [f"{row['network']}\n{row['variant']}" for row in rows]
    highest = max(max(row["times faster"], row["wanted"]) for row in rows)
    axes.bar(names, [row["times faster"] for row in rows], color=BLUE, label="measured")
    wanted = [row["wanted"] for row in rows]
    axes.plot(names, wanted, "_", markersize=36, color=ORANGE, label="wanted")
    axes.axhline(1, color=GREY, linewidth=1)
    axes.tick_params(axis="x", rotation=20)
    axes.set(
        title="engine='local' on the same threads",
        ylabel="times scikit-learn's speed",
        ylim=(0, 1.25 * highest),
    )
    axes.legend(ncols=2, loc="upper center", markerscale=0.4)


def _crossovers(axes: Any, series: Sequence[Sequence[Row]]) -> None:
    for rows, colour, marker in zip(series, [BLUE, GREEN], "os", strict=False):
        axes.semilogx(
            [row["GFLOP/step"] for row in rows],
            [row["times faster"] for row in rows],
            marker=marker,
            color=colour,
            label=rows[0]["network"],
        )
    axes.axhline(1, color=GREY, linewidth=1)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(
        title="engine='futures' on two one-thread workers",
        xlabel="work of a step, GFLOP",
        ylabel="times the speed of one thread",
    )
    axes.legend()
