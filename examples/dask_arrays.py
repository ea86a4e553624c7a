"""Train on a Dask array
=====================

Trains on a Dask array that stays on the workers, and predicts lazily.
"""

import dask.array as da
from distributed import Client, SubprocessCluster

from skdistmlp import DistributedMLPClassifier

N_ROWS, N_FEATURES = 12_000, 64
N_TRAIN = 10_000
ROWS_PER_BLOCK = 1_000

# %%
# Create rows on the workers. Your own may come from ``da.from_zarr``,
# ``dd.read_parquet`` and so on. The class says whether the first eight features add up
# to more than 4.

cluster = SubprocessCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
client = Client(cluster)
client.wait_for_workers(2)
random = da.random.default_rng(0)
X = random.random(
    (N_ROWS, N_FEATURES), chunks=(ROWS_PER_BLOCK, N_FEATURES), dtype="float32"
)
y = (X[:, :8].sum(axis=1) > 4).astype(int)
X, y = client.persist([X, y])

# %%
# Train on most of them. Each worker gets the rows that it needs straight from the
# workers that have them, and none of ``X`` comes through this process.

clf = DistributedMLPClassifier(
    (128,),
    engine="peers",
    learning_rate_init=0.01,
    tol=1e-2,
    n_iter_no_change=3,
    random_state=0,
)
clf.fit(X[:N_TRAIN], y[:N_TRAIN])
print(clf.plan_)

# %%
# Predictions for a Dask array are a Dask array, computed when you ask for values.

labels = clf.predict(X[N_TRAIN:])
print(f"lazy       {labels.shape[0]:,} labels in {labels.npartitions} blocks")
print(f"first ten  {labels[:10].compute()}")
print(f"accuracy   {clf.score(X[N_TRAIN:], y[N_TRAIN:]):.3f}")

# %%
# Stop the workers.

client.shutdown()
