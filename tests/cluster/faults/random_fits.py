"""Random fits for the soak test: engines, networks and rows, drawn from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

import dask.array as da
import numpy as np
from distributed import Client
from scipy import sparse

from skdistmlp import DistributedMLPClassifier

N_HELD_OUT = 200
"""Rows that are validated, of a fit with its own rows for that."""

BLOCK_ROWS = 400
"""Rows of a block of a Dask array."""


@dataclass(frozen=True)
class RandomFit:
    """What is trained, and how.

    Attributes
    ----------
    engine : {"peers", "futures"}
        The engine.
    n_workers, n_replicas : int
        Of the grid.
    rows : {"dense", "sparse", "dask"}
        What X is.
    has_weights : bool
        Whether samples have weights.
    holds_out : bool
        Whether early stopping has rows of its own.
    parameters : dict
        Those of the network and its training.
    has_callback : bool
        Whether a callback counts the epochs.
    has_checkpoint : bool
        Whether its state is written to a checkpoint after each round.
    """

    engine: str
    n_workers: int
    n_replicas: int
    rows: str
    has_weights: bool
    holds_out: bool
    parameters: dict[str, Any]
    has_callback: bool
    has_checkpoint: bool

    @classmethod
    def drawn(
        cls, rng: random.Random, seed: int, engine: str, validates: bool, copies: bool
    ) -> RandomFit:
        """Return a random fit.

        Parameters
        ----------
        rng : Random
            Where it is drawn from.
        seed : int
            Of the training.
        engine : {"peers", "futures"}
            The engine.
        validates, copies : bool
            Whether it must validate, or must take copies of its state.
        """
        n_workers = rng.randint(1, 3)
        n_layers = rng.randint(1, 3)
        solver = rng.choice(
            ["adam", "adam", "sgd"] + ["lbfgs"] * (not validates and not copies)
        )
        early_stopping = validates or rng.random() < 0.3
        in_epochs = solver != "lbfgs"
        rows = rng.choice(["dense", "dense", "sparse", "dask"])
        is_slow = engine == "futures"
        return cls(
            engine,
            n_workers,
            n_workers if engine == "peers" and rng.random() < 0.3 else 1,
            rows,
            rng.random() < 0.3,
            early_stopping and in_epochs and rows != "dask" and rng.random() < 0.5,
            {
                "hidden_layer_sizes": [rng.randint(3, 60) for _ in range(n_layers)],
                "activation": rng.choice(["relu", "tanh", "logistic"]),
                "solver": solver,
                # A step of tasks takes long.
                "batch_size": rng.choice([600, 1000] if is_slow else [100, 300, 1000]),
                "dropout": 0.2 if in_epochs and rng.random() < 0.3 else 0.0,
                "early_stopping": early_stopping,
                "max_iter": rng.randint(5, 8 if is_slow else 20),
                "random_state": seed,
            },
            has_callback=rng.random() < 0.3,
            has_checkpoint=rng.random() < 0.3,
        )

    def __str__(self) -> str:
        kinds = [self.engine, self.parameters["solver"], self.rows]
        kinds += [f"{self.n_replicas} replicas"] * (self.n_replicas > 1)
        kinds += ["weights"] * self.has_weights
        kinds += ["dropout"] * (self.parameters["dropout"] > 0)
        kinds += ["early stopping"] * self.parameters["early_stopping"]
        kinds += ["own rows for it"] * self.holds_out
        kinds += ["callback"] * self.has_callback
        kinds += ["checkpoint"] * self.has_checkpoint
        return ", ".join(kinds)

    def estimator(self, client: Client, **parameters: Any) -> DistributedMLPClassifier:
        """Return what trains on a cluster."""
        own: dict[str, Any] = {
            "client": client,
            "engine": self.engine,
            "n_workers": self.n_workers,
            "n_replicas": self.n_replicas,
            "parameter_threshold": 0,
        }
        return DistributedMLPClassifier(**self.parameters | own | parameters)

    def local(self, **parameters: Any) -> DistributedMLPClassifier:
        """Return what trains in this process."""
        return DistributedMLPClassifier(
            **self.parameters | {"engine": "local"} | parameters
        )

    def fit(self, clf: DistributedMLPClassifier, data: Any) -> Any:
        """Train on the rows as this fit has them; in this process, on dense ones."""
        X, y = data
        rows: dict[str, Any] = {"X": X, "y": y}
        if self.holds_out:
            rows = {"X": X[N_HELD_OUT:], "y": y[N_HELD_OUT:]}
            rows |= {"X_val": X[:N_HELD_OUT], "y_val": y[:N_HELD_OUT]}
        if self.has_weights:
            rows["sample_weight"] = 1.0 + rows["y"] / 4
        if clf.engine != "local":
            rows = {name: self._converted(value) for name, value in rows.items()}
        return clf.fit(**rows)

    def _converted(self, value: np.ndarray) -> Any:
        if self.rows == "dask":
            return da.from_array(value, chunks=(BLOCK_ROWS, *value.shape[1:]))
        if self.rows == "sparse" and value.ndim == 2:
            return sparse.csr_array(value)
        return value
