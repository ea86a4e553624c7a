"""Fits that end early, as if their process had been killed, and states of such fits."""

from contextlib import contextmanager
from unittest import mock

from skdistmlp.checkpoints.checkpointing import Checkpointing
from skdistmlp.parallel.communicators import SingleProcess
from skdistmlp.parallel.local_network import open_local_network
from skdistmlp.training.run import TrainingRun
from tests.training.jobs import dataset_of


class KilledError(Exception):
    """Stands for the end of the process."""


@contextmanager
def killed_after(n_iter):
    """Have fits write their state after each epoch, and end after `n_iter` of them."""

    def offer(self, state, snapshot):
        self._copy = snapshot()
        self._save()
        if state.progress.n_iter == n_iter:
            raise KilledError

    with mock.patch.object(Checkpointing, "offer", offer):
        yield


def state_after(job, case, n_iter=2):
    """Return the state of a job after some epochs."""
    dataset = dataset_of(case).prepared(job.dtype)
    state = job.start(job.split.unsplit_layout())
    network = open_local_network(
        job.network,
        job.split,
        state.network,
        dataset,
        SingleProcess(),
        job.max_rows(dataset),
    )
    run = TrainingRun(job, network, dataset, state)
    run.advance(lambda state: state.progress.n_iter == n_iter)
    return run.snapshot()
