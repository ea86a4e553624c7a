"""How far training has come, and why it ended."""

import math
from dataclasses import dataclass, replace
from enum import Enum, auto

from skdistmlp.training.schedules import LearningRateSchedule


class Outcome(Enum):
    """Why training in epochs ended."""

    CONVERGED = auto()
    OUT_OF_EPOCHS = auto()
    INTERRUPTED = auto()
    STOPPED = auto()


@dataclass(frozen=True)
class Progress:
    """What training has seen: scikit-learn's fitted attributes of these names.

    It continues through ``partial_fit`` and warm starts.

    Attributes
    ----------
    schedule : LearningRateSchedule
        The schedule that training was started with.
    learning_rate : float
        Rate of the next epoch, before what the schedule does from step to step.
    n_iter : int
        Epochs of this call.
    n_samples_seen : int
        Samples trained on in all calls, scikit-learn's ``t_``.
    n_steps : int
        Steps of the optimiser, for as long as it continues.
    loss : float or None
        Loss of the last epoch.
    loss_curve : tuple of float
        Loss of every epoch.
    best_loss : float or None
        The lowest of them; None with early stopping.
    validation_scores : tuple of float or None
        Score of every epoch; None without validation.
    validation_losses : tuple of float or None
        Mean loss of the rows for validation, likewise; NaN for an epoch without such
        rows, if others have some.
    best_validation_score : float or None
        The highest score; None without validation.
    best_iter : int or None
        Its epoch, as `loss_curve` counts them, from 1.
    no_improvement_count : int
        Epochs since the loss or the score last improved by ``tol``.
    """

    schedule: LearningRateSchedule
    learning_rate: float
    n_iter: int = 0
    n_samples_seen: int = 0
    n_steps: int = 0
    loss: float | None = None
    loss_curve: tuple[float, ...] = ()
    best_loss: float | None = None
    validation_scores: tuple[float, ...] | None = None
    validation_losses: tuple[float, ...] | None = None
    best_validation_score: float | None = None
    best_iter: int | None = None
    no_improvement_count: int = 0

    def started(self, validating: bool, stops: bool = True) -> "Progress":
        """Return the progress with a best loss, or a best score, to improve on.

        Training that had none so far starts from the worst. `stops` says that scores,
        not losses, decide when it stops.
        """
        progress = self
        if not (validating and stops) and self.best_loss is None:
            progress = replace(progress, best_loss=float("inf"))
        if validating and self.best_validation_score is None:
            worst = float("-inf")
            progress = replace(
                progress, validation_scores=(), best_validation_score=worst
            )
        if validating and self.validation_losses is None:
            before = (math.nan,) * len(self.loss_curve)
            progress = replace(progress, validation_losses=before)
        return progress

    def with_validation_loss(self, loss: float | None) -> "Progress":
        """Return the progress with the loss of the rows for validation, if known."""
        if loss is None:
            return self
        return replace(self, validation_losses=(*(self.validation_losses or ()), loss))

    def without_validation(self) -> "Progress":
        """Return the progress after an epoch without rows for validation.

        Other calls may have some, and their losses stay in step with the epochs.
        """
        if self.validation_losses is None:
            return self
        return self.with_validation_loss(math.nan)

    def with_loss(self, loss: float, n_samples: int, n_steps: int) -> "Progress":
        """Return the progress after one more epoch with a mean loss of `loss`."""
        return replace(
            self,
            n_iter=self.n_iter + 1,
            n_samples_seen=self.n_samples_seen + n_samples,
            n_steps=self.n_steps + n_steps,
            loss=loss,
            loss_curve=(*self.loss_curve, loss),
        )

    def judged_by_loss(self, tol: float) -> "Progress":
        """Return the progress that counts whether the last loss improved by `tol`."""
        assert self.loss is not None
        assert self.best_loss is not None
        stalled = self.loss > self.best_loss - tol
        return replace(
            self,
            no_improvement_count=self.no_improvement_count + 1 if stalled else 0,
            # Not min(): a loss that is not a number is never the best.
            best_loss=self.loss if self.loss < self.best_loss else self.best_loss,
        )

    def judged_by_score(self, score: float, tol: float) -> "Progress":
        """Return the progress that counts whether `score` improves by `tol`.

        To be followed by `with_score`.
        """
        assert self.best_validation_score is not None
        stalled = score < self.best_validation_score + tol
        return replace(
            self, no_improvement_count=self.no_improvement_count + 1 if stalled else 0
        )

    def with_score(self, score: float) -> "Progress":
        """Return the progress with the score of the last epoch, perhaps the best."""
        assert self.validation_scores is not None
        assert self.best_validation_score is not None
        progress = replace(self, validation_scores=(*self.validation_scores, score))
        if not score > self.best_validation_score:
            return progress
        n_epochs = len(self.loss_curve)
        return replace(progress, best_validation_score=score, best_iter=n_epochs)


@dataclass(frozen=True)
class LbfgsProgress:
    """How far L-BFGS has come.

    Attributes
    ----------
    n_iter : int
        Iterations of this call.
    loss : float
        Loss after the last of them.
    n_evaluations : int
        Evaluations of loss and gradient until its end.
    """

    n_iter: int
    loss: float
    n_evaluations: int = 0


BEGAN_AGAIN = (
    "L-BFGS began again: an undisturbed fit ends with other parameters, and a similar "
    "loss"
)
"""What to say of an iteration from which a fit resumed: SciPy cannot go on there."""
