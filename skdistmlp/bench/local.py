"""The `local` engine against scikit-learn, on the same threads."""

from collections.abc import Iterator
from functools import partial
from statistics import median

from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from skdistmlp.bench.timing import Row, interleaved, median_ratio
from skdistmlp.bench.workloads import Workload, fit
from skdistmlp.estimators import DistributedMLPClassifier

WORKLOADS = {
    Workload(64, (100,), n_steps=200, n_epochs=5): 1.5,
    Workload(784, (256,), n_steps=50, n_epochs=5): 1.3,
    Workload(784, (1024, 1024), n_steps=20, n_epochs=5): 1.6,
    Workload(784, (4096,), n_steps=20, n_epochs=3): 1.9,
    Workload(784, (2048, 2048), n_steps=20, n_epochs=3): 1.9,
}
"""Networks, and how many times scikit-learn's speed is the least wanted."""


def against_sklearn(n_threads: int, repeats: int) -> Iterator[Row]:
    """Time whole fits, float32, Adam; yield a row a network."""
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
            "threads": n_threads,
            "sklearn, s/epoch": median(seconds["sklearn"]) / workload.n_epochs,
            "local, s/epoch": median(seconds["local"]) / workload.n_epochs,
            "times faster": median_ratio(seconds["sklearn"], seconds["local"]),
            "wanted": wanted,
        }
