"""How the time of a fit depends on the number of workers."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from skdistmlp.plotting.axes import COLOURS, GREY, axes_to_draw_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes


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
    ) -> None:
        self.n_workers = n_workers
        self.fit_s = fit_s
        self.fit_s_std = fit_s_std

    @classmethod
    def from_search(
        cls,
        search: Any,
        *,
        parameter: str | None = None,
        ax: "Axes | None" = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the times that a search over numbers of workers took.

        Parameters
        ----------
        search : GridSearchCV or similar
            Fitted; its candidates differ in ``n_workers``, and may differ in more:
            drawn are the means over all candidates of a number of workers.
        parameter : str, optional
            Name of the parameter, such as ``"distributedmlpclassifier__n_workers"``;
            without, the only one that ends in ``n_workers``.
        ax : matplotlib Axes, optional
            Where to draw; axes of a new figure without.
        **kwargs
            For matplotlib's `errorbar`.

        Returns
        -------
        WorkerCountDisplay
            The display.

        Raises
        ------
        ValueError
            If the search has no such parameter, or more than one, or one of its
            values is None, or all of its fits failed.
        """
        results = search.cv_results_
        searched = [key.removeprefix("param_") for key in results if "param_" in key]
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
        values = results[f"param_{parameter}"].tolist()
        if None in values:
            raise ValueError(
                f"{parameter}=None stands for all workers of a cluster, however many "
                f"they are: search over numbers"
            )
        asked = np.asarray(values, dtype=int)
        # The time of a fit that failed says nothing.
        succeeded = ~np.isnan(results["mean_test_score"])
        if not succeeded.any():
            raise ValueError("all fits of the search failed: there is nothing to draw")
        asked = asked[succeeded]
        counts = np.unique(asked)
        means = results["mean_fit_time"][succeeded]
        stds = results["std_fit_time"][succeeded]
        display = cls(
            n_workers=counts.tolist(),
            fit_s=[float(np.mean(means[asked == n])) for n in counts],
            fit_s_std=[float(np.mean(stds[asked == n])) for n in counts],
        )
        return display.plot(ax=ax, **kwargs)

    def plot(self, ax: "Axes | None" = None, **kwargs: Any) -> Self:
        """Draw the times.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; axes of a new figure without.
        **kwargs
            For matplotlib's `errorbar`.

        Returns
        -------
        WorkerCountDisplay
            This display.
        """
        ax = axes_to_draw_on(ax)
        options: dict[str, Any] = {
            "color": COLOURS[0],
            "marker": "o",
            "capsize": 3,
        } | kwargs
        options.setdefault("label", "measured")
        self.errorbar_ = ax.errorbar(
            self.n_workers, self.fit_s, self.fit_s_std, **options
        )
        fewest = int(np.argmin(self.n_workers))
        whole = self.fit_s[fewest] * self.n_workers[fewest]
        counts = np.linspace(min(self.n_workers), max(self.n_workers), 50)
        (self.ideal_line_,) = ax.plot(
            counts, whole / counts, "--", color=GREY, label="ideal"
        )
        ax.set(xlabel="workers", ylabel="seconds a fit", xticks=list(self.n_workers))
        ax.set_ylim(bottom=0)
        ax.legend()
        self.ax_, self.figure_ = ax, ax.figure
        return self
