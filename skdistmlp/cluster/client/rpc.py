"""Calls to a cluster that can be waited for with checks, and cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable
from concurrent.futures import CancelledError, Future, wait
from typing import Any

from distributed import Client

from skdistmlp.cluster._dask import asyncio_loop
from skdistmlp.timeouts import PING_ANSWER_S, WORKER_CHECK_S


def submit_rpc(
    client: Client, method: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Future[Any]:
    """Start a method of a client on its event loop; return a future of the result.

    Called directly, the method would block, forever if a worker hangs. On the client's
    event loop it returns a coroutine instead, which can be waited for with `wait_while`
    and cancelled.
    """
    call = _LazyCoroutine(lambda: method(*args, **kwargs))
    return asyncio.run_coroutine_threadsafe(call, asyncio_loop(client))


class _LazyCoroutine(Coroutine[Any, Any, Any]):
    """A coroutine that is created by its first step, on the event loop.

    It exists for two reasons. Methods of a Dask client return a coroutine only when
    they are called on the client's event loop, and `run_coroutine_threadsafe` takes a
    coroutine, not a function that makes one. And when the client closes between the
    submission and the first step, the step never happens: a coroutine that was created
    but never awaited makes Python warn, one that was not created does not.

    Parameters
    ----------
    make : callable
        Creates what is awaited.
    """

    def __init__(self, make: Callable[[], Awaitable[Any]]) -> None:
        self._make = make
        self._steps: Generator[Any, Any, Any] | None = None

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from self._make().__await__())

    def send(self, value: Any) -> Any:
        """Take a step; StopIteration has the result."""
        if self._steps is None:
            self._steps = self.__await__()
        return self._steps.send(value)

    def throw(self, *error: Any) -> Any:
        """Raise an error at the point that the last step reached."""
        if self._steps is None:
            self._steps = self.__await__()
        return self._steps.throw(*error)

    def close(self) -> None:
        """End it, at whatever point it is."""
        if self._steps is not None:
            self._steps.close()


def wait_while(check: Callable[[], None], answers: Iterable[Future[Any]]) -> None:
    """Wait for answers; cancel those that are missing when the wait ends.

    Parameters
    ----------
    check : callable
        Called every `WORKER_CHECK_S` during the wait; ends it by raising.
    answers : iterable of Future
        What `submit_rpc` returned.
    """
    answers = list(answers)
    try:
        # In intervals: once the client is closed or a worker hangs, an answer may never
        # arrive, and only `check` can notice.
        while wait(answers, WORKER_CHECK_S).not_done:
            check()
    finally:
        # Also after an error in `check`: what nobody waits for must not pile up on the
        # event loop. Cancelling an answer that has arrived does nothing.
        for answer in answers:
            answer.cancel()


def check_open(client: Client) -> None:
    """Raise CancelledError if a client is closed: no call on it would ever end."""
    if client.status in ("closing", "closed"):
        raise CancelledError


def run_on_workers(
    client: Client, workers: Iterable[str], function: Callable[..., Any], *args: Any
) -> dict[str, Future[Any]]:
    """Start a function on workers, outside their tasks.

    Parameters
    ----------
    client : Client
        A connected client.
    workers : iterable of str
        Addresses.
    function : callable
        Called on each worker.
    *args
        Its arguments.

    Returns
    -------
    dict of str to Future
        The result of each worker; one that hangs never answers.
    """
    # One call per worker: a single call for all would answer only when all have, so one
    # worker that hangs would hide the answers of the others.
    return {
        worker: submit_rpc(client, client.run, function, *args, workers=[worker])
        for worker in workers
    }


def answers_in_time(
    client: Client, workers: Iterable[str], function: Callable[..., Any], *args: Any
) -> dict[str, Any]:
    """Call a function on workers; return the results that come within `PING_ANSWER_S`.

    The parameters are those of `run_on_workers`.
    """
    answers = run_on_workers(client, workers, function, *args)
    answered, _ = wait(answers.values(), PING_ANSWER_S)
    for answer in answers.values():
        answer.cancel()
    # A worker that has left answers with an error.
    return {
        worker: answer.result()[worker]
        for worker, answer in answers.items()
        if answer in answered and answer.exception() is None
    }
