"""Fits that are killed while they write, and whether others resume them: a program.

``python -m tests.checkpoints.killed_fits N_KILLS [ADDRESS]``: in this process alone, or
on two workers of the cluster at an address. Run in a separate process, since it forks:
next to threads or a cluster, a fork could hang. So each fit has a process, and a
client, of its own.
"""

import io
import math
import os
import random
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from unittest.mock import patch

import dask
from distributed import Client
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

from skdistmlp import DistributedMLPClassifier
from skdistmlp.checkpoints import store

SEED = 0

RANDOM_EVERY = 4
"""One in this many kills comes at a random moment of a fit, the others in a write."""

MOMENTS = (
    "the file is empty",
    "before its fsync",
    "after its fsync",
    "before the rename",
    "after the rename",
    "before the fsync of the directory",
)
"""Moments of a write next to its system calls, besides those after any of its bytes."""


class Write(NamedTuple):
    """The moment in one of the writes of a fit at which its process is killed.

    Attributes
    ----------
    n_before : int
        Number of writes before it.
    moment : str or float
        One of `MOMENTS`, or the share of the bytes that are written.
    """

    n_before: int
    moment: str | float

    @classmethod
    def drawn(cls, rng: random.Random) -> "Write":
        """Return a random moment: in half of all cases between two bytes."""
        after_bytes = rng.random() < 0.5
        moment = rng.random() if after_bytes else rng.choice(MOMENTS)
        return cls(rng.randrange(4), moment)


def kill_this_process() -> None:
    """End at once, as by a kill from outside: nothing is flushed or removed."""
    os.kill(os.getpid(), signal.SIGKILL)


class TornFile(io.FileIO):
    """A file of which some bytes are written before the process is killed."""

    def __init__(self, number: int, n_bytes: float) -> None:
        super().__init__(number, "wb")
        self._n_left = n_bytes

    def write(self, data: Any, /) -> int:
        """Write bytes, or some of them and be killed."""
        data = memoryview(data).cast("B")
        if len(data) > self._n_left:
            super().write(data[: int(self._n_left)])
            kill_this_process()
        self._n_left -= len(data)
        return super().write(data)


class Killer:
    """Kills this process in the middle of one of the next writes of a checkpoint.

    Parameters
    ----------
    write : Write
        When.
    """

    def __init__(self, write: Write) -> None:
        self._n_before, self._moment = write
        self._n_bytes = math.inf
        self._is_renamed = False
        # Those that are not patched yet.
        self._replace_file = store._replace_file
        self._temporary_file = store._temporary_file
        self._fsync, self._replace = os.fsync, os.replace

    def install(self) -> None:
        """Patch what writes files, for the rest of this process."""
        patch.object(store, "_replace_file", self._replace_file_or_die).start()

    def _replace_file_or_die(
        self, path: Path, write: Callable[[BinaryIO], None], check: Callable[[], None]
    ) -> None:
        if self._n_before > 0:
            self._n_before -= 1
            self._replace_file(path, write, check)
            return
        if isinstance(self._moment, float):
            measured = io.BytesIO()
            write(measured)
            self._n_bytes = int(self._moment * measured.getbuffer().nbytes)
        with (
            patch.object(store, "_temporary_file", self._torn_file),
            patch.object(os, "fsync", self._fsync_or_die),
            patch.object(os, "replace", self._rename_or_die),
        ):
            self._replace_file(path, write, check)
        # Whoever started this process takes it for a failure.
        os._exit(1)

    @contextmanager
    def _torn_file(self, path: Path) -> Iterator[tuple[BinaryIO, str]]:
        with self._temporary_file(path) as (file, name):
            self._reach("the file is empty")
            # Not buffered: the bytes until then are really in the file.
            with TornFile(os.dup(file.fileno()), self._n_bytes) as dying:
                yield dying, name  # type: ignore[misc]

    def _fsync_or_die(self, number: int) -> None:
        if self._is_renamed:
            self._reach("before the fsync of the directory")
            self._fsync(number)
            return
        self._reach("before its fsync")
        self._fsync(number)
        self._reach("after its fsync")

    def _rename_or_die(self, source: Any, target: Any) -> None:
        self._reach("before the rename")
        self._replace(source, target)
        self._is_renamed = True
        self._reach("after the rename")

    def _reach(self, moment: str) -> None:
        if moment == self._moment:
            kill_this_process()


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
            max_iter=12,
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

    def kill_in_write(self, directory: str, write: Write) -> bool:
        """Fit in a process that is killed in one of its writes.

        Returns
        -------
        bool
            Whether it was, or ended before.
        """
        return self._was_killed(self._start(directory, write))

    def kill_after(self, directory: str, after_s: float) -> bool:
        """Fit in a process that is killed after some time; see `kill_in_write`."""
        pid = self._start(directory)
        time.sleep(after_s)
        os.kill(pid, signal.SIGKILL)
        return self._was_killed(pid)

    def _was_killed(self, pid: int) -> bool:
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            return os.WTERMSIG(status) == signal.SIGKILL
        if os.WEXITSTATUS(status) != 0:
            sys.exit("a fit that was to be killed failed")
        return False

    def _start(self, directory: str | None, write: Write | None = None) -> int:
        pid = os.fork()
        if pid == 0:
            try:
                if write is not None:
                    Killer(write).install()
                self._answer.write_text(fit(directory, self._address))
            except BaseException:
                # Nobody else says what happened: the process ends at once.
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        return pid


def main(n_kills: int, fits: Fits) -> None:
    """Kill a number of fits; print how many of them were writing, and what they left.

    That is, how many left an unfinished file, and how many a checkpoint to resume from.
    """
    warnings.simplefilter("ignore")
    undisturbed = fits.run(None)
    rng, n_writing, n_unfinished, n_resumed = random.Random(SEED), 0, 0, 0
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
                before = os.listdir(directory)
                in_write = n_done % RANDOM_EVERY != RANDOM_EVERY - 1
                if in_write:
                    was_killed = fits.kill_in_write(directory, Write.drawn(rng))
                else:
                    was_killed = fits.kill_after(directory, rng.uniform(0, whole_s))
                if not was_killed:
                    # It ended before.
                    break
                n_done += 1
                names = {*os.listdir(directory)}
                n_writing += in_write
                # Those of before are removed at the next write.
                new = names.difference(before)
                n_unfinished += any(name.endswith(".tmp") for name in new)
                n_resumed += any(name.endswith(".checkpoint") for name in names)
            resumed = fits.run(directory)
            left = os.listdir(directory)
        if resumed != undisturbed or left:
            sys.exit(f"after {n_done} kills: {resumed}, {undisturbed}, {left}")
    sys.stdout.write(f"{n_done} {n_writing} {n_unfinished} {n_resumed}\n")


if __name__ == "__main__":
    with (
        dask.config.set({"skdistmlp.checkpoint.interval": "0s"}),
        threadpool_limits(1),
        tempfile.TemporaryDirectory() as answers,
    ):
        # After each epoch, and workers return their state as often.
        from skdistmlp.checkpoints import checkpointing
        from skdistmlp.cluster.peers import driver

        checkpointing.MAX_SHARE = math.inf
        driver.ROUND_S = 0.0
        number, *addresses = sys.argv[1:]
        main(int(number), Fits(addresses[0] if addresses else None, Path(answers)))
