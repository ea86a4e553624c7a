"""A cluster that was started by hand
==================================

Trains on a scheduler and workers that somebody has started.

In two terminals, or on three machines::

    dask scheduler
    dask worker tcp://127.0.0.1:8786 --nthreads 1 --nworkers 2

then run this with the address that the scheduler prints.
"""

import argparse

from distributed import Client
from sklearn.datasets import make_classification

from skdistmlp import DistributedMLPClassifier


def main() -> None:
    """Train on all workers of a cluster, and show who holds what."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("address", help="such as tcp://127.0.0.1:8786")
    parser.add_argument("--width", type=int, default=1024, help="of both layers")
    asked = parser.parse_args()
    X, y = make_classification(2000, 200, n_informative=20, random_state=0)
    with Client(asked.address):
        clf = DistributedMLPClassifier(
            (asked.width, asked.width), tol=1e-2, n_iter_no_change=2, random_state=0
        ).fit(X.astype("float32"), y)
    print(clf.plan_)
    print(f"{clf.n_iter_} epochs, loss {clf.loss_:.4f}")


if __name__ == "__main__":
    main()
