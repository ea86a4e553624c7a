"""What the displays share: colours, line options, legends and axes."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#882255")
"""Colours that colour-blind readers can tell apart (Okabe, Ito, 2008), with a dark red
of Paul Tol's in place of their yellow, which is hard to see on white."""

MARKERS = "os^DvPX*"
"""Shapes: the next one is used when the colours start over."""

MARKED = 10
"""About how many points of a line have its marker."""

GREY = "#666666"

MAX_LEGEND_WIDTH = 1.2
"""Widest legend, in widths of the axes: it may extend over the margins."""

MAX_LEGEND_HEIGHT = 0.45
"""Highest legend, in heights of the axes; a higher one lists fewer entries."""

MIN_LISTED = 2
"""Number of lines, or shards, that a legend always lists."""


def axes_or_new(ax: "Axes | None") -> "Axes":
    """Return `ax`, or the axes of a new figure if it is None.

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
        raise ImportError("displays need matplotlib: pip install matplotlib") from error
    _, ax = plt.subplots(layout="constrained")
    return ax


def colour_of(number: int) -> str:
    """Return the colour of a curve, or of a shard, by its number."""
    return COLOURS[number % len(COLOURS)]


def marker_of(number: int) -> str:
    """Return its marker: those with the same colour have different ones."""
    return MARKERS[number // len(COLOURS) % len(MARKERS)]


def look_of_line(number: int, n_points: int) -> dict[str, Any]:
    """Return keywords that tell a line without markers from the others by its number.

    A line through a single point is invisible without a marker.
    """
    if n_points > 1 and number < len(COLOURS):
        return {"color": colour_of(number)}
    # The first seven have none.
    marker = marker_of(number if n_points == 1 else number - len(COLOURS))
    every = max(1, n_points // MARKED)
    return {"color": colour_of(number), "marker": marker, "markevery": every}


def merge_line_kwargs(kwargs: dict[str, Any] | None, **defaults: Any) -> dict[str, Any]:
    """Return keywords for a line: the user's, by long or short names, over defaults."""
    from matplotlib.cbook import normalize_kwargs
    from matplotlib.lines import Line2D

    return defaults | normalize_kwargs(kwargs or {}, Line2D)


def start_y_axis_at_zero(ax: "Axes", line: Any) -> None:
    """Let the y axis start at 0, unless it is or becomes logarithmic.

    Its limits stay automatic, for whatever else is drawn on the axes.
    """
    ax.update_datalim([(line.get_xdata()[0], 0)])
    line.sticky_edges.y.append(0)
    ax.autoscale_view()


def draw_legend_above(
    ax: "Axes",
    lines: Sequence[Any],
    partners: Sequence[Any] = (),
    proxy: Any | None = None,
    *,
    max_columns: int = 3,
) -> None:
    """Draw a legend above the axes, where it hides nothing.

    Lines stand on the left and their partners on the right. If they do not all fit,
    `proxy` replaces the partners, and of many lines only the first ones and the last
    are listed. Only a layout engine such as "constrained" makes room above; without
    one, the legend is drawn inside the axes, where it covers least.
    """
    n_listed, listed = len(lines), [*lines, *partners]
    max_height = MAX_LEGEND_HEIGHT * ax.get_window_extent().height
    height = _draw_legend(ax, listed, 2 if partners else max_columns)
    proxies = [] if proxy is None else [proxy]
    if height > max_height and partners:
        height = _draw_legend(ax, [*lines, *proxies], max_columns)
    while height > max_height and n_listed > MIN_LISTED:
        n_that_fit = int(n_listed * max_height / height)
        n_listed = max(MIN_LISTED, min(n_listed - 1, n_that_fit))
        listed = [*_first_and_last(lines, n_listed), *proxies]
        height = _draw_legend(ax, listed, max_columns)


def _draw_legend(ax: "Axes", handles: Sequence[Any], max_columns: int) -> float:
    """Draw a legend, above the axes if possible; return its height in pixels."""
    if ax.figure.get_layout_engine() is None:
        legend = ax.legend(handles=handles, loc="best")
    else:
        above = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.0)}
        legend = draw_legend_in_columns(ax, handles, max_columns, **above)
    return float(legend.get_window_extent().height)


def _first_and_last(lines: Sequence[Any], n_listed: int) -> list[Any]:
    """Return the first lines and the last, and an entry for those left out."""
    from matplotlib.lines import Line2D

    if len(lines) <= n_listed:
        return list(lines)
    left_out = Line2D([], [], linestyle="none", label=f"… {len(lines) - n_listed} more")
    return [*lines[: n_listed - 1], left_out, lines[-1]]


def draw_legend_in_columns(
    ax: "Axes", handles: Sequence[Any], max_columns: int, **kwargs: Any
) -> Any:
    """Draw a legend in as many columns as fit side by side; return it.

    A single column may be wider than `MAX_LEGEND_WIDTH`.
    """
    for n_columns in range(max_columns, 0, -1):
        legend = ax.legend(
            handles=handles,
            frameon=False,
            fontsize="small",
            ncols=n_columns,
            columnspacing=1,
            **kwargs,
        )
        max_width = MAX_LEGEND_WIDTH * ax.get_window_extent().width
        if legend.get_window_extent().width <= max_width:
            break
    return legend


def indices_apart(positions: Any, distance: float) -> list[int]:
    """Return the indices of ascending positions that are at least `distance` apart.

    The first position is always among them.
    """
    chosen = [0]
    for i in range(1, len(positions)):
        if positions[i] - positions[chosen[-1]] >= distance:
            chosen.append(i)
    return chosen
