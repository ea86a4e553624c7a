"""How training went on."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

from sklearn.neural_network import MLPClassifier, MLPRegressor

from skdistmlp.estimators import DistributedMLPClassifier, DistributedMLPRegressor
from skdistmlp.plotting.axes import (
    COLOURS,
    GREY,
    axes_to_draw_on,
    legend_above,
    line_options,
)
from skdistmlp.plotting.validation import check_lengths, check_network

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SCORE = "score of rows held out"


class LossCurveDisplay:
    """The loss of each epoch, and the score of the rows held out.

    Make one with `from_estimator`.

    Parameters
    ----------
    loss_curve : sequence of float
        Loss of each epoch.
    validation_scores : sequence of float, optional
        Score of each epoch, of training with ``early_stopping=True``.
    name : str, optional
        What to call the curve in the legend.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where the loss is drawn.
    figure_ : matplotlib Figure
        Its figure.
    line_ : matplotlib Line2D
        The loss.
    validation_ax_ : matplotlib Axes or None
        Where the scores are drawn, on the same epochs.
    validation_line_ : matplotlib Line2D or None
        The scores.
    """

    def __init__(
        self,
        *,
        loss_curve: Sequence[float],
        validation_scores: Sequence[float] | None = None,
        name: str | None = None,
    ) -> None:
        self.loss_curve = loss_curve
        self.validation_scores = validation_scores
        self.name = name

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        ax: "Axes | None" = None,
        name: str | None = None,
        **kwargs: Any,
    ) -> Self:
        """Draw the curve of a fitted estimator.

        Parameters
        ----------
        estimator : DistributedMLPClassifier or DistributedMLPRegressor
            Fitted with ``solver="adam"`` or ``"sgd"``. scikit-learn's own will do.
            Scores are drawn if every epoch has one: of training that went on with
            another `early_stopping`, nobody knows to which epochs they belong.
        ax : matplotlib Axes, optional
            Where to draw; axes of a new figure without.
        name : str, optional
            What to call the curve in the legend.
        **kwargs
            For matplotlib's `plot` of the loss.

        Returns
        -------
        LossCurveDisplay
            The display.

        Raises
        ------
        TypeError
            If it is no such estimator, but a pipeline or a search with one, say.
        NotFittedError
            If the estimator was not fitted.
        ValueError
            If it has no curve: ``solver="lbfgs"`` keeps none.
        """
        check_network(
            estimator,
            (
                *(DistributedMLPClassifier, DistributedMLPRegressor),
                *(MLPClassifier, MLPRegressor),
            ),
        )
        if not hasattr(estimator, "loss_curve_"):
            raise ValueError(
                f"solver={estimator.solver!r} keeps no loss curve; "
                f"solver='adam' and solver='sgd' do"
            )
        scores = getattr(estimator, "validation_scores_", None)
        if scores is not None and len(scores) != len(estimator.loss_curve_):
            scores = None
        display = cls(
            loss_curve=estimator.loss_curve_,
            validation_scores=scores,
            name=name,
        )
        return display.plot(ax=ax, **kwargs)

    def plot(
        self, ax: "Axes | None" = None, *, name: str | None = None, **kwargs: Any
    ) -> Self:
        """Draw the curve.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; axes of a new figure without.
        name : str, optional
            What to call the curve, in place of the display's own name.
        **kwargs
            For matplotlib's `plot` of the loss.

        Returns
        -------
        LossCurveDisplay
            This display.

        Raises
        ------
        ValueError
            If there are no losses, or another number of them than of scores.
        """
        check_lengths(
            loss_curve=self.loss_curve, validation_scores=self.validation_scores
        )
        ax = axes_to_draw_on(ax)
        from matplotlib.ticker import MaxNLocator

        name = self.name if name is None else name
        label = "loss" if name is None else f"{name}, loss"
        options = line_options(
            kwargs,
            color=COLOURS[len(ax.lines) % len(COLOURS)],
            marker="o" if len(self.loss_curve) == 1 else None,
            label=label,
        )
        epochs = range(1, len(self.loss_curve) + 1)
        (self.line_,) = ax.plot(epochs, self.loss_curve, **options)
        ax.set(xlabel="epoch", ylabel="loss")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        self.ax_, self.figure_ = ax, ax.figure
        self.validation_ax_ = self.validation_line_ = None
        if self.validation_scores is not None:
            self.validation_ax_ = _twin(ax) or ax.twinx()
            (self.validation_line_,) = self.validation_ax_.plot(
                range(1, len(self.validation_scores) + 1),
                self.validation_scores,
                "--",
                color=self.line_.get_color(),
                marker="x" if len(self.validation_scores) == 1 else None,
                label=SCORE if name is None else f"{name}, {SCORE}",
            )
            self.validation_ax_.set_ylabel("score")
        twin = _twin(ax)
        scores = [] if twin is None else list(twin.lines)
        if name is not None or len(ax.lines) + len(scores) > 1:
            legend_above(ax, list(ax.lines), scores, _any_score() if scores else None)
        return self


def _any_score() -> Any:
    """Return what stands in a legend for the scores of all fits."""
    from matplotlib.lines import Line2D

    return Line2D([], [], linestyle="--", color=GREY, label=SCORE)


def _twin(ax: "Axes") -> "Axes | None":
    """Return the axes of scores that an earlier fit laid over these, if any did."""
    for other in ax.figure.axes:
        if other is not ax and other.get_shared_x_axes().joined(ax, other):
            same = other.get_position(original=True).bounds
            if same == ax.get_position(original=True).bounds:
                return other
    return None
