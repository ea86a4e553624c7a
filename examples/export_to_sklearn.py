"""Export a network to scikit-learn
================================

Trains on a cluster and exports the network as a scikit-learn estimator, which can be
saved, loaded and trained further without skdistmlp and without a cluster.
"""

import pickle

from distributed import Client, SubprocessCluster
from sklearn.datasets import load_digits

from skdistmlp import DistributedMLPClassifier

# %%
# Train on two workers, and stop them.

X, y = load_digits(return_X_y=True)
X = X / 16
cluster = SubprocessCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
client = Client(cluster)
client.wait_for_workers(2)
clf = DistributedMLPClassifier(
    (64, 64), engine="peers", tol=1e-2, n_iter_no_change=3, random_state=0
)
clf.fit(X, y)
print(f"trained    on {clf.n_workers_} workers, {clf.n_iter_} epochs")
client.shutdown()

# %%
# Export and save the network. Whoever loads it needs scikit-learn only.

saved = pickle.dumps(clf.to_sklearn())
mlp = pickle.loads(saved)
print(f"exported   a {type(mlp).__name__} of {len(saved):,} bytes")
print(f"equal      {bool((mlp.predict(X) == clf.predict(X)).all())}")

# %%
# Train it for another epoch in scikit-learn, and import it again.

mlp.partial_fit(X, y)
imported = DistributedMLPClassifier.from_sklearn(mlp)
print(f"imported   accuracy {imported.score(X, y):.3f}")
