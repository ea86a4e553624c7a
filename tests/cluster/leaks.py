"""Check that a test leaves nothing behind, on a cluster and in this process."""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from socket import AF_INET, AF_INET6, SOCK_STREAM, socket
from stat import S_ISSOCK
from typing import Any
from weakref import WeakKeyDictionary

import dask
import threadpoolctl
from distributed import Client, LocalCluster

from tests.cluster.forked import start_server

THREADS = "skdistmlp"
"""How the names of the threads begin that the package starts."""


@dataclass(frozen=True)
class Look:
    """What a cluster and its processes hold at one moment.

    Attributes
    ----------
    scheduler : dict
        What only the scheduler knows.
    workers : dict of str to dict
        What each worker's process holds, or the error that it answered with.
    here : dict
        What this process holds.
    """

    scheduler: dict[str, list[str]]
    workers: dict[str, Any]
    here: dict[str, Any]


_BEFORE: WeakKeyDictionary[Client, Look] = WeakKeyDictionary()

_PORTS: set[int] = set()
"""Where Dask listens or has listened: connections may outlive a worker for a while,
and this process may have another cluster."""


def remember(client: Client) -> None:
    """Record what exists before a test, which does not count as a leftover.

    BLAS limits and sockets of this process cannot be judged without. Clients that
    nobody remembered are remembered at their first `assert_nothing_left`.
    """
    _BEFORE[client] = _look(client)


def assert_nothing_left(client: Client, within_s: float = 20.0) -> None:
    """Wait until nothing is left behind; fail and list what remains.

    Looked for are tasks, runs and places of fits on the scheduler; futures of the
    client; tasks, shards and shields from Ctrl-C on the workers; and in their processes
    and this one sockets that are not Dask's, threads of ours and BLAS limits. All
    workers must be awake. Caches are cleared first.
    """
    _clear_caches(client)
    deadline = time.monotonic() + within_s
    while True:
        # A look may take so long that its result is outdated.
        begun = time.monotonic()
        if not (left := list(_left(client))):
            return
        listed = "\n".join(left)
        assert begun < deadline, f"left behind:\n{listed}"
        time.sleep(0.02)


@contextmanager
def own_cluster(*, method: str = "forkserver", **options: Any) -> Iterator[Client]:
    """Start a cluster for one test; fail if something is left behind there.

    By default its workers are forked, which is faster. For those that are to use memory
    as a user's do, pass ``method="spawn"``: a nanny tells the C library, by environment
    variables, to return what is freed, and only a new process heeds it.
    """
    options = {"threads_per_worker": 1, "dashboard_address": "127.0.0.1:0"} | options
    if method == "forkserver":
        start_server()
    with (
        dask.config.set({"distributed.worker.multiprocessing-method": method}),
        LocalCluster(**options) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        remember(client)
        yield client
        assert_nothing_left(client)


def _clear_caches(client: Client) -> None:
    def clear_caches() -> None:
        if kept := sys.modules.get("skdistmlp.cluster.run.cache"):
            kept.clear_caches()

    clear_caches()
    client.run(clear_caches)


def _left(client: Client) -> Iterator[str]:
    """Yield a line for each thing that did not exist before."""
    now = _look(client)
    before = _BEFORE.setdefault(client, replace(now, workers={}))
    for what, names in now.scheduler.items():
        yield from (f"scheduler: {what} {name}" for name in names)
    yield from (f"client: future {key!r}" for key in list(client.futures))
    yield from _left_in("client", now.here, before.here)
    for worker, held in now.workers.items():
        if isinstance(held, Exception):
            yield f"{worker}: {held!r}"
            continue
        yield from (f"{worker}: task {task}" for task in held["tasks"])
        yield from (f"{worker}: shard {shard}" for shard in held["shards"])
        yield from (f"{worker}: shielded by {name}" for name in held["shields"])
        if held["pid"] != now.here["pid"]:
            found = before.workers.get(worker, {"sockets": [], "blas": {}})
            yield from _left_in(worker, held, found)


def _left_in(where: str, now: dict[str, Any], before: dict[str, Any]) -> Iterator[str]:
    """Yield a line for each thing that one process did not have before."""
    for ports in now["sockets"]:
        if ports not in before["sockets"] and not _PORTS & set(ports):
            own, other = ports
            what = (
                "takes connections" if other is None else f"connected to port {other}"
            )
            yield f"{where}: socket at port {own}, {what}"
    for library, limit in before["blas"].items():
        if now["blas"].get(library, limit) != limit:
            now_limit = now["blas"][library]
            yield f"{where}: {now_limit} BLAS threads, not {limit}, in {library}"
    yield from (f"{where}: thread {name}" for name in now["threads"])


def _look(client: Client) -> Look:
    # All functions here are nested, to be sent by value: workers that do not run
    # where pytest does cannot import tests.

    def sockets() -> Iterator[tuple[int, int | None]]:
        """Yield the ports of this process's sockets, and those they are connected to.

        psutil would read every connection of the machine.
        """
        for number in map(int, os.listdir("/dev/fd")):
            with suppress(OSError):
                if not S_ISSOCK(os.fstat(number).st_mode):
                    continue
                with socket(fileno=os.dup(number)) as one:
                    if one.family in (AF_INET, AF_INET6) and one.type == SOCK_STREAM:
                        other = None
                        with suppress(OSError):
                            other = one.getpeername()[1]
                        yield one.getsockname()[1], other

    def libraries() -> list[dict[str, Any]]:
        """Return what `threadpool_info` does.

        It looks for libraries, which takes milliseconds, only after an import.
        """
        kept = vars(threadpoolctl)
        n_modules, found = kept.get("found_by_tests", (0, None))
        if n_modules != len(sys.modules):
            n_modules, found = len(sys.modules), threadpoolctl.ThreadpoolController()
            kept["found_by_tests"] = n_modules, found
        return found.info()

    def process() -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "sockets": list(sockets()),
            "threads": [
                thread.name
                for thread in threading.enumerate()
                if thread.name.startswith(THREADS)
            ],
            "blas": {
                library["filepath"]: library["num_threads"]
                for library in libraries()
                if library["user_api"] == "blas"
            },
        }

    def on_worker(dask_worker: Any) -> dict[str, Any]:
        peers_worker = sys.modules.get("skdistmlp.cluster.peers.worker")
        runs = {} if peers_worker is None else peers_worker._RUNS
        interrupts = sys.modules.get("skdistmlp.cluster.run.interrupts")
        shields = {} if interrupts is None else interrupts._CLIENTS
        return process() | {
            "tasks": [
                f"{task.key!r}, {task.state}"
                for task in dask_worker.state.tasks.values()
                # Dask remembers that a shard of a retired worker could not move, and
                # tries to connect to a lost one for half a minute, for a value that
                # nobody needs any more.
                if task.state != "error"
                and (task.state, task.previous) != ("cancelled", "flight")
            ],
            "shards": [f"{rank} of run {run.hex()}" for run, rank in list(runs)],
            "shields": list(shields),
        }

    def on_scheduler(dask_scheduler: Any) -> tuple[dict[str, list[str]], list[str]]:
        queue = dask_scheduler.plugins.get("skdistmlp-worker-queue")
        leftovers = dask_scheduler.plugins.get("skdistmlp-orphan-cleanup")
        addresses = [dask_scheduler.address, *dask_scheduler.service_ports.values()]
        for worker in dask_scheduler.workers.values():
            addresses += [worker.address, worker.nanny, *worker.services.values()]
        return {
            "task": [repr(key) for key in dask_scheduler.tasks],
            "place for": [
                " ".join(sorted(place.workers))
                for place in (queue.reservations.values() if queue else [])
            ],
            "claim on": [
                " ".join(sorted(claim.workers))
                for claim in (queue.claims.values() if queue else [])
            ],
            "run": list(leftovers.runs) if leftovers else [],
            "client that is gone": [
                name
                for name in dask_scheduler.clients
                if name not in (*dask_scheduler.client_comms, "fire-and-forget")
            ],
        }, [str(address) for address in addresses]

    scheduler, addresses = client.run_on_scheduler(on_scheduler)
    workers = client.run(on_worker, on_error="return")
    ports = [address.rpartition(":")[2] for address in addresses]
    _PORTS.update(int(port) for port in ports if port.isdigit())
    return Look(scheduler, workers, process())
