"""Train on a Dask array
=====================

Trains on a Dask array that stays on the workers, and predicts lazily.
"""

import dask.array as da
from distributed import Client, LocalCluster

from skdistmlp import DistributedMLPClassifier

N_FEATURES = 64


def main() -> None:
    """Create rows on the workers, train on some of them, and score on the others."""
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        # Your own data may come from da.from_zarr, dd.read_parquet, ...
        draw = da.random.default_rng(0)
        X = draw.random((12_000, N_FEATURES), chunks=(1_000, N_FEATURES), dtype="f4")
        y = (X[:, :8].sum(axis=1) > 4).astype(int)
        X, y = client.persist([X, y])

        clf = DistributedMLPClassifier(
            (128,),
            engine="peers",
            learning_rate_init=0.01,
            tol=1e-2,
            n_iter_no_change=3,
            random_state=0,
        ).fit(X[:10_000], y[:10_000])
        print(clf.plan_)

        labels = clf.predict(X[10_000:])
        print(f"lazy       {labels.shape[0]:,} labels in {labels.npartitions} blocks")
        print(f"first ten  {labels[:10].compute()}")
        print(f"accuracy   {clf.score(X[10_000:], y[10_000:]):.3f}")


if __name__ == "__main__":
    main()
