"""Choose among the candidates of a search."""

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from skdistmlp.public import public

STACKLEVEL = 6
"""Frames from a function that `FastestWithin` calls to the line that called `fit`."""


@public
class FastestWithin:
    """Choose the fastest of the candidates that score about as well as the best.

    Pass it as ``refit=`` to a search over numbers of workers, whose scores tie: only
    the time depends on how the network is split, the answer does not. It warns if the
    times differ by no more than they vary from fold to fold, as they do if every
    candidate was trained locally.

    scikit-learn sets no ``best_score_`` if ``refit`` is a function. The score of the
    chosen candidate is
    ``search.cv_results_["mean_test_score"][search.best_index_]``.

    Parameters
    ----------
    tolerance : float, default=0.0
        How far below the best mean test score a candidate's may be.
    metric : str, default="score"
        Name of the metric, for a search with several.

    Raises
    ------
    ValueError
        If `tolerance` is negative.

    Examples
    --------
    >>> from sklearn.model_selection import GridSearchCV
    >>> from skdistmlp import DistributedMLPClassifier, FastestWithin
    >>> search = GridSearchCV(
    ...     DistributedMLPClassifier(hidden_layer_sizes=(4096, 4096)),
    ...     {"n_workers": [1, 2, 4]},
    ...     refit=FastestWithin(0.01),
    ... )
    """

    def __init__(self, tolerance: float = 0.0, metric: str = "score") -> None:
        if not tolerance >= 0:
            raise ValueError(f"tolerance={tolerance!r} is below 0: pass 0 or more")
        self.tolerance = tolerance
        self.metric = metric

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.tolerance!r}, metric={self.metric!r})"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, FastestWithin):
            return NotImplemented
        return vars(self) == vars(other)

    def __hash__(self) -> int:
        return hash((self.tolerance, self.metric))

    def __call__(self, cv_results: Mapping[str, Any]) -> int:
        """Return the index of the candidate to refit.

        Parameters
        ----------
        cv_results : mapping of str to array
            ``cv_results_`` of the search.

        Returns
        -------
        int
            The index, ``best_index_`` of the search.

        Raises
        ------
        ValueError
            If the search did not measure the metric, or every candidate failed.
        """
        name = f"mean_test_{self.metric}"
        if name not in cv_results:
            measured = [key for key in cv_results if key.startswith("mean_test_")]
            raise ValueError(
                f"this search did not measure metric={self.metric!r}, only "
                f"{', '.join(key.removeprefix('mean_test_') for key in measured)}"
            )
        scores = np.asarray(cv_results[name], dtype=float)
        if np.isnan(scores).all():
            raise ValueError(
                "every candidate failed, so there is none to choose; search with "
                "error_score='raise' to see why"
            )
        good = scores >= np.nanmax(scores) - self.tolerance
        fit_s = np.where(good, cv_results["mean_fit_time"], np.inf)
        _warn_of_noise(cv_results, good)
        return int(np.argmin(fit_s))


def _warn_of_noise(cv_results: Mapping[str, Any], good: np.ndarray) -> None:
    """Warn if the times for numbers of workers differ by no more than noise.

    So they do if every candidate was trained locally, perhaps in other processes, which
    tell nothing but scores and times.
    """
    counts = [
        {name: value for name, value in params.items() if _is_n_workers(name)}
        for params, is_good in zip(cv_results.get("params", ()), good, strict=False)
        if is_good
    ]
    if all(count == counts[0] for count in counts):
        return
    means = cv_results["mean_fit_time"][good]
    spread, noise = np.ptp(means), np.max(cv_results["std_fit_time"][good])
    if spread <= noise:
        warnings.warn(
            f"the mean fit times for different n_workers, {means.min():.3g} to "
            f"{means.max():.3g} s, differ by less than those of one candidate from "
            f"fold to fold (standard deviation up to {noise:.3g} s), so FastestWithin "
            f"chooses by chance. Probably all candidates were trained locally: for "
            f"n_jobs above 1 pass the address of the scheduler as client=, and "
            f"parameter_threshold=0 for a small network.",
            stacklevel=STACKLEVEL,
        )


def _is_n_workers(parameter: str) -> bool:
    return parameter.rpartition("__")[2] == "n_workers"
