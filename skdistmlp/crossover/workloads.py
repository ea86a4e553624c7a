"""Networks to measure, and the random data to train them on."""

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

N_CLASSES = 10


@dataclass(frozen=True)
class Workload:
    """A network with one or more hidden layers, and how long to train it.

    Attributes
    ----------
    n_features : int
        Width of the input.
    hidden : tuple of int
        Widths of the hidden layers.
    n_steps : int
        Mini-batches per epoch.
    n_epochs : int
        Epochs per fit.
    batch_size : int
        Rows per mini-batch.
    """

    n_features: int
    hidden: tuple[int, ...]
    n_steps: int
    n_epochs: int
    batch_size: int = 200

    @property
    def name(self) -> str:
        """The network, as features-(hidden layers)."""
        return f"{self.n_features}-({', '.join(map(str, self.hidden))})"

    @property
    def layer_units(self) -> tuple[int, ...]:
        """Features, hidden neurons, classes."""
        return (self.n_features, *self.hidden, N_CLASSES)

    def data(self) -> tuple[Any, np.ndarray]:
        """Return random features and classes: the speed does not depend on values."""
        random = np.random.default_rng(0)
        n_rows = self.n_steps * self.batch_size
        X = random.standard_normal((n_rows, self.n_features), dtype="float32")
        return X, random.integers(0, N_CLASSES, n_rows)

    def parameters(self, n_epochs: int | None = None) -> dict[str, Any]:
        """Return parameters for an estimator, scikit-learn's or ours."""
        n_epochs = n_epochs or self.n_epochs
        return {
            "hidden_layer_sizes": self.hidden,
            "batch_size": self.batch_size,
            "max_iter": n_epochs,
            "n_iter_no_change": n_epochs,
            "random_state": 0,
        }


def parse_layers(text: str) -> tuple[int, tuple[int, ...]]:
    """Read the features and the widths of hidden layers, such as "784-1024-1024".

    Raises
    ------
    ValueError
        If there is no hidden layer, or something is no positive number.
    """
    if not re.fullmatch(r"[1-9]\d*(-[1-9]\d*)+", text):
        raise ValueError(
            f"the network is {text!r}; expected the number of features and the widths "
            f"of hidden layers, such as 784-1024-1024"
        )
    n_features, *hidden = map(int, text.split("-"))
    return n_features, tuple(hidden)
