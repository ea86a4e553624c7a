"""How the time of a fit depends on the number of workers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from skdistmlp.plotting.axes import (
    axes_or_new,
    colour_of,
    indices_apart,
    marker_of,
    merge_line_kwargs,
    start_y_axis_at_zero,
)
from skdistmlp.plotting.validation import check_lengths, fitted_search

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MIN_TICK_DISTANCE = 0.07
"""Distance between two labelled numbers of workers, in lengths of the axis."""


class WorkerCountDisplay:
    """Time of a fit by the number of workers, next to ideal scaling.

    Ideally, twice the workers take half the time; the ideal line starts at the
    smallest number of workers measured. Create it with `from_search`, or from
    measurements of your own.

    Parameters
    ----------
    n_workers : sequence of int
        Numbers of workers.
    fit_times : sequence of float
        Seconds per fit with each number of workers.
    fit_times_std : sequence of float, optional
        Standard deviations of these times.
    name : str, optional
        Name of the measurement in the legend.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the measurement.
    figure_ : matplotlib Figure
        Figure of these axes.
    errorbar_ : matplotlib ErrorbarContainer
        Times with their standard deviations.
    ideal_line_ : matplotlib Line2D
        Ideal scaling.
    """

    def __init__(
        self,
        *,
        n_workers: Sequence[int],
        fit_times: Sequence[float],
        fit_times_std: Sequence[float] | None = None,
        name: str | None = None,
    ) -> None:
        self.n_workers = n_workers
        self.fit_times = fit_times
        self.fit_times_std = fit_times_std
        self.name = name

    @classmethod
    def from_search(
        cls,
        search: Any,
        *,
        param_name: str | None = None,
        ax: "Axes | None" = None,
        name: str | None = None,
        curve_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Plot the fit times of a search over numbers of workers.

        Parameters
        ----------
        search : GridSearchCV or similar
            A fitted search whose candidates differ in ``n_workers``, or a pipeline
            that ends in one. If they differ in other parameters too, times are
            averaged over all candidates with the same number of workers. Candidates
            without ``n_workers`` and candidates that failed are left out. For a
            successive-halving search, the times come from the last iteration that
            covers all numbers of workers.
        param_name : str, optional
            Name of the parameter, such as ``"distributedmlpclassifier__n_workers"``;
            by default, the only one whose name ends in ``n_workers``.
        ax : matplotlib Axes, optional
            Axes to plot on; by default, those of a new figure.
        name : str, optional
            Name of the search in the legend.
        curve_kwargs : dict, optional
            Keywords for matplotlib's `errorbar`.

        Returns
        -------
        WorkerCountDisplay
            The display.

        Raises
        ------
        TypeError
            If it is not a search.
        NotFittedError
            If the search is not fitted.
        ValueError
            If the search has no such parameter or several, one of its values is None,
            all fits failed, or no iteration of a successive-halving search covers all
            numbers of workers.
        """
        results = fitted_search(search).cv_results_
        param_name = _find_parameter(results, param_name)
        values = results[f"param_{param_name}"]
        # The candidates of a grid without this parameter are masked.
        is_used = ~np.ma.getmaskarray(values)
        if None in values[is_used].tolist():
            raise ValueError(
                f"{param_name}=None stands for all workers of a cluster, however many "
                f"there are: search over numbers"
            )
        # A fit that failed has no score at all, and its time means nothing.
        scores = [results[key] for key in results if key.startswith("mean_test_")]
        is_used &= ~np.isnan(scores).all(axis=0)
        if not is_used.any():
            raise ValueError(
                f"all fits with {param_name} failed: there is nothing to draw"
            )
        n_workers = np.unique(np.asarray(values[is_used], dtype=int))
        if "n_resources" in results:
            is_used &= _in_last_complete_iteration(
                results, param_name, n_workers, is_used
            )
        used_values = np.asarray(values[is_used], dtype=int)
        means = results["mean_fit_time"][is_used]
        stds = results["std_fit_time"][is_used]
        display = cls(
            n_workers=n_workers.tolist(),
            fit_times=[float(np.mean(means[used_values == n])) for n in n_workers],
            fit_times_std=[float(np.mean(stds[used_values == n])) for n in n_workers],
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
        """Plot the times.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Axes to plot on; by default, those of a new figure. Several searches may
            share the same axes.
        name : str, optional
            Name in the legend, instead of the display's own.
        curve_kwargs : dict, optional
            Keywords for matplotlib's `errorbar`.

        Returns
        -------
        WorkerCountDisplay
            This display.

        Raises
        ------
        ValueError
            If there are no times, not one for each number of workers, or one of these
            is not a positive number.
        """
        check_lengths(
            n_workers=self.n_workers,
            fit_times=self.fit_times,
            fit_times_std=self.fit_times_std,
        )
        n_workers, fit_times = np.asarray(self.n_workers), np.asarray(self.fit_times)
        if not (np.isfinite(n_workers).all() and (n_workers > 0).all()):
            raise ValueError(
                f"n_workers must be positive numbers, got {n_workers.tolist()}"
            )
        order = np.argsort(n_workers, kind="stable")
        n_workers, fit_times = n_workers[order], fit_times[order]
        stds = None
        if self.fit_times_std is not None:
            stds = np.asarray(self.fit_times_std)[order]
        ax = axes_or_new(ax)
        name = self.name if name is None else name
        kwargs = merge_line_kwargs(
            curve_kwargs,
            color=colour_of(len(ax.containers)),
            marker=marker_of(len(ax.containers)),
            capsize=3,
            label=name or "measured",
        )
        explicit = merge_line_kwargs(curve_kwargs)
        # matplotlib refuses a property that both `fmt` and a keyword set.
        for default in _properties_of(explicit.get("fmt", "")) - explicit.keys():
            del kwargs[default]
        self.errorbar_ = ax.errorbar(n_workers, fit_times, stds, **kwargs)
        measured = self.errorbar_.lines[0]
        ideal_n_workers = np.geomspace(n_workers[0], n_workers[-1], 50)
        (self.ideal_line_,) = ax.plot(
            ideal_n_workers,
            fit_times[0] * n_workers[0] / ideal_n_workers,
            "--",
            color=measured.get_color(),
            linewidth=1,
            label="ideal" if name is None else f"{name}, ideal",
        )
        ax.set(xlabel="workers", ylabel="seconds per fit")
        _label_n_workers(ax)
        start_y_axis_at_zero(ax, measured)
        handles, _ = ax.get_legend_handles_labels()
        # Measurements first, then their ideal lines.
        ax.legend(handles=sorted(handles, key=lambda handle: handle in ax.lines))
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _find_parameter(results: Any, param_name: str | None) -> str:
    """Return the name of the searched parameter that is the number of workers."""
    searched = [
        key.removeprefix("param_") for key in results if key.startswith("param_")
    ]
    if param_name is not None:
        if param_name not in searched:
            raise ValueError(
                f"{param_name!r} was not searched over, only {', '.join(searched)}"
            )
        return param_name
    found = [name for name in searched if name.endswith("n_workers")]
    if len(found) != 1:
        raise ValueError(
            f"expected one parameter named n_workers among {searched}, found "
            f"{len(found)}: choose one with param_name="
        )
    return found[0]


def _in_last_complete_iteration(
    results: Any, param_name: str, n_workers: Any, is_used: Any
) -> Any:
    """Return a mask of the last iteration that measured all numbers of workers."""
    resources = np.asarray(results["n_resources"])
    values = results[f"param_{param_name}"]
    for n_resources in np.unique(resources)[::-1]:
        in_iteration = resources == n_resources
        if set(n_workers) <= set(values[in_iteration & is_used].tolist()):
            return in_iteration
    raise ValueError(
        f"no iteration of this successive-halving search measured all of "
        f"{param_name}={n_workers.tolist()}, and fit times compare only with equal "
        f"resources: search with GridSearchCV"
    )


def _properties_of(fmt: str) -> set[str]:
    """Return which of our default properties a format string, such as "s--", sets."""
    from matplotlib.lines import Line2D

    properties = {"marker"} if fmt else set()
    # A letter is a marker or a colour.
    if any(sign.isalpha() and sign not in Line2D.markers for sign in fmt):
        properties.add("color")
    return properties


def _label_n_workers(ax: "Axes") -> None:
    """Label the measured numbers of workers, as many as fit."""
    from matplotlib.container import ErrorbarContainer
    from matplotlib.ticker import NullLocator

    measured = [c.lines[0] for c in ax.containers if isinstance(c, ErrorbarContainer)]
    xs = [np.asarray(line.get_xdata(), dtype=float) for line in measured]
    n_workers = np.unique(np.concatenate(xs))
    positions = ax.xaxis.get_transform().transform(n_workers)
    distance = MIN_TICK_DISTANCE * (positions[-1] - positions[0])
    ax.set_xticks(n_workers[indices_apart(positions, distance)])
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_locator(NullLocator())
