"""Networks and data that benchmarks train on."""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning

N_CLASSES = 10


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
    """

    n_features: int
    hidden: tuple[int, ...]
    n_steps: int
    n_epochs: int
    batch_size: int = 200

    @property
    def name(self) -> str:
        """The network, as in-(hidden)."""
        return f"{self.n_features}-({', '.join(map(str, self.hidden))})"

    @property
    def layer_units(self) -> tuple[int, ...]:
        """Features, hidden neurons, classes."""
        return (self.n_features, *self.hidden, N_CLASSES)

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        """Return random float32 features and classes: speed does not depend on them."""
        random = np.random.default_rng(0)
        n_rows = self.n_steps * self.batch_size
        X = random.standard_normal((n_rows, self.n_features), dtype=np.float32)
        return X, random.integers(0, N_CLASSES, n_rows)

    def parameters(self) -> dict[str, Any]:
        """Return the estimator's parameters, the same for everybody."""
        return {
            "hidden_layer_sizes": self.hidden,
            "batch_size": self.batch_size,
            "max_iter": self.n_epochs,
            "n_iter_no_change": self.n_epochs,
            "random_state": 0,
        }


def fit(estimator: BaseEstimator, X: np.ndarray, y: np.ndarray) -> None:
    """Fit without the warning that so few epochs earn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        estimator.fit(X, y)
