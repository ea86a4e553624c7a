"""A run carries a job from its start to its end, with pauses and snapshots."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.optimize import OptimizeResult

from skdistmlp.exceptions import ClusterError
from skdistmlp.parallel.communicators import SingleProcess
from skdistmlp.parallel.local_network import open_local_network
from skdistmlp.training.progress import Outcome
from skdistmlp.training.run import TrainingRun
from tests.training.jobs import MAX_EPOCHS, dataset_of, job_of, lbfgs_job


def run_of(job, case="adam", **options):
    dataset = dataset_of(case)
    state = job.start(job.split.unsplit_layout())
    network = open_local_network(
        job.network,
        job.split,
        state.network,
        dataset,
        SingleProcess(),
        job.max_rows(dataset),
    )
    return TrainingRun(job, network, dataset, state, **options), network


def test_a_run_ends_where_its_pauses_add_up():
    whole = run_of(job_of("adam"))[0].train()
    run, _ = run_of(job_of("adam"))
    n_pauses = 0
    while run.advance(lambda _: True).outcome is None:
        n_pauses += 1
        assert run.state.progress.n_iter == n_pauses
    assert n_pauses == MAX_EPOCHS - 1
    assert run.state.outcome is whole.outcome is Outcome.OUT_OF_EPOCHS
    assert_array_equal(run.state.network.parameters, whole.network.parameters)


def test_a_snapshot_does_not_change_when_training_goes_on():
    run, _ = run_of(job_of("adam"))
    run.advance(lambda _: True)
    snapshot = run.snapshot()
    before = snapshot.network.parameters.copy()
    run.advance()
    assert_array_equal(snapshot.network.parameters, before)
    assert snapshot.progress.n_iter == 1
    assert not np.array_equal(run.state.network.parameters, before)


def test_a_stop_is_an_outcome():
    run, _ = run_of(job_of("adam"))
    ended = run.train(on_epoch_end=lambda state, _: state.progress.n_iter == 2)
    assert ended.outcome is Outcome.STOPPED
    assert ended.progress.n_iter == 2


def test_the_run_ends_with_the_best_parameters():
    seen = {}

    def remember(state, snapshot):
        seen[state.progress.best_validation_score] = snapshot()
        return False

    run, network = run_of(job_of("early stopping"), "early stopping")
    ended = run.train(remember)
    assert_array_equal(ended.network.parameters, network.state.fetch().best)
    best = seen.get(ended.progress.best_validation_score)
    if best is not None:
        assert_array_equal(best.network.best, ended.network.parameters)


def test_lines_are_logged():
    lines = []
    run, _ = run_of(job_of("adam"), log=lines.append)
    run.train()
    assert [line.split(",")[0] for line in lines] == [
        f"Iteration {number}" for number in range(1, MAX_EPOCHS + 1)
    ]


def test_lbfgs_makes_no_pause():
    run, _ = run_of(lbfgs_job())
    ended = run.train(on_epoch_end=lambda *_: pytest.fail("a pause"))
    assert isinstance(ended.outcome, OptimizeResult)
    assert_array_equal(ended.network.parameters, ended.outcome.x)


def test_an_error_at_the_end_of_an_interrupted_run_is_an_interrupt():
    class Lost:
        current = None

        def fetch(self):
            raise ClusterError("a worker that heard Ctrl-C too is gone")

    def interrupt(*_):
        raise KeyboardInterrupt

    run, network = run_of(job_of("adam"))
    run._network = replace(network, state=Lost())
    with pytest.raises(KeyboardInterrupt):
        run.train(on_epoch_end=interrupt)
