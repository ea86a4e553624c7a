"""Time training, with the cost of a step apart from the fixed cost of a fit."""

import math
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

import dask
from sklearn.base import BaseEstimator

from skdistmlp.crossover.workloads import Workload
from skdistmlp.estimators.uninterrupted import fit_uninterrupted
from skdistmlp.exceptions import SkdistmlpError, counted

EstimatorFactory = Callable[..., BaseEstimator]
"""A function from parameters to an estimator."""

WITHOUT_CACHE = {"skdistmlp.cache.max-bytes": 0}
"""Dask setting with which every call sends its rows again."""

MIN_DIFFERENCE_S = 0.2
"""Seconds by which two fits have to differ, so that noise counts little."""

MAX_ATTEMPTS = 5
"""Attempts to reach that difference, each with 2 to 15 times the epochs of the last."""


class FitTime(NamedTuple):
    """How long training takes.

    Attributes
    ----------
    step_s : float
        Seconds per mini-batch.
    fixed_s : float
        Seconds that a fit takes however many steps it has.
    """

    step_s: float
    fixed_s: float


def time_fit(workload: Workload, make_estimator: EstimatorFactory) -> FitTime:
    """Time fits of one epoch and of several, and separate steps from fixed costs.

    Parameters
    ----------
    workload : Workload
        What to train. It is trained for more epochs if its own pass too fast to time.
    make_estimator : callable
        From parameters to an estimator.

    Returns
    -------
    FitTime
        Each fit sends its rows, so that this is part of the fixed cost.

    Raises
    ------
    SkdistmlpError
        If the longer fit takes no longer, however many epochs it has.
    """
    X, y = workload.data()

    def fit_s(n_epochs: int) -> float:
        estimator = make_estimator(**workload.parameters(n_epochs))
        start = time.perf_counter()
        fit_uninterrupted(estimator, X, y)
        return time.perf_counter() - start

    n_epochs, difference_s = workload.n_epochs, 0.0
    with dask.config.set(WITHOUT_CACHE):
        for attempt in range(MAX_ATTEMPTS):
            if attempt > 0:
                # A difference lost in noise says little about how many are needed.
                reliable_s = max(difference_s, MIN_DIFFERENCE_S / 10)
                n_epochs = math.ceil(
                    n_epochs * max(2, 1.5 * MIN_DIFFERENCE_S / reliable_s)
                )
            short_s = fit_s(1)
            difference_s = fit_s(1 + n_epochs) - short_s
            if difference_s >= MIN_DIFFERENCE_S:
                break
    if difference_s <= 0:
        raise SkdistmlpError(
            f"cannot time {counted(n_epochs, 'epoch')} of {workload.name}: lost in "
            f"the noise of this machine or cluster. Measure again when it is idle."
        )
    epoch_s = difference_s / n_epochs
    return FitTime(epoch_s / workload.n_steps, short_s - epoch_s)


def median_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """Return the median of the ratios of measurements that followed each other."""
    return median(n / d for n, d in zip(numerators, denominators, strict=True))
