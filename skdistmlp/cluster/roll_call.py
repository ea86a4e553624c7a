"""Asking workers whether they are there."""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any

import dask
from dask.utils import parse_timedelta
from distributed import Client

from skdistmlp.cluster.client import begin
from skdistmlp.exceptions import WorkerLostError


def ask(
    client: Client, workers: Iterable[str], what: Callable[..., None], *args: Any
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


class RollCall:
    """Whether all workers of a fit answer, asked now and then while it is waited for.

    A worker that is busy answers, one whose machine stands still does not; Dask gives
    that up after minutes (``distributed.scheduler.worker-ttl``).

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
        self._timeout_s = parse_timedelta(dask.config.get("skdistmlp.exchange-timeout"))
        self._asked_at = float("-inf")
        self._answers: dict[str, Future[Any]] = {}

    def check(self) -> None:
        """Ask, if it is time to; see who has not answered.

        Raises
        ------
        WorkerLostError
            If a worker has not answered for ``skdistmlp.exchange-timeout``.
        """
        silent = [w for w, answer in self._answers.items() if not answer.done()]
        waited_s = time.monotonic() - self._asked_at
        if silent and waited_s > self._timeout_s:
            raise WorkerLostError(
                f"worker {', '.join(silent)} has not answered for "
                f"{waited_s:.0f} s (skdistmlp.exchange-timeout is "
                f"{self._timeout_s:g} s). See what it does, and call again."
            )
        if not silent and waited_s > self._timeout_s:
            self._asked_at = time.monotonic()
            self._answers = ask(self._client, self._workers, be_there)

    def close(self) -> None:
        """Wait for nobody's answer any more."""
        for answer in self._answers.values():
            answer.cancel()


def be_there() -> None:
    """Do nothing: the answer is that the worker answers."""
