"""Search over numbers of workers
==============================

Plots the time of a fit by the number of workers. The scores of the candidates tie,
since results do not depend on how a network is split; ``FastestWithin`` picks the
fastest.
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
        n_iter_no_change=5,
        tol=1e9,  # no improvement counts, so every fit stops after five epochs or so
        random_state=0,
    )
    X = X.astype("float32")
    # The first fit imports the package on the workers. Without a cache, each of the
    # others sends its rows.
    clone(clf).fit(X, y)
    with dask.config.set({"skdistmlp.cache.max-bytes": 0}):
        return GridSearchCV(
            clf, {"n_workers": n_workers}, cv=3, refit=FastestWithin(0.01), n_jobs=1
        ).fit(X, y)


def main() -> None:
    """Search, print the results, and plot the fit times."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--workers",
        type=int,
        default=2,
        help="largest number of workers (default: %(default)s)",
    )
    parser.add_argument(
        "--width",
        type=int,
        default=1024,
        help="width of both hidden layers (default: %(default)s)",
    )
    parser.add_argument("--plot", type=Path, help="file to write (default: show it)")
    arguments = parser.parse_args()
    with (
        LocalCluster(
            n_workers=arguments.workers,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster) as client,
    ):
        fitted = search(client, arguments.width, list(range(1, arguments.workers + 1)))
    results = fitted.cv_results_
    for n, fit_s, score in zip(
        results["param_n_workers"],
        results["mean_fit_time"],
        results["mean_test_score"],
        strict=True,
    ):
        print(f"{n} workers  {fit_s:6.2f} s per fit  accuracy {score:.3f}")
    print(f"chosen     n_workers={fitted.best_params_['n_workers']}")
    display = WorkerCountDisplay.from_search(fitted)
    if arguments.plot is None:
        plt.show()
    else:
        display.figure_.savefig(arguments.plot)
        print(f"plotted    {arguments.plot}")


if __name__ == "__main__":
    main()
