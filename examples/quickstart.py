"""Train a pipeline on two workers
===============================

Trains a digits pipeline on a local two-worker cluster, once with each distributed
engine.
"""

import time

from distributed import Client, SubprocessCluster
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdistmlp import DistributedMLPClassifier

# %%
# Start two workers, each a process with one thread, and wait for them. Estimators find
# the client that was created last. For a cluster that is running already, create it
# with the address of the scheduler: ``Client("tcp://127.0.0.1:8786")``.

# A LocalCluster is more common, but its workers import the script that starts them. All
# of this would have to be under `if __name__ == "__main__":`, and could not be a
# notebook. These workers are started by commands instead.
cluster = SubprocessCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
client = Client(cluster)
client.wait_for_workers(2)

# %%
# The network has two hidden layers of 256 neurons. Each worker will hold half of each.

X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
clf = DistributedMLPClassifier(
    hidden_layer_sizes=(256, 256),
    batch_size=450,
    early_stopping=True,
    n_iter_no_change=5,
    random_state=0,
)

# %%
# Train and score it with each engine. Both give the same answer. They differ in time:
# with ``"futures"``, each layer of each step is a Dask task, while with ``"peers"`` the
# workers exchange activations among themselves.

for engine in ("futures", "peers"):
    pipeline = make_pipeline(StandardScaler(), clone(clf).set_params(engine=engine))
    start = time.perf_counter()
    pipeline.fit(X_train, y_train)
    fit_s = time.perf_counter() - start
    fitted = pipeline[-1]
    print(f"engine    {fitted.engine_}, {fitted.n_workers_} workers")
    print(f"time      {fit_s:.1f} s, {fitted.n_iter_} epochs")
    score = pipeline.score(X_test, y_test)
    print(f"accuracy  {score:.3f} on {len(X_test)} unseen digits")

# %%
# The plan of a fitted network says which worker holds which neurons.

print(f"plan      {fitted.plan_}".replace("\n", "\n          "))

# %%
# Stop the workers.

client.shutdown()
