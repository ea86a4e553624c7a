"""A search over numbers of workers
================================

Draws how long a fit takes on each number. The scores of the candidates tie, since the
answer does not depend on how a network is split: ``FastestWithin`` picks the one to
keep.
"""

import argparse
from pathlib import Path

import dask
import matplotlib.pyplot as plt
from distributed import Client, LocalCluster
from sklearn.base import clone
from sklearn.datasets import make_classification
from sklearn.model_selection import GridSearchCV

from skdistmlp import DistributedMLPClassifier, FastestWithin
from skdistmlp.plotting import WorkerCountDisplay


def search(client: Client, width: int, n_workers: list[int]) -> GridSearchCV:
    """Train a network on each number of workers, one fit after the other."""
    X, y = make_classification(
        2000, 784, n_informative=50, n_classes=10, random_state=0
    )
    clf = DistributedMLPClassifier(
        (width, width),
        client=client,
        engine="peers",
        parameter_threshold=0,
        n_iter_no_change=10,
        tol=1e9,  # ten epochs or so, whatever comes of them
        random_state=0,
    )
    X = X.astype("float32")
    # The first fit on a worker is slower, and the next would find rows there.
    clone(clf).fit(X, y)
    with dask.config.set({"skdistmlp.cache.max-bytes": 0}):
        return GridSearchCV(
            clf, {"n_workers": n_workers}, cv=3, refit=FastestWithin(0.01), n_jobs=1
        ).fit(X, y)


def main() -> None:
    """Search, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, default=2, help="default: 2")
    parser.add_argument("--width", type=int, default=1024, help="of both layers")
    parser.add_argument("--png", type=Path, help="file to write; shown without")
    asked = parser.parse_args()
    with (
        LocalCluster(
            n_workers=asked.workers,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
    ):
        found = search(client, asked.width, list(range(1, asked.workers + 1)))
    results = found.cv_results_
    for n, fit_s, score in zip(
        results["param_n_workers"],
        results["mean_fit_time"],
        results["mean_test_score"],
        strict=True,
    ):
        print(f"{n} workers  {fit_s:6.2f} s a fit  accuracy {score:.3f}")
    print(f"chosen     n_workers={found.best_params_['n_workers']}")
    display = WorkerCountDisplay.from_search(found)
    if asked.png is None:
        plt.show()
    else:
        display.figure_.savefig(asked.png)
        print(f"drawn      {asked.png}")


if __name__ == "__main__":
    main()
