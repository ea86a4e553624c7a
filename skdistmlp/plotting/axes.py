"""What the displays share: colours, options, and axes to draw on."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
"""Colours that the colour-blind can tell apart (Okabe, Ito, 2008)."""

GREY = "#666666"

MOST_WIDTH = 1.2
"""Of a legend, in widths of the axes: margins have room too."""

MOST_LEGEND = 0.45
"""Share of the height that a legend may take; it lists less then."""

LEAST_LISTED = 2
"""Lines, or shards, that a legend lists at any rate."""


def axes_to_draw_on(ax: "Axes | None") -> "Axes":
    """Return `ax`, or axes of a new figure.

    Raises
    ------
    ImportError
        If matplotlib is not installed.
    """
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise ImportError(
            'displays need matplotlib: pip install "skdistmlp[plots]"'
        ) from error
    _, ax = plt.subplots(layout="constrained")
    return ax


def line_options(given: dict[str, Any], **defaults: Any) -> dict[str, Any]:
    """Return the options of a line: those given, by long names or short, and others."""
    from matplotlib.cbook import normalize_kwargs
    from matplotlib.lines import Line2D

    return defaults | normalize_kwargs(given, Line2D)


def begin_at_zero(ax: "Axes", line: Any) -> None:
    """Let the y axis begin at 0, unless it is or becomes logarithmic.

    Limits stay automatic, for what else is drawn on the axes.
    """
    ax.update_datalim([(line.get_xdata()[0], 0)])
    line.sticky_edges.y.append(0)
    ax.autoscale_view()


def legend_above(
    ax: "Axes",
    lines: Sequence[Any],
    partners: Sequence[Any] = (),
    stand_in: Any | None = None,
    *,
    most_columns: int = 3,
) -> None:
    """Draw a legend above the axes, where it hides nothing.

    Lines stand on the left and their partners on the right. Where all have no room,
    `stand_in` stands for the partners, and of many lines the first ones and the last
    are listed. Only a layout engine, such as "constrained", makes room above; without
    one the legend is drawn where there is the most room within.
    """
    n_listed, listed = len(lines), [*lines, *partners]
    most = MOST_LEGEND * ax.get_window_extent().height
    height = _legend_height(ax, listed, 2 if partners else most_columns)
    always = [] if stand_in is None else [stand_in]
    if height > most and partners:
        height = _legend_height(ax, [*lines, *always], most_columns)
    while height > most and n_listed > LEAST_LISTED:
        n_listed = max(LEAST_LISTED, min(n_listed - 1, int(n_listed * most / height)))
        listed = [*_first_and_last(lines, n_listed), *always]
        height = _legend_height(ax, listed, most_columns)


def _legend_height(ax: "Axes", handles: Sequence[Any], most_columns: int) -> float:
    """Draw a legend, above the axes if that can be; return how high it is."""
    if ax.figure.get_layout_engine() is None:
        legend = ax.legend(handles=handles, loc="best")
    else:
        above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
        legend = legend_in_columns(ax, handles, most_columns, **above)
    return float(legend.get_window_extent().height)


def _first_and_last(lines: Sequence[Any], n_listed: int) -> list[Any]:
    """Return so many of the lines, and one that says how many are left out."""
    from matplotlib.lines import Line2D

    if len(lines) <= n_listed:
        return list(lines)
    left_out = Line2D([], [], linestyle="none", label=f"… {len(lines) - n_listed} more")
    return [*lines[: n_listed - 1], left_out, lines[-1]]


def legend_in_columns(
    ax: "Axes", handles: Sequence[Any], most_columns: int, **kwargs: Any
) -> Any:
    """Draw a legend in as many columns as have room side by side; return it.

    One column may be wider than `MOST_WIDTH`.
    """
    for n_columns in range(most_columns, 0, -1):
        legend = ax.legend(
            handles=handles,
            frameon=False,
            fontsize="small",
            ncols=n_columns,
            columnspacing=1,
            **kwargs,
        )
        most = MOST_WIDTH * ax.get_window_extent().width
        if legend.get_window_extent().width <= most:
            break
    return legend


def with_room(places: Any, room: float) -> list[int]:
    """Return which of ascending places are `room` apart, from the first on."""
    chosen = [0]
    for i in range(1, len(places)):
        if places[i] - places[chosen[-1]] >= room:
            chosen.append(i)
    return chosen
