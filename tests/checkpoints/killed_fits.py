"""Fits that are killed while they write, and whether others resume them: a program.

Run in a separate process, since it forks: next to threads or a cluster, a fork could
hang.
"""

import os
import random
import signal
import sys
import tempfile
import time
import warnings
from hashlib import sha256

import dask
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

from skdistmlp import DistributedMLPClassifier

SEED = 0


def classifier(directory: str | None) -> DistributedMLPClassifier:
    """Return the estimator that is fitted again and again."""
    return DistributedMLPClassifier(
        (40,),
        batch_size=100,
        max_iter=30,
        n_iter_no_change=50,
        random_state=0,
        early_stopping=True,
        checkpoint=directory,
    )


def digest(clf: DistributedMLPClassifier) -> str:
    """Return what tells the bits of its parameters."""
    arrays = [*clf.coefs_, *clf.intercepts_]
    return sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def fit(directory: str | None) -> DistributedMLPClassifier:
    """Fit."""
    X, y = load_digits(return_X_y=True)
    return classifier(directory).fit(X[:600] / 16, y[:600])


def forked(directory: str, kill_after_s: float | None) -> None:
    """Fit in a process that is killed after some time, or else ends by itself."""
    pid = os.fork()
    if pid == 0:
        try:
            fit(directory)
        finally:
            os._exit(0)
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def main(n_kills: int) -> None:
    """Kill a number of fits; print how many of them were writing."""
    warnings.simplefilter("ignore")
    undisturbed = digest(fit(None))
    rng, n_writing, n_resumed = random.Random(SEED), 0, 0
    # What a fit takes that writes after each epoch.
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        forked(directory, None)
    whole_s = time.monotonic() - begun
    n_done = 0
    while n_done < n_kills:
        with tempfile.TemporaryDirectory() as directory:
            # Several times in a row: one that was resumed may be killed too.
            while n_done < n_kills and rng.random() < 0.7:
                forked(directory, rng.uniform(0, whole_s))
                n_done += 1
                names = os.listdir(directory)
                n_writing += any(name.endswith(".tmp") for name in names)
                n_resumed += any(name.endswith(".checkpoint") for name in names)
            resumed = digest(fit(directory))
            left = os.listdir(directory)
        if resumed != undisturbed or left:
            sys.exit(f"after {n_done} kills: {resumed}, {undisturbed}, {left}")
    sys.stdout.write(f"{n_done} {n_writing} {n_resumed}\n")


if __name__ == "__main__":
    with (
        dask.config.set({"skdistmlp.checkpoint.interval": "0s"}),
        threadpool_limits(1),
    ):
        # As often as it can.
        from skdistmlp.checkpoints import checkpointing

        checkpointing.MAX_SHARE = 1.0
        main(int(sys.argv[1]))
