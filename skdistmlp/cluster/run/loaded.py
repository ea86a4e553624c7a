"""The room that workers have for a fit, besides the code that it loads.

A plan has to count what code takes, and only once: before it is loaded, the memory of a
worker does not show it. Only the worker knows whether it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from distributed import Client, Worker

from skdistmlp.cluster.client.rpc import answers_in_time
from skdistmlp.cluster.run.free_memory import look_at_memory
from skdistmlp.nn import compiled
from skdistmlp.planning.memory import WorkerMemory
from skdistmlp.training.trial import Trial

AMPLE_BYTES = 2 * compiled.LOADED_BYTES
"""What a worker has beyond the need of a fit if it is not asked: then there is room
whether or not the code is loaded already. Twice what compiled code takes, which is most
of it: the need is an estimate, and the scheduler knows what a process took at its last
heartbeat."""


def room_for(
    trial: Trial | None,
    client: Client,
    memory: Mapping[str, WorkerMemory],
    needed: int,
    module: str,
) -> Mapping[str, WorkerMemory]:
    """Return the memory of workers once they have loaded the code of a fit.

    Parameters
    ----------
    trial : Trial or None
        Of the fit, which says whether some of it is compiled; None if nothing is known
        of it: then no worker is asked.
    client : Client
        A connected client.
    memory : mapping of str to WorkerMemory
        Of each worker that has a limit, as the scheduler knows it.
    needed : int
        Bytes that the fit takes on a worker, at most. Workers that have little more are
        asked; one that does not answer within `PING_ANSWER_S` counts as having loaded
        nothing that is compiled.
    module : str
        What the fit will load on the workers besides, and those that are asked do now.
    """
    if trial is None:
        return memory
    asked = [w for w, its in memory.items() if its.free < needed + AMPLE_BYTES]
    compiles = trial.runs_compiled
    answers = answers_in_time(client, asked, look_at_memory_in_fit, module, compiles)
    room = {}
    for worker, its in memory.items():
        to_load = compiled.LOADED_BYTES if compiles else 0
        not_asked = its.usable, its.taken + to_load
        usable, taken = answers.get(worker, not_asked)
        room[worker] = replace(its, usable=usable, taken=taken)
    return room


def look_at_memory_in_fit(
    module: str, compiles: bool, dask_worker: Worker
) -> tuple[float, int]:
    """Return what `look_at_memory` does of this worker once it has loaded the code.

    Parameters
    ----------
    module : str
        What it loads now.
    compiles : bool
        Whether it is to load compiled code too.
    dask_worker : Worker
        Dask fills it in.
    """
    usable, taken = look_at_memory(module, False, dask_worker)
    return usable, taken + (compiled.bytes_to_load() if compiles else 0)
