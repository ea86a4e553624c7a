"""Which worker holds which neurons
================================

``PartitionDisplay`` plots the neurons and links of a fitted network, in the colours of
the workers that hold them. A hidden neuron is on one worker, with the coefficients that
lead to it; the coefficients that lead to the outputs are on the workers of the hidden
neurons where they start.

Of a large layer, only each worker's first and last neurons are drawn: this network has
64 inputs, 24 and 200 hidden neurons, and 10 outputs.
"""

import matplotlib.pyplot as plt
from distributed import Client, LocalCluster
from sklearn.datasets import load_digits

from skdistmlp import DistributedMLPClassifier
from skdistmlp.plotting import PartitionDisplay


def main() -> None:
    """Distribute a network although it is small, and plot it."""
    X, y = load_digits(return_X_y=True)
    clf = DistributedMLPClassifier(
        hidden_layer_sizes=(24, 200), engine="peers", tol=1e-2, random_state=0
    )
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster),
    ):
        clf.fit(X / 16, y)
    print(clf.plan_)
    _, ax = plt.subplots(figsize=(8, 6), layout="constrained")
    PartitionDisplay.from_estimator(clf, ax=ax)
    plt.show()


if __name__ == "__main__":
    main()
