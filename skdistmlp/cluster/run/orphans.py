"""Release what a client left on workers when it went.

Dask's client sends a value to a worker first and tells the scheduler of it afterwards:
the scheduler does not know of values whose client dies in between. And values that go
through the scheduler and arrive after their client has gone, Dask would keep forever.
"""

from __future__ import annotations

from asyncio import gather, wait_for, wrap_future
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

from distributed import Client, SchedulerPlugin

from skdistmlp.cluster._dask import (
    add_handler,
    call_later,
    call_scheduler,
    has_connection,
    keys_on_worker,
    release_keys,
    remove_client,
    remove_replicas,
)
from skdistmlp.cluster.client.rpc import check_open, submit_rpc
from skdistmlp.timeouts import ORPHAN_ANSWER_S, ORPHAN_LOOKS_S


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
    """Releases what a run has sent when its client is gone; on the scheduler."""

    name = "skdistmlp-orphan-cleanup"
    idempotent = True

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}

    async def start(self, scheduler: Any) -> None:
        """Add the handlers that clients call; called by Dask, once per scheduler."""
        self._scheduler = scheduler
        add_handler(scheduler, "skdistmlp_register_run", self.register_run)
        add_handler(scheduler, "skdistmlp_forget_run", self.forget_run)
        add_handler(scheduler, "skdistmlp_release_run", self.release_run)

    def register_run(self, name: str, client: str, workers: list[str]) -> None:
        """Note a run; its name is the third part of the keys of what it sends."""
        run = Run(client, tuple(workers))
        if client in self._scheduler.clients:
            self.runs[name] = run
        else:
            # A race: this call came over another connection than the news that the
            # client is gone, and later. `remove_client` will not be called again.
            self._release_later(name, run, partial(is_of_run, name))

    def forget_run(self, name: str) -> None:
        """Forget a run that has released everything itself."""
        self.runs.pop(name, None)

    def release_run(self, name: str, keys: Collection[object]) -> None:
        """Forget a run, and release values of which its client does not know the end.

        Only those: the client still has others, such as those in its cache.
        """
        if (run := self.runs.pop(name, None)) is not None:
            self._release_later(name, run, set(keys).__contains__)

    def add_client(self, scheduler: Any, client: str) -> None:
        """Release what a client sent over an earlier connection; called by Dask.

        It has reconnected under the same name, and has given up its futures. A
        scheduler that has not noticed the end of the earlier connection forgets here
        what the client had, without releasing it.
        """
        self.remove_client(scheduler, client)

    def remove_client(self, scheduler: Any, client: str) -> None:
        """Release what a client that has gone sent; called by Dask."""
        for name, run in list(self.runs.items()):
            if run.client == client:
                del self.runs[name]
                self._release_later(name, run, partial(is_of_run, name))

    def _release_later(
        self, name: str, run: Run, is_orphan: Callable[[object], bool]
    ) -> None:
        # Several times: a value may still be on its way when its client is gone.
        for after_s in ORPHAN_LOOKS_S:
            release = partial(release_orphans, self._scheduler, name, run, is_orphan)
            call_later(self._scheduler, after_s, release)


def is_of_run(name: str, key: object) -> bool:
    """Say whether a key belongs to a run."""
    return isinstance(key, tuple) and key[2:3] == (name,)


async def release_orphans(
    scheduler: Any, name: str, run: Run, is_orphan: Callable[[object], bool]
) -> None:
    """Release what a run has sent to its workers, and nobody will release."""

    async def release_on(worker: str) -> None:
        held = await wait_for(keys_on_worker(scheduler, worker), ORPHAN_ANSWER_S)
        # What the scheduler knows goes its usual way; only what it does not know is
        # dropped here.
        unknown = [k for k in held if is_orphan(k) and k not in scheduler.tasks]
        remove_replicas(scheduler, worker, unknown, reason=name)

    keys = [key for key in scheduler.tasks if is_orphan(key)]
    release_keys(scheduler, keys, run.client)
    if run.client in scheduler.clients and not has_connection(scheduler, run.client):
        # This, or a value that arrived after its client had gone, made Dask create the
        # client again, without a connection whose end would remove it.
        remove_client(scheduler, run.client)
    # A worker that hangs, or leaves meanwhile, does not block the others: each has its
    # own timeout, and errors are ignored.
    present = set(run.workers) & set(scheduler.workers)
    await gather(*map(release_on, present), return_exceptions=True)


class RegisteredRun:
    """A run that the scheduler knows of for as long as it may have values on workers.

    Parameters
    ----------
    client : Client
        A connected client.
    name : str
        The third part of the keys of what the run sends.
    workers : sequence of str
        Addresses.
    """

    def __init__(self, client: Client, name: str, workers: Sequence[str]) -> None:
        self._client = client
        self._name = name
        # Not waited for here, but by the threads that send the first values.
        self._registered: Future[Any] = submit_rpc(
            client, self._register, list(workers)
        )
        self._closing: Future[None] = Future()

    def wait(self) -> None:
        """Wait until the scheduler knows of the run or it is closed, but not for long.

        A scheduler that does not answer within `ORPHAN_ANSWER_S` is not a reason to
        fail: without the clean-up, only the values of clients that die are left.
        """
        wait([self._registered, self._closing], ORPHAN_ANSWER_S, FIRST_COMPLETED)

    def close(
        self, sent: Iterable[Future[Any]], cut_short: Collection[object] = ()
    ) -> None:
        """Have the scheduler forget the run as soon as all it has sent has arrived.

        Not earlier: the process may be killed while a value is on its way.

        Parameters
        ----------
        sent : iterable of Future
            Done when it has arrived.
        cut_short : collection of keys
            Of values of which nobody knows whether they arrive: the scheduler releases
            them.
        """
        if self._closing.done():
            return
        # Ends `wait`: a thread that has yet to send holds its value until then.
        self._closing.set_result(None)
        # The scheduler notices a closed client anyway; and its loop may end right now.
        with suppress(CancelledError, RuntimeError):
            check_open(self._client)
            before = [self._registered, *sent]
            if cut_short:
                end, orphans = "skdistmlp_release_run", {"keys": list(cut_short)}
            else:
                end, orphans = "skdistmlp_forget_run", {}
            submit_rpc(self._client, self._end, before, end, **orphans)

    async def _register(self, workers: list[str]) -> None:
        # Each time: it is idempotent, and the scheduler may be a new one.
        await self._client.register_plugin(OrphanCleanup())
        await call_scheduler(
            self._client,
            "skdistmlp_register_run",
            name=self._name,
            client=self._client.id,
            workers=workers,
        )

    async def _end(self, before: list[Future[Any]], how: str, **orphans: Any) -> None:
        await gather(*map(wrap_future, before), return_exceptions=True)
        # The scheduler may never answer, and the traceback of what was cut short holds
        # the value.
        before.clear()
        await call_scheduler(self._client, how, name=self._name, **orphans)
