"""From what network size on distributed training is faster."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike

from skdistmlp.crossover.rule import crossover_size
from skdistmlp.exceptions import counted
from skdistmlp.plotting.axes import (
    GREY,
    axes_or_new,
    colour_of,
    indices_apart,
    marker_of,
    merge_line_kwargs,
    start_y_axis_at_zero,
)
from skdistmlp.plotting.validation import check_lengths

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BREAK_EVEN_GID = "skdistmlp-break-even"
"""Group id of the line at 1, which several measurements on the same axes share."""

THRESHOLD_GID = "skdistmlp-threshold"
"""Group id of the numbers at thresholds."""

THRESHOLD_LINE_HEIGHT = 12
"""Height of the number at a threshold, in points."""


class CrossoverDisplay:
    """Speed-up of distributed training by the number of parameters of the network.

    Create it with `from_measurements`, or from speed-ups and a threshold of your own.

    Parameters
    ----------
    n_parameters : sequence of int
        Sizes of the networks.
    speedups : sequence of float
        Time of training without distributing the network, wherever that would be,
        divided by the time of distributed training.
    parameter_threshold : float, optional
        Number of parameters from which distributed training is faster, if any.
    name : str, optional
        Name of the measurement in the legend.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the measurement.
    figure_ : matplotlib Figure
        Figure of these axes.
    line_ : matplotlib Line2D
        Speed-up by size.
    threshold_line_ : matplotlib Line2D or None
        Vertical line at the threshold.
    """

    def __init__(
        self,
        *,
        n_parameters: Sequence[int],
        speedups: Sequence[float],
        parameter_threshold: float | None = None,
        name: str | None = None,
    ) -> None:
        self.n_parameters = n_parameters
        self.speedups = speedups
        self.parameter_threshold = parameter_threshold
        self.name = name

    @classmethod
    def from_measurements(
        cls,
        n_parameters: Sequence[int],
        baseline_times: ArrayLike,
        distributed_times: ArrayLike,
        *,
        ax: "Axes | None" = None,
        name: str | None = None,
        curve_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Plot times of networks of growing size, with and without distributing them.

        Parameters
        ----------
        n_parameters : sequence of int, of length n_networks
            Sizes of the networks, positive and in ascending order.
        baseline_times : array-like of shape (n_networks,) or (n_networks, n_repeats)
            Times of training without distributing the network, in any unit: on one
            worker, or in the process that calls `fit`.
        distributed_times : array-like of the same shape
            Times of distributed training, in the same unit. With repeats, the median
            of the ratios is plotted.
        ax : matplotlib Axes, optional
            Axes to plot on; by default, those of a new figure.
        name : str, optional
            Name of the measurement in the legend.
        curve_kwargs : dict, optional
            Keywords for matplotlib's `plot`.

        Returns
        -------
        CrossoverDisplay
            The display. Its `parameter_threshold` is where the line last rises through
            1: the smallest size if it is always above, None if it ends at 1 or below.

        Raises
        ------
        ValueError
            If there are no times, the shapes differ, a time or a size is not a
            positive number, or the sizes are not in ascending order.
        """
        times = [
            np.asarray(t, dtype=float) for t in (baseline_times, distributed_times)
        ]
        baseline_shape, distributed_shape = (each.shape for each in times)
        n_networks = len(n_parameters)
        if baseline_shape != distributed_shape or baseline_shape[:1] != (n_networks,):
            raise ValueError(
                f"baseline_times and distributed_times must have an entry for each of "
                f"{counted(n_networks, 'network')}, got shapes {baseline_shape} and "
                f"{distributed_shape}"
            )
        if not times[0].size:
            raise ValueError("baseline_times is empty: there is nothing to draw")
        if not (np.isfinite(times).all() and np.min(times) > 0):
            raise ValueError(
                "baseline_times and distributed_times must be positive numbers"
            )
        sizes = np.asarray(n_parameters, dtype=float)
        ascend = np.isfinite(sizes).all() and (np.diff(sizes, prepend=0) > 0).all()
        if not ascend:
            raise ValueError(
                f"n_parameters must be positive numbers in ascending order, got "
                f"{sizes.tolist()}"
            )
        ratios = (times[0] / times[1]).reshape(n_networks, -1)
        speedups = np.median(ratios, axis=1).tolist()
        display = cls(
            n_parameters=n_parameters,
            speedups=speedups,
            parameter_threshold=crossover_size(sizes.tolist(), speedups),
            name=name,
        )
        return display.plot(ax=ax, curve_kwargs=curve_kwargs)

    def plot(
        self,
        ax: "Axes | None" = None,
        *,
        name: str | None = None,
        curve_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Plot the measurement.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Axes to plot on; by default, those of a new figure. Several measurements
            may share the same axes.
        name : str, optional
            Name in the legend, instead of the display's own.
        curve_kwargs : dict, optional
            Keywords for matplotlib's `plot`.

        Returns
        -------
        CrossoverDisplay
            This display.

        Raises
        ------
        ValueError
            If there are no speed-ups, or not one for each size.
        """
        check_lengths(n_parameters=self.n_parameters, speedups=self.speedups)
        ax = axes_or_new(ax)
        name = self.name if name is None else name
        number = len(ax.get_legend_handles_labels()[0])
        kwargs = merge_line_kwargs(
            curve_kwargs,
            color=colour_of(number),
            marker=marker_of(number),
            label=name or "measured",
        )
        (self.line_,) = ax.plot(self.n_parameters, self.speedups, **kwargs)
        self.threshold_line_ = None
        if self.parameter_threshold is not None:
            self.threshold_line_ = ax.axvline(
                self.parameter_threshold, color=self.line_.get_color(), linestyle=":"
            )
        if not any(line.get_gid() == BREAK_EVEN_GID for line in ax.lines):
            ax.axhline(1, color=GREY, linewidth=1, gid=BREAK_EVEN_GID)
        ax.set_xscale("log")
        ax.set(xlabel="parameters", ylabel="speed-up")
        _label_sizes(ax)
        start_y_axis_at_zero(ax, self.line_)
        if self.parameter_threshold is not None:
            self._label_threshold(ax, self.parameter_threshold)
        ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _label_threshold(self, ax: "Axes", threshold: float) -> None:
        """Write the threshold at its line, above the labels of earlier ones."""
        n_before = sum(text.get_gid() == THRESHOLD_GID for text in ax.texts)
        text = ax.annotate(
            f"{threshold:,.0f}",
            (threshold, 0.02),
            xycoords=("data", "axes fraction"),
            xytext=(4, n_before * THRESHOLD_LINE_HEIGHT),
            textcoords="offset points",
            color=self.line_.get_color(),
            gid=THRESHOLD_GID,
        )
        # To the right of the line it is below the curve, but may leave the axes.
        if text.get_window_extent().x1 > ax.get_window_extent().x1:
            text.set(ha="right", x=-4)


def _label_sizes(ax: "Axes") -> None:
    """Label powers of 10 or, if fewer than two are visible, the measured sizes."""
    from matplotlib.ticker import NullFormatter, NullLocator

    low, high = np.log10(ax.get_xlim())
    if math.floor(high) > math.ceil(low):
        ax.xaxis.set_minor_formatter(NullFormatter())
        return
    measured = [line for line in ax.lines if line.get_transform() == ax.transData]
    xs = [np.asarray(line.get_xdata(), dtype=float) for line in measured]
    sizes = np.unique(np.concatenate(xs))
    positions = ax.transData.transform([(size, 1) for size in sizes])[:, 0]
    points = float(ax.xaxis.get_ticklabels()[0].get_fontsize())
    # A digit is about 0.7 times as wide as it is high; two more separate the numbers.
    width = 0.7 * points * (len(f"{sizes[-1]:,.0f}") + 2) * ax.figure.dpi / 72
    ax.set_xticks(sizes[indices_apart(positions, width)])
    ax.xaxis.set_major_formatter("{x:,.0f}")
    ax.xaxis.set_minor_locator(NullLocator())
