"""Check that the rows in this process are the same whenever a fit places them.

A fit may place them again long after it began. Another thread may have changed them by
then, or a callback; and the shards would go on with other rows than before.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from skdistmlp.cluster.client.rpc import wait_while
from skdistmlp.exceptions import ClusterError
from skdistmlp.parallel.array_digest import array_digest
from skdistmlp.parallel.data import BaseDataset
from skdistmlp.training.job import Offer
from skdistmlp.training.state import TrainingState

THREAD_NAME = "skdistmlp-digest"


class UnchangedRows:
    """What the rows in this process were when a fit began.

    Their digest is computed in a thread, while they are sent: that takes longer, even
    to a single worker on the same machine (one and a half times as long).

    Parameters
    ----------
    dataset : BaseDataset
        All rows. Of those on workers, only targets and weights are in this process.
    """

    def __init__(self, dataset: BaseDataset) -> None:
        self._dataset = dataset
        self._first = self._last = _digest_in_thread(dataset)
        # Of what the present run was sent, unless it is the first one. Another than the
        # last: that may be of rows that are not sent, and must not hide this one.
        self._placed: Future[tuple[bytes, float]] | None = None

    @property
    def digest_s(self) -> float:
        """Seconds that the first digest took; it is waited for."""
        return self._first.result()[1]

    def look_again(self) -> None:
        """Begin to compute the digest again, in a thread."""
        self._last = _digest_in_thread(self._dataset)

    def have_changed(self) -> bool:
        """Say whether they were others than at first when it last looked."""
        return self._are_others(self._last)

    def check(self) -> None:
        """Raise if they have changed.

        Raises
        ------
        ClusterError
            If so.
        """
        if self.have_changed():
            raise _changed()

    def note_placed(self) -> None:
        """Look at rows that have just been placed again, as `look_again` does.

        They may have changed while they were sent.
        """
        self._placed = _digest_in_thread(self._dataset)

    def check_placed(self) -> None:
        """Raise if other rows than the first were placed; wait until that is known.

        Raises
        ------
        ClusterError
            If so.
        """
        if self._placed is not None and self._are_others(self._placed):
            raise _changed()

    def checked(self, offer: Offer | None) -> Offer:
        """Return a function that offers only states that were trained on the same rows.

        It raises `ClusterError` as soon as it is known that other ones were placed, so
        it is of use without anything to offer them to, too.
        """

        def check_and_offer(
            state: TrainingState, snapshot: Callable[[], TrainingState]
        ) -> None:
            placed = self._placed
            if placed is not None and not placed.done():
                # Not waited for: the workers would wait, too. Another state will come.
                return
            self.check_placed()
            if offer is not None:
                offer(state, snapshot)

        return check_and_offer

    def _are_others(self, digest: Future[tuple[bytes, float]]) -> bool:
        # In intervals, as a wait for answers: on Windows, Ctrl-C interrupts no other.
        wait_while(lambda: None, (self._first, digest))
        return self._first.result()[0] != digest.result()[0]


def _changed() -> ClusterError:
    return ClusterError(
        "the rows in this process have changed since fit was called, so the fit cannot "
        "go on with the same rows. Let nothing change X, y or sample_weight while it "
        "runs: pass copies of them, and call again."
    )


def _digest_in_thread(dataset: BaseDataset) -> Future[tuple[bytes, float]]:
    """Begin to compute the digest of rows, and how many seconds that takes."""
    hashing = ThreadPoolExecutor(1, THREAD_NAME)
    digest = hashing.submit(_timed_digest, dataset.arrays())
    # The thread ends with its only task.
    hashing.shutdown(wait=False)
    return digest


def _timed_digest(arrays: list[np.ndarray]) -> tuple[bytes, float]:
    begun = time.perf_counter()
    return array_digest(*arrays), time.perf_counter() - begun
