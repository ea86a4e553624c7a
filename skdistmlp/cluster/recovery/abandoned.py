"""Workers that a fit has lost or left, by their processes: it does without them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from distributed import Client

from skdistmlp.cluster.client.workers import accepts_tasks, known_workers
from skdistmlp.cluster.recovery.departure import Departure
from skdistmlp.exceptions import ExchangeError, WorkerLostError
from skdistmlp.planning.plan import Plan

Known = Mapping[str, Mapping[str, Any]]
"""What the scheduler knows about each worker, by address; see `known_workers`."""


class Process(NamedTuple):
    """The process of a worker.

    Attributes
    ----------
    directory : str
        Tells it from others at its address: a nanny may restart a worker there.
    n_threads : int
        Number of its threads; BLAS uses as many in a task.
    """

    directory: str
    n_threads: int


def processes_of(client: Client) -> dict[str, Process]:
    """Return the process at each worker's address."""
    return _processes_in(known_workers(client))


def _processes_in(known: Known) -> dict[str, Process]:
    return {
        worker: Process(info["local_directory"], info["nthreads"])
        for worker, info in known.items()
    }


def lost_among(
    client: Client,
    plan: Plan,
    processes: Mapping[str, Process],
    error: WorkerLostError | ExchangeError,
) -> tuple[str, ...]:
    """Return the workers that have left or that an error names.

    Without any, those that did not answer when the exchange failed. Beside one that is
    lost, they are not given up: they may hang for a moment, and are pinged again.
    """
    present = processes_of(client)
    lost = {worker for worker in plan.workers if worker not in present}
    lost |= {w for w in plan.workers if present.get(w) != processes.get(w)}
    if isinstance(error, WorkerLostError):
        lost |= {*error.workers}
    elif not lost:
        lost |= {*(error.silent or ())}.intersection(plan.workers)
    # Of the others, one may have had blocks of the rows.
    others = sorted(lost.difference(plan.workers))
    return (*(worker for worker in plan.workers if worker in lost), *others)


@dataclass
class AbandonedWorkers:
    """Workers that a fit has left and does without.

    Attributes
    ----------
    lost : dict of str to Process or None
        Processes that are of no use any more, by address.
    paused : set of str
        Addresses of those that are of no use until they accept tasks again.
    paused_again : dict of str to Process or None
        Processes that were left paused twice, by address: of no use unless no other is
        left.
    n_threads : dict of str to int
        Threads of all workers when the last run began, by address: one that has left
        the cluster is missing among those of now.
    """

    lost: dict[str, Process | None] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)
    paused_again: dict[str, Process | None] = field(default_factory=dict)
    n_threads: dict[str, int] = field(default_factory=dict)
    # Of all processes that were left paused, also those that accept tasks again.
    _were_paused: set[tuple[str, Process | None]] = field(default_factory=set)

    def add(
        self, departure: Departure, processes: Mapping[str, Process], handed_over: bool
    ) -> None:
        """Note which workers a fit leaves.

        Parameters
        ----------
        departure : Departure
            Why it leaves them.
        processes : mapping of str to Process
            See `processes_of`; as of the beginning of the run.
        handed_over : bool
            Whether they have handed their shards over.
        """
        self.n_threads = {w: process.n_threads for w, process in processes.items()}
        if departure.kind in ("retired", "moved"):
            # Dask may refuse to retire one, such as the last. Then it is of use.
            return
        left = {(worker, processes.get(worker)) for worker in departure.workers}
        if departure.kind == "paused" and handed_over:
            # It was probably paused by its shard and rows. If it were of use whenever
            # they are gone, a fit would move to and fro.
            self.paused_again.update(left & self._were_paused)
            self.paused.update(worker for worker, _ in left - self._were_paused)
            self._were_paused |= left
            return
        # For good. One that hangs is still said to accept tasks. One that was paused
        # before the first round would probably be so again: the fit would never end.
        self.lost.update(left)

    def others(self, known: Known) -> set[str]:
        """Return all other workers of the cluster."""
        self.paused -= {w for w in known if accepts_tasks(known[w]["status"])}
        return {
            worker
            for worker, process in _processes_in(known).items()
            if worker not in self.paused
            and process != self.lost.get(worker)
            and process != self.paused_again.get(worker)
        }

    def allow_paused_again(self, known: Known) -> bool:
        """Have those that were left paused twice be of use, if they accept tasks now.

        Return whether there are any. Each was left after a round at least, so the fit
        ends, however often it is left once more.
        """
        found = [
            worker
            for worker, process in _processes_in(known).items()
            if process == self.paused_again.get(worker)
            and accepts_tasks(known[worker]["status"])
        ]
        for worker in found:
            del self.paused_again[worker]
        return bool(found)
