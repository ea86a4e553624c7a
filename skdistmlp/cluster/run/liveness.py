"""Check whether workers answer, and whether they accept tasks."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from typing import Any, Self

from distributed import Client

from skdistmlp.cluster._dask import call_scheduler, ping_worker
from skdistmlp.cluster.client.rpc import submit_rpc
from skdistmlp.cluster.client.scheduler import UNRESPONSIVE_TIMEOUTS, ask_scheduler
from skdistmlp.cluster.client.workers import worker_statuses
from skdistmlp.cluster.run.graph import run_of
from skdistmlp.exceptions import WorkerLostError
from skdistmlp.settings import exchange_timeout_s
from skdistmlp.timeouts import PING_ANSWER_S


class LivenessCheck:
    """Pings the workers of a run in each check, and names those that do not answer.

    A worker that computes answers, one whose machine or process hangs does not. Dask
    notices that only after minutes (``distributed.scheduler.worker-ttl``).

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
        self._timeout_s = exchange_timeout_s()
        # When each worker was pinged last, and its answer.
        self._pings: dict[str, tuple[float, Future[Any]]] = {}

    def check(self, are_watched: bool = False) -> None:
        """Ping each worker that has answered its last ping, without waiting.

        Parameters
        ----------
        are_watched : bool
            Whether all shards exchange values. Then they notice a silent worker after a
            single timeout, and with a more precise error: this must come later.

        Raises
        ------
        WorkerLostError
            If a worker has not answered for an exchange's timeout; for
            `UNRESPONSIVE_TIMEOUTS` of them if it has tasks that are not of this
            package.
        """
        now = time.monotonic()
        silent: dict[str, float] = {}
        for worker in self._workers:
            asked_at, answer = self._pings.get(worker, (now, None))
            # An error is an answer too: a worker that has left is for `Watch` to
            # report. Never two pings at a time: those to a worker that hangs would pile
            # up.
            if answer is None or answer.done():
                answer = submit_rpc(self._client, ping_worker, self._client, worker)
                self._pings[worker] = now, answer
            elif now - asked_at > self._timeout_s:
                silent[worker] = now - asked_at
        if silent:
            busy = self._with_other_tasks(silent)
            # This process may itself have been suspended. During the question above,
            # its event loop has taken the answers that had arrived.
            silent = {w: s for w, s in silent.items() if not self._pings[w][1].done()}
            self._raise_if_lost(silent, silent if are_watched else busy)

    def close(self) -> None:
        """Stop waiting for answers."""
        for _, answer in self._pings.values():
            answer.cancel()

    def _with_other_tasks(self, workers: Iterable[str]) -> set[str]:
        """Return the workers that have tasks of others, which may hold the GIL."""
        keys = ask_scheduler(self._client, "processing")
        return {
            worker
            for worker in workers
            if any(run_of(key) is None for key in keys.get(worker, ()))
        }

    def _raise_if_lost(
        self, silent: Mapping[str, float], busy: Collection[str]
    ) -> None:
        """Raise if a worker was silent for longer than it may be; see `check`."""
        long_s = UNRESPONSIVE_TIMEOUTS * self._timeout_s
        limits = {w: long_s if w in busy else self._timeout_s for w in silent}
        lost = [worker for worker in silent if silent[worker] > limits[worker]]
        if not lost:
            return
        several = len(lost) > 1
        limit_s = min(limits[worker] for worker in lost)
        times = f"{UNRESPONSIVE_TIMEOUTS} times " if limit_s == long_s else ""
        raise WorkerLostError(
            f"worker{'s' if several else ''} {', '.join(lost)} "
            f"{'have' if several else 'has'} not answered for "
            f"{min(silent[worker] for worker in lost):.0f} s ({times}"
            f"skdistmlp.exchange-timeout is {limit_s:g} s). Check what "
            f"{'they are' if several else 'it is'} doing, and call again.",
            tuple(lost),
        )


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


class Pings:
    """One ping to each of some workers, all sent at once.

    A context: what has not arrived at its end is not waited for any more.

    Parameters
    ----------
    client : Client
        A connected client.
    workers : iterable of str
        Addresses.
    """

    def __init__(self, client: Client, workers: Iterable[str]) -> None:
        self._deadline = time.monotonic() + PING_ANSWER_S
        self._answers = {
            worker: submit_rpc(client, ping_worker, client, worker)
            for worker in workers
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for answer in self._answers.values():
            answer.cancel()

    def silent(self) -> tuple[str, ...]:
        """Return the workers that do not answer within `PING_ANSWER_S` of the ping.

        The scheduler may just be removing one: then there is an error in place of the
        answer, at once.
        """
        # Answers that have arrived count, however late this is called.
        left_s = max(0.0, self._deadline - time.monotonic())
        answered, _ = wait(self._answers.values(), left_s)
        return tuple(
            worker
            for worker, answer in self._answers.items()
            if answer not in answered or answer.exception() is not None
        )


def silent_workers(client: Client, workers: Iterable[str]) -> tuple[str, ...]:
    """Return the workers that do not answer a ping; see `Pings.silent`."""
    with Pings(client, workers) as pings:
        return pings.silent()


def missing_workers(client: Client, workers: Sequence[str]) -> tuple[str, ...]:
    """Return the workers that have left the cluster, or do not answer a ping.

    One that has left is not pinged: the scheduler would try the port of a worker that
    was killed again and again, for as long as the ping is waited for.
    """
    asking = submit_rpc(client, call_scheduler, client, "ncores")
    wait([asking], PING_ANSWER_S)
    if not asking.done() or asking.exception() is not None:
        # Pings go through the scheduler too.
        asking.cancel()
        return tuple(workers)
    present = asking.result()
    silent = silent_workers(client, [w for w in workers if w in present])
    return tuple(w for w in workers if w not in present or w in silent)


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
