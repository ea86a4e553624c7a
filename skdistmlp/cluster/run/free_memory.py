"""Whether the workers of a fit have room for it, asked of the workers themselves."""

import importlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace

from distributed import Client, Worker

from skdistmlp.cluster._dask import memory_use
from skdistmlp.cluster.client.allocator import return_freed_memory
from skdistmlp.cluster.client.rpc import run_on_workers, wait_while
from skdistmlp.cluster.client.workers import (
    bytes_taken,
    usable_fraction,
    worker_memory,
)
from skdistmlp.exceptions import ClusterError
from skdistmlp.planning.memory import WorkerMemory, memory_shortage, plan_with_room
from skdistmlp.planning.plan import Plan
from skdistmlp.timeouts import MEMORY_FREED_S, MEMORY_POLL_S


def check_memory_limits(client: Client, plan: Plan) -> None:
    """Raise if a plan needs more memory than its workers have when they are empty.

    What they hold at present may be another fit's, and freed by then; and when their
    nannies restart them, only they know: `check_free_memory` asks for both later.

    Parameters
    ----------
    client : Client
        A connected client.
    plan : Plan
        Of training.

    Raises
    ------
    ClusterError
        If a worker has too little, even without copies of the state.
    """
    memory = {
        worker: replace(its, usable=1.0, taken=0)
        for worker, its in worker_memory(client, plan.workers).items()
    }
    if (shortage := memory_shortage(plan, memory)) is not None:
        raise ClusterError(shortage)


def check_free_memory(
    client: Client, plan: Plan, module: str, check: Callable[[], None]
) -> dict[str, WorkerMemory]:
    """Return the memory of a plan's workers; raise if the plan does not fit.

    Parameters
    ----------
    client : Client
        A connected client.
    plan : Plan
        Of training.
    module : str
        What a fit will load on the workers.
    check : callable
        Called every few seconds during the wait; ends it by raising.

    Raises
    ------
    ClusterError
        If a worker has too little, still after `MEMORY_FREED_S`, and even without
        copies of the state.
    """
    deadline = time.monotonic() + MEMORY_FREED_S
    trim = False
    while True:
        memory = measured_memory(client, plan.workers, check, module, trim)
        shortage = memory_shortage(plan, memory)
        # Copies of the state are not worth a wait.
        if shortage is None and (trim or plan_with_room(plan, memory) is plan):
            return memory
        if trim:
            if time.monotonic() > deadline:
                raise ClusterError(shortage)
            time.sleep(MEMORY_POLL_S)
        # Only where there is too little: the next allocation has to ask the system for
        # what was returned to it.
        trim = True


def measured_memory(
    client: Client,
    workers: Sequence[str],
    check: Callable[[], None],
    module: str = __name__,
    trim: bool = False,
) -> dict[str, WorkerMemory]:
    """Return the memory of each worker that has a limit, as it says itself.

    Heartbeats come late, and a worker that is new takes some 80 MB more once it has
    imported this package. And only a worker's own configuration, which it has from its
    nanny, says when Dask pauses or restarts it. The workers must run the same versions.

    Parameters
    ----------
    client : Client
        A connected client.
    workers : sequence of str
        Addresses.
    check : callable
        Called every few seconds during the wait; ends it by raising.
    module : str
        What the workers load first.
    trim : bool
        Whether they first return to the system what they have freed.
    """
    memory = worker_memory(client, workers)
    answers = run_on_workers(client, memory, look_at_memory, module, trim)
    wait_while(check, answers.values())
    for worker, answer in answers.items():
        usable, taken = answer.result()[worker]
        memory[worker] = replace(memory[worker], usable=usable, taken=taken)
    return memory


def look_at_memory(module: str, trim: bool, dask_worker: Worker) -> tuple[float, int]:
    """Return what a `WorkerMemory` says of this worker: `usable` and `taken`."""
    importlib.import_module(module)
    if trim:
        return_freed_memory()
    usable = usable_fraction(has_nanny=bool(dask_worker.nanny))
    return usable, bytes_taken(dask_worker.address, *memory_use(dask_worker))
