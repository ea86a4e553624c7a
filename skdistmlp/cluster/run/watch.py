"""Whether to go on waiting for the workers of a run."""

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError

from distributed import Client

from skdistmlp.cluster._dask import call_scheduler
from skdistmlp.cluster.client.lookup import scheduler_address
from skdistmlp.cluster.client.rpc import check_open, submit_rpc, wait_while
from skdistmlp.cluster.run.liveness import (
    UNRESPONSIVE_TIMEOUTS,
    LivenessCheck,
    PausedCheck,
)
from skdistmlp.cluster.run.task_context import task_cancellation
from skdistmlp.exceptions import ClusterError
from skdistmlp.settings import LOSS_POLL_S, WORKER_CHECK_S, exchange_timeout_s


class Watch:
    """Everything that can make waiting for the workers of one run pointless.

    Dask itself waits forever in most of these cases: for a task that is pinned to a
    worker that was retired, for one that hangs or is paused, or for a scheduler that
    does not answer.

    Created in the thread that runs the fit: if that is a Dask task, it is watched for
    its cancellation.

    Parameters
    ----------
    client : Client
        A connected client.
    workers : sequence of str
        Addresses.
    """

    def __init__(self, client: Client, workers: Sequence[str]) -> None:
        self._client = client
        self._workers = workers
        self._is_cancelled = task_cancellation()
        self._liveness = LivenessCheck(client, workers)
        self._paused = PausedCheck(client)

    def check(self, queued: Sequence[str] = ()) -> None:
        """Raise if there is no point in waiting any longer.

        Parameters
        ----------
        queued : sequence of str
            Workers on which tasks of this run have still to start. They must accept
            tasks; a worker that is paused while its task runs is no problem.

        Raises
        ------
        CancelledError
            If a worker has left the cluster, or the client was closed.
        WorkerLostError
            If a worker does not answer, or does not accept the queued tasks.
        ClusterError
            If this runs in a task that was cancelled, or the scheduler does not answer.
        """
        # Presence first: the other two may accept a worker that has left, since a ping
        # that fails counts as answered and the worker has no status. And of the two
        # questions to the scheduler only this one has a deadline: the one for statuses
        # would wait forever for a scheduler that hangs.
        self.check_presence()
        # Before the statuses, which are what each worker last told the scheduler: one
        # that hangs tells it nothing. Always, since it never waits for an answer.
        self._liveness.check()
        self._paused.check(queued)

    def check_presence(self) -> None:
        """Raise if a worker has left, whether or not the others answer; see `check`."""
        if self._is_cancelled():
            raise ClusterError("the task that called this was cancelled")
        check_open(self._client)
        if not set(self._workers) <= set(self._present_workers()):
            raise CancelledError

    def await_loss(self) -> None:
        """Give the scheduler time to notice a lost worker; raise once it has.

        A process that sends to a worker may see the broken connection first. Without
        this, its error would be reported in place of the loss that has caused it.
        """
        # Bounded: the error may have another cause, and then no worker is ever missed.
        deadline = time.monotonic() + WORKER_CHECK_S
        while time.monotonic() < deadline:
            self.check_presence()
            time.sleep(LOSS_POLL_S)

    def close(self) -> None:
        """Stop waiting for answers of workers."""
        self._liveness.close()

    def _present_workers(self) -> Iterable[str]:
        """Return the addresses of all workers, if the scheduler answers in time."""
        timeout_s = UNRESPONSIVE_TIMEOUTS * exchange_timeout_s()
        deadline = time.monotonic() + timeout_s

        def check_deadline() -> None:
            check_open(self._client)
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"the scheduler at {scheduler_address(self._client)} has not "
                    f"answered for {timeout_s:g} s ({UNRESPONSIVE_TIMEOUTS} times "
                    f"skdistmlp.exchange-timeout). Check what it is doing, and call "
                    f"again."
                )

        # From the scheduler, not from what the client has cached: that stays as it was
        # while the scheduler hangs.
        answer = submit_rpc(self._client, call_scheduler, self._client, "ncores")
        wait_while(check_deadline, [answer])
        addresses: Iterable[str] = answer.result()
        return addresses
