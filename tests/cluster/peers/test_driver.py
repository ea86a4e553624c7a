"""The "peers" engine on real worker processes."""

import gc
import re
import time
import weakref
from dataclasses import replace
from types import SimpleNamespace

import dask
import numpy as np
import pytest
from distributed import Event
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.neural_network import MLPClassifier

from skdistmlp import DistributedMLPClassifier
from skdistmlp.cluster.client import rpc
from skdistmlp.cluster.futures.recovery import FuturesRun
from skdistmlp.cluster.peers import driver as peers
from skdistmlp.cluster.peers.messages import ProgressLine
from skdistmlp.cluster.recovery.announced import Announced
from skdistmlp.cluster.run import placement, scatter
from skdistmlp.cluster.run.reservation import WorkerShare
from skdistmlp.exceptions import ExchangeError
from skdistmlp.training.progress import Outcome
from tests.cluster.leaks import own_cluster
from tests.cluster.support import (
    bounded,
    in_thread,
    transitions,
    wait_until,
)
from tests.estimators.support import InterruptAfter
from tests.training.jobs import dataset_of, job_of, plan_of

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

PARAMETERS = {"hidden_layer_sizes": (20, 9), "batch_size": 100, "random_state": 0}


def classifier(client, n_workers=2, **parameters):
    return DistributedMLPClassifier(
        **PARAMETERS | {"max_iter": 3} | parameters,
        client=client,
        engine="peers",
        parameter_threshold=0,
        n_workers=n_workers,
    )


@pytest.fixture
def data(digits):
    X, y = digits
    return X[:300], y[:300]


@pytest.fixture
def rounds_of_an_epoch(monkeypatch):
    monkeypatch.setattr(peers, "ROUND_S", 0.0)


def assert_as_scikit_learn(clf, data, **parameters):
    theirs = MLPClassifier(**PARAMETERS | {"max_iter": 3} | parameters).fit(*data)
    for mine, other in zip(clf.coefs_, theirs.coefs_, strict=True):
        assert_allclose(mine, other, rtol=1e-6, atol=1e-12)
    assert clf.n_iter_ == theirs.n_iter_
    assert_allclose(clf.loss_curve_, theirs.loss_curve_, rtol=1e-9)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_rounds_continue_where_the_last_one_ended(
    client, data, rounds_of_an_epoch, early_stopping
):
    before = {key for key, _, _ in transitions(client)}
    clf = classifier(client, early_stopping=early_stopping).fit(*data)
    assert_as_scikit_learn(clf, data, early_stopping=early_stopping)
    begun = [
        key[1]
        for key, _, end in transitions(client)
        if end == "processing" and key not in before
    ]
    for rank in (0, 1):
        assert begun.count(f"train-shard{rank}-of-2") == 3


def run_of(client, job, **options):
    plan = plan_of("peers", client.nthreads(), job.split.n_shards)
    return peers.PeersRun(client, plan, job, dataset_of("adam"), **options)


@pytest.mark.parametrize("engine", ["peers", "futures"])
def test_a_run_that_begins_where_the_fit_was_to_stop_takes_no_step(client, engine):
    """The worker that trained there was lost after a callback had said so."""
    fresh = job_of("adam", 2)
    whole = fresh.start(fresh.split.unsplit_layout())
    state = replace(whole, progress=replace(whole.progress, n_iter=3))
    job = job_of("adam", 2, state=state)
    announced = Announced(n_iter=3, stops=True)
    if engine == "peers":
        with run_of(client, job, announced=announced) as run:
            ended = bounded(run.train)
    else:
        plan = plan_of("futures", client.nthreads(), 2)
        dataset = dataset_of("adam")
        share = WorkerShare(client)
        run = FuturesRun(client, plan, job, dataset, None, announced, None, True, share)
        ended = bounded(run.train, lambda: None)
    assert (ended.outcome, ended.progress.n_iter) == (Outcome.STOPPED, 3)
    assert_array_equal(ended.network.parameters, state.network.parameters)


def test_a_fit_that_does_not_recover_takes_no_copies(client, data, monkeypatch):
    def fail(*_):
        raise AssertionError("copies were taken")

    monkeypatch.setattr(peers, "ROUND_S", 0.0)
    monkeypatch.setattr(peers.StateCopies, "take", fail)
    monkeypatch.setattr(peers.StateCopies, "is_due", True)
    bounded(classifier(client).fit, *data)
    with (
        dask.config.set({"skdistmlp.max-recoveries": 1}),
        pytest.raises(AssertionError, match="copies were taken"),
    ):
        bounded(classifier(client).fit, *data)


def test_copies_are_paced_from_the_first_round_on(
    client, data, rounds_of_an_epoch, monkeypatch
):
    begun = []
    monkeypatch.setattr(peers.StateCopies, "begin", lambda *it: begun.append(it))
    clf = bounded(classifier(client).fit, *data)
    assert clf.n_iter_ == 3
    ((_, trained_s),) = begun
    assert trained_s > 0


def test_lines_are_those_of_the_run_that_goes_on(client, capsys):
    """Of runs before it, more may have been printed than it has come to."""
    announced, offered = Announced(n_lines=6), []
    run = run_of(
        client,
        job_of("adam", 2),
        announced=announced,
        offer=lambda state, _: offered.append(state),
    )
    run._round_start = SimpleNamespace(note=lambda _: None, timed_out=lambda: False)
    for number in (3, 4):
        run._messages.put(ProgressLine(f"line {number}", number))
    run._take_messages(0)
    run._state = replace(run._state, progress=replace(run._state.progress, n_iter=5))
    run._offer_state()
    assert (capsys.readouterr().out, len(offered)) == ("", 1)
    assert announced.n_lines_before(run._state.progress) == 5
    run._release()


@pytest.mark.parametrize("engine", ["peers", "futures"])
def test_a_fit_holds_no_rows_afterwards(client, data, engine):
    """Not even until Python collects garbage: blocks of a collection are as large."""
    clf = classifier(client).set_params(engine=engine)
    rows = np.array(data[0])
    is_held = weakref.ref(rows)
    gc.disable()
    try:
        clf.fit(rows, data[1])
        del rows
        wait_until(lambda: is_held() is None, "the rows are freed")
    finally:
        gc.enable()


def test_every_round_is_logged_with_its_pace(client, data, rounds_of_an_epoch, caplog):
    with caplog.at_level("INFO", "skdistmlp"):
        clf = classifier(client).fit(*data)
    ours = [record for record in caplog.records if record.name == "skdistmlp"]
    lines = [record.getMessage() for record in ours]
    assert len(lines) == 3
    for number, line in enumerate(lines):
        match = re.fullmatch(
            r"round (\d): (\d) epochs?, loss ([\d.]+), ([\d,]+) samples/s, [\d.]+ s, "
            r"(\d+)% of it exchanging, slowest shard ([01]) on (\S+)",
            line,
        )
        assert match, line
        assert [int(match[1]), int(match[2])] == [number, number + 1]
        assert float(match[3]) == pytest.approx(clf.loss_curve_[number], abs=1e-6)
        assert int(match[4].replace(",", "")) > 0
        assert 0 <= int(match[5]) <= 100
        assert match[7] == clf.plan_.workers[int(match[6])]


def test_the_random_state_of_the_caller_is_advanced(client, data):
    after = []
    for make in (lambda **p: classifier(client, **p), lambda **p: MLPClassifier(**p)):
        random_state = np.random.RandomState(3)
        make(**PARAMETERS | {"max_iter": 3, "random_state": random_state}).fit(*data)
        after.append(random_state.random_sample(3))
    assert_array_equal(*after)


def endless(client, **parameters):
    """Return a classifier that trains until it is stopped."""
    return classifier(
        client, max_iter=10**6, tol=0.0, n_iter_no_change=np.inf, **parameters
    )


@pytest.mark.parametrize(
    ("round_s", "n_seen"), [(np.inf, 1), (0.0, 3)], ids=["one round", "several rounds"]
)
def test_verbose_lines_arrive_while_a_fit_runs(
    client, data, monkeypatch, caplog, round_s, n_seen
):
    """The user reads some of them and presses Ctrl-C in an endless fit."""
    monkeypatch.setattr(peers, "ROUND_S", round_s)
    lines = []

    def print_and_interrupt(line):
        lines.append(line)
        if len(lines) == n_seen:
            raise KeyboardInterrupt

    monkeypatch.setattr("builtins.print", print_and_interrupt)
    clf = endless(client, verbose=True)
    with (
        caplog.at_level("INFO", "skdistmlp"),
        pytest.warns(UserWarning, match=r"Training interrupted by user\."),
    ):
        bounded(clf.fit, *data)
    assert lines[:n_seen] == [
        f"Iteration {number}, loss = {loss:.8f}"
        for number, loss in enumerate(clf.loss_curve_[:n_seen], 1)
    ]
    assert clf.n_iter_ < clf.max_iter
    rounds = [r for r in caplog.records if r.getMessage().startswith("round ")]
    assert (len(rounds) > 1) == (n_seen > 1)


def steps_taken(client, n_shards=2):
    """Return the steps of the shard that has taken the fewest; 0 if one is missing."""

    def n_steps():
        from skdistmlp.cluster.peers import worker as peers_worker

        # Shards that have failed or ended have none.
        meshes = [shard._communicator for shard in list(peers_worker._RUNS.values())]
        return [mesh._connections._step for mesh in meshes if mesh is not None]

    taken = [n for ns in client.run(n_steps).values() for n in ns]
    return min(taken) if len(taken) == n_shards else 0


def executing(client):
    return client.run(lambda dask_worker: len(dask_worker.state.executing))


def stop_all(client, fit):
    """Ask all shards to stop, and wait for the fit."""

    def request_stop():
        from skdistmlp.cluster.peers import worker as peers_worker

        for run in {run for run, _ in peers_worker._RUNS}:
            peers_worker.request_stop(run)

    client.run(request_stop)
    return bounded(fit.result)


@pytest.mark.parametrize("n_replicas", [1, 2])
def test_an_interrupt_stops_all_shards_at_the_same_step(
    client, data, monkeypatch, n_replicas
):
    """Check that the parameters equal scikit-learn's after as many steps."""
    interrupted = []

    def interrupt_once(run, timeout_s):
        if not interrupted:
            wait_until(lambda: steps_taken(client), "training has begun")
            interrupted.append(True)
            raise KeyboardInterrupt
        return original(run, timeout_s)

    original = peers.PeersRun._take_messages
    monkeypatch.setattr(peers.PeersRun, "_take_messages", interrupt_once)
    clf = endless(client).set_params(n_replicas=n_replicas)
    with pytest.warns(UserWarning, match=r"Training interrupted by user\."):
        bounded(clf.fit, *data)
    assert 0 < clf.n_iter_ < clf.max_iter
    n_steps = clf._optimizer_state.n_steps
    assert n_steps >= 3 * clf.n_iter_
    theirs = MLPClassifier(**PARAMETERS, max_iter=clf.max_iter, n_iter_no_change=10**9)
    monkeypatch.setattr(theirs, "_backprop", InterruptAfter(theirs._backprop, n_steps))
    with pytest.warns(UserWarning, match=r"Training interrupted by user\."):
        theirs.fit(*data)
    for mine, other in zip(clf.coefs_, theirs.coefs_, strict=True):
        assert_allclose(mine, other, rtol=1e-6, atol=1e-9)


def test_two_fits_at_once_share_the_workers(client, data):
    fits = [in_thread(classifier(client).fit, *data) for _ in range(4)]
    for fit in fits:
        assert_as_scikit_learn(bounded(fit.result), data)


def test_fits_inside_tasks_share_the_workers(client, data):
    def fit(seed):
        clf = classifier(None, random_state=seed, max_iter=2)
        return clf.fit(*data).loss_, clf.engine_

    futures = client.map(fit, range(4), pure=False)
    losses = bounded(client.gather, futures)
    for seed, (loss, engine) in enumerate(losses):
        theirs = MLPClassifier(**PARAMETERS | {"random_state": seed}, max_iter=2)
        assert engine == "peers"
        assert_allclose(loss, theirs.fit(*data).loss_)
    del futures


@pytest.fixture
def frequent_looks(monkeypatch):
    """Make the client check its workers twenty times per second."""
    for module in (rpc, peers, placement, scatter):
        monkeypatch.setattr(module, "WORKER_CHECK_S", 0.05)


def test_a_queued_shard_is_waited_for(client, data, frequent_looks):
    """One worker is busy with another task for longer than it may be silent."""
    gate, running = Event("gate", client=client), Event("running", client=client)
    busy = sorted(client.nthreads())[0]

    def hold():
        Event("running").set()
        Event("gate").wait()

    held = client.submit(hold, workers=[busy], pure=False)
    assert running.wait(30)
    with dask.config.set({"skdistmlp.exchange-timeout": "500ms"}):
        fit = in_thread(classifier(client, n_workers=3).fit, *data)
        # Longer than a worker with such a task may be silent, which is four times the
        # timeout; it is pinged meanwhile.
        time.sleep(3)
        assert not fit.done()
        gate.set()
        held.result()
        clf = bounded(fit.result)
    assert_as_scikit_learn(clf, data)


def test_an_error_in_a_shard_reaches_the_caller_unchanged(client, data):
    clf = classifier(client)
    weight = np.ones(len(data[0]))
    weight[:100] = 0.0
    clf.set_params(shuffle=False)
    with pytest.raises(ZeroDivisionError, match="Weights sum to zero"):
        bounded(clf.fit, *data, sample_weight=weight)
    assert_as_scikit_learn(bounded(classifier(client).fit, *data), data)


FOUND_THREADS = 3


def blas_limits(client):
    """Return the numbers of threads that BLAS libraries of the workers use."""

    def limits():
        from threadpoolctl import threadpool_info

        return {i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"}

    return set().union(*client.run(limits).values())


def set_blas_limits(client, n_threads):
    def set_limits():
        from threadpoolctl import threadpool_limits

        from skdistmlp.parallel.blas import let_others_set_limits

        threadpool_limits(n_threads, user_api="blas")
        let_others_set_limits()

    client.run(set_limits)


@pytest.fixture
def found_threads(client):
    """Something else has set more threads in the one-thread workers' processes."""
    assert blas_limits(client) == {1}
    set_blas_limits(client, FOUND_THREADS)
    yield
    set_blas_limits(client, 1)


def interrupt(client, fit, monkeypatch):
    with pytest.warns(UserWarning, match="interrupted"):
        stop_all(client, fit)


def abandon(client, fit, monkeypatch):
    """The client fails, so nobody waits for the shards."""

    def fail(*_):
        raise BrokenPipeError

    monkeypatch.setattr(peers.PeersRun, "_take_messages", fail)
    with pytest.raises(BrokenPipeError):
        bounded(fit.result)


@pytest.mark.parametrize("end", [interrupt, abandon])
def test_matrix_products_use_the_workers_threads_until_training_ends(
    client, data, found_threads, monkeypatch, end
):
    """However the fit ends, the previous limits are restored."""
    fit = in_thread(endless(client, n_workers=3).fit, *data)
    wait_until(lambda: steps_taken(client, n_shards=3), "training has begun", fit)
    assert blas_limits(client) == {1}
    end(client, fit, monkeypatch)
    # Shards that are abandoned outlive the fit for a moment.
    wait_until(lambda: blas_limits(client) == {FOUND_THREADS}, "limits are restored")


def test_thread_limits_are_restored_after_rounds_and_errors(
    client, data, found_threads, rounds_of_an_epoch
):
    bounded(classifier(client, n_workers=3).fit, *data)
    assert blas_limits(client) == {FOUND_THREADS}
    clf = classifier(client, n_workers=3, shuffle=False)
    weight = np.ones(len(data[0]))
    weight[:100] = 0.0
    with pytest.raises(ZeroDivisionError):
        bounded(clf.fit, *data, sample_weight=weight)
    wait_until(lambda: blas_limits(client) == {FOUND_THREADS}, "limits are restored")


def test_matrix_products_use_both_threads_of_a_worker(data):
    with own_cluster(n_workers=1, threads_per_worker=2) as client:
        assert blas_limits(client) == {1}
        fit = in_thread(endless(client, n_workers=1).fit, *data)
        wait_until(lambda: steps_taken(client, n_shards=1), "training has begun", fit)
        assert blas_limits(client) == {2}
        with pytest.warns(UserWarning, match="interrupted"):
            stop_all(client, fit)
        assert blas_limits(client) == {1}


@pytest.mark.parametrize("begun", ["met", "a round", None])
def test_an_error_says_whether_a_step_was_taken_before_it(begun):
    noted, asked = [], []
    run = SimpleNamespace(
        _note_messages=lambda: noted.append(1),
        _tasks=SimpleNamespace(note_silent=asked.append),
        _round_start=SimpleNamespace(have_met=begun == "met"),
        _n_rounds=int(begun == "a round"),
    )
    error = ExchangeError("lost its connection")
    peers.PeersRun._note_failure(run, error)
    assert error.before_training is (begun is None)
    # What shards have said meanwhile counts.
    assert noted
    assert asked == [error]
