"""A client in a separate process, to be killed while it sends.

Run with the address of a scheduler and the name of an engine. A worker has what it was
sent, but the scheduler is not told.
"""

import asyncio
import sys

import numpy as np
from distributed import Client

from skdistmlp import DistributedMLPClassifier
from skdistmlp.cluster import _dask

call = _dask.call_or_abort


async def call_and_wait(*args, **kwargs):
    await call(*args, **kwargs)
    await asyncio.Event().wait()


if __name__ == "__main__":
    _dask.call_or_abort = call_and_wait
    clf = DistributedMLPClassifier(
        (20, 9), engine=sys.argv[2], n_workers=2, parameter_threshold=0
    )
    with Client(sys.argv[1]):
        clf.fit(np.eye(50), np.arange(50) % 2)
