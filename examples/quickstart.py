"""Train a pipeline on two workers
===============================

Trains a digits pipeline on a local two-worker cluster, once with each distributed
engine.
"""

import time

from distributed import Client, LocalCluster
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdistmlp import DistributedMLPClassifier


def main() -> None:
    """Fit and score with each distributed engine."""
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
    clf = DistributedMLPClassifier(
        hidden_layer_sizes=(256, 256),
        batch_size=450,
        early_stopping=True,
        n_iter_no_change=5,
        random_state=0,
    )
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster),
    ):
        for engine in ("futures", "peers"):
            pipeline = make_pipeline(StandardScaler(), clone(clf))
            pipeline.set_params(distributedmlpclassifier__engine=engine)
            start = time.perf_counter()
            pipeline.fit(X_train, y_train)
            fit_s = time.perf_counter() - start
            fitted = pipeline[-1]
            print(f"engine    {fitted.engine_}, {fitted.n_workers_} workers")
            print(f"time      {fit_s:.1f} s, {fitted.n_iter_} epochs")
            score = pipeline.score(X_test, y_test)
            print(f"accuracy  {score:.3f} on {len(X_test)} unseen digits")
    print(f"plan      {fitted.plan_}".replace("\n", "\n          "))


if __name__ == "__main__":
    main()
