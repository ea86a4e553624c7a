"""A fit on workers of a lab, one of which is cut off: what runs on its driver."""

import json
import sys
import threading
import time

import dask
import numpy as np
from distributed import Client
from sklearn.datasets import load_digits

from skdistmlp import DistributedMLPClassifier

N_WORKERS = 3

TRAINS_S = 7.0
"""For the fit to train before a worker is cut off: it has to have copies by then."""

FIT_S = 3 * TRAINS_S
"""What the fit is to take, on a fast machine or a slow one."""

FEW_EPOCHS = 200
"""By which it is told how many epochs that are."""

POLL_S = 0.02


def main(address: str, timeout_s: float) -> None:
    """Train undisturbed, then again; say who trains there, and how it ended.

    The first line of the output names the workers of the second fit, once it has
    trained for a few seconds. The second line has what became of it, as JSON:
    ``same_bits`` are those of the first fit; ``lost`` and ``workers`` are those of each
    recovery; and ``resumed_at`` is when a task of it was first seen on the spare
    worker, by `time.time`.
    """
    dask.config.set(
        {
            "skdistmlp.exchange-timeout": f"{timeout_s}s",
            "skdistmlp.cache.max-bytes": 0,
        }
    )
    X, y = load_digits(return_X_y=True)
    client = Client(address)
    client.wait_for_workers(N_WORKERS, timeout=60)

    def fit(max_iter: int) -> DistributedMLPClassifier:
        return DistributedMLPClassifier(
            (64,),
            max_iter=max_iter,
            tol=0.0,
            n_iter_no_change=10**6,
            random_state=0,
            client=client,
            engine="peers",
            n_workers=2,
            parameter_threshold=0,
        ).fit(X / 16, y)

    # The first one connects, and loads what the others use.
    seconds = []
    for _ in range(2):
        begun = time.perf_counter()
        fit(FEW_EPOCHS)
        seconds.append(time.perf_counter() - begun)
    max_iter = round(FEW_EPOCHS * FIT_S / min(seconds))
    undisturbed = fit(max_iter)
    resumed_at: list[float] = []

    def training() -> set[str]:
        return {
            worker
            for worker, keys in client.processing().items()
            if any("train-" in str(key) for key in keys)
        }

    def watch() -> None:
        while len(first := training()) < 2:
            time.sleep(POLL_S)
        time.sleep(TRAINS_S)
        say(" ".join(sorted(first)))
        while not training() - first:
            time.sleep(POLL_S)
        resumed_at.append(time.time())

    threading.Thread(target=watch, daemon=True).start()
    again = fit(max_iter)
    say(
        json.dumps(
            {
                "same_bits": all(
                    np.array_equal(a, b)
                    for a, b in zip(
                        [*undisturbed.coefs_, *undisturbed.intercepts_],
                        [*again.coefs_, *again.intercepts_],
                        strict=True,
                    )
                ),
                "lost": [recovery.lost for recovery in again.recoveries_],
                "workers": [recovery.workers for recovery in again.recoveries_],
                "n_iter": [recovery.n_iter for recovery in again.recoveries_],
                "resumed_at": resumed_at,
            }
        )
    )


def say(line: str) -> None:
    """Write a line for the test, which waits for it."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
