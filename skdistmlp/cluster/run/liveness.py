"""Asking after workers that are waited for."""

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Any

from distributed import Client

from skdistmlp.cluster.client.rpc import ask
from skdistmlp.cluster.client.workers import worker_statuses
from skdistmlp.exceptions import WorkerLostError
from skdistmlp.settings import exchange_timeout_s

UNRESPONSIVE_TIMEOUTS = 4
"""How many ``skdistmlp.exchange-timeout`` a worker may take to answer. One that is
busy answers at once, unless its task holds Python's lock."""


class LivenessCheck:
    """Whether all workers of a fit answer, asked now and then while it is waited for.

    A worker that is busy answers, one whose machine stands still does not; Dask gives
    that up after minutes (``distributed.scheduler.worker-ttl``). Shards that train
    notice earlier that one of them is silent.

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
        """Ask, if it is time to; see who has not answered.

        Raises
        ------
        WorkerLostError
            If a worker has not answered for `UNRESPONSIVE_TIMEOUTS` timeouts.
        """
        silent = [w for w, answer in self._answers.items() if not answer.done()]
        waited_s = time.monotonic() - self._asked_at
        if silent and waited_s > self._timeout_s:
            raise WorkerLostError(
                f"worker {', '.join(silent)} has not answered for "
                f"{waited_s:.0f} s ({UNRESPONSIVE_TIMEOUTS} times "
                f"skdistmlp.exchange-timeout is {self._timeout_s:g} s). See "
                f"what it does, and call again."
            )
        if not silent and waited_s > self._timeout_s:
            self._asked_at = time.monotonic()
            self._answers = ask(self._client, self._workers, ping)

    def close(self) -> None:
        """Wait for nobody's answer any more."""
        for answer in self._answers.values():
            answer.cancel()


class PausedCheck:
    """Whether workers take new tasks, for as long as some are queued there.

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
        """See what Dask says of workers.

        Raises
        ------
        WorkerLostError
            If one is being retired, or is paused for longer than an exchange may take:
            its shard is a part of the memory that would have to come free.
        """
        statuses = worker_statuses(self._client)
        for worker in workers:
            status = statuses.get(worker, "gone")
            if status == "closing_gracefully":
                raise WorkerLostError(
                    f"worker {worker} is being retired: it takes no new tasks, and its "
                    f"part of the network cannot move. Call again to start over on "
                    f"the other workers."
                )
            if status != "paused":
                self._paused_since.pop(worker, None)
                continue
            now = time.monotonic()
            if now > self._paused_since.setdefault(worker, now) + self._timeout_s:
                raise WorkerLostError(
                    f"worker {worker} is paused for more than {self._timeout_s:g} s: "
                    f"it uses too much memory to take new tasks. Use more workers, "
                    f"or workers with more memory."
                )


def ping() -> None:
    """Do nothing: the answer is that the worker answers."""
