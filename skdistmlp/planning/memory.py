"""Whether workers have room for a plan, and for copies of the state besides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skdistmlp.planning.plan import Plan


@dataclass(frozen=True)
class WorkerMemory:
    """The memory of a worker.

    Attributes
    ----------
    limit : int
        Its ``memory_limit`` in bytes.
    usable : float
        Fraction of the limit from which Dask gives it no tasks, or restarts it.
    taken : int
        Bytes that its process takes already, besides values that Dask may write to
        disk.
    """

    limit: int
    usable: float = 1.0
    taken: int = 0

    @property
    def capacity(self) -> int:
        """Bytes that its process may take and still work."""
        return int(self.usable * self.limit)

    @property
    def free(self) -> int:
        """Bytes that a shard may hold."""
        return max(0, self.capacity - self.taken)


MEMORY_ADVICE = (
    "Use workers with more memory, more workers, fewer rows or float32 features."
)
"""What to do when a plan needs more memory than there is."""

BLOCKS_ADVICE = (
    " Smaller blocks of a Dask array need less; sparse ones too, where Dask knows that "
    "they are: X.map_blocks(lambda block: block, meta=scipy.sparse.csr_array((0, 0)))."
)
"""The same where rows are written to files block by block."""


def memory_shortage(plan: Plan, memory: Mapping[str, WorkerMemory]) -> str | None:
    """Say why a plan does not fit, even without copies of the state; None if it does.

    Parameters
    ----------
    plan : Plan
        Of training.
    memory : mapping of str to WorkerMemory
        By address; a worker that is missing has no limit.
    """
    needed = zip(plan.workers, plan.bytes_needed, strict=True)
    for rank, (worker, n_bytes) in enumerate(needed):
        if worker not in memory or n_bytes <= memory[worker].free:
            continue
        its = memory[worker]
        stopped = f"; Dask pauses or restarts it at {its.usable:.0%} of that"
        taken = f"; its process takes {its.taken:,} bytes already"
        return (
            f"{plan.grid.title(rank)} would hold {n_bytes:,} bytes on worker "
            f"{worker}, whose memory_limit is {its.limit:,} bytes"
            f"{stopped if its.usable < 1 else ''}"
            f"{taken if its.taken else ''}. {MEMORY_ADVICE}"
            f"{BLOCKS_ADVICE if plan.rows.on_disk else ''}"
        )
    return None


def plan_with_room(plan: Plan, memory: Mapping[str, WorkerMemory]) -> Plan:
    """Return a plan; without copies of the state if workers have no room for them.

    Parameters
    ----------
    plan : Plan
        Of training, for which they have room without copies.
    memory : mapping of str to WorkerMemory
        By address, before the workers hold anything of the plan.
    """
    room = {
        worker: memory[worker].free - needed
        for worker, needed in zip(plan.workers, plan.bytes_needed, strict=True)
        if worker in memory
    }
    shortage = shortage_for_copies(plan.workers, plan.bytes_of_copies, room)
    return plan if shortage is None else plan.without_copies(shortage)


def shortage_for_copies(
    workers: Sequence[str], needed: Sequence[int], room: Mapping[str, int]
) -> str | None:
    """Say which worker has no room for copies of the state; None if all have.

    Parameters
    ----------
    workers : sequence of str
        Addresses, by rank.
    needed : sequence of int
        Bytes of the copies on each of them; empty if there are none.
    room : mapping of str to int
        Bytes that each may still allocate; a worker that is missing has no limit.
    """
    for worker, n_bytes in zip(workers, needed, strict=False):
        if worker in room and room[worker] < n_bytes:
            return (
                f"worker {worker} has memory for {max(0, room[worker]):,} of the "
                f"{n_bytes:,} bytes that copies take there"
            )
    return None


def memory_needs(plan: Plan, memory: Mapping[str, WorkerMemory]) -> dict[str, str]:
    """Say, by worker, what came near its limit, in case that it is lost.

    Parameters
    ----------
    plan : Plan
        Of training.
    memory : mapping of str to WorkerMemory
        By address; a worker that is missing has no limit.
    """
    needs = {}
    for worker, n_bytes in zip(plan.workers, plan.bytes_held, strict=False):
        its = memory.get(worker)
        if its is not None and n_bytes + its.taken > NEAR_LIMIT * its.limit:
            needs[worker] = (
                f"Worker {worker} probably ran out of memory: its memory_limit was "
                f"{its.limit:,} bytes, its process took {its.taken:,} before the fit, "
                f"and its shard needs {n_bytes:,}. {MEMORY_ADVICE}"
            )
    return needs


NEAR_LIMIT = 0.6
"""Fraction of the memory limit from which a lost worker probably ran out of memory:
rows exist twice when they arrive, and Dask itself begins to make room at this one."""
