"""A run carries a job from its start to its end, with pauses and snapshots."""

import pickle
import threading
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.optimize import OptimizeResult

from skdistmlp.exceptions import ClusterError
from skdistmlp.parallel.communicators import SingleProcess
from skdistmlp.parallel.local_network import open_local_network
from skdistmlp.training import run as module
from skdistmlp.training.job import LbfgsTraining
from skdistmlp.training.progress import Outcome
from skdistmlp.training.run import TrainingRun
from skdistmlp.training.scipy_lbfgs import LbfgsOptions
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


def test_a_state_is_offered_after_its_epoch_was_reported_unless_it_is_the_last():
    run, _ = run_of(job_of("adam"))
    said = []

    def report(state, snapshot):
        said.append(f"reported {state.progress.n_iter}")
        return state.progress.n_iter == 2

    run.train(report, lambda state, _: said.append(f"offered {state.progress.n_iter}"))
    assert said == ["reported 1", "offered 1", "reported 2"]


def test_reports_offers_and_the_end_are_no_part_of_the_training_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    run, network = run_of(job_of("adam"))
    advance, fetch = run.advance, network.state.fetch

    def take(seconds):
        now[0] += seconds

    def slow_advance(pause):
        take(1.0)
        return advance(pause)

    def slow_fetch():
        take(100.0)
        return fetch()

    monkeypatch.setattr(run, "advance", slow_advance)
    monkeypatch.setattr(network.state, "fetch", slow_fetch)
    run.train(lambda *_: take(10.0), lambda *_: take(20.0))
    assert now[0] == 101.0 + 30.0 * (MAX_EPOCHS - 1)
    assert run.training_s == 1.0


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


def searching():
    """Return the threads in which SciPy waits."""
    return [t for t in threading.enumerate() if t.name == "skdistmlp-lbfgs"]


def lbfgs_alone(n_iter):
    """Return the end of a run of a number of iterations, without pauses."""
    job = lbfgs_job()
    options = replace(job.method.options, max_iter=n_iter)
    run, _ = run_of(replace(job, method=replace(job.method, options=options)))
    return run.train()


def test_lbfgs_pauses_after_each_iteration_and_changes_no_bit():
    run, _ = run_of(lbfgs_job())
    for n_iter in range(1, 5):
        assert run.advance(lambda _: True).outcome is None
        alone, snapshot = lbfgs_alone(n_iter), run.snapshot().as_if_ended()
        assert run.state.progress == alone.progress
        assert alone.progress.n_iter == n_iter
        assert_array_equal(snapshot.network.parameters, alone.network.parameters)
        # The user's own from here on.
        snapshot.network.parameters[:] = np.nan
    ended, alone = run.advance().as_if_ended(), lbfgs_alone(5)
    assert isinstance(ended.outcome, OptimizeResult)
    assert ended.progress == alone.progress
    assert_array_equal(ended.network.parameters, alone.network.parameters)
    assert_array_equal(ended.network.parameters, ended.outcome.x)
    assert not searching()


def test_lbfgs_without_pauses_runs_in_this_thread(monkeypatch):
    monkeypatch.setattr(
        "skdistmlp.training.lbfgs.search_in_thread", lambda *_: pytest.fail("a thread")
    )
    run, _ = run_of(lbfgs_job())
    assert run.train().outcome.nit == 5
    run, _ = run_of(lbfgs_job())
    with pytest.raises(pytest.fail.Exception, match="a thread"):
        run.train(on_epoch_end=lambda *_: False)


def test_lbfgs_that_is_stopped_ends_with_its_last_iteration():
    run, _ = run_of(lbfgs_job())
    ended = run.train(on_epoch_end=lambda state, _: state.progress.n_iter == 3)
    assert ended.outcome is Outcome.STOPPED
    alone = lbfgs_alone(3)
    assert ended.progress == alone.progress
    assert_array_equal(ended.network.parameters, alone.network.parameters)
    assert not searching()


@pytest.mark.parametrize("raised", [KeyboardInterrupt, ZeroDivisionError])
def test_no_thread_is_left_of_lbfgs_that_fails(raised):
    def fail(*_):
        assert searching()
        raise raised

    run, _ = run_of(lbfgs_job())
    with pytest.raises(raised):
        run.train(on_epoch_end=fail)
    assert not searching()


def test_a_run_that_is_closed_at_a_pause_leaves_no_thread():
    run, _ = run_of(lbfgs_job())
    run.advance(lambda _: True)
    assert searching()
    run.close()
    assert not searching()


def test_lbfgs_begins_again_from_a_snapshot():
    """SciPy's memory of earlier iterations cannot be taken along."""
    run, _ = run_of(lbfgs_job())
    run.advance(lambda state: state.progress.n_iter == 3)
    snapshot = pickle.loads(pickle.dumps(run.snapshot()))
    run.close()
    further = run_of(replace(lbfgs_job(), initial=snapshot))[0].train()
    assert further.progress.n_iter == 5
    assert further.progress.loss < snapshot.progress.loss


def test_evaluations_of_lbfgs_are_limited_in_all_runs_together():
    """A limit that the iterations do not reach."""
    options = LbfgsOptions(max_iter=1000, max_fun=40, tol=0.0)
    job = replace(lbfgs_job(), method=LbfgsTraining(options))
    run, _ = run_of(job)
    run.advance(lambda state: state.progress.n_iter == 20)
    snapshot = run.snapshot()
    run.close()
    n_before = snapshot.progress.n_evaluations
    assert 20 < n_before < 40
    resumed = run_of(replace(job, initial=snapshot))[0].train()
    # Of an iteration, there may be some more.
    assert 40 < n_before + resumed.outcome.nfev < 50
    assert resumed.progress.n_evaluations == n_before + resumed.outcome.nfev


def test_a_run_that_cannot_be_fetched_says_that_it_was_interrupted():
    class Lost:
        current = None

        def fetch(self):
            raise ClusterError("a worker that heard Ctrl-C too is gone")

    def interrupt(*_):
        raise KeyboardInterrupt

    run, network = run_of(job_of("adam"))
    run._network = replace(network, state=Lost())
    with pytest.raises(ClusterError):
        run.train(on_epoch_end=interrupt)
    assert run.state.outcome is Outcome.INTERRUPTED


class Interrupted:
    """The state of a network, with interrupts while it is fetched."""

    current = None

    def __init__(self, state, times):
        self._state, self._times = state, times

    def fetch(self):
        self._times -= 1
        if self._times >= 0:
            raise KeyboardInterrupt
        return self._state.fetch()


def test_an_interrupt_while_the_state_is_fetched_keeps_it():
    whole = run_of(job_of("adam"))[0].train()
    run, network = run_of(job_of("adam"))
    run._network = replace(network, state=Interrupted(network.state, 1))
    state = run.train()
    assert run.state.outcome is state.outcome is Outcome.INTERRUPTED
    assert state.progress.n_iter == MAX_EPOCHS
    assert_array_equal(state.network.parameters, whole.network.parameters)


@pytest.mark.parametrize(
    ("new_job", "times"), [(lambda: job_of("adam"), 2), (lbfgs_job, 1)]
)
def test_a_second_interrupt_or_one_of_lbfgs_while_it_is_fetched_is_raised(
    new_job, times
):
    run, network = run_of(new_job())
    run._network = replace(network, state=Interrupted(network.state, times))
    with pytest.raises(KeyboardInterrupt):
        run.train()
