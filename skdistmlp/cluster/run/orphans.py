"""What a client that is gone has left on workers."""

from asyncio import gather, wait_for, wrap_future
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError, Future, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from distributed import Client, SchedulerPlugin

from skdistmlp.cluster.client.rpc import check_open, submit_rpc

LOOKS_AFTER_S = 2.0, 10.0, 60.0
"""Seconds after a client is gone when its workers are looked at: what it has sent
through the scheduler may still be on its way."""

ANSWERS_WITHIN_S = 5.0
"""Seconds in which scheduler and workers answer."""


@dataclass(frozen=True)
class Run:
    """A run of an engine.

    Attributes
    ----------
    client : str
        The client's id.
    workers : tuple of str
        Addresses of the workers that it sends values to.
    """

    client: str
    workers: tuple[str, ...]


class OrphanCleanup(SchedulerPlugin):
    """Lets go of what a run has sent when its client is gone, on the scheduler.

    Dask's client sends values to a worker, and then tells the scheduler, which does not
    know of them if the client ends in between. What goes through the scheduler, and
    arrives after the client is gone, Dask would keep.
    """

    name = "skdistmlp-leftovers"
    idempotent = True

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}

    async def start(self, scheduler: Any) -> None:
        """Take requests from clients; called by Dask, once on a scheduler."""
        self._scheduler = scheduler
        scheduler.handlers["skdistmlp_run_begins"] = self.begins
        scheduler.handlers["skdistmlp_run_ends"] = self.ends

    def begins(self, name: str, client: str, workers: list[str]) -> None:
        """Note a run; its name is the second part of the keys of what it sends."""
        run = Run(client, tuple(workers))
        if client in self._scheduler.clients:
            self.runs[name] = run
        else:
            # That it is gone came on another connection, and sooner.
            self._look_later(name, run)

    def ends(self, name: str) -> None:
        """Forget a run that has let go of everything itself."""
        self.runs.pop(name, None)

    def remove_client(self, scheduler: Any, client: str) -> None:
        """Let go of what a client that is gone has sent; called by Dask."""
        for name, run in list(self.runs.items()):
            if run.client == client:
                del self.runs[name]
                self._look_later(name, run)

    def _look_later(self, name: str, run: Run) -> None:
        for seconds in LOOKS_AFTER_S:
            leftovers = partial(let_go, self._scheduler, name, run)
            self._scheduler.loop.call_later(seconds, leftovers)


async def let_go(scheduler: Any, name: str, run: Run) -> None:
    """Let go of what a run has sent to its workers."""

    def is_of_run(key: object) -> bool:
        return isinstance(key, tuple) and key[1:2] == (name,)

    async def let_go_on(worker: str) -> None:
        held = await wait_for(scheduler.rpc(worker).keys(), ANSWERS_WITHIN_S)
        unknown = [k for k in held if is_of_run(k) and k not in scheduler.tasks]
        what = {"op": "remove-replicas", "keys": unknown, "stimulus_id": name}
        scheduler.worker_send(worker, what)

    if run.client in scheduler.clients:
        keys = [key for key in scheduler.tasks if is_of_run(key)]
        scheduler.client_releases_keys(keys=keys, client=run.client)
        if run.client not in scheduler.client_comms:
            # Dask made it anew for what arrived, and nobody will close it.
            scheduler.remove_client(run.client)
    # A worker that stands still, or leaves meanwhile, is in no other's way.
    there = set(run.workers) & set(scheduler.workers)
    await gather(*map(let_go_on, there), return_exceptions=True)


class RegisteredRun:
    """A run that the scheduler knows of, for as long as it may have values on workers.

    Parameters
    ----------
    client : Client
        A connected client.
    name : str
        The second part of the keys of what the run sends.
    workers : sequence of str
        Addresses.
    """

    def __init__(self, client: Client, name: str, workers: Sequence[str]) -> None:
        self._client = client
        self._name = name
        self._begun: Future[Any] = submit_rpc(client, self._begin, list(workers))
        self._closed = False

    def wait(self) -> None:
        """Wait until the scheduler knows of the run, but not for long."""
        wait([self._begun], ANSWERS_WITHIN_S)

    def close(self, sent: Iterable[Future[Any]]) -> None:
        """Let the scheduler forget the run when what it sends has arrived."""
        if self._closed:
            return
        self._closed = True
        # The scheduler learns of a client that is closed anyway, and its loop ends.
        with suppress(CancelledError, RuntimeError):
            check_open(self._client)
            submit_rpc(self._client, self._end, [self._begun, *sent])

    async def _begin(self, workers: list[str]) -> None:
        scheduler: Any = self._client.scheduler
        await self._client.register_plugin(OrphanCleanup())
        await scheduler.skdistmlp_run_begins(
            name=self._name, client=self._client.id, workers=workers
        )

    async def _end(self, before: Iterable[Future[Any]]) -> None:
        scheduler: Any = self._client.scheduler
        await gather(*map(wrap_future, before), return_exceptions=True)
        await scheduler.skdistmlp_run_ends(name=self._name)
