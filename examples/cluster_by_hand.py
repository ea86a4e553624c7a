"""Train on a running cluster
==========================

Trains on a scheduler and workers that were started by hand.

In two terminals, or on three machines::

    dask scheduler
    dask worker tcp://127.0.0.1:8786 --nthreads 1 --nworkers 2

Then run this script with the address that the scheduler prints.
"""

import argparse

from distributed import Client
from sklearn.datasets import make_classification

from skdistmlp import DistributedMLPClassifier


def main() -> None:
    """Train on all workers of a cluster, and print which worker holds what."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("address", help="of the scheduler, as tcp://127.0.0.1:8786")
    parser.add_argument(
        "--width",
        type=int,
        default=1024,
        help="width of both hidden layers (default: %(default)s)",
    )
    arguments = parser.parse_args()
    X, y = make_classification(2000, 200, n_informative=20, random_state=0)
    with Client(arguments.address):
        clf = DistributedMLPClassifier(
            (arguments.width, arguments.width),
            tol=1e-2,
            n_iter_no_change=2,
            random_state=0,
        ).fit(X.astype("float32"), y)
    print(clf.plan_)
    print(f"{clf.n_iter_} epochs, loss {clf.loss_:.4f}")


if __name__ == "__main__":
    main()
