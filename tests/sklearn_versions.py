"""Differences of the older versions of scikit-learn that the tests run with."""

from typing import Any

import numpy as np
import sklearn
from sklearn.neural_network._multilayer_perceptron import BaseMultilayerPerceptron

from skdistmlp.requirements import release_numbers

BEFORE_1_8 = release_numbers(sklearn.__version__) < (1, 8)
BEFORE_1_9 = release_numbers(sklearn.__version__) < (1, 9)


def stop_early_with_strings() -> None:
    """Let scikit-learn's own early stopping score classes that are strings.

    Before 1.9 it looks for NaN among the labels, which is an error for strings. What it
    would do without that is what ours is compared with.
    """
    if BEFORE_1_9:
        BaseMultilayerPerceptron._score_with_function = _score_with_function


def _score_with_function(
    estimator: Any, X: Any, y: Any, sample_weight: Any, score_function: Any
) -> float:
    """Score as scikit-learn 1.9 does."""
    predicted = estimator._predict(X, check_input=False)
    if predicted.dtype.kind == "f" and not np.isfinite(predicted).all():
        return np.nan
    return float(score_function(y, predicted, sample_weight=sample_weight))
