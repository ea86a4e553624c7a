"""What a step is expected to take, by the number of workers."""

import textwrap
from typing import TYPE_CHECKING, Any, Self

from skdistmlp.planning.forecast import Forecast, best_per_number
from skdistmlp.planning.left_out import left_out_lines
from skdistmlp.planning.plan import Plan
from skdistmlp.plotting.axes import (
    axes_or_new,
    colour_of,
    marker_of,
    merge_line_kwargs,
    start_y_axis_at_zero,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class ForecastDisplay:
    """Time of a step by the number of workers: expected, and as it was.

    Create it with `from_plan`, from the plan of a fit or of `plan_fit`, or with
    `from_forecast`.

    Parameters
    ----------
    forecast : Forecast
        What was expected.
    n_workers : int, optional
        Workers of the fit that followed; 0 for this process.
    name : str, optional
        Name of the forecast in the legend.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the forecast.
    figure_ : matplotlib Figure
        Figure of these axes.
    line_ : matplotlib Line2D
        Expected milliseconds per step: of the fastest plan of each number of workers.
    measured_ : matplotlib Line2D or None
        What a step took in the fit.
    """

    def __init__(
        self,
        *,
        forecast: Forecast,
        n_workers: int | None = None,
        name: str | None = None,
    ) -> None:
        self.forecast = forecast
        self.n_workers = n_workers
        self.name = name

    @classmethod
    def from_plan(cls, plan: Plan, *, ax: "Axes | None" = None, **options: Any) -> Self:
        """Plot what a plan was expected to take, and what it took.

        Parameters
        ----------
        plan : Plan
            `plan_` of a fitted estimator, or what `plan_fit` returned.
        ax : matplotlib Axes, optional
            Axes to plot on; by default, those of a new figure.
        **options
            As of `from_forecast`.

        Returns
        -------
        ForecastDisplay
            The display.

        Raises
        ------
        ValueError
            If nothing was measured for the plan.
        """
        if plan.forecast is None:
            raise ValueError(
                f"the plan has no forecast: {plan.reason}. Plan a longer fit with "
                f"engine='auto' on a cluster."
            )
        n_workers = len(plan.workers)
        return cls.from_forecast(plan.forecast, n_workers=n_workers, ax=ax, **options)

    @classmethod
    def from_forecast(
        cls,
        forecast: Forecast,
        *,
        n_workers: int | None = None,
        ax: "Axes | None" = None,
        name: str | None = None,
        curve_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Plot a forecast.

        Parameters
        ----------
        forecast : Forecast
            What was expected.
        n_workers : int, optional
            Workers of the fit that followed; 0 for this process.
        ax : matplotlib Axes, optional
            Axes to plot on; by default, those of a new figure.
        name : str, optional
            Name of the forecast in the legend.
        curve_kwargs : dict, optional
            Keywords for matplotlib's `plot`.

        Returns
        -------
        ForecastDisplay
            The display.
        """
        display = cls(forecast=forecast, n_workers=n_workers, name=name)
        return display.plot(ax, curve_kwargs=curve_kwargs)

    def plot(
        self,
        ax: "Axes | None" = None,
        *,
        name: str | None = None,
        curve_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Plot the forecast.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Axes to plot on; by default, those of a new figure.
        name : str, optional
            Name of the forecast in the legend.
        curve_kwargs : dict, optional
            Keywords for matplotlib's `plot`.

        Returns
        -------
        ForecastDisplay
            This display.
        """
        ax = axes_or_new(ax)
        rows = best_per_number(self.forecast.rows)
        name = name or self.name
        number = sum(line.get_gid() == FORECAST_GID for line in ax.lines)
        options = merge_line_kwargs(
            curve_kwargs,
            color=colour_of(number),
            marker=marker_of(number),
            gid=FORECAST_GID,
            label="expected" if name is None else f"{name}, expected",
        )
        (self.line_,) = ax.plot(
            [row.n_workers for row in rows],
            [1e3 * row.step_s for row in rows],
            **options,
        )
        self.measured_ = None
        if self.forecast.step_s is not None and self.n_workers is not None:
            (self.measured_,) = ax.plot(
                [self.n_workers],
                [1e3 * self.forecast.step_s],
                linestyle="none",
                marker="X",
                markersize=9,
                color=self.line_.get_color(),
                label="measured" if name is None else f"{name}, measured",
            )
        start_y_axis_at_zero(ax, self.line_)
        label = ["Number of workers (0: this process)"]
        for line in left_out_lines(self.forecast.left_out):
            label += textwrap.wrap(line, NOTE_WIDTH)
        ax.set(xlabel="\n".join(label), ylabel="Step (ms)")
        if len(rows) > 1 and rows[-1].n_workers > WIDE:
            ax.set_xscale("symlog", base=2, linthresh=1)
        numbers = [row.n_workers for row in rows]
        ax.set_xticks(numbers, labels=[str(number) for number in numbers])
        ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self


FORECAST_GID = "forecast"
"""Marks the lines of forecasts, so that those to come can count them."""

NOTE_WIDTH = 70
"""Characters of a line below the axis, which names the workers that are left out."""

WIDE = 16
"""Number of workers from which their axis is logarithmic."""
