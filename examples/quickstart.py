"""Train a pipeline on digits, its hidden layers shared by two Dask workers."""

import time

from distributed import Client, LocalCluster
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdistmlp import DistributedMLPClassifier


def main() -> None:
    """Fit, predict and say who did what."""
    X, y = load_digits(return_X_y=True)
    X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
    pipeline = make_pipeline(
        StandardScaler(),
        DistributedMLPClassifier(
            hidden_layer_sizes=(256, 256),
            batch_size=450,
            early_stopping=True,
            n_iter_no_change=5,
            random_state=0,
            engine="futures",
        ),
    )
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        ) as c,
        Client(c),
    ):
        start = time.perf_counter()
        pipeline.fit(X_train, y_train)
        fitted = time.perf_counter()
        accuracy = pipeline.score(X_test, y_test)
        predicted = time.perf_counter()

    clf = pipeline[-1]
    print(f"accuracy  {accuracy:.3f} on {len(X_test)} digits it had not seen")
    print(f"engine    {clf.engine_}, {clf.n_shards_} shards")
    print(f"time      fit {fitted - start:.1f} s, {clf.n_iter_} epochs; ", end="")
    print(f"predict {predicted - fitted:.2f} s")
    print(f"plan      {clf.plan_}".replace("\n", "\n          "))


if __name__ == "__main__":
    main()
