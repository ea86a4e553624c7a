"""Say what a fit would do, without training."""

from typing import Any

from sklearn.base import clone

from skdistmlp.engines.auto import FitOutline
from skdistmlp.engines.plans_only import PLANS_ONLY, PlanFound
from skdistmlp.planning.plan import Plan


class PlanningMixin:
    """The method `plan_fit`."""

    def plan_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Plan:
        """Return the plan by which `fit` would train; print it to read why.

        Nothing is trained, and the estimator stays as it is. Parameters and data are
        checked as in `fit`. Where ``engine="auto"`` has a choice, and the fit is long
        enough, the workers and this process are measured, which takes about half a
        second; a `fit` that follows uses the same figures.

        Parameters
        ----------
        X : array-like, sparse matrix or Dask collection, (n_samples, n_features)
            Features.
        y : array-like or sparse matrix, shape (n_samples,) or (n_samples, n_outputs)
            Targets.
        sample_weight : array-like of shape (n_samples,), default=None
            Weights of the samples.

        Returns
        -------
        Plan
            Its `forecast` says what a fit would take on each number of workers. It is
            None where no figures decide: without a client, for a small network or a
            short fit, or if you ask for an engine or for a grid of workers.

        Raises
        ------
        ValueError, TypeError, ClusterError
            As in `fit`, also if workers have too little memory. Of those that other
            fits hold, which may free some, only the limits count.
        """
        return _planned(self, X, y, sample_weight).plan


def outline_of_fit(estimator: Any, X: Any, y: Any) -> FitOutline:
    """Return what can be said of a fit before it has a plan; look for no cluster."""
    alone = clone(estimator).set_params(engine="local")
    return _planned(alone, X, y).outline


def _planned(estimator: Any, *data: Any) -> PlanFound:
    """Fit as far as to the plan."""
    estimator = clone(estimator)
    # `fit` takes the engines from here.
    estimator._engines = PLANS_ONLY
    try:
        estimator.fit(*data)
    except PlanFound as found:
        # Without the frames of `fit`, which would keep its data.
        return found.with_traceback(None)
    raise AssertionError
