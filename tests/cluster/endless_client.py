"""A client in a separate process, to be killed: trains on two workers endlessly.

Run with the address of a scheduler.
"""

import sys

import numpy as np
from distributed import Client

from skdistmlp import DistributedMLPClassifier

if __name__ == "__main__":
    clf = DistributedMLPClassifier(
        (20, 9),
        engine="peers",
        n_workers=2,
        parameter_threshold=0,
        max_iter=10**9,
        n_iter_no_change=np.inf,
    )
    with Client(sys.argv[1]):
        clf.fit(np.eye(50), np.arange(50) % 2)
