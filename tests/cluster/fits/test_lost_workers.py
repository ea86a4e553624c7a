"""Workers and schedulers that disappear at a given step of a fit or prediction."""

import re

import dask
import numpy as np
import pytest
from distributed import Client, Future, LocalCluster

import skdistmlp.training.lbfgs as lbfgs
import skdistmlp.training.loop as loop
from skdistmlp import DistributedMLPClassifier
from skdistmlp.cluster.futures.driver import (
    FuturesLoss,
    FuturesObjective,
    FuturesState,
)
from skdistmlp.cluster.futures.ops import FuturesOps
from skdistmlp.cluster.peers.driver import PeersRun
from skdistmlp.cluster.run.placement import Placement
from skdistmlp.cluster.run.scatter import Scatterer
from skdistmlp.engines import futures
from skdistmlp.exceptions import ClusterError, WorkerLostError
from tests.cluster.dask_processes import DaskProcesses
from tests.cluster.leaks import assert_nothing_left, remember
from tests.cluster.support import bounded, wait_until
from tests.marks import only_quick

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


N_STEPS = 3
"""Steps of an epoch."""


@pytest.fixture
def client(processes):
    """A client of a cluster with two workers, which tests may kill."""
    processes.have_workers(2)
    with Client(processes.address, set_as_default=False) as connected:
        remember(connected)
        yield connected
        assert_nothing_left(connected)
    processes.print_output()


@pytest.fixture
def data(digits):
    X, y = digits
    return X[:300], y[:300]


def classifier(client, **parameters):
    return DistributedMLPClassifier(
        (9, 8),
        batch_size=100,
        max_iter=2,
        random_state=0,
        client=client,
        engine="local" if client is None else "futures",
        parameter_threshold=0,
        **parameters,
    )


def assert_right(clf, data):
    """Check that the result equals that of a local fit."""
    expected = classifier(None).fit(*data)
    for mine, other in zip(clf.coefs_, expected.coefs_, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-6)
    np.testing.assert_array_equal(clf.predict(data[0]), expected.predict(data[0]))


def at_call(monkeypatch, owner, name, number, action):
    """Run `action` just before that call (from 0) of a function."""
    original, calls = getattr(owner, name), []

    def with_action(*args, **kwargs):
        calls.append(name)
        if len(calls) == number + 1:
            action()
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, with_action)


def missed(client, worker):
    """Wait until the scheduler knows that a worker is gone."""
    wait_until(lambda: worker not in client.nthreads(), "the worker is missed")


# When: before a call of this function, after this number of calls.
DEATHS = {
    "before placing": (Placement, "open", 0),
    "while placing": (Scatterer, "scatter", 1),
    "before the first step": (loop, "training_step", 0),
    "in the first epoch": (loop, "training_step", N_STEPS - 1),
    "in the second epoch": (loop, "training_step", N_STEPS + 1),
    "at the end of an epoch": (FuturesLoss, "pop", 1),
    "keeping the best": (FuturesState, "keep_best", 1),
    "fetching the best": (FuturesState, "fetch", 0),
    "collecting": (FuturesState, "fetch", 0),
    "lbfgs, sending parameters": (FuturesObjective, "set_parameters", 2),
    "lbfgs, in the first evaluation": (FuturesObjective, "add_gradient", 1),
    "lbfgs, in a later evaluation": (FuturesObjective, "add_gradient", N_STEPS + 2),
    "lbfgs, fetching the gradient": (FuturesObjective, "loss_and_gradient", 1),
}


@pytest.mark.parametrize(
    ("when", "rank", "noticed"),
    only_quick(
        0,
        5,
        10,
        14,
        cases=[
            ("before placing", 1, False),
            ("before placing", 0, True),
            ("while placing", 1, False),
            ("while placing", 1, True),
            ("before the first step", 0, False),
            ("in the first epoch", 1, False),
            ("in the second epoch", 0, True),
            ("at the end of an epoch", 1, False),
            ("keeping the best", 0, True),
            ("fetching the best", 1, False),
            ("collecting", 0, False),
            ("collecting", 1, True),
            ("lbfgs, sending parameters", 1, False),
            ("lbfgs, sending parameters", 0, True),
            ("lbfgs, in the first evaluation", 0, False),
            ("lbfgs, in a later evaluation", 1, True),
            ("lbfgs, fetching the gradient", 0, False),
            ("lbfgs, fetching the gradient", 1, True),
        ],
    ),
)
def test_a_fit_whose_worker_dies_names_it_and_can_start_again(
    processes, client, data, monkeypatch, when, rank, noticed
):
    victim = tuple(client.nthreads())[rank]
    # As many blocks as there are steps.
    monkeypatch.setattr(lbfgs, "BLOCK_BYTES", 100 * 2 * (9 + 8 + 10) * 8)
    parameters = {"early_stopping": "best" in when}
    if "lbfgs" in when:
        parameters = {"solver": "lbfgs"}
    clf = classifier(client, **parameters)

    def kill():
        processes.kill_worker(victim)
        if noticed:
            missed(client, victim)

    with monkeypatch.context() as patch:
        at_call(patch, *DEATHS[when], kill)
        with pytest.raises(WorkerLostError, match=re.escape(victim)):
            bounded(clf.fit, *data)
    assert not hasattr(clf, "coefs_")
    missed(client, victim)
    assert_nothing_left(client)

    clf = bounded(classifier(client).fit, *data)
    assert clf.n_workers_ == 1
    assert_right(clf, data)
    assert_nothing_left(client)


def test_a_worker_can_die_between_fit_and_predict(processes, client, data):
    clf = bounded(classifier(client).fit, *data)
    victim = clf.plan_.workers[0]
    processes.kill_worker(victim)
    missed(client, victim)
    assert_right(clf, data)
    assert_nothing_left(client)


@pytest.mark.parametrize(
    "noticed", only_quick(0, cases=[False, True]), ids=["", "noticed"]
)
def test_a_prediction_whose_worker_dies_names_it_and_can_start_again(
    processes, client, data, monkeypatch, noticed
):
    monkeypatch.setattr(futures, "PREDICT_BLOCK_ROWS", 30)
    clf = bounded(classifier(client).fit, *data)
    victim = clf.plan_.workers[0]

    def kill():
        processes.kill_worker(victim)
        if noticed:
            missed(client, victim)

    with monkeypatch.context() as patch:
        at_call(patch, FuturesOps, "inputs", 6, kill)
        with pytest.raises(WorkerLostError, match=re.escape(victim)):
            bounded(clf.predict, data[0])
    missed(client, victim)
    assert_nothing_left(client)
    assert_right(clf, data)
    assert_nothing_left(client)


@pytest.mark.parametrize("call", only_quick(0, cases=["fit", "predict"]))
@pytest.mark.slow
def test_a_retired_worker_is_not_waited_for(processes, client, data, monkeypatch, call):
    monkeypatch.setattr(futures, "PREDICT_BLOCK_ROWS", 30)
    clf = bounded(classifier(client).fit, *data)
    victim = clf.plan_.workers[1]

    def retire():
        client.retire_workers([victim])
        missed(client, victim)

    with monkeypatch.context() as patch:
        at_call(patch, FuturesOps, "inputs", 4, retire)
        arguments = data if call == "fit" else data[:1]
        with pytest.raises(WorkerLostError, match=re.escape(victim)):
            bounded(getattr(clf, call), *arguments)
    processes.workers.pop(victim).wait(60)
    assert_nothing_left(client)
    assert_right(bounded(clf.fit, *data), data)
    assert_nothing_left(client)


@pytest.mark.parametrize(
    ("engine", "where"),
    [("futures", (loop, "training_step", 2)), ("peers", (PeersRun, "_watch", 0))],
    ids=["futures", "peers"],
)
def test_an_interrupt_that_also_kills_the_workers_is_an_interrupt(
    processes, client, data, monkeypatch, engine, where
):
    """Like `Ctrl-C` in a terminal in which the workers were started too."""
    victim = next(iter(client.nthreads()))

    def kill_and_interrupt():
        processes.kill_worker(victim)
        missed(client, victim)
        raise KeyboardInterrupt

    clf = classifier(client, early_stopping=True).set_params(engine=engine)
    said = f"interrupted.*{victim}.*Ctrl-C .SIGINT.*LocalCluster"
    with monkeypatch.context() as patch:
        at_call(patch, *where, kill_and_interrupt)
        with pytest.raises(KeyboardInterrupt, match=said):
            bounded(clf.fit, *data)
    assert_nothing_left(client)


def test_a_partial_fit_whose_worker_dies_leaves_the_estimator_unchanged(
    processes, client, data, monkeypatch
):
    X, y = data
    expected = classifier(None)
    for _ in range(2):
        expected.partial_fit(X, y, classes=range(10))
    clf = classifier(client).partial_fit(X, y, classes=range(10))
    before = [coef.copy() for coef in clf.coefs_]
    victim = clf.plan_.workers[0]
    with monkeypatch.context() as patch:
        at_call(patch, loop, "training_step", 1, lambda: processes.kill_worker(victim))
        with pytest.raises(WorkerLostError, match=re.escape(victim)):
            bounded(clf.partial_fit, X, y)
    for mine, then in zip(clf.coefs_, before, strict=True):
        np.testing.assert_array_equal(mine, then)
    missed(client, victim)
    bounded(clf.partial_fit, X, y)
    for mine, other in zip(clf.coefs_, expected.coefs_, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-6)
    assert_nothing_left(client)


@pytest.mark.parametrize("given", only_quick(1, cases=["client", "address"]))
def test_a_fit_whose_scheduler_dies_names_its_address(
    tmp_path, data, monkeypatch, given
):
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        DaskProcesses(tmp_path, n_workers=1) as processes,
        Client(processes.address, set_as_default=False) as client,
    ):
        at_call(monkeypatch, loop, "training_step", 2, processes.kill_scheduler)
        clf = classifier(client if given == "client" else processes.address)
        with pytest.raises(ClusterError, match=processes.address):
            bounded(clf.fit, *data)


@pytest.mark.slow
def test_a_fit_whose_scheduler_hangs_names_its_address(tmp_path, data, monkeypatch):
    with (
        DaskProcesses(tmp_path, n_workers=2) as processes,
        Client(processes.address, set_as_default=False) as client,
        dask.config.set({"skdistmlp.exchange-timeout": "1s"}),
    ):
        with processes.stopped_scheduler() as stop:
            at_call(monkeypatch, loop, "training_step", 2, stop)
            refused = f"{processes.address} has not answered for 4 s"
            with pytest.raises(ClusterError, match=refused):
                bounded(classifier(client).fit, *data)
        monkeypatch.undo()
        assert_right(bounded(classifier(client).fit, *data), data)
        assert_nothing_left(client)


def assert_says_so_and_can_start_again(client, data, monkeypatch, disturb):
    with monkeypatch.context() as patch:
        at_call(patch, loop, "training_step", 2, disturb)
        with pytest.raises(WorkerLostError, match="while training"):
            bounded(classifier(client).fit, *data)
    assert_nothing_left(client)
    clf = bounded(classifier(client).fit, *data)
    assert_right(clf, data)
    assert_nothing_left(client)


def test_a_fit_whose_tasks_are_cancelled_says_so(client, data, monkeypatch):
    def cancel_losses():
        # Cancelling a task whose dependents no client wants fails in the
        # scheduler itself, which then drops the client.
        losses = [key for key in list(client.futures) if key[1].startswith("loss")]
        assert losses
        client.cancel([Future(key, client) for key in losses])

    assert_says_so_and_can_start_again(client, data, monkeypatch, cancel_losses)


@pytest.mark.slow
def test_a_fit_whose_cluster_is_restarted_says_so(data, monkeypatch):
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        remember(client)
        assert_says_so_and_can_start_again(client, data, monkeypatch, client.restart)
