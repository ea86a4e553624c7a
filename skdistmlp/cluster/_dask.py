"""What of Dask is used without being documented, behind functions with plain names.

This is the only module of the package that uses such names. A new version of Dask may
change any of them: ``tests/cluster/test_dask_private.py`` tries each on real processes
and fails if one does something else, and if another module uses one.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import pickle
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph, MaterializedLayer
from distributed import (
    Client,
    Future,
    Scheduler,
    Security,
    Status,
    Worker,
    get_worker,
    rpc,
)
from distributed.comm.addressing import (
    get_address_host,
    get_address_host_port,
    resolve_address,
)
from distributed.comm.core import CommClosedError, connect
from distributed.core import send_recv
from distributed.deploy.cluster import Cluster
from distributed.protocol.serialize import dask_serialize, to_serialize
from distributed.system import MEMORY_LIMIT
from distributed.threadpoolexecutor import thread_state
from distributed.utils import LoopRunner
from distributed.utils_comm import gather_from_workers

from skdistmlp.timeouts import PING_ANSWER_S, SEND_POLL_S

__all__ = [
    "UNKNOWN",
    "Cluster",
    "CommClosedError",
    "add_handler",
    "add_metric",
    "array_meta",
    "asyncio_loop",
    "block_graph",
    "awaited_transfers",
    "call_or_abort",
    "call_later",
    "call_scheduler",
    "can_lend_thread",
    "can_reach",
    "client_tls_arguments",
    "current_task_runs",
    "dask_serialize",
    "dask_version_at",
    "event_loop_runs_here",
    "fetch_keys",
    "forget_key",
    "has_connection",
    "has_spare_thread",
    "heartbeat_s",
    "host_and_port_of",
    "host_of",
    "identity_at",
    "is_on_event_loop",
    "is_own_client",
    "is_reconnecting",
    "keys_on_worker",
    "last_heartbeat",
    "memory_use",
    "memory_limit_of_process",
    "ping_worker",
    "pinned_graph",
    "release_futures",
    "release_keys",
    "remove_client",
    "remove_replicas",
    "requires_encryption",
    "resolve_address",
    "result_dropped",
    "run_directly",
    "says_retired",
    "scheduler_address",
    "send_value",
    "threads_of_worker",
    "tls_contexts",
    "worker_runs_here",
    "workers_of_process",
]


# In the client.

UNKNOWN = "unknown"
"""The address of the scheduler of a client that is closed."""


def scheduler_address(client: Client) -> str:
    """Return the address of a client's scheduler; `UNKNOWN` of a closed client."""
    return str(client.scheduler.address if client.scheduler is not None else UNKNOWN)


def is_reconnecting(client: Client) -> bool:
    """Say whether a client that has lost its scheduler still tries to connect.

    One whose attempt failed in a way that Dask did not expect stays as it is forever.
    """
    task = client._handle_report_task
    return client.status == "connecting" and (task is None or not task.done())


async def call_scheduler(client: Client, handler: str, /, **arguments: Any) -> Any:
    """Call a handler of the scheduler by its name; on the client's event loop."""
    # Looked up when it is called: a client that reconnects has another object.
    return await getattr(client.scheduler, handler)(**arguments)


async def ping_worker(client: Client, worker: str) -> None:
    """Have a worker answer its scheduler; on the client's event loop.

    `Client.run` would write a line into the worker's log each time, and have a new
    worker import the package of what it runs: for seconds, it would not answer.
    """
    await call_scheduler(client, "broadcast", msg={"op": "echo"}, workers=[worker])


async def send_value(
    client: Client, key: Any, value: Any, worker: str, direct: bool, timeout_s: float
) -> Future[Any]:
    """Send a value to a worker; on the client's event loop.

    Dask's `Client.scatter` does the same, but nothing can end it while the receiver
    hangs: it continues in a separate task, which holds the value.

    Parameters
    ----------
    client : Client
        A connected client.
    key : tuple
        Name of the value.
    value : object
        The value.
    worker : str
        Address.
    direct : bool
        Whether to connect to the worker; else the scheduler passes the value on.
    timeout_s : float
        Seconds to wait for the worker to accept values.

    Raises
    ------
    TimeoutError
        If it does not: it is paused or lost.
    """
    data = {key: to_serialize(value)}
    if direct:
        deadline = time.monotonic() + timeout_s
        while not await call_scheduler(client, "ncores_running", workers=[worker]):
            if time.monotonic() > deadline:
                raise TimeoutError(worker)
            await asyncio.sleep(SEND_POLL_S)
        answer = await call_or_abort(client, worker, op="update_data", data=data)
        await call_scheduler(
            client,
            "update_data",
            who_has={key: [worker]},
            nbytes=answer["nbytes"],
            client=client.id,
        )
    else:
        await call_or_abort(
            client,
            scheduler_address(client),
            op="scatter",
            data=data,
            workers=[worker],
            client=client.id,
            broadcast=False,
            timeout=timeout_s,
        )
    future: Future[Any] = Future(key, client)
    client.futures[key].finish(type=type(value))
    return future


async def call_or_abort(client: Client, address: str, /, **message: Any) -> Any:
    """Call an operation of a server; if this is cancelled, drop what is unsent.

    Dask would first wait until the server has taken it.
    """
    comm = await client.rpc.connect(address)
    call = asyncio.ensure_future(
        send_recv(
            comm,
            serializers=client.rpc.serializers,
            deserializers=client.rpc.deserializers or client.rpc.serializers,
            **message,
        )
    )
    try:
        await asyncio.wait([call])
    except asyncio.CancelledError:
        comm.abort()
        # It fails now; nobody wants to know.
        call.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
        raise
    finally:
        client.rpc.reuse(address, comm)
    return call.result()


def asyncio_loop(client: Client) -> asyncio.AbstractEventLoop:
    """Return the event loop that a client runs in its own thread."""
    loop: Any = client.loop
    return loop.asyncio_loop


def is_on_event_loop(owner: Client | Worker) -> bool:
    """Say whether the event loop of a client or a worker calls this."""
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        return False
    loop: Any = owner.loop
    return running is loop.asyncio_loop


def event_loop_runs_here(owner: Client | Cluster) -> bool:
    """Say whether the event loop of a client or a cluster runs in this process.

    A process that was forked inherits the objects but no threads: whatever waits for
    the loop there waits forever.
    """
    loop: Any = owner.loop
    _, runner = LoopRunner._all_loops.get(loop, (0, None))
    if runner is not None and runner._loop_thread is not None:
        return runner._loop_thread._thread.is_alive()
    # Dask has not started the loop: it may be that of a worker, in its main thread.
    workers = [worker for worker in list(Worker._instances) if worker.loop is loop]
    return not workers or any(map(worker_runs_here, workers))


def call_later(
    owner: Client | Scheduler | Worker,
    after_s: float,
    function: Callable[..., Any],
    *args: Any,
) -> None:
    """Have an event loop call a function after `after_s` seconds; from any thread.

    A loop that is closed, as that of a closed client, does nothing.
    """
    loop: Any = owner.loop
    loop.add_callback(loop.call_later, after_s, function, *args)


def release_futures(futures: Iterable[Future[Any]]) -> None:
    """Release futures, also those from before a restart of their cluster.

    A race: what a client sends while the scheduler restarts arrives after the scheduler
    has forgotten everything, and before the client has heard of it. The client then
    takes its futures for void, and does not release them; but their tasks are there.
    """

    def release_void(client: Client, noted: Sequence[tuple[Any, int]]) -> None:
        void = [key for key, generation in noted if generation != client.generation]
        if void and client.status == "running":
            message = {"op": "client-releases-keys", "keys": void, "client": client.id}
            client._send_to_scheduler(message)

    by_client: dict[Client, list[tuple[Any, int]]] = {}
    for future in list(futures):
        future.release()
        by_client.setdefault(future.client, []).append((future.key, future._generation))
    # On the event loop, which hears of restarts: after it has released them as usual,
    # or found that it should not. What it sends now comes after their tasks.
    for client, noted in by_client.items():
        call_later(client, 0, release_void, client, noted)


def heartbeat_s(client: Client) -> float:
    """Return the seconds between two heartbeats of a client, as they are at present.

    The scheduler changes them with the number of clients.
    """
    milliseconds: float = client._periodic_callbacks["heartbeat"].callback_time
    return milliseconds / 1000


def pinned_graph(tasks: Sequence[tuple[Mapping[Any, Any], str]]) -> HighLevelGraph:
    """Return a graph of tasks, each group of which runs on one worker only.

    Parameters
    ----------
    tasks : sequence of (mapping, str)
        Tasks by their keys, and the address of their worker.
    """
    layers = {
        f"group{number}": MaterializedLayer(group, annotations={"workers": [worker]})
        for number, (group, worker) in enumerate(tasks)
    }
    return HighLevelGraph(layers, {name: set() for name in layers})


async def identity_at(address: str) -> Mapping[str, Any]:
    """Return what a scheduler or worker at an address says of itself."""
    async with rpc(address, connection_args=client_tls_arguments()) as server:
        return await server.identity()


async def dask_version_at(address: str) -> str:
    """Return the version of distributed that a scheduler at an address runs."""
    async with rpc(address, connection_args=client_tls_arguments()) as server:
        return str((await server.versions())["packages"]["distributed"])


def client_tls_arguments() -> Mapping[str, Any]:
    """Return how a client connects by default, with what Dask's configuration says."""
    return Security().get_connection_args("client")


def run_directly(
    addresses: Iterable[str],
    client: Client,
    timeout_s: float,
    function: Callable[..., Any],
    *args: Any,
) -> list[str]:
    """Call a function on workers over new connections; the client may be closed.

    Parameters
    ----------
    addresses : iterable of str
        Of the workers.
    client : Client
        Has what is needed to connect.
    timeout_s : float
        Seconds for each worker to answer; errors are ignored.
    function : callable
        Called on the workers' event loops.
    *args
        Its arguments.

    Returns
    -------
    list of str
        The workers that have answered.
    """

    async def run_on(address: str) -> str:
        arguments = client.security.get_connection_args("client")
        async with rpc(address, connection_args=arguments) as server:
            await server.run(function=pickle.dumps(function), args=pickle.dumps(args))
        return address

    async def run_on_all() -> list[Any]:
        calls = (asyncio.wait_for(run_on(one), timeout_s) for one in addresses)
        return await asyncio.gather(*calls, return_exceptions=True)

    return [one for one in asyncio.run(run_on_all()) if isinstance(one, str)]


def says_retired(events: Iterable[tuple[float, Any]]) -> bool:
    """Say whether a worker is being retired, or was, by the events of its address.

    Parameters
    ----------
    events : iterable of (float, object)
        What the scheduler's operation ``events`` returns for the topic of that name,
        the oldest first. Of several workers at the address, the last counts.
    """
    is_retired = False
    for _, event in events:
        match event:
            case {"action": "add-worker"}:
                is_retired = False
            case {"action": "worker-status-change", "status": str(status)}:
                if status == Status.closing_gracefully.name:
                    is_retired = True
                elif status in (Status.running.name, Status.paused.name):
                    # It was refused: the worker has the only copy of something.
                    is_retired = False
    return is_retired


def array_meta(collection: Any) -> Any:
    """Return an empty array of the type that the blocks of a Dask array have."""
    # Costs half a second, which workers that get NumPy rows need not spend.
    from dask.array.utils import meta_from_array

    return meta_from_array(collection)


def block_graph(collection: Any) -> tuple[HighLevelGraph, list[Any]]:
    """Return the graph of a Dask array, and the keys of its blocks in their order.

    ``cull`` of the graph returns what some of the blocks need.
    """
    return collection.__dask_graph__(), list(flatten(collection.__dask_keys__()))


def memory_limit_of_process() -> int:
    """Return how many bytes this process may take: all, or what its container may."""
    return int(MEMORY_LIMIT)


# On the scheduler.


def add_handler(scheduler: Scheduler, name: str, handler: Callable[..., Any]) -> None:
    """Let clients call a function by name; see `call_scheduler`."""
    scheduler.handlers[name] = handler


def last_heartbeat(scheduler: Scheduler, client: str) -> float | None:
    """Return when a client was last heard, by `time.time`; None if it is gone."""
    state = scheduler.clients.get(client)
    return None if state is None else state.last_seen


def has_connection(scheduler: Scheduler, client: str) -> bool:
    """Say whether a client is connected; one that is only known may not be."""
    return client in scheduler.client_comms


def remove_client(scheduler: Scheduler, client: str) -> None:
    """Forget a client and all that it wants."""
    scheduler.remove_client(client)


def release_keys(scheduler: Scheduler, keys: Iterable[Any], client: str) -> None:
    """Have a client no longer want some keys, and forget those that nobody wants.

    The client need not be known, nor have wanted them.
    """
    known = [key for key in keys if key in scheduler.tasks]
    if known:
        # Dask releases only what a client's latest connection has asked for, and keeps
        # what an earlier one had whose end it did not notice first.
        scheduler.client_desires_keys(keys=known, client=client)
        scheduler.client_releases_keys(keys=known, client=client)


def forget_key(key: Any, client: str, dask_scheduler: Scheduler) -> None:
    """Forget a task that no client wants, as if one had wanted it until now."""
    if client in dask_scheduler.clients:
        release_keys(dask_scheduler, [key], client)


def awaited_transfers(
    keys: Iterable[Any], dask_scheduler: Scheduler
) -> dict[str, list[list[str]]]:
    """Return what workers need from others before tasks can be computed.

    Parameters
    ----------
    keys : iterable
        Of the tasks; what they depend on counts too.
    dask_scheduler : Scheduler
        The scheduler.

    Returns
    -------
    dict
        By the address of a worker, for each value that it lacks, the addresses of the
        workers that have it; without repetitions.
    """
    lacking: dict[str, set[tuple[str, ...]]] = {}
    # Each unfinished task is visited once: some milliseconds for 10,000 of them.
    found = {dask_scheduler.tasks[key] for key in keys if key in dask_scheduler.tasks}
    unvisited = list(found)
    while unvisited:
        task = unvisited.pop()
        worker = task.processing_on
        if worker is None:
            needed = (task.waiting_on or set()) - found
            unvisited += needed
            found |= needed
            continue
        for value in task.dependencies:
            if value.who_has and worker not in value.who_has:
                holders = tuple(sorted(holder.address for holder in value.who_has))
                lacking.setdefault(worker.address, set()).add(holders)
    return {
        worker: [list(holders) for holders in sorted(of_values)]
        for worker, of_values in lacking.items()
    }


async def keys_on_worker(scheduler: Scheduler, worker: str) -> Iterable[Any]:
    """Return the keys of all that a worker holds, known to the scheduler or not."""
    return await scheduler.rpc(worker).keys()


def remove_replicas(
    scheduler: Scheduler, worker: str, keys: Iterable[Any], reason: str
) -> None:
    """Have a worker drop what it holds of some keys."""
    message = {"op": "remove-replicas", "keys": list(keys), "stimulus_id": reason}
    scheduler.worker_send(worker, message)


# On a worker.


def workers_of_process() -> list[Worker]:
    """Return the workers that run in this process."""
    return [
        worker
        for worker in list(Worker._instances)
        if worker.status != Status.closed and worker_runs_here(worker)
    ]


def worker_runs_here(worker: Worker) -> bool:
    """Say whether a worker runs in this process; not if a forked one inherited it."""
    return bool(worker.monitor.proc.pid == os.getpid())


def can_lend_thread() -> bool:
    """Say whether a task calls this in a thread that its worker can replace.

    Neither a thread that the task has started, nor a coroutine on the event loop, nor a
    thread of an executor that is not Dask's.
    """
    try:
        return worker_runs_here(get_worker()) and hasattr(thread_state, "executor")
    except ValueError:
        return False


def is_own_client(client: Client) -> bool:
    """Say whether a worker has made a client for its tasks."""
    return client in Worker._initialized_clients


def has_spare_thread(worker: Worker) -> bool:
    """Say whether threads that tasks have started may wait for further tasks.

    Some task has seceded, and may have started them, or not all threads are in use.
    """
    # `secede` returns before the event loop has noted it, and a busy loop does so late.
    if not is_on_event_loop(worker):
        caught_up = threading.Event()
        loop: Any = worker.loop
        loop.add_callback(caught_up.set)
        # If a task holds the GIL for longer, the state is read as it is.
        caught_up.wait(PING_ANSWER_S)
    state = worker.state
    return bool(state.long_running) or len(state.executing) < state.nthreads


def current_task_runs(worker: Worker) -> Callable[[], bool]:
    """Return a function that says whether the task that calls this is still wanted.

    Dask cannot end a task that runs; it forgets a task that nobody wants any more. If
    no task calls this, the function always returns True.
    """
    try:
        key = worker.get_current_task()
    except KeyError:
        return lambda: True
    # Not the worker itself: whoever keeps the function would keep the worker alive.
    tasks = worker.state.tasks

    def runs() -> bool:
        task = tasks.get(key)
        return task is not None and task.state in ("executing", "long-running")

    return runs


def result_dropped(worker: Worker) -> Callable[[], bool]:
    """Return a function that says whether the result of the calling task is not wanted.

    Neither while the task runs, nor as long as the worker has its result.
    """
    key = worker.get_current_task()
    runs = current_task_runs(worker)
    # Not the worker itself, as above.
    data = worker.data
    return lambda: key not in data and not runs()


async def can_reach(worker: Worker, address: str, timeout_s: float) -> bool:
    """Say whether a worker can connect to another within some seconds."""
    try:
        # Dask's own timeout does not cover the greeting, which a process that hangs
        # never answers.
        comm = await asyncio.wait_for(
            connect(address, timeout=timeout_s, **worker.connection_args), timeout_s
        )
    except (OSError, TimeoutError):
        return False
    await comm.close()
    return True


def threads_of_worker(worker: Worker) -> int:
    """Return the number of threads that a worker runs tasks in."""
    n_threads: int = worker.state.nthreads
    return n_threads


def memory_use(worker: Worker) -> tuple[int, int, int]:
    """Return the bytes of a worker's process, of its values, and of those on disk.

    As its next heartbeat will report them: "memory", "managed_bytes" and
    "spilled_bytes".
    """
    spilled_bytes, _ = getattr(worker.data, "spilled_total", (0, 0))
    return (
        worker.monitor.get_process_memory(),
        worker.state.nbytes,
        spilled_bytes,
    )


def add_metric(worker: Worker, name: str, function: Callable[[Worker], Any]) -> None:
    """Have heartbeats report what a function returns; the dashboard shows it.

    From any thread, and once for each name.
    """
    if name not in worker.metrics:
        # Another dict: the worker's event loop may be going through this one.
        worker.metrics = {**worker.metrics, name: function}


def tls_contexts(
    worker: Worker,
) -> tuple[ssl.SSLContext | None, ssl.SSLContext | None]:
    """Return what a worker listens and connects with; None without a certificate."""
    security = worker.security
    return (
        security.get_listen_args("worker")["ssl_context"],
        security.get_connection_args("worker")["ssl_context"],
    )


def requires_encryption(worker: Worker) -> bool:
    """Say whether a worker may connect with encryption only."""
    return bool(worker.security.require_encryption)


def host_of(address: str) -> str:
    """Return the host of an address such as ``tcp://127.0.0.1:8786``."""
    return get_address_host(address)


def host_and_port_of(address: str) -> tuple[str, int]:
    """Return host and port of an address; ValueError if it is not on a network."""
    return get_address_host_port(address)


def fetch_keys(
    worker: Worker, who_has: Mapping[Any, Sequence[str]]
) -> concurrent.futures.Future[tuple[dict[Any, Any], list[Any], list[str]]]:
    """Copy values from other workers to a task, without the worker keeping them.

    Parameters
    ----------
    worker : Worker
        The task's own.
    who_has : mapping
        From keys to the addresses of the workers that have them.

    Returns
    -------
    Future
        Of three things, and never done if a worker hangs: what was found, by key; the
        keys that were not; and the addresses of workers that do not answer.
    """

    async def fetch() -> tuple[dict[Any, Any], list[Any], list[str]]:
        found = {key: worker.data[key] for key in who_has if key in worker.data}
        others = {key: who_has[key] for key in who_has if key not in found}
        fetched, missing, failed, lost = await gather_from_workers(
            others, worker.rpc, who=worker.address
        )
        return found | fetched, [*missing, *failed], list(lost)

    # A task runs in another thread; connections belong to the worker's loop.
    loop: Any = worker.loop
    return asyncio.run_coroutine_threadsafe(fetch(), loop.asyncio_loop)
