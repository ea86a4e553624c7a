"""From what size on sharing a network pays."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike

from skdistmlp.crossover.rule import crossover_size
from skdistmlp.plotting.axes import (
    COLOURS,
    GREY,
    axes_to_draw_on,
    begin_at_zero,
    line_options,
    with_room,
)
from skdistmlp.plotting.validation import check_lengths

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EVEN = "skdistmlp-even"
"""Mark of the line at 1, which several measurements on the same axes share."""

CROSSING = "skdistmlp-crossing"
"""Mark of the numbers at crossings."""

LINE_HEIGHT = 12
"""Of a crossing's number, in points."""


class CrossoverDisplay:
    """How many times faster a shared network is, by its number of parameters.

    Make one with `from_measurements`, or from ratios and a crossing of your own.

    Parameters
    ----------
    n_parameters : sequence of int
        Sizes of the networks.
    times_faster : sequence of float
        Time of training without sharing, wherever you would train then, divided by
        that of training shared.
    crossing : float, optional
        The number of parameters from which sharing pays, if there is one.
    name : str, optional
        What to call the measurement in the legend.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it is drawn.
    figure_ : matplotlib Figure
        Its figure.
    line_ : matplotlib Line2D
        What was measured.
    crossing_line_ : matplotlib Line2D or None
        Where sharing begins to pay.
    """

    def __init__(
        self,
        *,
        n_parameters: Sequence[int],
        times_faster: Sequence[float],
        crossing: float | None = None,
        name: str | None = None,
    ) -> None:
        self.n_parameters = n_parameters
        self.times_faster = times_faster
        self.crossing = crossing
        self.name = name

    @classmethod
    def from_measurements(
        cls,
        n_parameters: Sequence[int],
        alone: ArrayLike,
        shared: ArrayLike,
        *,
        ax: "Axes | None" = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw what was measured of growing networks, and where sharing begins to pay.

        Parameters
        ----------
        n_parameters : sequence of int, of length n_networks
            Sizes of the networks, positive and in ascending order.
        alone : array-like of shape (n_networks,) or (n_networks, n_repeats)
            What training without sharing took, in whatever unit: on one worker, or
            in the process that calls `fit`.
        shared : array-like of the same shape
            What training shared took, in the same unit. Of repeats, the median of
            the ratios is drawn.
        ax : matplotlib Axes, optional
            Where to draw; axes of a new figure without.
        name : str, optional
            What to call the measurement in the legend.
        **kwargs
            For matplotlib's `plot`.

        Returns
        -------
        CrossoverDisplay
            The display. Its `crossing` is where the line drawn passes 1 for good: the
            smallest size if it is always above, None if it ends at 1 or below.

        Raises
        ------
        ValueError
            If there is nothing measured, the shapes differ, a time or a size is not
            a positive number, or sizes do not ascend.
        """
        times = [np.asarray(given, dtype=float) for given in (alone, shared)]
        one, other = (each.shape for each in times)
        if one != other or one[:1] != (len(n_parameters),):
            raise ValueError(
                f"expected a time alone and one shared for each of "
                f"{len(n_parameters)} networks, got shapes {one} and {other}"
            )
        if not times[0].size:
            raise ValueError("no times were given: there is nothing to draw")
        if not (np.isfinite(times).all() and np.min(times) > 0):
            raise ValueError("times have to be positive numbers")
        sizes = np.asarray(n_parameters, dtype=float)
        ascend = np.isfinite(sizes).all() and (np.diff(sizes, prepend=0) > 0).all()
        if not ascend:
            raise ValueError(
                "n_parameters have to be positive numbers in ascending order"
            )
        ratios = times[0] / times[1]
        ratios = np.median(ratios.reshape(len(sizes), -1), axis=1).tolist()
        display = cls(
            n_parameters=n_parameters,
            times_faster=ratios,
            crossing=crossover_size(sizes.tolist(), ratios),
            name=name,
        )
        return display.plot(ax=ax, **kwargs)

    def plot(
        self, ax: "Axes | None" = None, *, name: str | None = None, **kwargs: Any
    ) -> Self:
        """Draw the measurement.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; axes of a new figure without. Several measurements may be
            drawn on the same axes.
        name : str, optional
            What to call it, in place of the display's own name.
        **kwargs
            For matplotlib's `plot`.

        Returns
        -------
        CrossoverDisplay
            This display.

        Raises
        ------
        ValueError
            If there are no ratios, or another number of them than of sizes.
        """
        check_lengths(n_parameters=self.n_parameters, times_faster=self.times_faster)
        ax = axes_to_draw_on(ax)
        name = self.name if name is None else name
        colour = COLOURS[len(ax.get_legend_handles_labels()[0]) % len(COLOURS)]
        options = line_options(
            kwargs, color=colour, marker="o", label=name or "measured"
        )
        (self.line_,) = ax.plot(self.n_parameters, self.times_faster, **options)
        self.crossing_line_ = None
        if self.crossing is not None:
            self.crossing_line_ = ax.axvline(
                self.crossing, color=self.line_.get_color(), linestyle=":"
            )
        if not any(line.get_gid() == EVEN for line in ax.lines):
            ax.axhline(1, color=GREY, linewidth=1, gid=EVEN)
        ax.set_xscale("log")
        ax.set(xlabel="parameters", ylabel="speed-up by sharing")
        _write_sizes(ax)
        begin_at_zero(ax, self.line_)
        if self.crossing is not None:
            self._write_crossing(ax, self.crossing)
        ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _write_crossing(self, ax: "Axes", at: float) -> None:
        """Write where the crossing is, above what was written at earlier ones."""
        n_before = sum(text.get_gid() == CROSSING for text in ax.texts)
        text = ax.annotate(
            f"{at:,.0f}",
            (at, 0.02),
            xycoords=("data", "axes fraction"),
            xytext=(4, n_before * LINE_HEIGHT),
            textcoords="offset points",
            color=self.line_.get_color(),
            gid=CROSSING,
        )
        # On the right it is below the curve, but there may be no room.
        if text.get_window_extent().x1 > ax.get_window_extent().x1:
            text.set(ha="right", x=-4)


def _write_sizes(ax: "Axes") -> None:
    """Write powers of 10, or of less than two the sizes measured that have room."""
    from matplotlib.ticker import NullFormatter, NullLocator

    low, high = np.log10(ax.get_xlim())
    if math.floor(high) > math.ceil(low):
        ax.xaxis.set_minor_formatter(NullFormatter())
        return
    measured = [line for line in ax.lines if line.get_transform() == ax.transData]
    xs = [np.asarray(line.get_xdata(), dtype=float) for line in measured]
    sizes = np.unique(np.concatenate(xs))
    places = ax.transData.transform([(size, 1) for size in sizes])[:, 0]
    points = float(ax.xaxis.get_ticklabels()[0].get_fontsize())
    # A sign is about as wide as 0.7 of its height; two more are between numbers.
    room = 0.7 * points * (len(f"{sizes[-1]:,.0f}") + 2) * ax.figure.dpi / 72
    ax.set_xticks(sizes[with_room(places, room)])
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.xaxis.set_minor_locator(NullLocator())
