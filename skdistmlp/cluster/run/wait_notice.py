"""Say what a call waits for, if it waits long: work on workers."""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import wait
from typing import Any

from dask.utils import key_split
from distributed import Client

from skdistmlp.cluster.client.rpc import submit_rpc
from skdistmlp.cluster.run.graph import run_of
from skdistmlp.exceptions import counted
from skdistmlp.timeouts import BUSY_AFTER_S, PING_ANSWER_S
from skdistmlp.training.loop import Log

LOG = logging.getLogger("skdistmlp")

MAX_NAMED = 8
"""Workers that a line names; the others are counted."""


class WaitNotice:
    """Writes one line for each long wait for workers that do other work.

    It never ends a wait, whatever happens to the client and the workers that it asks:
    that is for `Watch`.

    Parameters
    ----------
    client : Client
        A connected client.
    run : str
        The run that waits; its own tasks are not other work. Empty if a graph of the
        user's is waited for: then all work is named, since nothing tells what belongs
        to the graph.
    log : callable
        Takes the line; the package's logger gets it too.
    """

    def __init__(self, client: Client, run: str, log: Log) -> None:
        self._client = client
        self._run = run
        self._log = log
        self._queued_since: float | None = None
        self._written_since: float | None = None

    def check(self, phase: str, workers: Sequence[str] | None, since: float) -> None:
        """Write a line if workers have long been busy with tasks of others.

        Parameters
        ----------
        phase : str
            What is going on, as a gerund.
        workers : sequence of str or None
            Workers with tasks of this run that have not ended; None for all.
        since : float
            Beginning of the wait, by `time.monotonic`; also tells waits apart.
        """
        if not self._is_due(since):
            return
        try:
            asked = submit_rpc(
                self._client, _busy_workers, self._client, workers, self._run
            )
        except RuntimeError:
            # The client was closed in another thread, and its event loop with it.
            return
        # Bounded, as the question itself is, since the scheduler may hang.
        wait([asked], 2 * PING_ANSWER_S)
        if not asked.done() or asked.cancelled() or asked.exception() is not None:
            # A worker or a task has gone meanwhile: the next check asks again.
            asked.cancel()
            return
        busy: Mapping[str, Sequence[str]] = asked.result()
        if busy:
            named = [
                f"worker {worker}, which is busy with {', '.join(tasks)}"
                for worker, tasks in list(busy.items())[:MAX_NAMED]
            ]
            if len(busy) > MAX_NAMED:
                named.append(counted(len(busy) - MAX_NAMED, "other worker"))
            self._write(f"{phase} waits for {', and '.join(named)}", since)

    def check_reserved(self, workers: Sequence[str]) -> None:
        """Write a line if a fit has long been waiting for other fits.

        It waits for them once, from the first call of this.
        """
        since = self._queued_since = self._queued_since or time.monotonic()
        if self._is_due(since):
            named = (
                f"worker {workers[0]}, which another fit has"
                if len(workers) == 1
                else f"workers {', '.join(workers)}, some of which another fit has"
            )
            self._write(f"the fit waits for {named} reserved", since)

    def _is_due(self, since: float) -> bool:
        is_written = since == self._written_since
        return not is_written and time.monotonic() >= since + BUSY_AFTER_S

    def _write(self, line: str, since: float) -> None:
        self._written_since = since
        LOG.info("%s", line)
        self._log(line)


async def _busy_workers(
    client: Client, workers: Sequence[str] | None, run: str
) -> dict[str, list[str]]:
    """Return what keeps workers from running a task of a run, on the event loop.

    Returns
    -------
    dict of str to list of str
        Names of tasks, by the worker whose threads all run tasks of others; without a
        run, by each worker that runs any.
    """
    processing = await client.processing(workers and list(workers))
    n_threads = await client.nthreads(workers and list(workers))
    # Also those that are queued. Where all are the run's own, nobody is in its way.
    asked = {
        worker: asyncio.ensure_future(client.call_stack(keys=list(keys)))
        for worker, keys in processing.items()
        if any(run_of(key) != run for key in keys)
    }
    if not asked:
        return {}
    await asyncio.wait(asked.values(), timeout=PING_ANSWER_S)
    busy = {}
    for worker, answer in asked.items():
        if answer.done():
            if answer.cancelled() or answer.exception() is not None:
                continue  # this worker has left: the others may still be busy
            running: Sequence[Any] = list(answer.result().get(worker, ()))
        else:
            # A task holds the GIL: any of the others, since this run's own do not.
            answer.cancel()
            running = [key for key in processing[worker] if run_of(key) != run]
        others = [key for key in running if run_of(key) != run]
        # A run's own task may be running on one of them, or wait for another worker.
        enough = n_threads.get(worker, 1) if run else 1
        if len(others) == len(running) and len(others) >= enough:
            busy[worker] = sorted({_name_of(key) for key in others})
    return busy


def _name_of(key: Any) -> str:
    """Return what to call a task; say if it is of our kind."""
    if run_of(key) is None:
        return str(key_split(key))
    return f"{key[1]} of another fit or prediction"
