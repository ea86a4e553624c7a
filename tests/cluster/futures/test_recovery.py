"""Fits by tasks that go on after workers were lost: real processes are killed."""

import os
import signal
import weakref
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace

import dask
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from skdistmlp import ClusterError, DistributedMLPClassifier, WorkerLostError
from skdistmlp.cluster.client.workers import worker_statuses
from skdistmlp.cluster.futures import recovery
from skdistmlp.cluster.futures.driver import FuturesState
from skdistmlp.cluster.futures.ops import FuturesOps
from skdistmlp.cluster.futures.recovery import FuturesRun, train_with_recovery
from skdistmlp.cluster.recovery.announced import Announced
from skdistmlp.cluster.run.placement import Placement
from skdistmlp.cluster.run.reservation import WorkerShare, reserve_workers
from tests.cluster.leaks import assert_nothing_left, own_cluster
from tests.cluster.support import bounded, in_thread, load, set_status, wait_until
from tests.estimators.recorder import Recorder
from tests.marks import only_quick
from tests.sklearn_versions import BEFORE_1_9
from tests.training.jobs import dataset_of, job_of, plan_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:the fit (recovered|left workers)"),
]

PARAMETERS = {
    "hidden_layer_sizes": (20, 12),
    "batch_size": 200,
    "max_iter": 6,
    "random_state": 0,
    "n_iter_no_change": 100,
    "engine": "futures",
    "n_workers": 2,
}


@pytest.fixture(scope="module")
def data(digits):
    return digits[0][:400], digits[1][:400]


@pytest.fixture(scope="module")
def own():
    """A client of workers that nannies restart, of which a fit takes two."""
    with own_cluster(n_workers=3) as client:
        client.run(load)
        yield client


@pytest.fixture(autouse=True)
def recovers():
    with dask.config.set(
        {"skdistmlp.max-recoveries": 3, "skdistmlp.copies.max-share": 1.0}
    ):
        yield


def classifier(client, **parameters):
    return DistributedMLPClassifier(**PARAMETERS | parameters, client=client)


def striking(monkeypatch, client, after, strike):
    """Do something to the workers of a fit after some epochs, but for the state.

    It is not copied then.
    """
    offer, struck = FuturesRun._offer, []

    def offer_or_strike(run, state, snapshot):
        n_iter = state.progress.n_iter
        if n_iter not in after:
            offer(run, state, snapshot)
        elif n_iter not in struck:
            struck.append(n_iter)
            workers = [*client.scheduler_info(n_workers=-1)["workers"]]
            strike(used_by(client, workers))

    monkeypatch.setattr(FuturesRun, "_offer", offer_or_strike)
    return struck


def killing(monkeypatch, client, after=(4,), n_workers=1):
    """Kill workers of a fit after some epochs."""

    def kill(used):
        for pid in client.run(os.getpid, workers=used[:n_workers]).values():
            os.kill(pid, signal.SIGKILL)

    return striking(monkeypatch, client, after, kill)


def used_by(client, workers):
    """Return the workers that hold something of the fit."""
    return [w for w, keys in client.has_what(workers).items() if keys]


def assert_same(clf, other, exactly=True):
    assert clf.n_iter_ == other.n_iter_
    for mine, theirs in zip(
        [*clf.coefs_, *clf.intercepts_],
        [*other.coefs_, *other.intercepts_],
        strict=True,
    ):
        if exactly:
            assert_array_equal(mine, theirs)
        else:
            assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("parameters", "after"),
    only_quick(
        0,
        cases=[
            ({"early_stopping": True, "dropout": 0.2, "ema_decay": 0.9}, (4,)),
            ({}, (1,)),
            ({"random_state": None}, (4,)),
            ({"solver": "sgd", "learning_rate": "adaptive", "tol": 10.0}, (2, 5)),
        ],
    ),
)
def test_a_killed_worker_does_not_change_the_answer(
    own, data, monkeypatch, capsys, parameters, after
):
    def fit():
        np.random.mtrand._rand.seed(0)
        clf = bounded(classifier(own, verbose=True, **parameters).fit, *data)
        return clf, capsys.readouterr().out, np.random.mtrand._rand.rand()

    undisturbed, lines, drawn = fit()
    assert undisturbed.recoveries_ == ()
    killed = killing(monkeypatch, own, after)
    clf, lines_too, drawn_too = fit()
    assert killed == [*after]
    assert [recovery.n_iter for recovery in clf.recoveries_] == [n - 1 for n in after]
    assert all(recovery.same_bits for recovery in clf.recoveries_)
    assert_same(clf, undisturbed)
    # Each line once.
    assert lines_too == lines
    assert drawn_too == drawn
    assert_nothing_left(own)


@pytest.mark.slow
def test_an_interrupt_while_rows_are_placed_again_keeps_what_was_trained(
    own, data, monkeypatch
):
    expected = bounded(classifier(own, max_iter=3).fit, *data)
    place, placed = FuturesOps.place_shards, []

    def place_or_interrupt(*args):
        placed.append(args)
        if len(placed) == 2:
            raise KeyboardInterrupt
        return place(*args)

    killing(monkeypatch, own)
    monkeypatch.setattr(FuturesOps, "place_shards", place_or_interrupt)
    clf = classifier(own)
    with pytest.warns(UserWarning, match=r"Training interrupted by user\."):
        bounded(clf.fit, *data)
    # The copy of the epoch before the loss.
    assert_same(clf, expected)
    assert [recovery.n_iter for recovery in clf.recoveries_] == [3]
    assert_nothing_left(own)


def test_an_interrupted_fit_that_loses_a_worker_ends_with_its_copy(
    own, data, monkeypatch
):
    expected = bounded(classifier(own, max_iter=3).fit, *data)

    def kill_and_interrupt(used):
        (pid,) = own.run(os.getpid, workers=used[:1]).values()
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: used[0] not in own.nthreads(), "it is gone")
        raise KeyboardInterrupt

    striking(monkeypatch, own, (4,), kill_and_interrupt)
    clf = classifier(own)
    with pytest.warns(UserWarning, match=r"Training interrupted by user\."):
        bounded(clf.fit, *data)
    assert_same(clf, expected)
    assert clf.recoveries_ == ()
    assert_nothing_left(own)


@pytest.mark.parametrize("name", only_quick(0, cases=["note_silent", "close"]))
def test_an_interrupt_after_a_loss_keeps_what_was_trained(own, data, monkeypatch, name):
    expected = bounded(classifier(own, max_iter=3).fit, *data)
    killed, original, struck = killing(monkeypatch, own), getattr(Placement, name), []

    def strike(*args):
        if killed and not struck:
            struck.append(name)
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(Placement, name, strike)
    clf = classifier(own)
    with pytest.warns(UserWarning, match=r"Training interrupted by user\."):
        bounded(clf.fit, *data)
    assert struck
    assert_same(clf, expected)
    assert_nothing_left(own)


@pytest.mark.parametrize(
    ("owner", "name", "max_recoveries"),
    [
        (Placement, "close", 3),
        # Without copies, it is fetched once.
        (FuturesState, "fetch", 0),
    ],
)
def test_an_interrupt_at_the_end_keeps_all_that_was_trained(
    own, data, monkeypatch, owner, name, max_recoveries
):
    expected = bounded(classifier(own).fit, *data)
    original, struck = getattr(owner, name), []

    def strike(*args):
        if not struck:
            struck.append(name)
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(owner, name, strike)
    clf = classifier(own)
    with (
        dask.config.set({"skdistmlp.max-recoveries": max_recoveries}),
        pytest.warns(UserWarning, match=r"Training interrupted by user\."),
    ):
        bounded(clf.fit, *data)
    assert struck
    assert_same(clf, expected)
    assert_nothing_left(own)


def test_an_interrupt_after_an_error_that_is_no_loss_does_not_hide_it(
    own, data, monkeypatch
):
    close, struck = Placement.close, []

    def fail(_used):
        raise ClusterError("out of memory")

    def strike(placement):
        if failed and not struck:
            struck.append("close")
            raise KeyboardInterrupt
        close(placement)

    failed = striking(monkeypatch, own, (4,), fail)
    monkeypatch.setattr(Placement, "close", strike)
    with pytest.raises(ClusterError, match="out of memory"):
        bounded(classifier(own).fit, *data)
    assert struck
    assert_nothing_left(own)


@pytest.mark.slow
def test_a_copy_takes_the_place_of_the_state_that_a_run_began_with(client):
    fresh = job_of("adam", 2)
    job = job_of("adam", 2, state=fresh.start(fresh.split.unsplit_layout()))
    began_with, are_gone = weakref.ref(job.initial.network), []
    run = FuturesRun(
        client,
        plan_of("futures", client.nthreads(), 2),
        job,
        dataset_of("adam"),
        None,
        Announced(),
        lambda *_: are_gone.append(began_with() is None),
        keeps_copies=True,
        share=WorkerShare(client),
    )
    del job
    bounded(run.train, lambda: None)
    assert are_gone
    assert all(are_gone)


def test_workers_that_fewest_fits_have_replace_those_that_were_lost(
    client, monkeypatch
):
    chosen = []

    def fit_of(_client, _plan, _job, _dataset, spares, *_):
        assert spares.module == "skdistmlp.cluster.futures.tasks"
        return SimpleNamespace(
            train=lambda _: chosen.append([*spares.unclaimed(workers)])
        )

    monkeypatch.setattr(recovery, "RecoveringFit", fit_of)
    workers = tuple(client.nthreads())
    with WorkerShare(client) as share:
        share.share(workers[:1])
        train_with_recovery(client, None, None, None, None, None)
    assert chosen == [[*workers[1:], workers[0]]]
    # Not those that a fit has to itself.
    with reserve_workers(client, workers[:1], lambda: None):
        train_with_recovery(client, None, None, None, None, None)
    assert chosen[1:] == [[*workers[1:]]]


@contextmanager
def suspended(client, worker):
    (pid,) = client.run(os.getpid, workers=[worker]).values()
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def paused(client, worker):
    client.run(set_status, "paused", workers=[worker])
    wait_until(lambda: worker_statuses(client)[worker] == "paused", "it is known")
    try:
        yield
    finally:
        client.run(set_status, "running", workers=[worker])


@contextmanager
def retired(client, worker):
    retiring = in_thread(client.retire_workers, [worker])
    wait_until(lambda: worker_statuses(client).get(worker) != "running", "it is known")
    yield
    bounded(retiring.result)


@contextmanager
def restarted(client, worker):
    restarting = in_thread(client.restart_workers, [worker])
    wait_until(lambda: worker not in client.nthreads(), "it is gone")
    yield
    bounded(restarting.result)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "kinds"),
    only_quick(
        0,
        cases=[
            (paused, {"paused"}),
            (suspended, {"lost"}),
            # It may be gone by then: what it holds can move.
            (retired, {"retired", "lost"}),
            (restarted, {"lost"}),
        ],
    ),
)
def test_a_worker_that_is_left_does_not_change_the_answer(
    data, monkeypatch, fault, kinds
):
    with own_cluster(n_workers=3) as client, ExitStack() as faults:
        client.run(load)
        undisturbed = bounded(classifier(client).fit, *data)
        left = []

        def strike(used):
            left.append(used[0])
            faults.enter_context(fault(client, used[0]))

        striking(monkeypatch, client, (4,), strike)
        with dask.config.set({"skdistmlp.exchange-timeout": "1s"}):
            clf = bounded(classifier(client).fit, *data)
        faults.close()
        (recovery,) = clf.recoveries_
        assert recovery.kind in kinds
        assert (recovery.lost, recovery.n_iter) == (tuple(left), 3)
        assert recovery.same_bits
        assert_same(clf, undisturbed)


def test_a_paused_worker_that_resumes_once_it_is_left_was_not_lost(
    own, data, monkeypatch
):
    """The fit releases what it held there, so Dask has it resume."""
    train, left, pause = FuturesRun.train, [], ExitStack()

    def strike(used):
        left.append(used[0])
        pause.callback(wait_until, is_running, "it is known")
        pause.enter_context(paused(own, used[0]))

    def is_running():
        return worker_statuses(own)[left[0]] == "running"

    def train_and_resume(run, on_placed):
        try:
            return train(run, on_placed)
        finally:
            pause.close()

    striking(monkeypatch, own, (4,), strike)
    monkeypatch.setattr(FuturesRun, "train", train_and_resume)
    with (
        dask.config.set({"skdistmlp.exchange-timeout": "1s"}),
        pytest.warns(UserWarning, match="the fit left workers"),
    ):
        clf = bounded(classifier(own).fit, *data)
    (recovery,) = clf.recoveries_
    assert (recovery.kind, recovery.lost) == ("paused", tuple(left))
    assert left[0] not in clf.plan_.workers


@pytest.mark.slow
@pytest.mark.skipif(BEFORE_1_9, reason="scikit-learn has no callbacks")
def test_callbacks_hear_of_each_epoch_once(own, data, monkeypatch):
    killing(monkeypatch, own)
    recorder = Recorder()
    clf = classifier(own).set_callbacks(recorder)
    bounded(clf.fit, *data)
    assert len(clf.recoveries_) == 1
    ended = [number for hook, name, number in recorder.hooks if (hook, name) == END]
    assert ended == list(range(PARAMETERS["max_iter"]))


END = "end", "epoch"


@pytest.mark.slow
def test_it_goes_on_with_fewer_workers(own, data, monkeypatch):
    undisturbed = bounded(classifier(own).fit, *data)
    killing(monkeypatch, own, n_workers=2)
    with dask.config.set({"skdistmlp.recovery-wait": 0}):
        clf = bounded(classifier(own).fit, *data)
    (recovery,) = clf.recoveries_
    assert len(recovery.lost) == 2
    assert clf.n_workers_ == len(recovery.workers)
    assert_same(clf, undisturbed, exactly=recovery.same_bits)
    own.wait_for_workers(3, timeout=30)
    own.run(load)


@pytest.mark.slow
def test_lbfgs_goes_on_from_its_last_iterate(own, data, monkeypatch):
    lbfgs = {"solver": "lbfgs", "max_iter": 900, "alpha": 10.0}
    # Of one minimum only: then the loss does not depend on the way there.
    lbfgs |= {"activation": "identity", "hidden_layer_sizes": (12,)}
    undisturbed = bounded(classifier(own, **lbfgs).fit, *data)
    killing(monkeypatch, own, after=(20,))
    clf = bounded(classifier(own, **lbfgs).fit, *data)
    (recovery,) = clf.recoveries_
    assert recovery.n_iter == 19
    assert recovery.restarts
    assert not recovery.same_bits
    assert "iteration 19" in str(recovery)
    assert "L-BFGS began again" in str(recovery)
    assert max(clf.n_iter_, undisturbed.n_iter_) < 900
    assert_allclose(clf.loss_, undisturbed.loss_, rtol=0, atol=clf.tol)


@pytest.mark.slow
def test_losses_are_bounded_and_named(own, data, monkeypatch):
    killing(monkeypatch, own, after=(2, 4))
    with (
        dask.config.set({"skdistmlp.max-recoveries": 1}),
        pytest.raises(WorkerLostError) as error,
    ):
        bounded(classifier(own).fit, *data)
    assert any("Before that, the fit recovered" in n for n in error.value.__notes__)
    assert_nothing_left(own)
