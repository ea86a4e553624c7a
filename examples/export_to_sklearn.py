"""Export a network to scikit-learn
================================

Trains on a cluster and exports the network as a scikit-learn estimator, which can be
saved, loaded and trained further without skdistmlp and without a cluster.
"""

import pickle

from distributed import Client, LocalCluster
from sklearn.datasets import load_digits

from skdistmlp import DistributedMLPClassifier


def main() -> None:
    """Train, export, save, load, and continue training without a cluster."""
    X, y = load_digits(return_X_y=True)
    X = X / 16
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster),
    ):
        clf = DistributedMLPClassifier(
            (64, 64),
            engine="peers",
            tol=1e-2,
            n_iter_no_change=3,
            random_state=0,
        ).fit(X, y)
        print(f"trained    on {clf.n_workers_} workers, {clf.n_iter_} epochs")

    saved = pickle.dumps(clf.to_sklearn())
    mlp = pickle.loads(saved)  # needs scikit-learn only
    print(f"exported   a {type(mlp).__name__} of {len(saved):,} bytes")
    print(f"equal      {bool((mlp.predict(X) == clf.predict(X)).all())}")
    mlp.partial_fit(X, y)
    imported = DistributedMLPClassifier.from_sklearn(mlp)
    print(f"imported   accuracy {imported.score(X, y):.3f}")


if __name__ == "__main__":
    main()
