"""Translate Dask's errors into those of this package."""

from collections.abc import (
    Iterator,
)
from concurrent.futures import CancelledError
from contextlib import contextmanager

from distributed import (
    Client,
    KilledWorker,
)
from distributed.comm.core import CommClosedError

from skdistmlp.cluster.client.lookup import scheduler_address
from skdistmlp.exceptions import ClusterError, ExchangeError, WorkerLostError

CONNECTION_ERRORS = (CancelledError, KilledWorker, CommClosedError, OSError, KeyError)
"""What Dask raises when a worker or the scheduler is gone, among other reasons."""


@contextmanager
def translate_dask_errors(
    client: Client, workers: tuple[str, ...], phase: str
) -> Iterator[None]:
    """Say which worker went away when Dask reports that something did.

    Parameters
    ----------
    client : Client
        The client in use.
    workers : tuple of str
        Workers that hold something that this phase needs.
    phase : str
        What is going on, as a gerund.

    Raises
    ------
    WorkerLostError
        In place of a cancelled future or a failed transfer.
    ClusterError
        In place of a lost connection to the scheduler, or when Dask gave up a task
        since every worker that it ran on died.
    """
    address = scheduler_address(client)
    try:
        yield
    except Exception as error:
        if not isinstance(error, CONNECTION_ERRORS) and client.status == "running":
            note = f"This was while {phase}."
            if isinstance(error, ExchangeError | WorkerLostError):
                error.add_note(f"{note} Call again to start over.")
            elif isinstance(error, MemoryError):
                error.add_note(f"{note} Use more workers, or smaller batches.")
            elif hasattr(error, "__notes__"):
                # A task of ours failed by itself.
                error.add_note(note)
            raise
        try:
            present = set(client.nthreads())
        except Exception:
            raise ClusterError(
                f"the client has lost its connection to the scheduler at {address} "
                f"while {phase}, or was closed. Check that the scheduler is running, "
                f"and call again with an open client."
            ) from error
        lost = [worker for worker in workers if worker not in present]
        if lost:
            raise WorkerLostError(
                f"worker {', '.join(lost)} went away while {phase}, and with it its "
                f"part of the network. The cluster has {len(present)} workers left; "
                f"call again to start over on them."
            ) from error
        if isinstance(error, CancelledError):
            there = f"; {', '.join(workers)} are still there" if workers else ""
            raise WorkerLostError(
                f"the cluster dropped what it held while {phase}{there}. Was the "
                f"cluster restarted, or the work cancelled? Call again to start over."
            ) from error
        if isinstance(error, KilledWorker):
            raise ClusterError(
                f"workers died while {phase}, one after another, most likely because "
                f"their memory did not suffice: {error} Use workers with more memory, "
                f"more workers, or smaller blocks."
            ) from error
        # A task of ours failed by itself.
        raise
