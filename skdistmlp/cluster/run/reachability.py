"""Check whether the workers of a run can connect to each other.

Dask tries forever: a task that needs a value from a worker that its own cannot connect
to neither starts nor fails.
"""

import asyncio
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, TypeAlias

from distributed import Client, Worker

from skdistmlp.cluster._dask import awaited_keys, can_reach
from skdistmlp.cluster.client.rpc import run_on_workers
from skdistmlp.cluster.run.graph import run_of
from skdistmlp.cluster.run.liveness import ping
from skdistmlp.exceptions import ExchangeError
from skdistmlp.settings import exchange_timeout_s

Pair: TypeAlias = tuple[str, str]
"""A worker, and another that it tries to connect to."""


class ReachabilityCheck:
    """Has workers that wait for each other's values try to connect to each other.

    Workers that only compute cost nothing but a question in each
    ``skdistmlp.exchange-timeout``.

    Parameters
    ----------
    client : Client
        A connected client.
    workers : sequence of str
        Addresses.
    run : str
        The second part of the keys of the values that matter.
    """

    def __init__(self, client: Client, workers: Sequence[str], run: str) -> None:
        self._client = client
        self._workers = workers
        self._run = run
        self._timeout_s = exchange_timeout_s()
        # Not at once: most runs end before they need the question.
        self._due_at = time.monotonic() + self._timeout_s
        self._answers: dict[str, Future[dict[str, list[str]]]] = {}
        self._pings: dict[Pair, Future[Any]] = {}
        self._suspects: set[Pair] = set()

    def check(self) -> None:
        """Note what workers have answered, and ask again when due, without waiting.

        A worker whose task holds the GIL takes no connections either. So an error takes
        two attempts, between which the other has answered this process.

        Raises
        ------
        ExchangeError
            If a worker could not connect to another that answers, for two timeouts.
        """
        # Never two questions at a time: those to a worker that hangs would pile up. It
        # is for `LivenessCheck` to report.
        if not all(answer.done() for answer in self._answers.values()):
            return
        if not all(answer.done() for answer in self._pings.values()):
            return
        unreachable = {
            (worker, other)
            for worker, answer in self._answers.items()
            if _has_result(answer)
            for other in answer.result()[worker]
        }
        self._answers = {}
        for worker, other in sorted(unreachable & self._suspects):
            raise ExchangeError(
                f"worker {worker} could not connect to worker {other} within "
                f"{2 * self._timeout_s:g} s (twice skdistmlp.exchange-timeout), though "
                f"both answer this process. Allow connections between all workers, on "
                f"the ports of their addresses, or use engine='local'."
            )
        if unreachable:
            self._pings = {
                (worker, other): run_on_workers(self._client, [other], ping)[other]
                for worker, other in unreachable
            }
            return
        self._suspects = {
            pair for pair, answer in self._pings.items() if _has_result(answer)
        }
        self._pings = {}
        if self._suspects or (self._workers[1:] and time.monotonic() > self._due_at):
            self._ask()

    def close(self) -> None:
        """Stop waiting for answers."""
        for answer in (*self._answers.values(), *self._pings.values()):
            answer.cancel()

    def _ask(self) -> None:
        self._due_at = time.monotonic() + self._timeout_s
        self._answers = run_on_workers(
            self._client,
            self._workers,
            unreachable_workers,
            self._run,
            self._workers,
            self._timeout_s,
        )


def _has_result(answer: Future[Any]) -> bool:
    """Say whether a worker has answered, and not with an error: it may have left."""
    return answer.done() and not answer.cancelled() and answer.exception() is None


async def unreachable_workers(
    run: str, workers: Sequence[str], timeout_s: float, dask_worker: Worker
) -> list[str]:
    """Return the workers that this one cannot connect to.

    It tries only if it waits for a value of a run; runs on its event loop.

    Parameters
    ----------
    run : str
        The second part of the keys of the values that matter.
    workers : sequence of str
        Addresses, its own among them.
    timeout_s : float
        Seconds to try for.
    dask_worker : Worker
        The worker.
    """
    if not any(run_of(key) == run for key in awaited_keys(dask_worker)):
        return []
    others = [worker for worker in workers if worker != dask_worker.address]
    reached = await asyncio.gather(
        *(can_reach(dask_worker, other, timeout_s) for other in others)
    )
    return [
        other
        for other, is_reached in zip(others, reached, strict=True)
        if not is_reached
    ]
