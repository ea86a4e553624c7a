"""Why a fit goes on elsewhere: workers are lost, accept no tasks, or are slow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from skdistmlp.exceptions import WorkerLostError
from skdistmlp.planning.plan import Plan
from skdistmlp.planning.recovery import Kind

KINDS: Mapping[str, Kind] = {"closing_gracefully": "retired", "paused": "paused"}
"""By the status that Dask names, why a fit leaves a worker that still answers."""

STATUSES: Mapping[Kind, str] = {kind: status for status, kind in KINDS.items()}

WHY: Mapping[Kind, tuple[str, str]] = {
    "retired": ("is being retired", "are being retired"),
    "paused": (
        "has been paused for too long: it uses too much memory to accept new tasks",
        "have been paused for too long: they use too much memory to accept new tasks",
    ),
}
"""What is the matter with one worker, and with several."""


@dataclass(frozen=True)
class Departure:
    """Why a fit goes on elsewhere.

    Attributes
    ----------
    kind : {"lost", "broken", "retired", "paused", "moved"}
        See `Recovery`.
    workers : tuple of str
        Addresses of the workers that are left behind.
    why : str
        What is the matter with them, or what another plan is expected to save.
    plan : Plan or None
        Where to go on, if that is known.
    """

    kind: Kind
    workers: tuple[str, ...]
    why: str
    plan: Plan | None = None


def departure_named(
    error: WorkerLostError, statuses: Mapping[str, str]
) -> Departure | None:
    """Return the departure from the workers that an error names, unless one is lost.

    By their statuses of now, or else by what the error says: as soon as a run has
    released what it held on a paused worker, this may resume, and one that is being
    retired leaves, or stays if Dask refuses to retire it.
    """
    found = dict(statuses)
    for worker in error.workers:
        if statuses.get(worker) in KINDS:
            continue
        if error.kind == "lost" or (error.kind == "paused" and worker not in statuses):
            return None
        found[worker] = STATUSES[error.kind]
    return departure_among(found, error.workers)


def departure_among(
    statuses: Mapping[str, str], workers: Sequence[str]
) -> Departure | None:
    """Return a departure from those that are being retired, or else paused."""
    for status, kind in KINDS.items():
        found = tuple(w for w in workers if statuses.get(w) == status)
        if found:
            several = len(found) > 1
            who = f"worker{'s' if several else ''} {', '.join(found)}"
            return Departure(kind, found, f"{who} {WHY[kind][several]}")
    return None
