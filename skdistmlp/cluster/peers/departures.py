"""Whether a fit should go on elsewhere, since workers accept no tasks or are slow.

Then its run ends between two rounds, and its shards hand their state over.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from distributed import Client

from skdistmlp.cluster.client.workers import resume_paused, worker_statuses
from skdistmlp.cluster.peers.shard import Report
from skdistmlp.cluster.recovery.departure import (
    Departure,
    departure_among,
    departure_named,
)
from skdistmlp.exceptions import WorkerLostError
from skdistmlp.timeouts import WORKER_CHECK_S

LookForPlan = Callable[[Sequence[Report], float], Departure | None]
"""From what all shards report of a round, and the seconds that placing them took, to a
move to a faster plan."""

SpareFor = Callable[[Sequence[str]], Sequence[str]]
"""From workers of a run to others that could take their place, as far as there are. If
they are as many, the fit claims them, until this is asked again."""


class Departures:
    """Looks whether a run should end before training has.

    Its workers may accept no more tasks, although they are there.

    Parameters
    ----------
    client : Client
        A connected client.
    workers : tuple of str
        Of the run.
    spare_for : callable
        See `SpareFor`. It must find what the fit will find once it has left.
    look_for_plan : callable, optional
        See `LookForPlan`. Without it, the run stays where it is.
    """

    def __init__(
        self,
        client: Client,
        workers: tuple[str, ...],
        spare_for: SpareFor,
        look_for_plan: LookForPlan | None = None,
    ) -> None:
        self._client = client
        self._workers = workers
        self._spare_for = spare_for
        self._look_for_plan = look_for_plan
        self._has_claimed = False
        self._next_look_at = time.monotonic() + WORKER_CHECK_S

    def after_round(
        self, reports: Sequence[Report], placing_s: float
    ) -> Departure | None:
        """Say whether to go on elsewhere; the parameters are those of `LookForPlan`."""
        departure = None
        # Unless that was a moment ago: rounds may be short.
        if time.monotonic() >= self._next_look_at:
            departure = self.among(self._workers)
        if departure is None and self._look_for_plan is not None:
            departure = self._look_for_plan(reports, placing_s)
        return departure

    def among(self, workers: Sequence[str]) -> Departure | None:
        """Say whether to leave some of these workers.

        One that is being retired, at once: whoever retires it waits for that. One that
        is paused may resume in a moment, and waiting for it is the best that can be
        done unless others are there in its place: so it is left only if there are, and
        if it has not resumed within `RESUME_S`.
        """
        self._next_look_at = time.monotonic() + WORKER_CHECK_S
        departure = self._departure_among(workers)
        if departure is None and self._has_claimed:
            # The worker has resumed: others may have its replacement.
            self._spare_for(())
            self._has_claimed = False
        return departure

    def _departure_among(self, workers: Sequence[str]) -> Departure | None:
        statuses = worker_statuses(self._client)
        departure = departure_among(statuses, workers)
        if departure is None or departure.kind == "retired":
            return departure
        spare = self._spare_for(departure.workers)
        self._has_claimed = len(spare) >= len(departure.workers)
        if not self._has_claimed:
            return None
        paused = resume_paused(self._client, departure.workers)
        return departure_among(dict.fromkeys(paused, "paused"), workers)

    def check(self, queued: Sequence[str]) -> None:
        """Raise `WorkerLostError` if one with a queued task should be left."""
        if departure := self.among(queued):
            assert departure.kind in ("retired", "paused")
            raise WorkerLostError(departure.why, departure.workers, departure.kind)

    def after_error(self, error: WorkerLostError) -> Departure | None:
        """Return the departure from the workers that an error names.

        None if they accept tasks again: then the run goes on.

        Raises
        ------
        WorkerLostError
            The same error, if they cannot hand over since one is lost.
        """
        statuses = worker_statuses(self._client)
        are_there = statuses.keys() >= set(error.workers)
        if not are_there or departure_named(error, statuses) is None:
            raise error
        return departure_among(statuses, error.workers)
