"""The `local` engine against scikit-learn, on the same threads."""

from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from skdistmlp.crossover.timing import Row, interleaved, median_ratio
from skdistmlp.crossover.workloads import Workload, fit
from skdistmlp.estimators import DistributedMLPClassifier
from skdistmlp.nn import compiled

WORKLOADS = {
    Workload(64, (100,), n_steps=200, n_epochs=5): 1.5,
    Workload(784, (256,), n_steps=50, n_epochs=5): 1.3,
    Workload(784, (1024, 1024), n_steps=20, n_epochs=5): 1.6,
    Workload(784, (4096,), n_steps=20, n_epochs=3): 1.9,
    Workload(784, (2048, 2048), n_steps=20, n_epochs=3): 1.9,
    Workload(64, (100,), n_steps=200, n_epochs=5, dtype="float64"): 1.0,
    Workload(784, (1024, 1024), n_steps=20, n_epochs=3, dtype="float64"): 1.0,
    Workload(64, (100,), n_steps=200, n_epochs=5, solver="sgd"): 1.0,
    Workload(784, (1024, 1024), n_steps=20, n_epochs=5, solver="sgd"): 1.0,
    Workload(784, (256,), n_steps=20, n_epochs=5, density=0.2): 1.0,
    Workload(10_000, (256,), n_steps=20, n_epochs=3, density=0.01): 1.0,
    Workload(64, (100,), n_steps=10, n_epochs=50, solver="lbfgs"): 1.0,
    Workload(784, (256,), n_steps=20, n_epochs=10, solver="lbfgs"): 1.0,
    Workload(
        784, (1024, 1024), n_steps=20, n_epochs=5, solver="lbfgs", dtype="float64"
    ): 1.0,
    Workload(10_000, (256,), n_steps=20, n_epochs=5, solver="lbfgs", density=0.01): 1.0,
}
"""Networks, and how many times scikit-learn's speed is the least wanted."""

PREDICTED = [
    Workload(
        n_features, hidden, n_steps=1, n_epochs=1, batch_size=n_rows, density=density
    )
    for n_features, hidden, density in [
        (64, (100,), None),
        (784, (1024, 1024), None),
        (10_000, (256,), 0.01),
    ]
    for n_rows in [1, 10, 200, 5000]
]
"""Networks and rows to predict for."""

LEAST_PREDICTING = 1 / 1.2
"""How many times scikit-learn's speed is the least wanted of `predict`."""


def against_sklearn(n_threads: int, repeats: int) -> Iterator[Row]:
    """Time whole fits; yield a row a network."""
    compiled.load()
    for workload, wanted in WORKLOADS.items():
        X, y = workload.data()
        theirs = MLPClassifier(**workload.parameters())
        ours = DistributedMLPClassifier(**workload.parameters(), engine="local")
        with threadpool_limits(n_threads):
            seconds = interleaved(
                {
                    "sklearn": partial(fit, theirs, X, y),
                    "local": partial(fit, ours, X, y),
                },
                repeats,
            )
        yield {
            "network": workload.name,
            "variant": workload.variant,
            "sklearn, s/epoch": median(seconds["sklearn"]) / workload.n_epochs,
            "local, s/epoch": median(seconds["local"]) / workload.n_epochs,
            "times faster": median_ratio(seconds["sklearn"], seconds["local"]),
            "wanted": wanted,
        }


def predicting(n_threads: int, repeats: int) -> Iterator[Row]:
    """Time predictions without any cluster; yield a row a network and size."""
    for workload in PREDICTED:
        X, _ = workload.data()
        n_rows = X.shape[0]
        candidates: dict[str, Callable[[], Any]] = {}
        for name, estimator in {
            "sklearn": MLPClassifier(**workload.parameters()),
            "local": DistributedMLPClassifier(**workload.parameters()),
        }.items():
            estimator.partial_fit(X, [0] * n_rows, classes=range(10))
            candidates[name] = partial(_repeat, partial(estimator.predict, X), n_rows)
        with threadpool_limits(n_threads):
            seconds = interleaved(candidates, repeats)
        calls = _n_calls(n_rows)
        yield {
            "network": workload.name,
            "X": "dense" if workload.density is None else "sparse",
            "rows": n_rows,
            "sklearn, ms": 1e3 * median(seconds["sklearn"]) / calls,
            "local, ms": 1e3 * median(seconds["local"]) / calls,
            "times faster": median_ratio(seconds["sklearn"], seconds["local"]),
            "wanted": LEAST_PREDICTING,
        }


def _n_calls(n_rows: int) -> int:
    """Return how often to predict, so that it can be timed."""
    return max(1, 1000 // n_rows)


def _repeat(predict: Callable[[], Any], n_rows: int) -> None:
    for _ in range(_n_calls(n_rows)):
        predict()
