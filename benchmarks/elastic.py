"""A fit on an adaptive cluster that grows to two workers, against one that stays."""

import threading
import time
from collections.abc import Iterator
from statistics import median
from typing import Any

import dask
import numpy as np
from distributed import LocalCluster

from benchmarks.timing import with_progress
from skdistmlp.crossover.local_workers import single_threaded_workers
from skdistmlp.crossover.output import Row
from skdistmlp.crossover.workloads import Workload
from skdistmlp.estimators import DistributedMLPClassifier
from skdistmlp.estimators.uninterrupted import fit_uninterrupted
from skdistmlp.nn import compiled

WORKLOAD = Workload(784, (1024, 1024), n_steps=50, n_epochs=70)
"""About 90 s on one worker, and 50 s on two."""

GROWS_AFTER_S = 5.0
"""When the cluster is to have a second worker, from the beginning of the fit."""


def compare_growing_clusters(repeats: int) -> Iterator[Row]:
    """Time fits in turns on one worker, on one that another joins, and on two."""
    seconds: dict[str, list[float]] = {"one": [], "grows": [], "two": []}
    moved: list[tuple[float, float]] = []
    differences: list[float] = []
    for _ in with_progress("elastic", range(repeats), lambda n: f"repeat {n + 1}"):
        one_s, one = _fit(1, grows=False)
        grown_s, grown = _fit(1, grows=True)
        two_s, _ = _fit(2, grows=False)
        for name, fit_s in (("one", one_s), ("grows", grown_s), ("two", two_s)):
            seconds[name].append(fit_s)
        moved += [(r.after_s, r.waited_s) for r in grown.recoveries_]
        differences.append(
            max(
                float(np.abs(mine - other).max())
                for mine, other in zip(grown.coefs_, one.coefs_, strict=True)
            )
        )
    yield {
        "network": WORKLOAD.name,
        "epochs": WORKLOAD.n_epochs,
        "one worker, s": median(seconds["one"]),
        f"a second after {GROWS_AFTER_S:g} s, s": median(seconds["grows"]),
        "two workers, s": median(seconds["two"]),
        "ends sooner": f"{_n_sooner(seconds)} of {repeats}",
        "moved after, s": median(after for after, _ in moved) if moved else "",
        "largest difference of a weight": max(differences),
    }


def _n_sooner(seconds: dict[str, list[float]]) -> int:
    pairs = zip(seconds["grows"], seconds["one"], strict=True)
    return sum(grows < one for grows, one in pairs)


def _fit(n_workers: int, *, grows: bool) -> tuple[float, Any]:
    """Fit on a new cluster, adaptive if it grows; return seconds and the estimator."""
    X, y = WORKLOAD.data()
    with (
        single_threaded_workers(n_workers) as client,
        dask.config.set({"skdistmlp.elastic": grows, "skdistmlp.max-recoveries": 3}),
    ):
        client.run(compiled.load, compiled.adam)
        assert client.cluster is not None
        if grows:
            client.cluster.adapt(minimum=n_workers, maximum=2)
        growing = threading.Timer(GROWS_AFTER_S, _grow, [client.cluster])
        estimator = DistributedMLPClassifier(
            **WORKLOAD.parameters(), client=client, engine="peers"
        )
        begun = time.perf_counter()
        if grows:
            growing.start()
        fit_uninterrupted(estimator, X, y)
        fit_s = time.perf_counter() - begun
        if grows:
            growing.join()
    return fit_s, estimator


def _grow(cluster: LocalCluster) -> None:
    """Have an adaptive cluster start the second worker."""
    # A fit has one task per worker, which is no reason for Dask to start more.
    cluster.adapt(minimum=2, maximum=2)
