"""Asking after workers that are waited for."""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any

from dask.utils import parse_timedelta
from distributed import Client

from skdistmlp.cluster.client import begin, worker_statuses
from skdistmlp.cluster.settings import setting
from skdistmlp.exceptions import WorkerLostError


def ask(
    client: Client, workers: Iterable[str], what: Callable[..., Any], *args: Any
) -> dict[str, Future[Any]]:
    """Begin to call a function on workers, outside their tasks.

    Parameters
    ----------
    client : Client
        A connected client.
    workers : iterable of str
        Addresses.
    what : callable
        Called on each worker.
    *args
        Its arguments.

    Returns
    -------
    dict of str to Future
        The answer of each worker. One that stands still answers never.
    """
    return {
        worker: begin(client, client.run, what, *args, workers=[worker])
        for worker in workers
    }


PATIENCE = 4
"""How many ``skdistmlp.exchange-timeout`` a worker may take to answer. One that is
busy answers at once, unless its task holds Python's lock."""


class RollCall:
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
        self._timeout_s = PATIENCE * exchange_timeout_s()
        self._asked_at = float("-inf")
        self._answers: dict[str, Future[Any]] = {}

    def check(self) -> None:
        """Ask, if it is time to; see who has not answered.

        Raises
        ------
        WorkerLostError
            If a worker has not answered for `PATIENCE` timeouts.
        """
        silent = [w for w, answer in self._answers.items() if not answer.done()]
        waited_s = time.monotonic() - self._asked_at
        if silent and waited_s > self._timeout_s:
            raise WorkerLostError(
                f"worker {', '.join(silent)} has not answered for "
                f"{waited_s:.0f} s ({PATIENCE} times skdistmlp.exchange-timeout is "
                f"{self._timeout_s:g} s). See what it does, and call again."
            )
        if not silent and waited_s > self._timeout_s:
            self._asked_at = time.monotonic()
            self._answers = ask(self._client, self._workers, be_there)

    def close(self) -> None:
        """Wait for nobody's answer any more."""
        for answer in self._answers.values():
            answer.cancel()


class Acceptance:
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


def exchange_timeout_s() -> float:
    """Return ``skdistmlp.exchange-timeout`` in seconds."""
    seconds: float = parse_timedelta(setting("exchange-timeout"))
    return seconds


def be_there() -> None:
    """Do nothing: the answer is that the worker answers."""
