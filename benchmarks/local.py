"""The `local` engine against scikit-learn, on the same threads."""

from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from benchmarks.timing import time_in_turns, with_progress
from benchmarks.workloads import SolverWorkload
from skdistmlp.crossover.output import Row
from skdistmlp.crossover.timing import median_ratio
from skdistmlp.estimators import DistributedMLPClassifier
from skdistmlp.estimators.uninterrupted import fit_uninterrupted
from skdistmlp.nn import compiled

WORKLOADS = {
    SolverWorkload(64, (100,), n_steps=200, n_epochs=5): 1.5,
    SolverWorkload(784, (256,), n_steps=50, n_epochs=5): 1.3,
    SolverWorkload(784, (1024, 1024), n_steps=20, n_epochs=5): 1.6,
    SolverWorkload(784, (4096,), n_steps=20, n_epochs=3): 1.9,
    SolverWorkload(784, (2048, 2048), n_steps=20, n_epochs=3): 1.9,
    SolverWorkload(64, (100,), n_steps=200, n_epochs=5, dtype="float64"): 1.0,
    SolverWorkload(784, (1024, 1024), n_steps=20, n_epochs=3, dtype="float64"): 1.0,
    SolverWorkload(64, (100,), n_steps=200, n_epochs=5, solver="sgd"): 1.0,
    SolverWorkload(784, (1024, 1024), n_steps=20, n_epochs=5, solver="sgd"): 1.0,
    SolverWorkload(784, (256,), n_steps=20, n_epochs=5, density=0.2): 1.0,
    SolverWorkload(10_000, (256,), n_steps=20, n_epochs=3, density=0.01): 1.0,
    SolverWorkload(64, (100,), n_steps=10, n_epochs=50, solver="lbfgs"): 1.0,
    SolverWorkload(784, (256,), n_steps=20, n_epochs=10, solver="lbfgs"): 1.0,
    SolverWorkload(
        784, (1024, 1024), n_steps=20, n_epochs=5, solver="lbfgs", dtype="float64"
    ): 1.0,
    SolverWorkload(
        10_000, (256,), n_steps=20, n_epochs=5, solver="lbfgs", density=0.01
    ): 1.0,
}
"""Workloads, and the speed-up over scikit-learn that each is to reach."""

PREDICTIONS = [
    SolverWorkload(
        n_features, hidden, n_steps=1, n_epochs=1, batch_size=n_rows, density=density
    )
    for n_features, hidden, density in [
        (64, (100,), None),
        (784, (1024, 1024), None),
        (10_000, (256,), 0.01),
    ]
    for n_rows in [1, 10, 200, 5000]
]
"""Networks, and numbers of rows to predict."""

PREDICT_TARGET = 1 / 1.2
"""Speed-up over scikit-learn that `predict` is to reach."""


def compare_training(n_threads: int, repeats: int) -> Iterator[Row]:
    """Time whole fits; yield one row per workload."""
    compiled.load(compiled.adam)
    for workload in with_progress("local", WORKLOADS, _name):
        target = WORKLOADS[workload]
        X, y = workload.data()
        sklearn = MLPClassifier(**workload.parameters())
        local = DistributedMLPClassifier(**workload.parameters(), engine="local")
        with threadpool_limits(n_threads):
            seconds = time_in_turns(
                {
                    "scikit-learn": partial(fit_uninterrupted, sklearn, X, y),
                    "local": partial(fit_uninterrupted, local, X, y),
                },
                repeats,
            )
        yield {
            "network": workload.name,
            "variant": workload.variant,
            "scikit-learn, s/epoch": median(seconds["scikit-learn"])
            / workload.n_epochs,
            "local, s/epoch": median(seconds["local"]) / workload.n_epochs,
            "speedup": median_ratio(seconds["scikit-learn"], seconds["local"]),
            "target": target,
        }


def compare_predictions(n_threads: int, repeats: int) -> Iterator[Row]:
    """Time predictions without a cluster; yield one row per network and size."""
    for workload in with_progress("predict", PREDICTIONS, _name):
        X, _ = workload.data()
        n_rows = X.shape[0]
        candidates: dict[str, Callable[[], Any]] = {}
        for name, estimator in {
            "scikit-learn": MLPClassifier(**workload.parameters()),
            "local": DistributedMLPClassifier(**workload.parameters()),
        }.items():
            estimator.partial_fit(X, [0] * n_rows, classes=range(10))
            candidates[name] = partial(_repeat, partial(estimator.predict, X), n_rows)
        with threadpool_limits(n_threads):
            seconds = time_in_turns(candidates, repeats)
        calls = _n_calls(n_rows)
        yield {
            "network": workload.name,
            "X": "dense" if workload.density is None else "sparse",
            "rows": n_rows,
            "scikit-learn, ms": 1e3 * median(seconds["scikit-learn"]) / calls,
            "local, ms": 1e3 * median(seconds["local"]) / calls,
            "speedup": median_ratio(seconds["scikit-learn"], seconds["local"]),
            "target": PREDICT_TARGET,
        }


def _name(workload: SolverWorkload) -> str:
    return f"{workload.name}, {workload.variant}"


def _n_calls(n_rows: int) -> int:
    """Return the number of calls that take long enough to time."""
    return max(1, 1000 // n_rows)


def _repeat(predict: Callable[[], Any], n_rows: int) -> None:
    for _ in range(_n_calls(n_rows)):
        predict()
