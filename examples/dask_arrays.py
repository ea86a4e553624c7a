"""Train on Dask arrays
====================

The rows are made on the workers, block by block, and stay there: the workers that share
the network copy them from each other. Predictions are a Dask array, computed where the
blocks are when you ask for them.
"""

import dask.array as da
from distributed import Client, LocalCluster

from skdistmlp import DistributedMLPClassifier


def main() -> None:
    """Train on blocks of rows, and predict some of them."""
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster),
    ):
        random = da.random.default_rng(0)
        X = random.random((10_000, 64), chunks=(1_000, 64), dtype="float32")
        y = (X.sum(axis=1) > 32).astype(int)
        X, y = X.persist(), y.persist()
        clf = DistributedMLPClassifier(
            (1024,), early_stopping=True, n_iter_no_change=2, random_state=0
        ).fit(X, y)
        labels = clf.predict(X)
        print(f"trained    on {clf.n_shards_} workers, {clf.n_iter_} epochs")
        print(f"accuracy   {clf.score(X, y):.3f}")
        print(f"predicted  {labels}")
        print(f"the first  {labels[:10].compute()}")


if __name__ == "__main__":
    main()
