"""Concurrent fits of every kind, from threads and inside tasks, on two workers.

``SKDISTMLP_SOAK_FITS`` is their number, ``SKDISTMLP_SOAK_SEED`` the seed of the first;
everything about a fit follows from its seed.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
from distributed import Client, LocalCluster
from scipy import sparse

from skdistmlp import DistributedMLPClassifier, DistributedMLPRegressor
from tests.cluster.leaks import assert_nothing_left, remember
from tests.cluster.memory import SHORT_HISTORIES, Memory, show
from tests.cluster.support import WITHIN_S

# All threads share the warning filters.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

N_FITS = int(os.environ.get("SKDISTMLP_SOAK_FITS", "200"))
FIRST_SEED = int(os.environ.get("SKDISTMLP_SOAK_SEED", "0"))
N_AT_ONCE = 8

FIT_WITHIN_S = 300.0
"""Seconds after which a fit that waits for others counts as hung."""

INPUTS: dict[str, Callable[[np.ndarray], Any]] = {
    "array": np.asarray,
    "float32": np.float32,
    "frame": lambda X: pd.DataFrame(X, columns=[f"pixel{i}" for i in range(64)]),
    "sparse": sparse.csr_array,
    "dask": lambda X: da.from_array(X, chunks=(70, 64)),
}


@dataclass(frozen=True)
class Fit:
    """One fit and the calls after it."""

    seed: int
    inside: bool
    kind: str
    estimator: type
    parameters: dict[str, Any]
    n_rows: int

    @classmethod
    def drawn(cls, seed: int) -> "Fit":
        draw = np.random.default_rng(seed)
        solver = str(draw.choice(["adam", "sgd", "lbfgs"], p=[0.6, 0.2, 0.2]))
        inside = bool(draw.random() < 0.4)
        return cls(
            seed,
            inside,
            # A collection belongs to the client that made it.
            str(draw.choice([k for k in INPUTS if not inside or k != "dask"])),
            draw.choice([DistributedMLPClassifier, DistributedMLPRegressor]),
            {
                "hidden_layer_sizes": [(12,), (9, 7)][draw.integers(2)],
                "solver": solver,
                "engine": str(draw.choice(["local", "futures", "peers", "auto"])),
                "n_workers": [None, 1, 2][draw.integers(3)],
                "early_stopping": solver != "lbfgs" and bool(draw.random() < 0.3),
                "max_iter": int(draw.integers(2, 6)),
                "batch_size": 50,
                "random_state": seed,
                "parameter_threshold": 0,
            },
            int(draw.integers(100, 300)),
        )

    def data(self) -> tuple[np.ndarray, np.ndarray]:
        draw = np.random.default_rng(self.seed)
        X = draw.random((self.n_rows, 64))
        return X, (X[:, :8].sum(axis=1) * 2).astype(int) % 3

    def predictions(self, client: Client | None) -> np.ndarray:
        """Train, continue if needed, and predict, on a cluster or locally."""
        X, y = self.data()
        parameters = self.parameters | {"client": client}
        if client is None and not self.inside:
            parameters["engine"] = "local"
        mlp = self.estimator(**parameters)
        rows = INPUTS[self.kind](X)
        mlp.fit(rows, y)
        if self.parameters["solver"] != "lbfgs" and not mlp.early_stopping:
            mlp.partial_fit(rows, y)
        return np.asarray(mlp.predict(rows))


def in_a_task(fit: Fit) -> np.ndarray:
    """Predict on a worker, with the cluster that runs the task."""
    return fit.predictions(None)


def outcome(client: Client, fit: Fit) -> str:
    """Return "right", or what is wrong."""
    if fit.inside:
        task = client.submit(in_a_task, fit, pure=False)
        found = task.result(FIT_WITHIN_S)
    else:
        found = fit.predictions(client)
    here = Fit(**vars(fit) | {"inside": False}).predictions(None)
    if np.allclose(found, here, rtol=1e-3, atol=1e-5):
        return "right"
    return f"wrong: {fit}"


def test_concurrent_fits_of_every_kind_succeed_and_leave_nothing_behind(capsys):
    outcomes, memory = Counter(), Memory()
    with (
        capsys.disabled(),
        # Smaller than the rows.
        dask.config.set(SHORT_HISTORIES | {"skdistmlp.cache.max-bytes": "2MiB"}),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
        ThreadPoolExecutor(N_AT_ONCE) as pool,
    ):
        remember(client)
        for first in range(FIRST_SEED, FIRST_SEED + N_FITS, N_AT_ONCE):
            fits = [Fit.drawn(seed) for seed in range(first, first + N_AT_ONCE)]
            under_way = [pool.submit(outcome, client, fit) for fit in fits]
            for fit, ended in zip(fits, under_way, strict=True):
                engine, where = fit.parameters["engine"], "task" if fit.inside else ""
                outcomes[engine, where, ended.result(FIT_WITHIN_S)] += 1
            memory.look(client)
        for (engine, where, how), number in sorted(outcomes.items()):
            show(f"{engine} {where}: {how}: {number}")
        assert_nothing_left(client, within_s=WITHIN_S)
        memory.check()
    assert all(how == "right" for _, _, how in outcomes)
