"""Values sent to the workers that hold the shards of one network."""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import (
    FIRST_EXCEPTION,
    CancelledError,
    ThreadPoolExecutor,
    wait,
)
from functools import partial
from typing import Any
from weakref import WeakSet

from distributed import Client, Future

from skdistmlp.cluster._dask import CommClosedError, forget_key, send_value
from skdistmlp.cluster.client.rpc import check_open, submit_rpc, wait_while
from skdistmlp.cluster.client.workers import can_connect, note_unreachable
from skdistmlp.cluster.run.cache import WorkerCache, content_hash, is_cacheable
from skdistmlp.cluster.run.graph import Key
from skdistmlp.cluster.run.held import HeldFutures
from skdistmlp.cluster.run.orphans import RegisteredRun
from skdistmlp.cluster.run.watch import Watch
from skdistmlp.exceptions import WorkerLostError
from skdistmlp.timeouts import WORKER_CHECK_S

SENT_AT_ONCE = 4
"""Values on their way at the same time: more would share the same network."""

SIGNS_OF_LOSS = OSError, WorkerLostError
"""What `send_to_worker` raises if the worker is lost, perhaps before the scheduler has
noticed; see `Watch.await_loss`."""

THREAD_NAME = "skdistmlp"
"""How the names of the package's threads in the client begin."""


class Scatterer:
    """Sends a value to the worker of each shard, unless it is there already.

    It sends from its own threads. Inside a task, Dask would otherwise keep a value
    on the task's worker, whatever `workers` says; and an interrupt of the main thread
    would lose the future of a value that has been sent.

    Parameters
    ----------
    client : Client
        A connected client.
    workers : tuple of str
        Address of the worker of each shard.
    key : callable
        From the rank of a shard and a name to a key of this run.
    held : HeldFutures
        Takes all futures.
    watch : Watch
        Ends the wait for lost workers.

    Attributes
    ----------
    registered : RegisteredRun or None
        What the scheduler must know of before anything is sent.
    """

    def __init__(
        self,
        client: Client,
        workers: tuple[str, ...],
        key: Callable[[int, str], Key],
        held: HeldFutures,
        watch: Watch,
    ) -> None:
        self._client = client
        self._workers = workers
        self._key = key
        self._held = held
        self._watch = watch
        self.registered: RegisteredRun | None = None
        self._threads = ThreadPoolExecutor(SENT_AT_ONCE, THREAD_NAME)
        # Weak: a finished one would keep its future, and the value on its worker.
        self._sent: WeakSet[concurrent.futures.Future[Future[Any]]] = WeakSet()
        # One of the threads begins to send while another closes: the lock decides
        # whether `close` finds it or it does not begin.
        self._lock = threading.Lock()
        self._closed = False
        self._under_way: WeakSet[concurrent.futures.Future[Any]] = WeakSet()
        # Keys of values that may have arrived, but have no future yet.
        self._without_future: set[Key] = set()

    def scatter(
        self, name: str, values: Sequence[Any], ranks: Sequence[int] | None = None
    ) -> list[Future[Any]]:
        """Send every shard its own value, all at once.

        Parameters
        ----------
        name : str
            What the dashboard shows.
        values : sequence
            A value for each shard.
        ranks : sequence of int, optional
            Which shards, by default the first.
        """
        ranks = range(len(values)) if ranks is None else ranks
        sent = [
            self._threads.submit(self._send, self._key(rank, name), rank, value)
            for rank, value in zip(ranks, values, strict=True)
        ]
        self._sent.update(sent)
        # Not simply `result`: Dask tries for half a minute to connect to a lost worker.
        while True:
            done, pending = wait(sent, WORKER_CHECK_S, FIRST_EXCEPTION)
            for one in done:
                if isinstance(one.exception(), SIGNS_OF_LOSS):
                    self._watch.await_loss()
                one.result()
            if not pending:
                return [one.result() for one in sent]
            # Dask sends nothing to a paused worker either.
            self._watch.check(queued=self._workers)

    def scatter_cached(
        self,
        name: str,
        values: Sequence[Any],
        sizes: Sequence[int],
        owner: object = None,
    ) -> list[Future[Any]]:
        """Send every shard its own value if it is not there from an earlier call.

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
            When it is garbage collected, the values are dropped.
        """
        if not is_cacheable(self._client, self._workers, sum(sizes)):
            return self.scatter(name, values)
        cache = WorkerCache.of(self._client)
        # By identity: all shards may share one value, which is then hashed once.
        hashes: dict[int, str] = {}

        def hash_of(value: Any) -> str:
            if id(value) not in hashes:
                hashes[id(value)] = content_hash(value)
            return hashes[id(value)]

        placed: dict[int, Future[Any]] = {}
        for rank, value in enumerate(values):
            # Hashing takes a third of the time of sending: skip it if no value in the
            # cache has this size.
            if cache.has_size(sizes[rank]):
                found = cache.find(hash_of(value), self._workers[rank])
                if found is not None:
                    placed[rank] = found
        self._held.add((future, rank) for rank, future in placed.items())
        missing = [rank for rank in range(len(values)) if rank not in placed]
        sent = self.scatter(name, [values[rank] for rank in missing], missing)

        def keep() -> None:
            for rank, future in zip(missing, sent, strict=True):
                token = hash_of(values[rank])
                # Once the call has ended, its caller may change the arrays, and the
                # hash might be of other numbers than those that were sent.
                with self._held.staying_open() as is_open:
                    if not is_open:
                        return
                    worker = self._workers[rank]
                    cache.keep(token, worker, future, sizes[rank], owner)

        # While the first tasks run: the hash is not needed before the next call.
        self._threads.submit(keep)
        placed.update(zip(missing, sent, strict=True))
        return [placed[rank] for rank in range(len(values))]

    def close(self) -> None:
        """Send nothing more, and cut short what is under way.

        A worker that hangs would never take it, and the thread that sends would keep
        the value, and this process, alive. Call it after `HeldFutures.close`, so that
        what has just arrived is released.
        """
        self._threads.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            self._closed = True
            for sending in self._under_way:
                sending.cancel()
            # Also those that have arrived just now: each is released anyway, since the
            # run is closed.
            cut_short = list(self._without_future)
        if self.registered is not None:
            self.registered.close(self._sent, cut_short)

    def _send(self, key: Key, rank: int, value: Any) -> Future[Any]:
        """Send a value to the worker of a shard."""
        if self.registered is not None:
            # First the run, then its values: the scheduler cleans up only what belongs
            # to runs that it knows.
            self.registered.wait()
        with self._lock:
            self._without_future.add(key)
        future = send_to_worker(
            self._client,
            key,
            value,
            self._workers[rank],
            self._wait_unless_closed,
            self._check_open,
        )
        # If the run was closed meanwhile, since another shard's value could not be sent
        # or the user interrupted it, this releases the future at once.
        self._held.add([(future, rank)])
        with self._lock:
            self._without_future.discard(key)
        return future

    def _check_open(self) -> None:
        """Raise if the run has ended: `scatter` notices that a worker is lost."""
        if self._held.is_closed:
            raise CancelledError

    def _wait_unless_closed(
        self, method: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> Any:
        """Call a method of the client; `close` ends the wait for its result."""
        with self._lock:
            if self._closed:
                raise CancelledError
            sending = submit_rpc(self._client, method, *args, **kwargs)
            self._under_way.add(sending)
        wait_while(partial(check_open, self._client), [sending])
        try:
            return sending.result()
        finally:
            # An error refers to this frame, and to all that called it. If it could be
            # reached from here, what is sent in the end would stay with them.
            del sending


def send_to_worker(
    client: Client,
    key: Any,
    value: Any,
    worker: str,
    wait_for_call: Callable[..., Any],
    check: Callable[[], None],
) -> Future[Any]:
    """Send a value to a worker, as soon as the worker accepts one.

    Parameters
    ----------
    client : Client
        A connected client.
    key : tuple or str
        Name of the value.
    value : object
        The value.
    worker : str
        Address.
    wait_for_call : callable
        Calls a function with arguments on the client's event loop; returns its result,
        or raises if there is no point in waiting any longer.
    check : callable
        Raises if there is no point in another attempt.

    Returns
    -------
    Future
        Of the value.

    Raises
    ------
    WorkerLostError
        If the worker can be reached neither directly nor through the scheduler.
    CommClosedError
        If the connection to the scheduler broke.
    CancelledError
        If it took the value and left.
    """
    direct = can_connect(client, worker)
    while True:
        try:
            sent: Future[Any] = wait_for_call(
                send_value, client, key, value, worker, direct, WORKER_CHECK_S
            )
            return sent
        except TimeoutError:
            # It is paused, or lost. Until `check` raises, it may accept values again.
            check()
        except OSError as error:
            check()
            if direct:
                # If the worker is lost, it is so for the scheduler too. If it can only
                # not be reached from here any more, the scheduler passes the value on.
                direct = False
                note_unreachable(client, worker)
                continue
            if isinstance(error, CommClosedError):
                raise
            raise WorkerLostError(
                f"worker {worker} could not be sent a value, neither from this process "
                f"nor through the scheduler: {error}. Allow connections from the "
                f"scheduler to the worker, on the port of its address."
            ) from error
        except KeyError as error:
            # The only place where Dask raises KeyError for a lost worker: it has taken
            # the value and left before the scheduler heard of it. The scheduler creates
            # a task for the value before it looks up the worker, and keeps that task.
            if error.args != (worker,):
                raise
            wait_for_call(client.run_on_scheduler, forget_key, key, client.id)
            raise CancelledError from error
