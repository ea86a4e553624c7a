"""Translate Dask's errors into those of this package."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager

from distributed import Client, KilledWorker

from skdistmlp.cluster._dask import CommClosedError
from skdistmlp.cluster.client.lookup import scheduler_address
from skdistmlp.cluster.client.scheduler import ask_scheduler
from skdistmlp.exceptions import ClusterError, ExchangeError, WorkerLostError, counted

CONNECTION_ERRORS = (CancelledError, KilledWorker, CommClosedError, OSError)
"""What Dask raises when a worker or the scheduler is lost, among other reasons. It also
raises KeyError, in one place: see `skdistmlp.cluster.run.scatter`."""


@contextmanager
def translate_dask_errors(
    client: Client,
    workers: tuple[str, ...],
    phase: str | Callable[[], str],
    cause_of_loss: Callable[[str], str] = lambda _: "",
) -> Iterator[None]:
    """Raise errors of this package in place of Dask's while the context lasts.

    An error that is neither Dask's nor due to a lost connection passes through. May be
    nested: an error is translated, and given a note, once.

    Parameters
    ----------
    client : Client
        The client in use.
    workers : tuple of str
        Workers that hold something that this phase needs.
    phase : str or callable
        What is going on, as a gerund; a function is asked when something goes wrong.
    cause_of_loss : callable
        From a worker that was lost to sentences that say why, and what to do; empty
        if nothing is known.

    Raises
    ------
    WorkerLostError
        In place of a cancelled future or a failed transfer.
    ClusterError
        In place of a lost connection to the scheduler, or when Dask gave up a task
        because every worker that it ran on died.
    """
    # Before anything goes wrong: a client that is closed does not know it any more.
    address = scheduler_address(client)
    try:
        yield
    except Exception as error:
        phase = phase if isinstance(phase, str) else phase()
        if not isinstance(error, CONNECTION_ERRORS) and client.status == "running":
            _add_note(error, phase)
            raise
        if type(error) is ClusterError:
            # A closed client, and it has been said.
            raise
        try:
            present = set(ask_scheduler(client, "ncores"))
        except ClusterError:
            raise  # it hangs
        except Exception:
            raise ClusterError(
                f"the client was closed or lost its connection to the scheduler at "
                f"{address} while {phase}. Check that the scheduler is running, and "
                f"call again with an open client."
            ) from error
        lost = [worker for worker in workers if worker not in present]
        if lost:
            causes = list(filter(None, map(cause_of_loss, lost)))
            raise WorkerLostError(
                f"{_named(lost)} lost while {phase}; "
                f"{'its shard is' if len(lost) == 1 else 'their shards are'} gone. "
                f"{causes[0] if causes else _left(len(present))}"
            ) from error
        if isinstance(error, CancelledError):
            there = f", although {_named(workers)} still there" if workers else ""
            raise WorkerLostError(
                f"the cluster dropped the data of this call while {phase}{there}. "
                f"Probably the cluster was restarted, the connection to its scheduler "
                f"broke for a moment, or the work was cancelled. Call again to start "
                f"over."
            ) from error
        if isinstance(error, KilledWorker):
            raise ClusterError(
                f"several workers died one after another while {phase}, most likely "
                f"because they ran out of memory: {error} Use workers with more "
                f"memory, more workers, or smaller blocks."
            ) from error
        if isinstance(error, CommClosedError):
            raise ClusterError(
                f"the connection to the scheduler at {address}, or to a worker, broke "
                f"while {phase}; it is there again. Call again to start over."
            ) from error
        # An OSError that a task raised itself, such as a full disk.
        raise


def _add_note(error: Exception, phase: str) -> None:
    """Note in an error what was going on, where that helps."""
    note = f"This was while {phase}."
    notes = getattr(error, "__notes__", ())
    # The message or a note says so already if an inner context has seen the error.
    if phase in str(error) or any(known.startswith(note) for known in notes):
        return
    if isinstance(error, ExchangeError | WorkerLostError):
        error.add_note(f"{note} Call again to start over.")
    elif isinstance(error, MemoryError):
        error.add_note(f"{note} Use more workers, or smaller batches.")
    elif hasattr(error, "__notes__"):
        # A task of ours failed by itself.
        error.add_note(note)


def _left(n_workers: int) -> str:
    if n_workers == 0:
        return "The cluster has no workers left; start some, and call again."
    return (
        f"The cluster has {counted(n_workers, 'worker')} left; call again to start "
        f"over on {'it' if n_workers == 1 else 'them'}."
    )


def _named(workers: Sequence[str]) -> str:
    if len(workers) == 1:
        return f"worker {workers[0]} was"
    return f"workers {', '.join(workers)} were"
