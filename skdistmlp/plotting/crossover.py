"""From what size on sharing a network pays."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from skdistmlp.plotting.axes import COLOURS, GREY, axes_to_draw_on, begin_at_zero

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class CrossoverDisplay:
    """How many times faster a shared network is, by its number of parameters.

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
