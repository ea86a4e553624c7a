"""A client in a separate process, whose cluster stops while it sends.

Run with the address of a scheduler, the name of an engine, and what stops: "worker" or
"scheduler". It prints the error of the fit, and whether its rows are still in memory.
"""

# ruff: noqa: T201

import gc
import os
import signal
import sys
import time
import warnings
import weakref

import dask
import numpy as np
from distributed import Client

from skdistmlp import DistributedMLPClassifier
from skdistmlp.cluster.run import scatter

send = scatter.send_to_worker

SOON_S = 5.0
"""In which the event loop ends what was cut short; not a measure of speed."""


def main():
    client = Client(sys.argv[1])
    clf = DistributedMLPClassifier(
        (20,),
        client=client,
        engine=sys.argv[2],
        parameter_threshold=0,
        batch_size=200,
        max_iter=1,
    )
    # The first fit of each process imports a lot, for which the timeout below is too
    # short on a busy machine.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clf.fit(np.eye(50), np.arange(50) % 3)
    stopped = client.run_on_scheduler(os.getpid)
    if sys.argv[3] == "worker":
        stopped = list(client.run(os.getpid).values())[1]

    def stop_and_send(*args):
        os.kill(stopped, signal.SIGSTOP)
        return send(*args)

    with dask.config.set({"skdistmlp.exchange-timeout": "1s"}):
        scatter.send_to_worker = stop_and_send
        # More than the buffers of a connection take.
        X = np.random.default_rng(0).random((40_000, 50))
        is_held = weakref.ref(X)
        try:
            clf.fit(X, np.arange(40_000) % 3)
        except Exception as error:
            print(type(error).__name__, error)
        del X
        deadline = time.monotonic() + SOON_S
        while gc.collect() >= 0 and is_held() is not None:
            if time.monotonic() > deadline:
                print("held", flush=True)
                return
            time.sleep(0.05)
        print("freed", flush=True)


if __name__ == "__main__":
    main()
