"""Waiting with a limit, busy clusters, and what a scheduler has seen."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

from distributed import Client, Event

WITHIN_S = 60.0
"""How long anything may take before a test gives up; not a measure of speed."""


def wait_until(
    condition: Callable[[], Any],
    what: str,
    during: Future[Any] | None = None,
    within_s: float = WITHIN_S,
) -> Any:
    """Wait until a function returns something true; return that.

    What it is true during must not end before.
    """
    deadline = time.monotonic() + within_s
    while not (answer := condition()):
        if during is not None and during.done():
            raise AssertionError(f"it ended before {what}: {during.result()}")
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.02)
    return answer


def in_thread(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Future[Any]:
    """Call a function in a thread that cannot keep the test run alive."""
    future: Future[Any] = Future()

    def call() -> None:
        try:
            future.set_result(function(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=call, daemon=True).start()
    return future


def bounded(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call a function, and fail instead of waiting forever."""
    return in_thread(function, *args, **kwargs).result(WITHIN_S)


def load() -> None:
    """Import on a worker what takes seconds, in which the worker does not answer."""
    import skdistmlp.cluster.peers.worker  # noqa: F401


RUNS_S, STOPS_S = 0.01, 0.04
"""Seconds for which a slow process runs, and for which it is then stopped: it computes
a fifth as fast."""


@contextmanager
def slow_process(pid: int) -> Iterator[None]:
    """Have a process compute slowly within the context, as on a busy machine."""
    ended = threading.Event()

    def stop_and_go() -> None:
        while not ended.wait(RUNS_S):
            os.kill(pid, signal.SIGSTOP)
            ended.wait(STOPS_S)
            os.kill(pid, signal.SIGCONT)

    thread = threading.Thread(target=stop_and_go)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def set_status(name: str, dask_worker: Any) -> None:
    """Pause a worker, as Dask does with one short of memory, or have it resume."""
    from distributed import Status

    # Dask's own memory monitor would undo it.
    fraction = False if name == "paused" else 0.8
    dask_worker.memory_manager.memory_pause_fraction = fraction
    dask_worker.status = Status[name]


@contextmanager
def occupied(client: Client) -> Iterator[Callable[[], None]]:
    """Keep every thread of the cluster busy until the yielded function is called."""
    gate = Event(f"gate-{time.monotonic_ns()}", client=client)
    name = gate.name
    holding = [
        client.submit(
            lambda: Event(name).wait(WITHIN_S), workers=[worker], pure=False, priority=1
        )
        for worker in client.nthreads()
    ]
    wait_until(
        lambda: all(client.processing().values()), "every worker is kept from working"
    )
    try:
        yield gate.set
    finally:
        gate.set()
        client.gather(holding)


def task_keys(client: Client) -> list[tuple[Any, ...]]:
    """Return the keys of the engine's tasks on the scheduler."""
    keys = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks))
    return [key for key in keys if isinstance(key, tuple)]


def transitions(client: Client) -> list[tuple[Any, str, str]]:
    """Return the scheduler's log: key, state before and state after."""
    log = client.run_on_scheduler(
        lambda dask_scheduler: [tuple(t)[:3] for t in dask_scheduler.transition_log]
    )
    return [entry for entry in log if isinstance(entry[0], tuple)]
