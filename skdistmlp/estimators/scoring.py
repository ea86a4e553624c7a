"""What early stopping watches: a score of the estimator or of a scorer, or the loss."""

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from inspect import signature
from numbers import Real
from typing import Any

import numpy as np
from sklearn.metrics import check_scoring, get_scorer

from skdistmlp.estimators.constraints import ENGINE_PARAMETERS
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
        ``sample_weight=`` where the rows have weights and it takes them.
    """

    estimator: Any
    scoring: Any

    def content(self) -> Sequence[Any]:
        """Return what the score depends on: no parameter of where to train."""
        parameters = {
            name: value
            for name, value in self.estimator.get_params(deep=False).items()
            if name not in ENGINE_PARAMETERS | {"verbose", "random_state"}
        }
        classes = getattr(self.estimator, "classes_", None)
        return type(self.estimator), parameters, classes, self.scoring

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
        estimator._known_outputs = KnownOutputs(X, outputs)
        scorer = self.scoring
        if isinstance(scorer, str):
            scorer = get_scorer(scorer)
        weights = {}
        if sample_weight is not None and _takes_weights(scorer):
            weights["sample_weight"] = sample_weight
        truth = estimator._targets_as_given(y)
        try:
            score = scorer(estimator, X, truth, **weights)
        except Exception as error:
            error.add_note(f"This is scoring={self.scoring!r} of rows for validation.")
            raise
        if isinstance(score, bool) or not isinstance(score, Real):
            raise TypeError(
                f"scoring={self.scoring!r} returned {score!r}, expected a number."
            )
        return float(score)


@dataclass(frozen=True)
class KnownOutputs:
    """The outputs of a network for some rows, and no others.

    Attributes
    ----------
    X : ndarray or sparse rows of shape (n_samples, n_features)
        The rows.
    outputs : ndarray of shape (n_samples, n_outputs)
        Of these rows.
    """

    X: Features
    outputs: FloatArray

    def for_rows(self, X: Any) -> FloatArray:
        """Return a copy of the outputs, if these are the rows."""
        if X is not self.X:
            raise ValueError(
                "a score in training can predict only for the X that it is given, "
                "unchanged, since the network is on its way elsewhere. Leave the "
                "score of other rows to a callback, or compute it after the fit."
            )
        return self.outputs.copy()


def _takes_weights(scorer: Any) -> bool:
    """Say whether a scorer can be given ``sample_weight``."""
    metric = getattr(scorer, "_score_func", scorer)
    try:
        parameters = signature(metric).parameters.values()
    except (TypeError, ValueError):
        return True
    return any(p.name == "sample_weight" or p.kind is p.VAR_KEYWORD for p in parameters)


_NOT_SENT = "_skl_callbacks", "_optimizer_state", "_raw_parameters", "intercepts_"


def _as_known_outputs(estimator: Any) -> Any:
    """Return an estimator that predicts what it is told, whatever the features.

    It can be sent: without client, callbacks or parameters of the network.
    """
    told = copy(estimator)
    told.client = told.scoring = None
    for name in _NOT_SENT:
        told.__dict__.pop(name, None)
    # It counts as fitted.
    told.coefs_ = []
    # scikit-learn refuses a scoring that is none here, not in the middle of training.
    check_scoring(told, scoring=estimator.scoring)
    return told
