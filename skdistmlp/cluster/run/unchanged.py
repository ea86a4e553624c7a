"""Check that the rows in this process are the same whenever a fit places them.

A fit may place them again long after it began. Another thread may have changed them by
then, or a callback; and the shards would go on with other rows than before.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from skdistmlp.exceptions import ClusterError
from skdistmlp.parallel.array_digest import array_digest
from skdistmlp.parallel.data import BaseDataset

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
        hashing = ThreadPoolExecutor(1, THREAD_NAME)
        self._digest = hashing.submit(array_digest, *dataset.arrays())
        # The thread ends with its only task.
        hashing.shutdown(wait=False)

    def check(self) -> None:
        """Raise if they have changed.

        Raises
        ------
        ClusterError
            If so.
        """
        if array_digest(*self._dataset.arrays()) != self._digest.result():
            raise ClusterError(
                "the rows in this process have changed since fit was called, so the "
                "fit cannot go on with the same rows. Let nothing change X, y or "
                "sample_weight while it runs: pass copies of them, and call again."
            )
