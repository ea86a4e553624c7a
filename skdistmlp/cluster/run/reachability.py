"""Check whether workers can connect to those whose values they wait for.

Dask tries forever: a task that needs a value from a worker that its own cannot connect
to neither starts nor fails.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future as Answer
from typing import Any, TypeAlias

from distributed import Client, Future, Worker

from skdistmlp.cluster._dask import awaited_transfers, can_reach, ping_worker
from skdistmlp.cluster.client.rpc import submit_rpc
from skdistmlp.exceptions import ExchangeError
from skdistmlp.settings import exchange_timeout_s

Pair: TypeAlias = tuple[str, str]
"""A worker, and another that it tries to connect to."""


class ReachabilityCheck:
    """Has workers try to connect to those whose values awaited tasks need.

    Workers that only compute are not asked: a wait costs a question to the scheduler in
    each ``skdistmlp.exchange-timeout``.

    Parameters
    ----------
    client : Client
        A connected client.
    awaited : callable
        Returns the futures that the caller waits for; those that are done do not
        matter.
    workers : sequence of str
        Addresses of the workers of the shards, for which an error has their ranks.
    """

    def __init__(
        self,
        client: Client,
        awaited: Callable[[], Iterable[Future[Any]]],
        workers: Sequence[str] = (),
    ) -> None:
        self._client = client
        self._awaited = awaited
        self._workers = tuple(workers)
        self._timeout_s = exchange_timeout_s()
        # Not at once: most runs end before they need the question.
        self._due_at = time.monotonic() + self._timeout_s
        self._answer: Answer[list[Pair]] | None = None

    def check(self) -> None:
        """Look at what has been found, and ask again when due, without waiting.

        Raises
        ------
        ExchangeError
            If a worker could not connect to another that answers, for two timeouts.
        """
        # Never two questions at a time: those to a worker that hangs would pile up. It
        # is for `LivenessCheck`, or for Dask, to notice that one.
        if self._answer is None:
            self._ask_when_due()
            return
        if not self._answer.done():
            return
        answer, self._answer = self._answer, None
        # An error is no answer: the connection to the scheduler may have been lost.
        if answer.cancelled() or answer.exception() is not None:
            return
        pairs = answer.result()
        for worker, other in pairs:
            error = ExchangeError(
                f"worker {worker} could not connect to worker {other} within "
                f"{2 * self._timeout_s:g} s (twice skdistmlp.exchange-timeout), though "
                f"both answer this process. Allow connections between all workers, on "
                f"the ports of their addresses, or use engine='local', with arrays in "
                f"place of Dask collections."
            )
            ranks = {worker: rank for rank, worker in enumerate(self._workers)}
            error.apart = tuple(
                (ranks[a], ranks[b]) for a, b in pairs if a in ranks and b in ranks
            )
            raise error

    def close(self) -> None:
        """Stop waiting for answers."""
        if self._answer is not None:
            self._answer.cancel()

    def _ask_when_due(self) -> None:
        if time.monotonic() < self._due_at:
            return
        self._due_at = time.monotonic() + self._timeout_s
        keys = [future.key for future in self._awaited() if not future.done()]
        if keys:
            self._answer = submit_rpc(
                self._client, find_unreachable, self._client, keys, self._timeout_s
            )


async def find_unreachable(
    client: Client, keys: Sequence[Any], timeout_s: float
) -> list[Pair]:
    """Return the workers that cannot connect to another, which answers; see `check`.

    Parameters
    ----------
    client : Client
        A connected client, on whose event loop this runs.
    keys : sequence
        Of the tasks that matter. Other people's may wait for whom they like.
    timeout_s : float
        Seconds for each of two attempts to connect.
    """
    suspects = await _try_to_connect(client, keys, timeout_s)
    # A worker whose task holds the GIL takes no connections either. So it takes two
    # attempts, between which the other has answered this process.
    others = sorted({other for _, other in suspects})
    pings = await asyncio.gather(
        *(ping_worker(client, other) for other in others), return_exceptions=True
    )
    # One that has left does not answer.
    answering = {
        other
        for other, answer in zip(others, pings, strict=True)
        if not isinstance(answer, BaseException)
    }
    suspects = {pair for pair in suspects if pair[1] in answering}
    if not suspects:
        return []
    return sorted(suspects & await _try_to_connect(client, keys, timeout_s))


async def _try_to_connect(
    client: Client, keys: Sequence[Any], timeout_s: float
) -> set[Pair]:
    """Have each worker that waits for values try those that hold them, once."""
    transfers = await client.run_on_scheduler(awaited_transfers, keys)
    answers = await asyncio.gather(
        *(
            client.run(unreachable_holders, holders, timeout_s, workers=[worker])
            for worker, holders in transfers.items()
        ),
        return_exceptions=True,
    )
    # An error is no answer: the worker may have left.
    return {
        (worker, other)
        for answer in answers
        if isinstance(answer, dict)
        for worker, others in answer.items()
        for other in others
    }


async def unreachable_holders(
    holders: Sequence[Sequence[str]], timeout_s: float, dask_worker: Worker
) -> list[str]:
    """Return the workers that this one cannot connect to, and cannot do without.

    Runs on the worker's event loop.

    Parameters
    ----------
    holders : sequence of sequence of str
        For each value that it waits for, the workers that have it: one of them is
        enough.
    timeout_s : float
        Seconds to try for.
    dask_worker : Worker
        The worker.
    """
    others = sorted({other for of_value in holders for other in of_value})
    reached = await asyncio.gather(
        *(can_reach(dask_worker, other, timeout_s) for other in others)
    )
    unreached = {
        other
        for other, is_reached in zip(others, reached, strict=True)
        if not is_reached
    }
    lacking = [of_value for of_value in holders if unreached.issuperset(of_value)]
    return sorted({other for of_value in lacking for other in of_value})
