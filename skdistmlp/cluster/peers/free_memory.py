"""Whether the workers of a fit have room for it, once no other fit holds them."""

import time
from collections.abc import Callable
from dataclasses import replace

from distributed import Client, Worker

import skdistmlp.cluster.peers.worker  # noqa: F401 (a fit loads it: so it counts)
from skdistmlp.cluster._dask import unmanaged_bytes
from skdistmlp.cluster.client.rpc import run_on_workers, wait_while
from skdistmlp.cluster.client.workers import worker_memory
from skdistmlp.exceptions import ClusterError
from skdistmlp.planning.plan import Plan, WorkerMemory, memory_shortage
from skdistmlp.settings import MEMORY_FREED_S, MEMORY_POLL_S


def check_free_memory(
    client: Client, plan: Plan, check: Callable[[], None]
) -> dict[str, WorkerMemory]:
    """Return the memory of a plan's workers; raise if the plan does not fit.

    Workers are measured themselves: heartbeats come late, and a worker that is new
    takes some 80 MB more once it has imported this package.

    Parameters
    ----------
    client : Client
        A connected client.
    plan : Plan
        Of training, on workers that no other fit holds.
    check : callable
        Called every few seconds during the wait; ends it by raising.

    Raises
    ------
    ClusterError
        If a worker has too little, still after `MEMORY_FREED_S`.
    """
    memory = worker_memory(client, plan.workers)
    deadline = time.monotonic() + MEMORY_FREED_S
    while True:
        answers = run_on_workers(client, memory, bytes_taken)
        wait_while(check, answers.values())
        memory = {
            worker: replace(memory[worker], taken=answer.result()[worker])
            for worker, answer in answers.items()
        }
        shortage = memory_shortage(plan, memory)
        if shortage is None:
            return memory
        if time.monotonic() > deadline:
            raise ClusterError(shortage)
        time.sleep(MEMORY_POLL_S)


def bytes_taken(dask_worker: Worker) -> int:
    """Return what this process takes besides values that Dask manages."""
    # Workers that are threads of one process share what it takes.
    if dask_worker.address.startswith("inproc://"):
        return 0
    return unmanaged_bytes(dask_worker)
