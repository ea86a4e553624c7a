"""The room that workers have for a fit which loads compiled code.

A plan has to count what the code takes, and only once: before it is loaded, the memory
of a worker does not show it. Only the worker knows whether it is.
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
whether or not the code is loaded already. Twice as much as it takes, since the need is
an estimate, and the scheduler knows what a process took at its last heartbeat."""


def room_for(
    trial: Trial | None,
    client: Client,
    memory: Mapping[str, WorkerMemory],
    needed: int,
    module: str,
) -> Mapping[str, WorkerMemory]:
    """Return the memory of workers once they have loaded the compiled code of a fit.

    Parameters
    ----------
    trial : Trial or None
        Of the fit; None if nothing is known of it: then it counts as loading nothing.
    client : Client
        A connected client.
    memory : mapping of str to WorkerMemory
        Of each worker that has a limit, as the scheduler knows it.
    needed : int
        Bytes that the fit takes on a worker, at most. Workers that have little more are
        asked; one that does not answer within `PING_ANSWER_S` counts as having loaded
        nothing.
    module : str
        What the fit will load on the workers besides, and those that are asked do now.
    """
    if trial is None or not trial.runs_compiled:
        return memory
    asked = [w for w, its in memory.items() if its.free < needed + AMPLE_BYTES]
    answers = answers_in_time(client, asked, look_at_memory_in_fit, module)
    room = {}
    for worker, its in memory.items():
        not_asked = its.usable, its.taken + compiled.LOADED_BYTES
        usable, taken = answers.get(worker, not_asked)
        room[worker] = replace(its, usable=usable, taken=taken)
    return room


def look_at_memory_in_fit(module: str, dask_worker: Worker) -> tuple[float, int]:
    """Return what `look_at_memory` does of this worker once it has loaded the code."""
    usable, taken = look_at_memory(module, False, dask_worker)
    return usable, taken + compiled.bytes_to_load()
