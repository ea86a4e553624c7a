"""Call methods of a client where the call can be waited for and cancelled."""

import asyncio
from collections.abc import (
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterable,
)
from concurrent.futures import CancelledError, Future, wait
from typing import Any

from distributed import (
    Client,
)

from skdistmlp.settings import WORKER_CHECK_S


def submit_rpc(
    client: Client, method: Callable[..., Any], /, *args: Any, **kwargs: Any
) -> Future[Any]:
    """Begin a call of a method of a client, where it can be waited for and cancelled.

    Called by itself it would wait, for some workers without end. On the client's event
    loop it gives a coroutine instead.
    """
    loop: Any = client.loop
    call = _LazyCoroutine(lambda: method(*args, **kwargs))
    return asyncio.run_coroutine_threadsafe(call, loop.asyncio_loop)


class _LazyCoroutine(Coroutine[Any, Any, Any]):
    """A coroutine that is made with its first step.

    One that never takes it, because its client is closed that moment, would have
    Python warn.

    Parameters
    ----------
    make : callable
        Makes what is to be awaited.
    """

    def __init__(self, make: Callable[[], Awaitable[Any]]) -> None:
        self._make = make
        self._steps: Generator[Any, Any, Any] | None = None

    def __await__(self) -> Generator[Any, Any, Any]:
        return (yield from self._make().__await__())

    def send(self, value: Any) -> Any:
        """Take a step; ends with StopIteration, which has the result."""
        if self._steps is None:
            self._steps = self.__await__()
        return self._steps.send(value)

    def throw(self, *error: Any) -> Any:
        """Raise an error where the last step ended."""
        if self._steps is None:
            self._steps = self.__await__()
        return self._steps.throw(*error)

    def close(self) -> None:
        """End it, wherever it is."""
        if self._steps is not None:
            self._steps.close()


def wait_while(going_well: Callable[[], None], answers: Iterable[Future[Any]]) -> None:
    """Wait for answers; cancel what is missing when the wait ends.

    Parameters
    ----------
    going_well : callable
        Called now and then meanwhile; ends the wait if it raises.
    answers : iterable of Future
        What `submit_rpc` returned.
    """
    answers = list(answers)
    try:
        while wait(answers, WORKER_CHECK_S).not_done:
            going_well()
    finally:
        for answer in answers:
            answer.cancel()


def check_open(client: Client) -> None:
    """Raise CancelledError for a client that is closed: it answers nothing."""
    if client.status in ("closing", "closed"):
        raise CancelledError


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
        worker: submit_rpc(client, client.run, what, *args, workers=[worker])
        for worker in workers
    }
