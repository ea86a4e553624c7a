"""Fit to the end, where what an interrupted fit keeps is of no use."""

import warnings
from typing import Any

from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning

INTERRUPTED = "Training interrupted by user"
"""Start of the warning with which scikit-learn and skdistmlp end an interrupted fit."""


def fit_uninterrupted(
    estimator: BaseEstimator, X: Any, y: Any, **fit_params: Any
) -> None:
    """Fit, without the warning that a fit of so few epochs has not converged.

    Parameters
    ----------
    estimator : BaseEstimator
        The estimator to train.
    X, y : array-like
        What it is trained on.
    **fit_params
        Passed on to its `fit`.

    Raises
    ------
    KeyboardInterrupt
        Where an estimator would warn that it was interrupted and keep what it has: a
        fit that is measured or compared has to be complete.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("error", INTERRUPTED, UserWarning)
        try:
            estimator.fit(X, y, **fit_params)
        except UserWarning as warning:
            if str(warning).startswith(INTERRUPTED):
                raise KeyboardInterrupt from warning
            raise
