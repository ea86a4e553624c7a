"""How far a training has come, and when it ends."""

from dataclasses import dataclass, field
from enum import Enum, auto


class Outcome(Enum):
    """Why training ended."""

    CONVERGED = auto()
    OUT_OF_EPOCHS = auto()
    INTERRUPTED = auto()
    STOPPED = auto()


@dataclass(frozen=True)
class LearningRateSchedule:
    """How the learning rate changes between epochs.

    Attributes
    ----------
    name : {"constant", "invscaling", "adaptive"}
        scikit-learn's names.
    initial : float
        Rate of the first epoch.
    power_t : float
        Exponent of "invscaling".
    """

    name: str
    initial: float
    power_t: float = 0.5

    def after_epoch(self, rate: float, n_samples_seen: int) -> float:
        """Return the rate of the next epoch."""
        if self.name == "invscaling":
            return self.initial / (n_samples_seen + 1) ** self.power_t
        return rate

    def after_stall(self, rate: float) -> float | None:
        """Return the rate to go on with when nothing improves, None to stop."""
        if self.name == "adaptive" and rate > 1e-6:
            return rate / 5.0
        return None


@dataclass
class Progress:
    """What a training has seen: scikit-learn's fitted attributes of these names.

    It goes on through ``partial_fit`` and warm starts.

    Attributes
    ----------
    schedule : LearningRateSchedule
        The schedule that the training was begun with.
    learning_rate : float
        Rate of the next step.
    n_iter : int
        Epochs of this call.
    n_samples_seen : int
        Samples trained on in all calls, scikit-learn's ``t_``.
    loss : float or None
        Loss of the last epoch.
    loss_curve : list of float
        Loss of every epoch.
    best_loss : float or None
        The lowest of them; None with early stopping.
    validation_scores : list of float or None
        Score of every epoch; None without early stopping.
    best_validation_score : float or None
        The highest of them; None without early stopping.
    no_improvement_count : int
        Epochs since the loss or the score last improved by ``tol``.
    """

    schedule: LearningRateSchedule
    learning_rate: float
    n_iter: int = 0
    n_samples_seen: int = 0
    loss: float | None = None
    loss_curve: list[float] = field(default_factory=list)
    best_loss: float | None = None
    validation_scores: list[float] | None = None
    best_validation_score: float | None = None
    no_improvement_count: int = 0

    def begin(self, validating: bool) -> None:
        """Make sure that there is a best loss, or a best score, to improve on.

        A training that went without until now begins at the worst.
        """
        if not validating and self.best_loss is None:
            self.best_loss = float("inf")
        if validating and self.best_validation_score is None:
            self.validation_scores = []
            self.best_validation_score = float("-inf")

    def record_loss(self, loss: float, n_samples: int) -> None:
        """Add an epoch over `n_samples` with a mean loss of `loss`."""
        self.n_iter += 1
        self.n_samples_seen += n_samples
        self.loss = loss
        self.loss_curve.append(loss)

    def judge_loss(self, tol: float) -> None:
        """Count whether the last loss is an improvement by at least `tol`."""
        assert self.loss is not None
        assert self.best_loss is not None
        if self.loss > self.best_loss - tol:
            self.no_improvement_count += 1
        else:
            self.no_improvement_count = 0
        if self.loss < self.best_loss:
            self.best_loss = self.loss

    def judge_score(self, score: float, tol: float) -> bool:
        """Count whether `score` is an improvement; return whether it is the best."""
        assert self.validation_scores is not None
        assert self.best_validation_score is not None
        self.validation_scores.append(score)
        if score < self.best_validation_score + tol:
            self.no_improvement_count += 1
        else:
            self.no_improvement_count = 0
        if score > self.best_validation_score:
            self.best_validation_score = score
            return True
        return False
