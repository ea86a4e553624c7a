"""Which worker holds which neurons
================================

``PartitionDisplay`` plots the neurons and links of a fitted network, in the colours of
the workers that hold them.
"""

import matplotlib.pyplot as plt
from distributed import Client, SubprocessCluster
from sklearn.datasets import load_digits

from skdistmlp import DistributedMLPClassifier
from skdistmlp.plotting import PartitionDisplay

N_WORKERS = 4

X, y = load_digits(return_X_y=True)
X = X / 16
cluster = SubprocessCluster(
    n_workers=N_WORKERS, threads_per_worker=1, dashboard_address=None
)
client = Client(cluster)
client.wait_for_workers(N_WORKERS)

# %%
# Shards
# ------
#
# Two workers share a network. A hidden neuron is on one worker, with the coefficients
# that lead to it; the coefficients that lead to the outputs are on the workers of the
# hidden neurons where they start. Of a large layer, only each worker's first and last
# neurons are drawn: this network has 64 inputs, 24 and 200 hidden neurons, and 10
# outputs.

clf = DistributedMLPClassifier(
    hidden_layer_sizes=(24, 200),
    engine="peers",
    n_workers=2,
    tol=1e-2,
    random_state=0,
)
clf.fit(X, y)
print(clf.plan_)
_, ax = plt.subplots(figsize=(8, 6), layout="constrained")
PartitionDisplay.from_estimator(clf, ax=ax)
plt.show()

# %%
# A grid of replicas and shards
# -----------------------------
#
# Four workers train two replicas of the same network, each on half of the rows of every
# mini-batch. Two workers share each replica. The second one stands behind the first,
# pale: its workers, which the legend names too, hold the same neurons.

grid = DistributedMLPClassifier(
    hidden_layer_sizes=(24, 200),
    engine="peers",
    n_workers=4,
    n_replicas=2,
    tol=1e-2,
    random_state=0,
)
grid.fit(X, y)
print(grid.plan_)
_, ax = plt.subplots(figsize=(8, 6), layout="constrained")
PartitionDisplay.from_estimator(grid, ax=ax)
plt.show()

# %%
# The grid does not change the answer, except for the last digits. Stop the workers.

largest = max(
    abs(one - other).max() for one, other in zip(clf.coefs_, grid.coefs_, strict=True)
)
print(f"largest difference of two coefficients: {largest:.0e}")
client.shutdown()
