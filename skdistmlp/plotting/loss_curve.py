"""How the loss developed during training."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from sklearn.neural_network import MLPClassifier, MLPRegressor

from skdistmlp.estimators import DistributedMLPClassifier, DistributedMLPRegressor
from skdistmlp.plotting.axes import (
    GREY,
    axes_or_new,
    draw_legend_above,
    look_of_line,
    merge_line_kwargs,
)
from skdistmlp.plotting.validation import check_lengths, fitted_network

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCORE_LABEL = "validation score"
VALIDATION_LOSS_LABEL = "validation loss"


class LossCurveDisplay:
    """Loss, validation loss and validation score by epoch.

    Create it with `from_estimator`.

    Parameters
    ----------
    loss_curve : sequence of float
        Loss of each epoch.
    validation_scores : sequence of float, optional
        Validation score of each epoch, if there were rows for validation; NaN for an
        epoch without.
    validation_loss_curve : sequence of float, optional
        Their loss at each epoch, likewise.
    name : str, optional
        Name of the curve in the legend.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the loss.
    figure_ : matplotlib Figure
        Figure of these axes.
    line_ : matplotlib Line2D
        The loss.
    validation_loss_line_ : matplotlib Line2D or None
        The loss of the rows for validation, on the same axes.
    validation_ax_ : matplotlib Axes or None
        Axes with the scores, over the same epochs.
    validation_line_ : matplotlib Line2D or None
        The scores.
    """

    def __init__(
        self,
        *,
        loss_curve: Sequence[float],
        validation_scores: Sequence[float] | None = None,
        validation_loss_curve: Sequence[float] | None = None,
        name: str | None = None,
    ) -> None:
        self.loss_curve = loss_curve
        self.validation_scores = validation_scores
        self.validation_loss_curve = validation_loss_curve
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        ax: "Axes | None" = None,
        name: str | None = None,
        curve_kwargs: dict[str, Any] | None = None,
    ) -> Self:
        """Plot the loss curve of a fitted estimator.

        Parameters
        ----------
        estimator : DistributedMLPClassifier or DistributedMLPRegressor
            A network fitted with any solver but "lbfgs", ours or scikit-learn's, a
            pipeline that ends in one, or a search over one of these.
            Scores and losses for validation are plotted at the epochs that have them:
            some calls of ``fit`` or ``partial_fit`` may have had no such rows.
        ax : matplotlib Axes, optional
            Axes to plot on; by default, those of a new figure.
        name : str, optional
            Name of the curve in the legend.
        curve_kwargs : dict, optional
            Keywords for matplotlib's `plot` of the loss.

        Returns
        -------
        LossCurveDisplay
            The display.

        Raises
        ------
        TypeError
            If there is no such network.
        NotFittedError
            If the network is not fitted.
        ValueError
            If it has no loss curve, as with ``solver="lbfgs"``, or a search kept no
            best estimator.
        """
        network = fitted_network(
            estimator,
            (
                *(DistributedMLPClassifier, DistributedMLPRegressor),
                *(MLPClassifier, MLPRegressor),
            ),
        )
        if not hasattr(network, "loss_curve_"):
            raise ValueError(
                f"solver={network.solver!r} keeps no loss curve; "
                f"the others do, such as solver='adam'"
            )
        display = cls(
            loss_curve=network.loss_curve_,
            validation_scores=_scores_by_epoch(network),
            validation_loss_curve=_losses_by_epoch(network),
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
        """Plot the curve.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Axes to plot on; by default, those of a new figure. Several fits may share
            the same axes.
        name : str, optional
            Name in the legend, instead of the display's own.
        curve_kwargs : dict, optional
            Keywords for matplotlib's `plot` of the loss.

        Returns
        -------
        LossCurveDisplay
            This display.

        Raises
        ------
        ValueError
            If there are no losses, or not as many of the others.
        """
        check_lengths(
            loss_curve=self.loss_curve,
            validation_scores=self.validation_scores,
            validation_loss_curve=self.validation_loss_curve,
        )
        ax = axes_or_new(ax)
        from matplotlib.ticker import MaxNLocator

        name = self.name if name is None else name
        n_epochs = len(self.loss_curve)
        look = look_of_line(_n_fits(ax), n_epochs)
        kwargs = merge_line_kwargs(
            curve_kwargs,
            **look,
            label="loss" if name is None else f"{name}, loss",
        )
        epochs = range(1, n_epochs + 1)
        (self.line_,) = ax.plot(epochs, self.loss_curve, **kwargs)
        ax.set(xlabel="epoch", ylabel="loss")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        self.ax_, self.figure_ = ax, ax.figure
        self.validation_loss_line_ = None
        if self.validation_loss_curve is not None:
            there, losses = _without_gaps(self.validation_loss_curve)
            (self.validation_loss_line_,) = ax.plot(
                there,
                losses,
                ":",
                color=self.line_.get_color(),
                marker="+" if len(there) == 1 else look.get("marker"),
                markevery=look.get("markevery"),
                gid=VALIDATION_LOSS_LABEL,
                label=VALIDATION_LOSS_LABEL
                if name is None
                else f"{name}, {VALIDATION_LOSS_LABEL}",
            )
        self.validation_ax_ = self.validation_line_ = None
        if self.validation_scores is not None:
            self.validation_ax_ = _find_twin(ax) or ax.twinx()
            there, scores = _without_gaps(self.validation_scores)
            (self.validation_line_,) = self.validation_ax_.plot(
                there,
                scores,
                "--",
                color=self.line_.get_color(),
                marker="x" if len(there) == 1 else look.get("marker"),
                markevery=look.get("markevery"),
                label=SCORE_LABEL if name is None else f"{name}, {SCORE_LABEL}",
            )
            self.validation_ax_.set_ylabel(SCORE_LABEL)
        twin = _find_twin(ax)
        score_lines = [] if twin is None else list(twin.lines)
        if name is not None or len(ax.lines) + len(score_lines) > 1:
            proxy = _score_proxy() if score_lines else None
            draw_legend_above(ax, list(ax.lines), score_lines, proxy)
        return self


def _losses_by_epoch(network: Any) -> list[float] | None:
    """Return the loss for validation of each epoch, NaN where there is none."""
    losses = getattr(network, "validation_loss_curve_", None)
    if losses is None or len(losses) != len(network.loss_curve_):
        return None
    return list(losses)


def _scores_by_epoch(network: Any) -> list[float] | None:
    """Return the score of each epoch, NaN where there is none.

    Like scikit-learn's, the scores have no gaps. But epochs that have a score also have
    a loss for validation.
    """
    scores = getattr(network, "validation_scores_", None)
    if scores is None or len(scores) == len(network.loss_curve_):
        return scores
    losses = _losses_by_epoch(network)
    if losses is None or len(scores) != sum(not math.isnan(loss) for loss in losses):
        return None
    left = iter(scores)
    return [loss if math.isnan(loss) else next(left) for loss in losses]


def _without_gaps(curve: Sequence[float]) -> tuple[list[int], list[float]]:
    """Return the epochs that have a value, from 1, and these values.

    A line through a single point, between two gaps, is invisible.
    """
    epochs = [epoch for epoch, value in enumerate(curve, 1) if not math.isnan(value)]
    return epochs, [curve[epoch - 1] for epoch in epochs]


def _n_fits(ax: "Axes") -> int:
    """Return the number of fits whose losses are on the axes."""
    return sum(line.get_gid() != VALIDATION_LOSS_LABEL for line in ax.lines)


def _score_proxy() -> Any:
    """Return the legend entry that stands for the scores of all fits."""
    from matplotlib.lines import Line2D

    return Line2D([], [], linestyle="--", color=GREY, label=SCORE_LABEL)


def _find_twin(ax: "Axes") -> "Axes | None":
    """Return the axes of scores that an earlier fit laid over these, if any did."""
    for other in ax.figure.axes:
        if other is not ax and other.get_shared_x_axes().joined(ax, other):
            bounds = other.get_position(original=True).bounds
            if bounds == ax.get_position(original=True).bounds:
                return other
    return None
