"""Ctrl-C and errors in the client while shards train."""

import os
import warnings

import numpy as np
import pytest
from distributed import Client, LocalCluster
from numpy.testing import assert_allclose
from sklearn.neural_network import MLPClassifier

from skdistmlp import DistributedMLPClassifier, WorkerLostError
from skdistmlp.cluster.peers import driver as peers
from skdistmlp.cluster.peers import failure
from skdistmlp.cluster.run.placement import Placement
from tests.cluster.leaks import assert_nothing_left, remember
from tests.cluster.peers.test_driver import (
    PARAMETERS,
    classifier,
    endless,
    executing,
    steps_taken,
)
from tests.cluster.support import bounded, in_thread, task_keys, wait_until

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def data(digits):
    X, y = digits
    return X[:300], y[:300]


def strike_at(monkeypatch, owner, name, raised, when=lambda: True):
    """Raise once, in the first call of a function for which `when` says so."""
    original, struck = getattr(owner, name), []

    def call(*args, **kwargs):
        if not struck and when():
            struck.append(name)
            raise raised
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)


def begun(client, n_shards=2):
    return wait_until(lambda: steps_taken(client, n_shards), "training has begun")


def pids(client):
    return client.run(os.getpid)


def test_an_interrupt_of_lbfgs_is_raised_and_leaves_workers_unharmed(
    client, data, monkeypatch
):
    """Dask would end a worker whose task is interrupted."""
    before = pids(client)
    clf = endless(client, solver="lbfgs", max_fun=10**9, hidden_layer_sizes=(300, 300))
    strike_at(
        monkeypatch,
        peers.PeersRun,
        "_take_messages",
        KeyboardInterrupt,
        lambda: begun(client),
    )
    with pytest.raises(KeyboardInterrupt):
        bounded(clf.fit, *data)
    assert not hasattr(clf, "coefs_")
    assert_nothing_left(client)
    assert pids(client) == before


def test_an_interrupt_between_rounds_keeps_the_parameters(client, data, monkeypatch):
    monkeypatch.setattr(peers, "ROUND_S", 0.0)
    n_fetched = []
    strike_at(
        monkeypatch,
        Placement,
        "fetch",
        KeyboardInterrupt,
        # Addresses and a round are fetched before.
        lambda: n_fetched.append(1) or len(n_fetched) == 3,
    )
    clf = endless(client)
    with pytest.warns(UserWarning, match=r"Training interrupted by user\."):
        bounded(clf.fit, *data)
    assert clf.n_iter_ >= 2
    assert len(clf.loss_curve_) == clf.n_iter_


@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("n_workers", [1, 2])
def test_abandoned_shards_end(client, data, monkeypatch, solver, n_workers):
    """The client's output is broken, in an endless round."""
    monkeypatch.setattr(peers, "ROUND_S", np.inf)
    strike_at(
        monkeypatch,
        peers.PeersRun,
        "_take_messages",
        BrokenPipeError,
        lambda: begun(client, n_workers),
    )
    hidden = (
        (20, 9) if solver == "adam" else (300, 300)
    )  # otherwise it would soon converge
    clf = endless(client, n_workers=n_workers, solver=solver, max_fun=10**9)
    clf.set_params(hidden_layer_sizes=hidden)
    with pytest.raises(BrokenPipeError):
        bounded(clf.fit, *data)
    wait_until(lambda: not any(executing(client).values()), "every shard has ended")


def test_an_interrupt_during_release_leaves_nothing_behind(client, data, monkeypatch):
    """Even in the middle of closing, the fit leaves the queue and closes the rest."""
    expected = bounded(classifier(client).fit, *data)
    strike_at(monkeypatch, Placement, "close", KeyboardInterrupt)
    clf = classifier(client)
    with pytest.warns(UserWarning, match=r"Training interrupted by user\."):
        bounded(clf.fit, *data)
    # All was trained.
    assert clf.loss_curve_ == expected.loss_curve_
    assert_nothing_left(client)
    bounded(classifier(client).fit, *data)


def test_an_interrupt_of_lbfgs_during_release_is_raised(client, data, monkeypatch):
    strike_at(monkeypatch, Placement, "close", KeyboardInterrupt)
    clf = classifier(client, solver="lbfgs")
    with pytest.raises(KeyboardInterrupt):
        bounded(clf.fit, *data)
    assert not hasattr(clf, "coefs_")
    assert_nothing_left(client)


def test_an_interrupt_while_a_failed_start_is_looked_into_leaves_nothing(
    client, data, monkeypatch
):
    strike_at(
        monkeypatch, Placement, "check_memory", WorkerLostError("it was lost", ())
    )
    strike_at(monkeypatch, Placement, "note_silent", KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        bounded(classifier(client).fit, *data)
    assert_nothing_left(client)
    bounded(classifier(client).fit, *data)


def test_cancelled_tasks_end_the_fit_with_an_error(client, data, monkeypatch):
    # No worker is lost, which the scheduler would need time to notice.
    monkeypatch.setattr(failure, "WORKER_CHECK_S", 0.1)
    fit = in_thread(endless(client).fit, *data)
    begun(client)
    keys = [key for key in task_keys(client) if key[1].startswith("train")]

    def cancel(dask_scheduler):
        for key in keys:
            dask_scheduler.client_releases_keys(
                [key], next(iter(dask_scheduler.tasks[key].who_wants)).client_key
            )
            dask_scheduler.report(
                {"op": "cancelled-keys", "keys": [key], "reason": "a test"}
            )

    client.run_on_scheduler(cancel)
    with pytest.raises(WorkerLostError, match="the work was cancelled"):
        bounded(fit.result)


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"early_stopping": True, "max_iter": 20, "n_iter_no_change": 2},
        {"solver": "lbfgs"},
    ],
    ids=str,
)
def test_workers_in_one_process_share_nothing(data, parameters):
    """Dask does not copy what it passes from thread to thread."""
    parameters = PARAMETERS | {"max_iter": 3} | parameters
    theirs = MLPClassifier(**parameters).fit(*data)
    with (
        LocalCluster(
            n_workers=3,
            threads_per_worker=1,
            processes=False,
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        remember(client)
        clf = DistributedMLPClassifier(
            **parameters, client=client, engine="peers", parameter_threshold=0
        )
        bounded(clf.fit, *data)
        assert_nothing_left(client)
    assert clf.n_workers_ == 3
    assert clf.n_iter_ == theirs.n_iter_
    for mine, other in zip(clf.coefs_, theirs.coefs_, strict=True):
        assert_allclose(mine, other, rtol=1e-6, atol=1e-9)


def test_the_starting_point_of_lbfgs_is_sent_as_data(client, data):
    """Dask warns of graphs that are large."""
    clf = classifier(client, solver="lbfgs", max_iter=1, hidden_layer_sizes=(1200, 900))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", message="lbfgs failed to converge")
        bounded(clf.fit, *data)
    assert clf.n_iter_ == 1
