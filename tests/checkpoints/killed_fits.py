"""Fits that are killed while they write, and whether others resume them: a program.

``python -m tests.checkpoints.killed_fits N_KILLS [ADDRESS]``: in this process alone, or
on two workers of the cluster at an address. Run in a separate process, since it forks:
next to threads or a cluster, a fork could hang. So each fit has a process, and a
client, of its own.
"""

import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from contextlib import nullcontext
from hashlib import sha256
from pathlib import Path
from typing import Any

import dask
from distributed import Client
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

from skdistmlp import DistributedMLPClassifier

SEED = 0


def fit(directory: str | None, address: str | None) -> str:
    """Fit; return what tells the bits of the parameters."""
    X, y = load_digits(return_X_y=True)
    client = nullcontext() if address is None else Client(address)
    with client as connected:
        on_workers: dict[str, Any] = {"engine": "local"}
        if connected is not None:
            on_workers = {"engine": "peers", "n_workers": 2, "client": connected}
        clf = DistributedMLPClassifier(
            (40,),
            batch_size=100,
            max_iter=30 if connected is None else 12,
            n_iter_no_change=50,
            random_state=0,
            early_stopping=True,
            checkpoint=directory,
            **on_workers,
        ).fit(X[:600] / 16, y[:600])
    arrays = [*clf.coefs_, *clf.intercepts_]
    return sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


class Fits:
    """Fits in processes of their own.

    Parameters
    ----------
    address : str or None
        Of a scheduler; None to fit without a cluster.
    folder : Path
        Where a process puts its answer.
    """

    def __init__(self, address: str | None, folder: Path) -> None:
        self._address = address
        self._answer = folder / "answer"

    def run(self, directory: str | None) -> str:
        """Fit, and return what tells the bits."""
        os.waitpid(self._start(directory), 0)
        answer = self._answer.read_text()
        self._answer.unlink()
        return answer

    def kill(self, directory: str, after_s: float) -> None:
        """Fit in a process that is killed after some time, if it has not ended."""
        pid = self._start(directory)
        time.sleep(after_s)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    def _start(self, directory: str | None) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                self._answer.write_text(fit(directory, self._address))
            except BaseException:
                # Nobody else says what happened: the process ends at once.
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        return pid


def main(n_kills: int, fits: Fits) -> None:
    """Kill a number of fits; print how many of them were writing."""
    warnings.simplefilter("ignore")
    undisturbed = fits.run(None)
    rng, n_writing, n_resumed = random.Random(SEED), 0, 0
    # What a fit takes that writes after each epoch.
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        fits.run(directory)
    whole_s = time.monotonic() - begun
    n_done = 0
    while n_done < n_kills:
        with tempfile.TemporaryDirectory() as directory:
            # Several times in a row: one that was resumed may be killed too.
            while n_done < n_kills and rng.random() < 0.7:
                fits.kill(directory, rng.uniform(0, whole_s))
                n_done += 1
                names = os.listdir(directory)
                n_writing += any(name.endswith(".tmp") for name in names)
                n_resumed += any(name.endswith(".checkpoint") for name in names)
            resumed = fits.run(directory)
            left = os.listdir(directory)
        if resumed != undisturbed or left:
            sys.exit(f"after {n_done} kills: {resumed}, {undisturbed}, {left}")
    sys.stdout.write(f"{n_done} {n_writing} {n_resumed}\n")


if __name__ == "__main__":
    with (
        dask.config.set({"skdistmlp.checkpoint.interval": "0s"}),
        threadpool_limits(1),
        tempfile.TemporaryDirectory() as answers,
    ):
        # As often as it can, and workers return their state after each epoch.
        from skdistmlp.checkpoints import checkpointing
        from skdistmlp.cluster.peers import driver

        checkpointing.MAX_SHARE = 1.0
        driver.ROUND_S = 0.0
        number, *addresses = sys.argv[1:]
        main(int(number), Fits(addresses[0] if addresses else None, Path(answers)))
