"""How the time of a fit depends on the number of workers
======================================================

``WorkerCountDisplay`` plots the fit times of a search over ``n_workers``, next to ideal
scaling: twice the workers, half the time. Some costs of a fit are fixed, such as
sending the data, so long fits come closer to the ideal than the ones on this page.
"""

import matplotlib.pyplot as plt
from distributed import Client, LocalCluster
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV

from skdistmlp import DistributedMLPClassifier, FastestWithin
from skdistmlp.plotting import WorkerCountDisplay


def main() -> None:
    """Search, and plot the fit times."""
    X, y = load_digits(return_X_y=True)
    X = (X / 16).astype("float32")
    clf = DistributedMLPClassifier(
        (2048,), engine="peers", tol=1e-2, n_iter_no_change=5, random_state=0
    )
    search = GridSearchCV(clf, {"n_workers": [1, 2]}, cv=3, refit=FastestWithin(0.01))
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster),
    ):
        clf.fit(X, y)  # the first fit imports the package on the workers
        search.fit(X, y)
    WorkerCountDisplay.from_search(search)
    plt.show()


if __name__ == "__main__":
    main()
