"""Check whether workers answer, and whether they accept tasks."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, wait
from typing import Any

from distributed import Client

from skdistmlp.cluster.client.rpc import run_on_workers
from skdistmlp.cluster.client.scheduler import UNRESPONSIVE_TIMEOUTS, ask_scheduler
from skdistmlp.cluster.client.workers import worker_statuses
from skdistmlp.exceptions import WorkerLostError
from skdistmlp.settings import exchange_timeout_s
from skdistmlp.timeouts import PING_ANSWER_S


class LivenessCheck:
    """Pings the workers of a run from time to time, and names those that do not answer.

    A busy worker answers, one whose machine or process hangs does not. Dask notices
    that only after minutes (``distributed.scheduler.worker-ttl``).

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
        self._timeout_s = UNRESPONSIVE_TIMEOUTS * exchange_timeout_s()
        self._asked_at = float("-inf")
        self._answers: dict[str, Future[Any]] = {}

    def check(self) -> None:
        """Note which workers have answered, and ping again when due, without waiting.

        Raises
        ------
        WorkerLostError
            If a worker has not answered for `UNRESPONSIVE_TIMEOUTS` timeouts.
        """
        # An error is an answer too: a worker that has left is for `Watch` to report.
        silent = [w for w, answer in self._answers.items() if not answer.done()]
        waited_s = time.monotonic() - self._asked_at
        if silent and waited_s > self._timeout_s:
            several = len(silent) > 1
            who = f"worker{'s' if several else ''} {', '.join(silent)}"
            raise WorkerLostError(
                f"{who} {'have' if several else 'has'} not answered for "
                f"{waited_s:.0f} s ({UNRESPONSIVE_TIMEOUTS} times "
                f"skdistmlp.exchange-timeout is {self._timeout_s:g} s). Check "
                f"what {'they are' if several else 'it is'} doing, and call again.",
                tuple(silent),
            )
        # Never two pings at a time: those to a worker that hangs would pile up. The
        # next is due `_timeout_s` after the last, so a worker that hangs right after
        # its answer is noticed after twice that.
        if not silent and waited_s > self._timeout_s:
            self._asked_at = time.monotonic()
            self._answers = run_on_workers(self._client, self._workers, ping)

    def close(self) -> None:
        """Stop waiting for answers."""
        for answer in self._answers.values():
            answer.cancel()


class PausedCheck:
    """Checks that workers on which tasks are queued accept them.

    Parameters
    ----------
    client : Client
        A connected client.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._timeout_s = exchange_timeout_s()
        self._paused_since: dict[str, float] = {}

    def check(self, workers: Iterable[str]) -> None:
        """Look up the status of workers.

        Raises
        ------
        WorkerLostError
            If one is being retired, or has been paused for longer than an exchange may
            take. It will hardly go on by itself: the shard that it holds is part of the
            memory that would have to be freed.
        """
        workers = list(workers)
        # One on which nothing is queued any more has resumed since; paused in a later
        # round, it has its full time again.
        self._paused_since = {
            worker: since
            for worker, since in self._paused_since.items()
            if worker in workers
        }
        if not workers:
            return  # nothing to ask the scheduler
        statuses = worker_statuses(self._client)
        for worker in workers:
            status = statuses.get(worker, "gone")
            if status == "closing_gracefully":
                raise WorkerLostError(
                    f"worker {worker} is being retired: it accepts no new tasks, and "
                    f"its shard cannot move to another worker. Call again to start "
                    f"over on the other workers.",
                    (worker,),
                    "retired",
                )
            if status != "paused":
                # Also a worker that has left: `Watch.check_presence` reports it.
                self._paused_since.pop(worker, None)
                continue
            # Paused is often short: Dask pauses a worker whose memory fills up, and
            # resumes it once values are spilled or released.
            now = time.monotonic()
            if now > self._paused_since.setdefault(worker, now) + self._timeout_s:
                raise WorkerLostError(
                    f"worker {worker} has been paused for more than "
                    f"{self._timeout_s:g} s: it uses too much memory to accept new "
                    f"tasks. Use more workers, or workers with more memory.",
                    (worker,),
                    "paused",
                )


def silent_workers(client: Client, workers: Iterable[str]) -> list[str]:
    """Return the workers that do not answer a ping within `PING_ANSWER_S`.

    The scheduler may just be removing one: then there is an error in place of the
    answer, at once.
    """
    # An expression, for which a new worker imports nothing of this package: that would
    # take seconds, in which it does not answer.
    answers = run_on_workers(client, workers, eval, "None")
    answered, _ = wait(answers.values(), PING_ANSWER_S)
    for answer in answers.values():
        answer.cancel()
    return [
        worker
        for worker, answer in answers.items()
        if answer not in answered or answer.exception() is not None
    ]


def workers_around_silent(client: Client) -> list[str] | None:
    """Return the workers that answer, if others do not; otherwise None.

    Dask gives tasks to a worker that hangs, for minutes, until it removes it.

    Returns
    -------
    list of str or None
        What Dask takes as ``workers=`` of a call. None, for all workers, also if none
        of them answers: then there is nothing to choose.
    """
    present = list(ask_scheduler(client, "ncores"))
    silent = silent_workers(client, present)
    answering = [worker for worker in present if worker not in silent]
    return answering if silent and answering else None


def ping() -> None:
    """Do nothing: that a worker returns from this shows that it answers."""
