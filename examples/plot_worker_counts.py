"""How long a fit takes on more workers
====================================

``WorkerCountDisplay`` draws the times that a search over ``n_workers`` took, beside the
ideal: twice the workers, half the time. The network of this page is small, so that it
is quickly drawn, and hardly gains; see ``worker_counts.py`` for one that does.
"""

import matplotlib.pyplot as plt
from distributed import Client, LocalCluster
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV

from skdistmlp import DistributedMLPClassifier, FastestWithin
from skdistmlp.plotting import WorkerCountDisplay


def main() -> None:
    """Search, and draw how long the fits took."""
    X, y = load_digits(return_X_y=True)
    clf = DistributedMLPClassifier(
        (256,), parameter_threshold=0, tol=1e-2, n_iter_no_change=5, random_state=0
    )
    search = GridSearchCV(clf, {"n_workers": [1, 2]}, cv=3, refit=FastestWithin(0.01))
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster),
    ):
        search.fit((X / 16).astype("float32"), y)
    WorkerCountDisplay.from_search(search)
    plt.show()


if __name__ == "__main__":
    main()
