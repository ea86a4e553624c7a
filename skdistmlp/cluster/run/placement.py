"""What one run of an engine has on the cluster: each value and task on its worker."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Self

from distributed import Client, Future

from skdistmlp.cluster.client.errors import translate_dask_errors
from skdistmlp.cluster.client.rpc import submit_rpc, wait_while
from skdistmlp.cluster.client.workers import can_connect
from skdistmlp.cluster.run.free_memory import check_free_memory
from skdistmlp.cluster.run.graph import RUN_DIGITS, SHARD, TRAIN, Key, PinnedGraph
from skdistmlp.cluster.run.held import HeldFutures
from skdistmlp.cluster.run.interrupts import InterruptShield
from skdistmlp.cluster.run.liveness import Pings, missing_workers
from skdistmlp.cluster.run.orphans import RegisteredRun
from skdistmlp.cluster.run.scatter import Scatterer
from skdistmlp.cluster.run.versions import check_versions
from skdistmlp.cluster.run.wait_notice import WaitNotice
from skdistmlp.cluster.run.watch import Watch
from skdistmlp.exceptions import ExchangeError, WorkerLostError
from skdistmlp.planning.memory import WorkerMemory, memory_needs, plan_with_room
from skdistmlp.planning.plan import Plan
from skdistmlp.training.loop import Log, quiet


class Placement:
    """Values and tasks of one run, each on the worker of its shard.

    The parts: `PinnedGraph` builds and submits tasks, `Scatterer` sends values, `Watch`
    ends waits that have become pointless, `WaitNotice` writes what long ones wait for,
    `InterruptShield` keeps Ctrl-C from workers, and `HeldFutures` releases everything
    at the end. Each method that talks to Dask translates Dask's errors; the driver says
    in `phase` what it is doing.

    A context: `open` on entry, `close` on exit.

    Parameters
    ----------
    client : Client
        A connected client.
    workers : tuple of str
        Address of the worker of each shard.
    group : str
        What the run does, as the dashboard says.
    name : callable
        From a rank to what names of tasks call its shard.
    log : callable
        Takes lines for the user, if they want any.
    check : callable
        Called every `WORKER_CHECK_S` of each wait; ends it by raising.

    Attributes
    ----------
    workers : tuple of str
        As above.
    phase : str
        What is going on, as a gerund, for errors.
    watch : Watch
        Of this run's workers.
    notice : WaitNotice
        Of this run.
    memory_needs : mapping of str to str
        What to say of a worker that is lost, if it came near its memory limit.
    """

    def __init__(
        self,
        client: Client,
        workers: tuple[str, ...],
        group: str = TRAIN,
        name: Callable[[int], str] = SHARD,
        log: Log = quiet,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._client = client
        self.workers = workers
        self._run = uuid.uuid4().hex[:RUN_DIGITS]
        self.phase = "starting"
        self.memory_needs: Mapping[str, str] = {}
        self._memory: Mapping[str, WorkerMemory] = {}
        # Those that `close` does not wait for.
        self._silent: Collection[str] = ()
        self.notice = WaitNotice(client, self._run, log)
        self._shield = InterruptShield(client, workers)
        self._held = HeldFutures()
        self.watch = Watch(client, workers, self._held.pending, check)
        self._graph = PinnedGraph(client, workers, self._run, self._held, group, name)
        self._scatterer = Scatterer(
            client, workers, self._graph.key, self._held, self.watch
        )

    def __enter__(self) -> Self:
        try:
            self.open()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def open(self) -> None:
        """Shield the workers from Ctrl-C, check their versions, register the run.

        Raises
        ------
        ClusterError
            If one has another version of Python or of this package.
        """
        # Before they hold anything.
        self._shield.open()
        self.phase = "asking the workers for their version"
        with self.translate_dask_errors():
            with self.watch.naming_losses():
                check_versions(self._client, self.workers, self.watch.check)
            # Only now: the scheduler imports this package for it.
            self._scatterer.registered = RegisteredRun(
                self._client, self._run, self.workers
            )

    def check_memory(self, plan: Plan, module: str) -> Plan:
        """Check the workers' memory; drop the copies if there is no room for them.

        Call it before they hold anything.

        Parameters
        ----------
        plan : Plan
            Of training on the workers of this run.
        module : str
            What will be loaded on the workers.

        Raises
        ------
        ClusterError
            If one has too little, even without copies of the state.
        """
        self.phase = "checking the memory of the workers"
        with self.translate_dask_errors(), self.watch.naming_losses():
            self._memory = check_free_memory(
                self._client, plan, module, self.watch.check
            )
        plan = plan_with_room(plan, self._memory)
        self.note_memory(plan)
        return plan

    def note_memory(self, plan: Plan) -> None:
        """Note what the workers will hold from now on, in case that one is lost."""
        self.memory_needs = memory_needs(plan, self._memory)

    def close(self) -> None:
        """Release everything on the cluster, and end this run's threads."""
        # In this order: what is sent after the futures were released is released at
        # once, and only when all has arrived may the scheduler forget the run.
        try:
            self._held.close()
            self._scatterer.close()
            self.watch.close()
            self._graph.begin()
        finally:
            # Last, and even if an interrupt arrives in the middle of that.
            self._shield.close(self._silent)

    def ping_workers(self) -> Pings:
        """Ping all workers of this run."""
        return Pings(self._client, self.workers)

    def note_silent(self, error: WorkerLostError | ExchangeError) -> None:
        """Note in an error that ends this run which of its workers do not answer.

        They are asked once, unless the error says it already. What ends the run goes by
        that, copies are fetched and workers released, instead of waiting for the same
        worker again and again. Whoever goes on after it asks again those that the error
        does not name: they may have hung for a moment only.
        """
        if error.silent is None:
            known: Collection[str] = ()
            # It names those that have not answered for long. The others it has not
            # asked, and one may hang since the same fault.
            if isinstance(error, WorkerLostError) and error.kind == "lost":
                known = error.workers
            asked = [worker for worker in self.workers if worker not in known]
            error.silent = (*known, *missing_workers(self._client, asked))
        self._silent = error.silent

    def begin(self) -> None:
        """Start a step: tasks get new keys; see `PinnedGraph`."""
        self._graph.begin()

    def key(self, rank: int, operation: str) -> Key:
        """Return the key of a task of this step; see `PinnedGraph`."""
        return self._graph.key(rank, operation)

    def add(
        self, rank: int, operation: str, function: Callable[..., Any], *args: Any
    ) -> Key:
        """Note a task on the worker of a shard; see `PinnedGraph`."""
        return self._graph.add(rank, operation, function, *args)

    def submit(self, keys: list[Key]) -> list[Future[Any]]:
        """Send all noted tasks; return the futures of `keys`; see `PinnedGraph`."""
        with self.translate_dask_errors():
            return self._graph.submit(keys)

    def scatter(
        self, name: str, values: Sequence[Any], ranks: Sequence[int] | None = None
    ) -> list[Future[Any]]:
        """Send every shard its own value; see `Scatterer`."""
        with self.translate_dask_errors():
            return self._scatterer.scatter(name, values, ranks)

    def scatter_cached(
        self,
        name: str,
        values: Sequence[Any],
        sizes: Sequence[int],
        owner: object = None,
    ) -> list[Future[Any]]:
        """Send every shard its own value if it is not there yet; see `Scatterer`."""
        with self.translate_dask_errors():
            return self._scatterer.scatter_cached(name, values, sizes, owner)

    def wait_for(self, *futures: Future[Any]) -> None:
        """Wait for tasks, as long as their workers can finish them.

        When a worker dies, Dask cancels everything that depends on its shard. When it
        is retired, Dask moves the shard elsewhere, and tasks that are pinned to the
        worker would wait forever: hence the checks.
        """
        since = time.monotonic()

        def check() -> None:
            self.watch.check(queued=self.workers)
            self.notice.check(self.phase, self.workers, since)

        with self.translate_dask_errors():
            for future in futures:
                if not future.done():
                    # Not `future.exception(timeout=...)`: a variable of Dask's `sync`
                    # holds the error of each timeout, whose traceback holds the stack,
                    # and all rows in it, until Python collects garbage.
                    ending = submit_rpc(self._client, future.exception)
                    wait_while(check, [ending])
                    ending.result()
                self.error_of(future)

    def error_of(self, future: Future[Any]) -> BaseException | None:
        """Return the error of a failed task, with a note that says where it ran."""
        if future.status != "error":
            return None
        error: BaseException = future.exception()
        key: Any = future.key
        worker = self.workers[self._held.rank_of(future)]
        note = f"This happened in task {key[1]!r} on worker {worker}."
        # Dask returns the same error each time.
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
        return error

    def fetch(self, *futures: Future[Any]) -> list[Any]:
        """Wait for tasks, and return their results."""
        with self.translate_dask_errors():
            self.wait_for(*futures)
            direct = all(can_connect(self._client, worker) for worker in self.workers)
            arriving = submit_rpc(
                self._client, self._client.gather, list(futures), direct=direct
            )
            # A worker may be lost, or hang, while it sends a result.
            wait_while(self.watch.check, [arriving])
            results: list[Any] = arriving.result()
            return results

    def pop_results(self, *futures: Future[Any]) -> list[Any]:
        """Fetch results, and release them on the cluster."""
        results = self.fetch(*futures)
        for future in futures:
            future.release()
        return results

    def translate_dask_errors(self) -> AbstractContextManager[None]:
        """Raise errors of this package in place of Dask's; they name the phase."""
        return translate_dask_errors(
            self._client,
            self.workers,
            lambda: self.phase,
            lambda lost: self.memory_needs.get(lost, ""),
        )
