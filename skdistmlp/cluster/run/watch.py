"""Whether to go on waiting for the workers of a run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any

from distributed import Client, Future

from skdistmlp.cluster.client.lookup import scheduler_address
from skdistmlp.cluster.client.lost import note_number
from skdistmlp.cluster.client.rpc import check_open
from skdistmlp.cluster.client.scheduler import ask_scheduler
from skdistmlp.cluster.client.workers import (
    PAUSED_ADVICE,
    accepts_tasks,
    describe_paused,
    known_workers,
)
from skdistmlp.cluster.run.liveness import LivenessCheck, PausedCheck
from skdistmlp.cluster.run.reachability import ReachabilityCheck
from skdistmlp.cluster.run.task_context import task_cancellation
from skdistmlp.exceptions import ClusterError, WorkerLostError
from skdistmlp.settings import exchange_timeout_s
from skdistmlp.timeouts import LOSS_POLL_S, WORKER_CHECK_S


class Watch:
    """Everything that can make waiting for the workers of one run pointless.

    Dask itself waits forever in most of these cases: for a task that is pinned to a
    worker that was retired, for one that hangs or is paused, for a value that a worker
    cannot fetch from another, or for a scheduler that does not answer.

    Created in the thread that runs the fit: if that is a Dask task, it is watched for
    its cancellation.

    Parameters
    ----------
    client : Client
        A connected client.
    workers : sequence of str
        Addresses.
    awaited : callable, optional
        Returns the futures of the run; see `ReachabilityCheck`. Without it, no values
        move between workers.
    check : callable, optional
        Called in each check; ends the wait by raising, such as at a deadline.
    """

    def __init__(
        self,
        client: Client,
        workers: Sequence[str],
        awaited: Callable[[], Iterable[Future[Any]]] = tuple,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self._workers = workers
        self._check = check
        self._is_cancelled = task_cancellation()
        self._liveness = LivenessCheck(client, workers)
        self._reachability = ReachabilityCheck(client, awaited, workers)
        self._paused = PausedCheck(client)

    def check(self, queued: Sequence[str] = (), are_watched: bool = False) -> None:
        """Raise if there is no point in waiting any longer.

        Parameters
        ----------
        queued : sequence of str
            Workers on which tasks of this run have still to start. They must accept
            tasks; a worker that is paused while its task runs is no problem.
        are_watched : bool
            Whether shards notice a silent worker themselves; see `LivenessCheck`.

        Raises
        ------
        CancelledError
            If a worker has left the cluster, or the client was closed.
        WorkerLostError
            If a worker does not answer, or does not accept the queued tasks.
        ExchangeError
            If a worker waits for a value of one that it cannot connect to.
        ClusterError
            If this runs in a task that was cancelled, or the scheduler does not answer.
        """
        # Before anything that waits for an answer.
        self._check()
        # Presence next: the others may accept a worker that has left, since a ping
        # that fails counts as answered and the worker has no status.
        self.check_presence()
        # Before the statuses, which are what each worker last told the scheduler: one
        # that hangs tells it nothing. Always, since it never waits for an answer.
        self._liveness.check(are_watched)
        self._paused.check(queued)
        self._reachability.check()

    def check_presence(self) -> set[str]:
        """Raise if a worker has left, whether or not the others answer; see `check`.

        Returns
        -------
        set of str
            Addresses of all workers of the cluster.
        """
        if self._is_cancelled():
            raise ClusterError("the task that called this was cancelled")
        check_open(self._client)
        # From the scheduler, not from what the client has cached: that stays as it was
        # while the scheduler hangs.
        present = set(ask_scheduler(self._client, "ncores"))
        note_number(self._client, len(present))
        if not set(self._workers) <= present:
            raise CancelledError
        return present

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

    @contextmanager
    def naming_losses(self) -> Iterator[None]:
        """Have a worker that is lost in the context reported as such; see `await_loss`.

        The scheduler passes calls on to workers, and answers with the error of the
        connection to one that has just ended.
        """
        try:
            yield
        except OSError:
            self.await_loss()
            raise

    def close(self) -> None:
        """Stop waiting for answers of workers."""
        self._liveness.close()
        self._reachability.close()


class WorkersCheck:
    """Checks that a cluster has workers that can compute what a user's graph needs.

    Which ones does not matter: Dask computes again what a lost worker has computed.

    Parameters
    ----------
    client : Client
        A connected client.
    futures : sequence of Future
        What is waited for.
    workers : sequence of str, optional
        Addresses of the only workers that may compute it.
    """

    def __init__(
        self,
        client: Client,
        futures: Sequence[Future[Any]],
        workers: Sequence[str] | None = None,
    ) -> None:
        self._client = client
        self._workers = workers
        self._watch = Watch(client, ())
        self._reachability = ReachabilityCheck(client, lambda: futures)
        self._seen_at = time.monotonic()

    def __call__(self) -> None:
        """Raise if there is no point in waiting any longer.

        Raises
        ------
        ClusterError
            If the cluster has had no workers, or paused ones only, for an exchange's
            timeout, if the scheduler does not answer, or if this runs in a task that
            was cancelled.
        WorkerLostError
            If all workers that may compute it have left.
        ExchangeError
            If a worker waits for a value of one that it cannot connect to.
        """
        present = self._watch.check_presence()
        # Dask would wait forever for one with the same address.
        if self._workers is not None and present.isdisjoint(self._workers):
            raise WorkerLostError(
                f"all workers that were to compute blocks of X have left the cluster: "
                f"{', '.join(self._workers)}. Call again to start over on the others."
            )
        self._reachability.check()
        if present and self._progresses():
            self._seen_at = time.monotonic()
        # Not at once: a nanny may be starting its worker again, and a paused worker may
        # write what it holds to disk.
        elif time.monotonic() > self._seen_at + exchange_timeout_s():
            address = scheduler_address(self._client)
            if present and (paused := describe_paused(self._client)):
                raise ClusterError(
                    f"no worker of the cluster at {address} has accepted tasks for "
                    f"{exchange_timeout_s():g} s: {paused}. {PAUSED_ADVICE}"
                )
            raise ClusterError(
                f"the cluster at {address} has had no workers "
                f"for {exchange_timeout_s():g} s. Start workers, and call again."
            )

    def close(self) -> None:
        """Stop waiting for answers."""
        self._reachability.close()

    def _progresses(self) -> bool:
        """Say whether a worker accepts tasks, or still has one that runs."""
        return any(
            accepts_tasks(info["status"])
            or info["metrics"].get("task_counts", {}).get("executing", 0) > 0
            for info in known_workers(self._client).values()
        )
