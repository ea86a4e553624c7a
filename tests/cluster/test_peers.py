"""Shards that train by themselves, in real worker processes."""

import threading
import time

import numpy as np
import pytest
from distributed import Client, Event
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.neural_network import MLPClassifier

from skdistmlp import DistributedMLPClassifier, WorkerLostError
from skdistmlp.cluster import peers
from tests.cluster.support import (
    DaskProcesses,
    bounded,
    in_thread,
    transitions,
    wait_until,
)

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
def test_rounds_go_on_where_the_last_one_ended(
    client, data, rounds_of_an_epoch, early_stopping
):
    before = {key for key, _, _ in transitions(client)}
    clf = classifier(client, early_stopping=early_stopping).fit(*data)
    assert_as_scikit_learn(clf, data, early_stopping=early_stopping)
    begun = [
        key[0]
        for key, _, end in transitions(client)
        if end == "processing" and key not in before
    ]
    for rank in (0, 1):
        assert begun.count(f"train-shard{rank}-of-2") == 3


def test_the_random_state_of_the_caller_goes_on(client, data):
    after = []
    for make in (lambda **p: classifier(client, **p), lambda **p: MLPClassifier(**p)):
        random_state = np.random.RandomState(3)
        make(**PARAMETERS | {"max_iter": 3, "random_state": random_state}).fit(*data)
        after.append(random_state.random_sample(3))
    assert_array_equal(*after)


def test_losses_reach_the_client_while_the_round_runs(client, data, monkeypatch):
    """The first line is there while shards wait for the second epoch to be let go."""
    seen = threading.Event()
    lines = []

    def say(line, *_):
        lines.append(line)
        seen.set()

    monkeypatch.setattr("builtins.print", say)
    clf = classifier(client, max_iter=100_000, tol=0.0, n_iter_no_change=np.inf)
    clf.set_params(verbose=True, hidden_layer_sizes=(2,))
    monkeypatch.setattr("warnings.warn", lambda *_, **__: None)
    fit = in_thread(clf.fit, *data)
    assert seen.wait(30)
    assert not fit.done(), "a hundred thousand epochs take longer than this"
    client.run(_stop_all)
    fitted = bounded(fit.result)
    assert lines[0].startswith("Iteration 1, loss = ")
    assert fitted.n_iter_ < 100_000


def _stop_all():
    from skdistmlp.cluster import shard_run

    for (run, _), _shard in list(shard_run._RUNS.items()):
        shard_run.request_stop(run)


def test_an_interrupt_stops_all_shards_at_the_same_step(client, data, monkeypatch):
    """The weights are those of scikit-learn after as many steps."""
    interrupted = []

    def interrupt_once(run, timeout_s):
        if not interrupted:
            wait_until(lambda: _steps(client), "training has begun")
            interrupted.append(True)
            raise KeyboardInterrupt
        return original(run, timeout_s)

    original = peers.PeersRun._print_lines
    monkeypatch.setattr(peers.PeersRun, "_print_lines", interrupt_once)
    clf = classifier(client, max_iter=1_000_000, tol=0.0, n_iter_no_change=np.inf)
    with pytest.warns(UserWarning, match=r"Training interrupted by user\."):
        bounded(clf.fit, *data)
    assert 0 < clf.n_iter_ < 1_000_000
    n_steps = clf._optimizer_state.n_steps
    assert n_steps >= 3 * clf.n_iter_
    theirs = MLPClassifier(**PARAMETERS, max_iter=1_000_000, n_iter_no_change=10**9)
    _interrupt_after(monkeypatch, theirs, n_steps)
    with pytest.warns(UserWarning, match=r"Training interrupted by user\."):
        theirs.fit(*data)
    for mine, other in zip(clf.coefs_, theirs.coefs_, strict=True):
        assert_allclose(mine, other, rtol=1e-6, atol=1e-9)


def _steps(client):
    """Return how many steps the shards have taken, if all have begun."""

    def n_steps():
        from skdistmlp.cluster import shard_run

        return [s._mesh._step if s._mesh else 0 for s in shard_run._RUNS.values()]

    taken = [n for ns in client.run(n_steps).values() for n in ns]
    return len(taken) == 2 and all(taken)


def _interrupt_after(monkeypatch, theirs, n_steps):
    original, calls = theirs._backprop, []

    def backprop(*args):
        if len(calls) == n_steps:
            raise KeyboardInterrupt
        calls.append(1)
        return original(*args)

    monkeypatch.setattr(theirs, "_backprop", backprop)


def test_two_fits_at_once_on_the_same_workers(client, data):
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


def test_a_shard_that_is_queued_is_waited_for(client, data):
    """One worker is busy with somebody's task for longer than the timeout."""
    import dask

    gate, running = Event("gate", client=client), Event("running", client=client)
    busy = sorted(client.nthreads())[0]

    def hold():
        Event("running").set()
        Event("gate").wait()

    held = client.submit(hold, workers=[busy], pure=False)
    assert running.wait(30)
    with dask.config.set({"skdistmlp.exchange-timeout": "50ms"}):
        fit = in_thread(classifier(client, n_workers=3).fit, *data)
        time.sleep(0.5)  # ten times the timeout, in which nothing may happen
        assert not fit.done()
        gate.set()
        held.result()
        clf = bounded(fit.result)
    assert_as_scikit_learn(clf, data)


def test_an_error_in_a_shard_reaches_the_caller_as_it_is(client, data):
    clf = classifier(client)
    weight = np.ones(len(data[0]))
    weight[:100] = 0.0
    clf.set_params(shuffle=False)
    with pytest.raises(ZeroDivisionError, match="Weights sum to zero"):
        bounded(clf.fit, *data, sample_weight=weight)
    assert_as_scikit_learn(bounded(classifier(client).fit, *data), data)


@pytest.mark.parametrize("threads", [1, 3])
def test_products_use_the_threads_of_the_worker_and_no_others(client, data, threads):
    def limits():
        from threadpoolctl import threadpool_info

        return {i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"}

    before = client.run(limits)
    bounded(classifier(client).fit, *data)
    assert client.run(limits) == before


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    with DaskProcesses(tmp_path_factory.mktemp("dask"), n_workers=2) as running:
        yield running


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_that_dies_is_named_and_the_next_fit_works(processes, data, rank):
    processes.have_workers(2)
    with Client(processes.address, set_as_default=False) as client:
        worker = tuple(client.nthreads())[rank]
        clf = classifier(client, max_iter=1_000_000, tol=0.0, n_iter_no_change=np.inf)
        fit = in_thread(clf.fit, *data)
        wait_until(lambda: _steps(client), "training has begun")
        processes.kill_worker(worker)
        with pytest.raises(WorkerLostError, match=worker):
            bounded(fit.result)
        processes.have_workers(2)
        assert_as_scikit_learn(bounded(classifier(client).fit, *data), data)
