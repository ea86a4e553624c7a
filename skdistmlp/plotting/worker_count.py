"""How the time of a fit depends on the number of workers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from skdistmlp.plotting.axes import (
    COLOURS,
    axes_to_draw_on,
    begin_at_zero,
    line_options,
    with_room,
)
from skdistmlp.plotting.validation import check_lengths, check_search

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST_BETWEEN = 0.07
"""Room between two numbers of workers, in lengths of the axis."""


class WorkerCountDisplay:
    """Seconds by the number of workers, and what would be ideal.

    Ideal is that twice the workers take half the time of the fewest measured.
    Make one with `from_search`, or from measurements of your own.

    Parameters
    ----------
    n_workers : sequence of int
        Numbers of workers.
    fit_s : sequence of float
        Seconds of a fit on each.
    fit_s_std : sequence of float, optional
        Their standard deviations.
    name : str, optional
        What to call the measurement in the legend.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it is drawn.
    figure_ : matplotlib Figure
        Its figure.
    errorbar_ : matplotlib ErrorbarContainer
        What was measured.
    ideal_line_ : matplotlib Line2D
        What would be ideal.
    """

    def __init__(
        self,
        *,
        n_workers: Sequence[int],
        fit_s: Sequence[float],
        fit_s_std: Sequence[float] | None = None,
        name: str | None = None,
    ) -> None:
        self.n_workers = n_workers
        self.fit_s = fit_s
        self.fit_s_std = fit_s_std
        self.name = name

    @classmethod
    def from_search(
        cls,
        search: Any,
        *,
        parameter: str | None = None,
        ax: "Axes | None" = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the times that a search over numbers of workers took.

        Parameters
        ----------
        search : GridSearchCV or similar
            Fitted; its candidates differ in ``n_workers``, and may differ in more:
            drawn are the means over all candidates of a number of workers. Those
            that leave it at its default, and those that failed, are left out. Of a
            search by halving, drawn is its last round that measured all numbers.
        parameter : str, optional
            Name of the parameter, such as ``"distributedmlpclassifier__n_workers"``;
            without, the only one that ends in ``n_workers``.
        ax : matplotlib Axes, optional
            Where to draw; axes of a new figure without.
        name : str, optional
            What to call the search in the legend.
        **kwargs
            For matplotlib's `errorbar`.

        Returns
        -------
        WorkerCountDisplay
            The display.

        Raises
        ------
        TypeError
            If it is no search.
        NotFittedError
            If the search was not fitted.
        ValueError
            If the search has no such parameter, or more than one, or one of its
            values is None, or all fits failed, or no round of a search by halving
            measured all numbers.
        """
        check_search(search)
        results = search.cv_results_
        searched = [
            key.removeprefix("param_") for key in results if key.startswith("param_")
        ]
        if parameter is None:
            found = [name for name in searched if name.endswith("n_workers")]
            if len(found) != 1:
                raise ValueError(
                    f"expected one parameter named n_workers among {searched}, but "
                    f"found {len(found)}: name it with parameter="
                )
            (parameter,) = found
        elif parameter not in searched:
            raise ValueError(f"{parameter!r} was not searched over, only {searched}")
        values = results[f"param_{parameter}"]
        # Candidates of a grid that does not have it are masked.
        drawn = ~np.ma.getmaskarray(values)
        if None in values[drawn].tolist():
            raise ValueError(
                f"{parameter}=None stands for all workers of a cluster, however many "
                f"they are: search over numbers"
            )
        # The time of a fit that failed, and so has no score at all, says nothing.
        scores = [results[key] for key in results if key.startswith("mean_test_")]
        drawn &= ~np.isnan(scores).all(axis=0)
        if not drawn.any():
            raise ValueError(
                f"all fits with {parameter} failed: there is nothing to draw"
            )
        counts = np.unique(np.asarray(values[drawn], dtype=int))
        if "n_resources" in results:
            drawn &= _last_round_with_all(results, parameter, counts, drawn)
        asked = np.asarray(values[drawn], dtype=int)
        means = results["mean_fit_time"][drawn]
        stds = results["std_fit_time"][drawn]
        display = cls(
            n_workers=counts.tolist(),
            fit_s=[float(np.mean(means[asked == n])) for n in counts],
            fit_s_std=[float(np.mean(stds[asked == n])) for n in counts],
            name=name,
        )
        return display.plot(ax=ax, **kwargs)

    def plot(
        self, ax: "Axes | None" = None, *, name: str | None = None, **kwargs: Any
    ) -> Self:
        """Draw the times.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; axes of a new figure without. Several searches may be drawn
            on the same axes.
        name : str, optional
            What to call the measurement, in place of the display's own name.
        **kwargs
            For matplotlib's `errorbar`.

        Returns
        -------
        WorkerCountDisplay
            This display.

        Raises
        ------
        ValueError
            If there are no times, or another number of them than of `n_workers`, or
            one of these is not a positive number.
        """
        check_lengths(
            n_workers=self.n_workers, fit_s=self.fit_s, fit_s_std=self.fit_s_std
        )
        n_workers, fit_s = np.asarray(self.n_workers), np.asarray(self.fit_s)
        if not (np.isfinite(n_workers).all() and (n_workers > 0).all()):
            raise ValueError(
                f"n_workers have to be positive numbers, got {n_workers.tolist()}"
            )
        by_count = np.argsort(n_workers, kind="stable")
        n_workers, fit_s = n_workers[by_count], fit_s[by_count]
        stds = None if self.fit_s_std is None else np.asarray(self.fit_s_std)[by_count]
        ax = axes_to_draw_on(ax)
        name = self.name if name is None else name
        options = line_options(
            kwargs,
            color=COLOURS[len(ax.containers) % len(COLOURS)],
            marker="o",
            capsize=3,
            label=name or "measured",
        )
        for told in _told_by(kwargs.get("fmt", "")) - line_options(kwargs).keys():
            del options[told]
        self.errorbar_ = ax.errorbar(n_workers, fit_s, stds, **options)
        measured = self.errorbar_.lines[0]
        counts = np.geomspace(n_workers[0], n_workers[-1], 50)
        (self.ideal_line_,) = ax.plot(
            counts,
            fit_s[0] * n_workers[0] / counts,
            "--",
            color=measured.get_color(),
            linewidth=1,
            label="ideal" if name is None else f"{name}, ideal",
        )
        ax.set(xlabel="workers", ylabel="seconds a fit")
        _write_counts(ax)
        begin_at_zero(ax, measured)
        handles, _ = ax.get_legend_handles_labels()
        ax.legend(handles=sorted(handles, key=lambda drawn: drawn in ax.lines))
        self.ax_, self.figure_ = ax, ax.figure
        return self


def _last_round_with_all(results: Any, parameter: str, counts: Any, drawn: Any) -> Any:
    """Return a mask of the last candidates that got the same, of all these counts."""
    given = np.asarray(results["n_resources"])
    values = results[f"param_{parameter}"]
    for amount in np.unique(given)[::-1]:
        same = given == amount
        if set(counts) <= set(values[same & drawn].tolist()):
            return same
    raise ValueError(
        f"the search by halving measured {parameter}={counts.tolist()} with different "
        f"resources, and times of a fit compare at the same: search with GridSearchCV"
    )


def _told_by(fmt: str) -> set[str]:
    """Return which defaults a short format of matplotlib, such as "s--", sets."""
    from matplotlib.lines import Line2D

    told = {"marker"} if fmt else set()
    # Letters are markers or colours.
    if any(sign.isalpha() and sign not in Line2D.markers for sign in fmt):
        told.add("color")
    return told


def _write_counts(ax: "Axes") -> None:
    """Write the numbers of workers that were measured, as many as there is room for."""
    from matplotlib.container import ErrorbarContainer
    from matplotlib.ticker import NullLocator

    measured = [c.lines[0] for c in ax.containers if isinstance(c, ErrorbarContainer)]
    drawn = [np.asarray(line.get_xdata(), dtype=float) for line in measured]
    counts = np.unique(np.concatenate(drawn))
    places = ax.xaxis.get_transform().transform(counts)
    room = LEAST_BETWEEN * (places[-1] - places[0])
    ax.set_xticks(counts[with_room(places, room)])
    ax.xaxis.set_major_formatter("{x:g}")
    ax.xaxis.set_minor_locator(NullLocator())
