"""Tasks and values pinned to the workers that hold the shards of one network."""

import concurrent.futures
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import (
    FIRST_EXCEPTION,
    CancelledError,
    ThreadPoolExecutor,
    wait,
)
from contextlib import AbstractContextManager
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary, WeakSet

from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from distributed import Client, Future

from skdistmlp.cluster.client.errors import translate_dask_errors
from skdistmlp.cluster.client.rpc import check_open, submit_rpc, wait_while
from skdistmlp.cluster.client.workers import can_connect
from skdistmlp.cluster.run.cache import WorkerCache, can_be_kept, content_hash
from skdistmlp.cluster.run.liveness import (
    UNRESPONSIVE_TIMEOUTS,
    LivenessCheck,
    PausedCheck,
)
from skdistmlp.cluster.run.orphans import RegisteredRun
from skdistmlp.cluster.run.task_context import task_cancellation
from skdistmlp.cluster.run.versions import check_versions
from skdistmlp.exceptions import ClusterError
from skdistmlp.settings import WORKER_CHECK_S, exchange_timeout_s

Key: TypeAlias = tuple[str, str, int]

SENT_AT_ONCE = 4
"""Values on their way at the same time: more would only share the same network."""

THREAD_NAME = "skdistmlp"
"""How the names of our threads in the client begin."""


class Placement:
    """What one run of an engine has on the cluster: each task on its shard's worker.

    Tasks are noted one by one with `add` and sent together with `submit`.

    Parameters
    ----------
    client : Client
        A connected client.
    workers : tuple of str
        Address of the worker of each shard.
    suffix : str
        Ends the names that the dashboard shows.
    """

    def __init__(
        self, client: Client, workers: tuple[str, ...], suffix: str = ""
    ) -> None:
        self._suffix = suffix
        self._client = client
        self._workers = workers
        self._outside_tasks = ThreadPoolExecutor(SENT_AT_ONCE, THREAD_NAME)
        # The second part of every key, and no other run's.
        self._run = uuid.uuid4().hex[:8]
        self._announced: RegisteredRun | None = None
        # Those on their way: what has arrived must not be held by this.
        self._sent: WeakSet[concurrent.futures.Future[Future[Any]]] = WeakSet()
        self._step = 0
        self._noted = self._nothing()
        self._closed = False
        self._is_cancelled = task_cancellation()
        self._roll_call = LivenessCheck(client, workers)
        self._accepting = PausedCheck(client)
        self._lock = threading.Lock()
        # All futures that somebody still has, and the rank of their shard.
        self._submitted: WeakKeyDictionary[Future[Any], int] = WeakKeyDictionary()

    def begin(self) -> None:
        """Forget tasks that an interrupt kept from being submitted; count on."""
        self._noted = self._nothing()
        self._step += 1

    def close(self) -> None:
        """Let go of everything on the cluster, and end this run's thread.

        A future may outlive its user: the traceback of an error or a timeout
        holds it until Python collects its garbage.
        """
        with self._lock:
            self._closed = True
            for future in list(self._submitted):
                future.release()
        self._outside_tasks.shutdown(wait=False, cancel_futures=True)
        self._roll_call.close()
        if self._announced is not None:
            self._announced.close(self._sent)
        self.begin()

    def key(self, rank: int, operation: str) -> Key:
        """Name a task; the dashboard groups tasks by the first part."""
        return f"{operation}-shard{rank}{self._suffix}", self._run, self._step

    def add(
        self, rank: int, operation: str, function: Callable[..., Any], *args: Any
    ) -> Key:
        """Note a task on the worker of a shard, to be submitted with the others."""
        key = self.key(rank, operation)
        self._noted[rank][key] = (function, *args)
        return key

    def submit(self, keys: list[Key]) -> list[Future[Any]]:
        """Send all tasks noted, pinned to their workers; return futures of `keys`."""
        layers = {
            f"shard{rank}": MaterializedLayer(tasks, annotations={"workers": [worker]})
            for rank, (tasks, worker) in enumerate(
                zip(self._noted, self._workers, strict=True)
            )
        }
        graph = HighLevelGraph(layers, {name: set() for name in layers})
        rank_of = {key: rank for rank, tasks in enumerate(self._noted) for key in tasks}
        # What is noted holds the states of before; they are to go when used.
        self._noted = self._nothing()
        futures: list[Future[Any]] = self._client.get(graph, keys, sync=False)
        with self._lock:
            self._submitted.update(
                (future, rank_of[key])
                for future, key in zip(futures, keys, strict=True)
            )
            closed = self._closed
        if closed:
            for future in futures:
                future.release()
        return futures

    def place(
        self, name: str, values: Sequence[Any], ranks: Sequence[int] | None = None
    ) -> list[Future[Any]]:
        """Send every shard its own value, all at once.

        In threads of our own: inside a task, Dask would keep a value on the task's
        own worker, whatever `workers` says.

        Parameters
        ----------
        name : str
            What the dashboard shows.
        values : sequence
            A value for each shard.
        ranks : sequence of int, optional
            Which shards, by default the first.
        """

        def send(rank: int, value: Any) -> Future[Any]:
            key, worker = self.key(rank, name), self._workers[rank]
            if self._announced is not None:
                self._announced.wait()
            try:
                placed = self._scattered(key, value, worker)
            except KeyError:
                # When the worker has left meanwhile, Dask's scheduler makes a task for
                # the value before it finds out, and keeps it.
                self._client.run_on_scheduler(_forget, key, self._client.id)
                raise
            with self._lock:
                self._submitted[placed] = rank
                closed = self._closed
            if closed:
                # Another shard's value could not be sent, or the user had enough.
                placed.release()
            return placed

        ranks = range(len(values)) if ranks is None else ranks
        sent = [
            self._outside_tasks.submit(send, rank, value)
            for rank, value in zip(ranks, values, strict=True)
        ]
        self._sent.update(sent)
        # Dask would try for half a minute to connect to a worker that is gone.
        while True:
            done, pending = wait(sent, WORKER_CHECK_S, FIRST_EXCEPTION)
            for one in done:
                if isinstance(one.exception(), OSError):
                    self._await_loss()
                one.result()
            if not pending:
                return [one.result() for one in sent]
            self.check_workers()
            # Dask sends nothing to one that is paused.
            self.check_accepting(self._workers)

    def _scattered(self, key: Key, value: Any, worker: str) -> Future[Any]:
        """Send a value to a worker, as soon as it takes one."""
        direct = can_connect(self._client, worker)
        while True:
            try:
                return self._client.scatter(
                    {key: value}, [worker], direct=direct, timeout=WORKER_CHECK_S
                )[key]
            except TimeoutError:
                # It is paused, or has left, which `place` sees to.
                if self._closed:
                    raise

    def scatter_cached(
        self,
        name: str,
        values: Sequence[Any],
        sizes: Sequence[int],
        owner: object = None,
    ) -> list[Future[Any]]:
        """Send every shard its own value where it is not there from before.

        See `WorkerCache`.

        Parameters
        ----------
        name : str
            What the dashboard shows.
        values : sequence
            A value for each shard; may be the same object.
        sizes : sequence of int
            Their bytes.
        owner : object, optional
            What the values are let go of with, at the latest.
        """
        if not can_be_kept(self._client, self._workers, sum(sizes)):
            return self.place(name, values)
        kept = WorkerCache.of(self._client)
        tokens: dict[int, str] = {}

        def token_of(value: Any) -> str:
            if id(value) not in tokens:
                tokens[id(value)] = content_hash(value)
            return tokens[id(value)]

        placed: dict[int, Future[Any]] = {}
        for rank, value in enumerate(values):
            # A token takes a third of the time of sending the value.
            if kept.has_size(sizes[rank]):
                found = kept.find(token_of(value), self._workers[rank])
                if found is not None:
                    placed[rank] = found
        with self._lock:
            self._submitted.update((future, rank) for rank, future in placed.items())
        missing = [rank for rank in range(len(values)) if rank not in placed]
        sent = self.place(name, [values[rank] for rank in missing], missing)

        def keep() -> None:
            for rank, future in zip(missing, sent, strict=True):
                token = token_of(values[rank])
                with self._lock:
                    # When the call is over its caller may have changed the value.
                    if self._closed:
                        return
                    worker = self._workers[rank]
                    kept.keep(token, worker, future, sizes[rank], owner)

        self._outside_tasks.submit(keep)
        placed.update(zip(missing, sent, strict=True))
        return [placed[rank] for rank in range(len(values))]

    def wait_for(self, *futures: Future[Any]) -> None:
        """Wait for tasks, but not for a worker that is not coming back.

        When a worker dies, Dask cancels what depends on its shard. When it is
        retired, Dask saves the shard elsewhere, and the tasks that are pinned
        to the worker would wait without end.
        """
        for future in futures:
            while not future.done():
                try:
                    future.exception(timeout=WORKER_CHECK_S)
                except TimeoutError:
                    self.check_workers()
                    self.check_accepting(self._workers)
            self.error_of(future)

    def error_of(self, future: Future[Any]) -> BaseException | None:
        """Return the error of a task that has ended; a note in it says where it was."""
        if future.status != "error":
            return None
        error: BaseException = future.exception()
        key: Any = future.key
        worker = self._workers[self._submitted[future]]
        note = f"This happened in task {key[0]!r} on worker {worker}."
        if note not in getattr(error, "__notes__", ()):
            error.add_note(note)
        return error

    def check_workers(self) -> None:
        """See whether it makes sense to go on waiting.

        Raises
        ------
        CancelledError
            If a worker has left the cluster, or the client was closed.
        WorkerLostError
            If a worker does not answer.
        ClusterError
            If this is a task, and was cancelled.
        """
        self.check_present()
        self._roll_call.check()

    def open(self) -> None:
        """Announce the run, and ask the workers for their version.

        Raises
        ------
        ClusterError
            If one has another version of this package.
        """
        with self.translate_dask_errors("asking the workers for their version"):
            self._announced = RegisteredRun(self._client, self._run, self._workers)
            try:
                check_versions(self._client, self._workers, self.check_workers)
            except OSError:
                self._await_loss()
                raise

    def check_accepting(self, workers: Iterable[str]) -> None:
        """Raise WorkerLostError if workers on which tasks are queued take none."""
        self._accepting.check(workers)

    def check_present(self) -> None:
        """See the same, but do not mind whether workers answer."""
        if self._is_cancelled():
            raise ClusterError("the task that waits for this work was cancelled")
        check_open(self._client)
        if not set(self._workers) <= set(self._known_workers()):
            raise CancelledError

    def _known_workers(self) -> Iterable[str]:
        """Return the addresses of all workers, if the scheduler answers at all."""
        scheduler = self._client.scheduler
        assert scheduler is not None, "a connected client has a scheduler"
        timeout_s = UNRESPONSIVE_TIMEOUTS * exchange_timeout_s()
        deadline = time.monotonic() + timeout_s

        def check_deadline() -> None:
            check_open(self._client)
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"the scheduler at {scheduler.address} has not answered for "
                    f"{timeout_s:g} s ({UNRESPONSIVE_TIMEOUTS} times "
                    f"skdistmlp.exchange-timeout). "
                    f"See what it does, and call again."
                )

        answer = submit_rpc(self._client, scheduler.ncores)
        wait_while(check_deadline, [answer])
        addresses: Iterable[str] = answer.result()
        return addresses

    def _await_loss(self) -> None:
        """Give the scheduler time to notice that a worker is gone; see `check_present`.

        Who sends to a worker that dies may know of it first.
        """
        deadline = time.monotonic() + WORKER_CHECK_S
        while time.monotonic() < deadline:
            self.check_present()
            time.sleep(0.05)

    def fetch(self, *futures: Future[Any]) -> list[Any]:
        """Wait for tasks, and return their results."""
        self.wait_for(*futures)
        direct = all(can_connect(self._client, worker) for worker in self._workers)
        arriving = submit_rpc(
            self._client, self._client.gather, list(futures), direct=direct
        )
        wait_while(self.check_workers, [arriving])
        results: list[Any] = arriving.result()
        return results

    def pop_results(self, *futures: Future[Any]) -> list[Any]:
        """Fetch results, and let go of them on the cluster; see `close`."""
        results = self.fetch(*futures)
        for future in futures:
            future.release()
        return results

    def translate_dask_errors(self, phase: str) -> AbstractContextManager[None]:
        """Say which worker went away when Dask reports that something did."""
        return translate_dask_errors(self._client, self._workers, phase)

    def _nothing(self) -> list[dict[Key, tuple[Any, ...]]]:
        return [{} for _ in self._workers]


def _forget(key: Key, client: str, dask_scheduler: Any) -> None:
    """Have the scheduler forget a task that nobody wants."""
    if key in dask_scheduler.tasks and client in dask_scheduler.clients:
        dask_scheduler.client_desires_keys(keys=[key], client=client)
        dask_scheduler.client_releases_keys(keys=[key], client=client)
