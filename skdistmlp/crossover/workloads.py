"""Networks and data that benchmarks train on."""

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import dask
import numpy as np
from scipy.sparse import random_array
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning

from skdistmlp.exceptions import SkdistmlpError

N_CLASSES = 10

SENDING_ANEW = {"skdistmlp.cache.max-bytes": 0}
"""Dask setting with which nothing stays on workers for the next call."""

INTERRUPTED = "Training interrupted by user"
"""How the warning begins with which scikit-learn's and our estimators end a fit."""

TIMED_S = 0.2
"""Seconds that two fits are to differ by, so that what else varies counts little."""

MOST_TURNS = 5
"""How often to try, each time with 2 to 15 times the epochs."""


@dataclass(frozen=True)
class Workload:
    """A network and how much to train it.

    Attributes
    ----------
    n_features : int
        Width of the input.
    hidden : tuple of int
        Widths of the hidden layers.
    n_steps : int
        Mini-batches of an epoch.
    n_epochs : int
        Epochs of a fit.
    batch_size : int
        Rows of a mini-batch.
    solver : str
        Name of the solver; "lbfgs" takes all rows of an epoch at once.
    dtype : str
        Name of the dtype of the features.
    density : float or None
        Share of the features that are stored, for sparse ones.
    """

    n_features: int
    hidden: tuple[int, ...]
    n_steps: int
    n_epochs: int
    batch_size: int = 200
    solver: str = "adam"
    dtype: Literal["float32", "float64"] = "float32"
    density: float | None = None

    @property
    def name(self) -> str:
        """The network, as in-(hidden)."""
        return f"{self.n_features}-({', '.join(map(str, self.hidden))})"

    @property
    def variant(self) -> str:
        """What else sets it apart."""
        sparse = "" if self.density is None else f", {self.density:.0%} of X stored"
        return f"{self.solver}, {self.dtype}{sparse}"

    @property
    def layer_units(self) -> tuple[int, ...]:
        """Features, hidden neurons, classes."""
        return (self.n_features, *self.hidden, N_CLASSES)

    def data(self) -> tuple[Any, np.ndarray]:
        """Return random features and classes: speed does not depend on them."""
        random = np.random.default_rng(0)
        n_rows = self.n_steps * self.batch_size
        shape = n_rows, self.n_features
        if self.density is None:
            X = random.standard_normal(shape, dtype=self.dtype)
        else:
            X = random_array(
                shape,
                density=self.density,
                format="csr",
                dtype=self.dtype,
                rng=random,
            )
        return X, random.integers(0, N_CLASSES, n_rows)

    def parameters(self, n_epochs: int | None = None) -> dict[str, Any]:
        """Return the estimator's parameters, the same for everybody."""
        n_epochs = n_epochs or self.n_epochs
        return {
            "hidden_layer_sizes": self.hidden,
            "solver": self.solver,
            "batch_size": self.batch_size,
            "max_iter": n_epochs,
            "n_iter_no_change": n_epochs,
            "random_state": 0,
        }


def fit(estimator: BaseEstimator, X: Any, y: np.ndarray) -> None:
    """Fit without the warning that so few epochs earn.

    Raises
    ------
    KeyboardInterrupt
        Where an estimator would warn that it was interrupted and keep what it has: the
        time of such a fit says nothing.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("error", INTERRUPTED, UserWarning)
        try:
            estimator.fit(X, y)
        except UserWarning as warning:
            if str(warning).startswith(INTERRUPTED):
                raise KeyboardInterrupt from warning
            raise


def step_and_rest(
    workload: Workload, make: Callable[..., BaseEstimator]
) -> tuple[float, float]:
    """Time a step, and what a fit takes beside its steps.

    Parameters
    ----------
    workload : Workload
        What to train; with more epochs, should its own pass too fast to be timed.
    make : callable
        From parameters to an estimator.

    Returns
    -------
    step_s, rest_s : float
        Seconds. A fit of one epoch is subtracted from a longer one; each sends its
        rows.

    Raises
    ------
    SkdistmlpError
        If the longer fit takes no longer, however many epochs it has.
    """
    X, y = workload.data()

    def seconds(n_epochs: int) -> float:
        estimator = make(**workload.parameters(n_epochs))
        start = time.perf_counter()
        fit(estimator, X, y)
        return time.perf_counter() - start

    n_epochs, difference_s = workload.n_epochs, 0.0
    with dask.config.set(SENDING_ANEW):
        for turn in range(MOST_TURNS):
            if turn > 0:
                lacking = 1.5 * TIMED_S / max(difference_s, TIMED_S / 10)
                n_epochs = math.ceil(n_epochs * max(2, lacking))
            short_s = seconds(1)
            difference_s = seconds(1 + n_epochs) - short_s
            if difference_s >= TIMED_S:
                break
    if difference_s <= 0:
        raise SkdistmlpError(
            f"the time of {n_epochs} epochs of {workload.name} is lost in the noise of "
            f"this machine or cluster. Measure again when nobody else uses it."
        )
    epoch_s = difference_s / n_epochs
    return epoch_s / workload.n_steps, short_s - epoch_s
