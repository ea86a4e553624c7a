"""A job on an open network: from its start, epoch by epoch, to its end."""

import time
from dataclasses import replace
from functools import partial
from typing import Any

from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.ops import OpenNetwork
from skdistmlp.training.job import Offer, OnEpochEnd, TrainingJob
from skdistmlp.training.loop import Log, Pause, quiet
from skdistmlp.training.progress import Outcome
from skdistmlp.training.state import TrainingState


class TrainingRun:
    """One job on one network, or on one shard of it.

    Parameters
    ----------
    job : TrainingJob
        The job; of the shard, where there are others.
    network : OpenNetwork
        Holds the parameters of `state`.
    dataset : Dataset
        All rows, prepared.
    state : TrainingState
        From `TrainingJob.start`.
    log : callable
        Called with each of scikit-learn's verbose lines.

    Attributes
    ----------
    state : TrainingState
        The state after the last pause.
    training_s : float
        Seconds that `train` took for the steps: without reports, and without what it
        fetches afterwards.
    """

    def __init__(
        self,
        job: TrainingJob,
        network: OpenNetwork[Any],
        dataset: Dataset,
        state: TrainingState,
        log: Log = quiet,
    ) -> None:
        self._network = network
        self._dataset = dataset
        self._log = log
        self._method = job.method.for_run()
        self.state = self._method.begin(network, dataset, state)
        self.training_s = 0.0

    def advance(self, pause: Pause | None = None) -> TrainingState:
        """Train to the next pause or to the end; return the state there."""
        self.state = self._method.advance(
            self._network, self._dataset, self.state, pause, self._log
        )
        return self.state

    def stop(self) -> TrainingState:
        """End training at a pause."""
        self.state = replace(self.state, outcome=Outcome.STOPPED)
        return self.state

    def close(self) -> None:
        """Give up what the method keeps between pauses; the run cannot go on then."""
        self._method.close()

    def snapshot(self, state: TrainingState | None = None) -> TrainingState:
        """Return a copy of a state, by default the last, with its arrays here."""
        network = self._network.state.fetch()
        return replace(state or self.state, network=network).copy()

    def train(
        self,
        on_epoch_end: OnEpochEnd | None = None,
        offer: Offer | None = None,
    ) -> TrainingState:
        """Train to the end; return the state, with the best parameters if any."""
        pause, paused_s = None, 0.0
        if on_epoch_end is not None or offer is not None:

            def pause(state: TrainingState) -> bool:
                nonlocal paused_s
                paused = time.perf_counter()
                snapshot = partial(self.snapshot, state)
                stops = on_epoch_end is not None and on_epoch_end(state, snapshot)
                # After the report: whoever goes on from this state reports it no more.
                if offer is not None and not stops:
                    offer(state, snapshot)
                paused_s += time.perf_counter() - paused
                return stops

        begun = time.perf_counter()
        try:
            if self.advance(pause).outcome is None and pause is not None:
                self.stop()
        finally:
            self.training_s = time.perf_counter() - begun - paused_s
            self.close()
        try:
            network = self._network.state.fetch()
        except KeyboardInterrupt:
            outcome = self.state.outcome
            if outcome is Outcome.INTERRUPTED or not isinstance(outcome, Outcome):
                # The second; or "lbfgs", of which an interrupt keeps nothing.
                raise
            # All is trained: a first one keeps that.
            self.state = replace(self.state, outcome=Outcome.INTERRUPTED)
            network = self._network.state.fetch()
        return replace(self.state, network=network).as_if_ended()
