"""What early stopping watches: a score of the estimator or of a scorer, or the loss."""

from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.metrics import check_scoring, get_scorer

from skdistmlp.nn.losses import Output
from skdistmlp.nn.types import Features, FloatArray
from skdistmlp.training.hold_out import Score, ScoreOfRows


def score_of(estimator: Any, output: Output, own: Score) -> Score | ScoreOfRows:
    """Return the score that the parameter ``scoring`` asks for.

    Parameters
    ----------
    estimator : BaseDistributedMLP
        Knows its classes, if it has any.
    output : Output
        Its loss.
    own : Score
        What it has without ``scoring``.
    """
    scoring = estimator.scoring
    if scoring is None:
        return own
    if isinstance(scoring, str) and scoring == "loss":
        return NegativeLoss(output)
    return ScorerScore(_as_known_outputs(estimator), scoring)


@dataclass(frozen=True)
class NegativeLoss:
    """The mean loss of the rows, without the penalty, times minus one.

    Attributes
    ----------
    output : Output
        The loss.
    """

    output: Output

    def __call__(
        self, y: np.ndarray, outputs: FloatArray, sample_weight: FloatArray | None
    ) -> float:
        """Return the score."""
        weight_sum = len(y) if sample_weight is None else float(sample_weight.sum())
        with np.errstate(all="ignore"):
            return -self.output.loss(y, outputs, sample_weight) / weight_sum


@dataclass(frozen=True)
class ScorerScore(ScoreOfRows):
    """The score of a scorer, which predicts by an estimator.

    Attributes
    ----------
    estimator : BaseDistributedMLP
        From `_as_known_outputs`.
    scoring : str or callable
        A name of scikit-learn's, or ``scoring(estimator, X, y)``, with
        ``sample_weight=`` where the rows have weights.
    """

    estimator: Any
    scoring: Any

    def __call__(
        self,
        y: np.ndarray,
        outputs: FloatArray,
        sample_weight: FloatArray | None,
        X: Features,
    ) -> float:
        """Return the score; NaN if an output is not finite."""
        if not np.isfinite(outputs).all():
            return float("nan")
        estimator = copy(self.estimator)
        estimator._known_outputs = outputs
        scorer = self.scoring
        if isinstance(scorer, str):
            scorer = get_scorer(scorer)
        weights = {} if sample_weight is None else {"sample_weight": sample_weight}
        truth = estimator._targets_as_given(y)
        return float(scorer(estimator, X, truth, **weights))


def _as_known_outputs(estimator: Any) -> Any:
    """Return an estimator that predicts what it is told, whatever the features.

    It can be sent: without client, callbacks or parameters of the network.
    """
    told = copy(estimator)
    told.client = told.scoring = None
    told.__dict__.pop("_skl_callbacks", None)
    told.coefs_ = []
    # scikit-learn refuses a scoring that is none here, not in the middle of training.
    check_scoring(told, scoring=estimator.scoring)
    return told
