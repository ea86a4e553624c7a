"""From what size on sharing a network pays."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike

from skdistmlp.plotting.axes import COLOURS, GREY, axes_to_draw_on, begin_at_zero

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class CrossoverDisplay:
    """How many times faster a shared network is, by its number of parameters.

    Make one with `from_measurements`, or from ratios and a crossing of your own.

    Parameters
    ----------
    n_parameters : sequence of int
        Sizes of the networks.
    times_faster : sequence of float
        Time of one worker divided by that of all.
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
            Sizes of the networks, in ascending order.
        alone : array-like of shape (n_networks,) or (n_networks, n_repeats)
            What one worker took, in whatever unit.
        shared : array-like of the same shape
            What all workers took, in the same unit. Of repeats, the median of the
            ratios is drawn.
        ax : matplotlib Axes, optional
            Where to draw; axes of a new figure without.
        name : str, optional
            What to call the measurement in the legend.
        **kwargs
            For matplotlib's `plot`.

        Returns
        -------
        CrossoverDisplay
            The display. Its `crossing` is None if sharing always pays, or never.

        Raises
        ------
        ValueError
            If the shapes differ, a time is not positive, or sizes do not ascend.
        """
        ones, alls = np.asarray(alone, dtype=float), np.asarray(shared, dtype=float)
        if ones.shape != alls.shape or ones.shape[:1] != (len(n_parameters),):
            raise ValueError(
                f"expected times of one and of all for each of {len(n_parameters)} "
                f"networks, got shapes {ones.shape} and {alls.shape}"
            )
        if not (np.isfinite([ones, alls]).all() and min(ones.min(), alls.min()) > 0):
            raise ValueError("times have to be positive numbers")
        if not (np.diff(n_parameters) > 0).all():
            raise ValueError("n_parameters have to be in ascending order")
        ratios = np.median((ones / alls).reshape(len(ones), -1), axis=1).tolist()
        found = crossing(n_parameters, ratios)
        display = cls(
            n_parameters=n_parameters,
            times_faster=ratios,
            crossing=None if math.isnan(found) else found,
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
        """
        ax = axes_to_draw_on(ax)
        name = self.name if name is None else name
        first = not ax.lines
        colour = COLOURS[len(ax.get_legend_handles_labels()[0]) % len(COLOURS)]
        options: dict[str, Any] = {
            "color": colour,
            "marker": "o",
            "label": name or "measured",
        } | kwargs
        (self.line_,) = ax.plot(self.n_parameters, self.times_faster, **options)
        self.crossing_line_ = None
        if self.crossing is not None:
            self.crossing_line_ = ax.axvline(
                self.crossing, color=self.line_.get_color(), linestyle=":"
            )
            ax.annotate(
                f"{self.crossing:,.0f}",
                (self.crossing, 0.02),
                xycoords=("data", "axes fraction"),
                xytext=(4, 0),
                textcoords="offset points",
                color=self.line_.get_color(),
            )
        if first:
            ax.axhline(1, color=GREY, linewidth=1)
        ax.set_xscale("log")
        ax.set(xlabel="parameters", ylabel="times the speed of one")
        begin_at_zero(ax, self.line_)
        ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self


def crossing(sizes: Sequence[float], gains: Sequence[float]) -> float:
    """Return the size at which the gain is 1, interpolated on logarithms.

    NaN if the first gain is not below 1, or the last not above.
    """
    if not gains[0] < 1 < gains[-1]:
        return math.nan
    # The last size at which nothing is gained yet, so that noise counts against.
    last = max(i for i, gain in enumerate(gains) if gain < 1)
    between = slice(last, last + 2)
    size = np.interp(0.0, np.log(gains[between]), np.log(sizes[between]))
    return math.exp(float(size))
