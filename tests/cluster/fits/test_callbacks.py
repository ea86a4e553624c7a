"""scikit-learn's callbacks during fits on workers."""

import logging
import os
import threading

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.callback import ScoringMonitor
from sklearn.model_selection import GridSearchCV

from skdistmlp import ClusterError, DistributedMLPClassifier, WorkerLostError
from skdistmlp.cluster.futures.driver import FuturesState
from skdistmlp.cluster.peers import driver as peers
from tests.cluster.dask_processes import DaskProcesses
from tests.cluster.leaks import assert_nothing_left, own_cluster, remember
from tests.cluster.peers.test_interrupts import strike_at
from tests.cluster.support import bounded, transitions, wait_until
from tests.estimators.recorder import At, Fitting, Recorder, Told
from tests.estimators.test_callbacks import assert_same_fit, hooks_of
from tests.marks import only_quick

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

BOTH_ENGINES = pytest.mark.parametrize("engine", ["futures", "peers"])

# A step of "futures" takes several times as long.
ENGINES = pytest.mark.parametrize("engine", only_quick(1, cases=["futures", "peers"]))


def classifier(client, engine, *callbacks, **parameters):
    clf = DistributedMLPClassifier(
        **{"hidden_layer_sizes": (12, 7), "max_iter": 3} | parameters,
        batch_size=100,
        random_state=0,
        client=client,
        engine=engine,
        parameter_threshold=0,
    )
    return clf.set_callbacks(*callbacks)


def alone(clf, data, max_iter):
    """Fit the same for a number of epochs, without callbacks."""
    return clone(clf).set_callbacks().set_params(max_iter=max_iter).fit(*data)


@pytest.fixture
def data(digits):
    X, y = digits
    return X[:300], y[:300]


def begun(client, name):
    """Count the tasks of all shards that have started, by the prefix of their names."""
    return {
        key
        for key, _, end in transitions(client)
        if end == "processing" and str(key[1]).startswith(f"{name}-shard")
    }


@ENGINES
@pytest.mark.parametrize(
    ("n_workers", "parameters"),
    only_quick(
        2,
        cases=[
            (1, {}),
            (3, {"solver": "sgd", "learning_rate": "invscaling"}),
            # The best parameters are not the last.
            (2, {"early_stopping": True, "learning_rate_init": 2.0}),
        ],
    ),
)
def test_the_estimator_after_an_epoch_equals_a_fit_of_that_many_epochs(
    client, data, engine, n_workers, parameters
):
    recorder = Recorder()
    clf = classifier(client, engine, recorder, n_workers=n_workers, **parameters)
    bounded(clf.fit, *data)
    assert recorder.hooks == hooks_of("fit", 3)
    assert clf.n_workers_ == n_workers
    # Attributes that scikit-learn's own fit sets are the same bits.
    for number, fitted in enumerate(recorder.fitted(), 1):
        assert_same_fit(fitted, alone(clf, data, number), data[0])
    if clf.early_stopping:
        assert np.argmax(clf.validation_scores_) < 2
    (ended,) = recorder.fitted("fit")
    assert_same_fit(clf, ended, data[0])


@ENGINES
@pytest.mark.parametrize(
    ("n_workers", "dtype"), only_quick(0, cases=[(2, "f4"), (1, "f8"), (3, "f8")])
)
def test_the_estimator_after_an_iteration_equals_a_fit_of_that_many(
    client, data, engine, n_workers, dtype
):
    recorder, data = Recorder(), (data[0].astype(dtype), data[1])
    clf = classifier(client, engine, recorder, n_workers=n_workers, solver="lbfgs")
    bounded(clf.fit, *data)
    assert recorder.hooks == hooks_of("fit", 3, "lbfgs-iter")
    assert {pid for pid, _ in recorder.callers} == {os.getpid()}
    for number, fitted in enumerate(recorder.fitted("lbfgs-iter"), 1):
        shorter = alone(clf, data, number)
        assert_same_fit(fitted, shorter, data[0])
        assert recorder.losses[number - 1] == shorter.loss_
    assert clf.n_workers_ == n_workers


def scipys_threads(client):
    """Return how many threads of SciPy wait, in this process and on the workers."""

    def count():
        return [t.name for t in threading.enumerate()].count("skdistmlp-lbfgs")

    return count() + sum(client.run(count).values())


@ENGINES
def test_all_shards_stop_lbfgs_at_the_iteration_that_a_callback_chooses(
    client, data, engine, recwarn
):
    stop, waiting = At("end", "lbfgs-iter", 1), []
    clf = classifier(client, engine, stop, solver="lbfgs", n_workers=2, max_iter=99)
    clf.set_callbacks(stop, Calling(lambda: waiting.append(scipys_threads(client))))
    bounded(clf.fit, *data)
    assert not recwarn.list
    assert stop.hooks == hooks_of("fit", 2, "lbfgs-iter")
    assert_same_fit(clf, alone(clf, data, 2), data[0])
    # The leader's alone, once it has begun.
    assert waiting == [0, 1, 1]
    assert scipys_threads(client) == 0


class Calling(Told):
    """Calls a function at the begin of the first, and the end of every iteration."""

    def __init__(self, function):
        super().__init__()
        self._function = function

    def _note(self, hook, estimator, context):
        super()._note(hook, estimator, context)
        if context.task_name == "lbfgs-iter" and self.hooks[-1][::2] != ("begin", 1):
            self._function()
        return False


@ENGINES
@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
def test_an_error_or_ctrl_c_in_a_callback_of_lbfgs_is_raised(
    client, data, engine, error
):
    clf = classifier(
        client, engine, At("end", "lbfgs-iter", 1, error()), solver="lbfgs"
    )
    clf.set_params(max_iter=99)
    before = dict(vars(clf))
    with pytest.raises(error):
        bounded(clf.fit, *data)
    assert vars(clf) == before
    wait_until(lambda: scipys_threads(client) == 0, "SciPy's thread has ended")
    assert_nothing_left(client)
    bounded(clf.set_callbacks().set_params(max_iter=1).fit, *data)


@BOTH_ENGINES
def test_a_client_that_a_callback_closes_is_named_by_its_scheduler(
    cluster, client, data, engine
):
    class Closing(Told):
        def _note(self, hook, estimator, context):
            super()._note(hook, estimator, context)
            if self.hooks[-1] == ("end", "epoch", 1):
                other.close()
            return False

    with Client(cluster, set_as_default=False) as other:
        clf = classifier(other, engine, Closing(), max_iter=20)
        with pytest.raises(ClusterError) as caught:
            bounded(clf.fit, *data)
    message = str(caught.value)
    assert f"lost its connection to the scheduler at {cluster.scheduler_address}" in (
        message
    )
    assert_nothing_left(client)


def test_a_round_of_lbfgs_lasts_one_iteration_only_with_callbacks(
    client, data, monkeypatch
):
    """Without, it lasts as long as any round."""
    monkeypatch.setattr(peers, "ROUND_S", 3600.0)
    n_rounds = []
    for callbacks in ([], [Told()]):
        before = begun(client, "train")
        clf = classifier(client, "peers", *callbacks, solver="lbfgs", n_workers=2)
        bounded(clf.fit, *data)
        n_rounds.append(len(begun(client, "train") - before) / 2)
    assert n_rounds == [1, 3]


@ENGINES
def test_workers_in_one_process_do_not_change_the_snapshots(data, engine):
    recorder = Recorder()
    with own_cluster(n_workers=2, processes=False) as client:
        for n_workers in (1, 2):
            clf = classifier(client, engine, recorder, n_workers=n_workers)
            bounded(clf.fit, *data)
            first = recorder.fitted()[-3]
            assert_same_fit(first, alone(clf, data, 1), data[0])


@BOTH_ENGINES
def test_callbacks_run_in_the_client(client, data, engine):
    recorder = Recorder()
    weight = np.linspace(1, 2, 300)
    clf = classifier(client, engine, recorder)
    clf.fit(*data, sample_weight=weight)
    assert recorder.callers == {(os.getpid(), threading.get_ident())}
    assert recorder.losses == clf.loss_curve_
    for _, given in recorder.given:
        assert given["X"] is data[0]
        assert given["y"] is data[1]
        assert given["metadata"]["sample_weight"] is weight
        assert given["estimator"] is clf


def test_a_round_lasts_one_epoch_with_callbacks_and_seconds_without(client, data):
    n_rounds = []
    for callbacks in ([], [Told()]):
        before = begun(client, "train")
        bounded(classifier(client, "peers", *callbacks, n_workers=2).fit, *data)
        n_rounds.append(len(begun(client, "train") - before) / 2)
    assert n_rounds == [1, 3]


def test_parameters_are_fetched_only_if_a_callback_asks(client, data, monkeypatch):
    for callback, n_times in ((Told(), 0), (Recorder(), 2)):
        before = begun(client, "parameters")
        bounded(classifier(client, "peers", callback, n_workers=2).fit, *data)
        assert len(begun(client, "parameters") - before) == 2 * n_times

    fetched, fetch = [], FuturesState.fetch
    monkeypatch.setattr(
        FuturesState, "fetch", lambda self: fetched.append(1) or fetch(self)
    )
    for callback, n_times in ((Told(), 0), (Recorder(), 2)):
        fetched.clear()
        bounded(classifier(client, "futures", callback, n_workers=2).fit, *data)
        assert len(fetched) == n_times + 1


@pytest.mark.parametrize(
    ("engine", "early_stopping"),
    only_quick(
        *(0, 3),
        cases=[
            *(("futures", False), ("futures", True)),
            *(("peers", False), ("peers", True)),
        ],
    ),
)
def test_all_shards_stop_at_the_epoch_that_a_callback_chooses(
    client, data, engine, early_stopping, recwarn
):
    stop, told = At("end", "epoch", 1), Told()
    parameters = {"early_stopping": early_stopping, "learning_rate_init": 2.0}
    clf = classifier(client, engine, stop, told, max_iter=10**6, **parameters)
    bounded(clf.fit, *data)
    assert not recwarn.list
    assert told.hooks == hooks_of("fit", 2)
    assert_same_fit(clf, alone(clf, data, 2), data[0])


@ENGINES
@pytest.mark.parametrize(
    "where", [("begin", "epoch", 0), ("end", "epoch", 0), ("end", "epoch", 2)], ids=str
)
def test_an_error_in_a_callback_ends_the_fit_and_leaves_nothing_behind(
    client, data, engine, where
):
    failing = At(*where, ZeroDivisionError("a test"))
    # A shard's messages must not keep it alive when its task is gone.
    clf = classifier(client, engine, failing, verbose=True)
    before = dict(vars(clf))
    with pytest.raises(ZeroDivisionError, match="a test"):
        bounded(clf.fit, *data)
    assert vars(clf) == before
    assert failing.hooks[-1] == ("teardown", "fit", 0)
    assert_nothing_left(client)
    bounded(clf.set_callbacks().fit, *data)


@BOTH_ENGINES
def test_an_error_in_a_callback_is_not_taken_for_a_lost_worker(client, data, engine):
    """It may come from another cluster, with which the callback works."""
    elsewhere = "tcp://10.0.0.9:1"
    error = WorkerLostError(f"worker {elsewhere} was lost", (elsewhere,))
    told, failing = Told(), At("end", "epoch", 1, error)
    clf = classifier(client, engine, told, failing, n_workers=2)
    with (
        dask.config.set({"skdistmlp.max-recoveries": 3}),
        pytest.raises(WorkerLostError) as caught,
    ):
        bounded(clf.fit, *data)
    assert caught.value is error
    assert [n for hook, _, n in told.hooks[2:-1] if hook == "end"] == [0, 1]


def test_a_callback_that_fits_on_the_same_workers_gets_an_error(client, data):
    """It would deadlock: each fit would wait for the other."""
    inner = classifier(client, "peers")
    clf = classifier(client, "peers", Fitting(inner, *data))
    with pytest.raises(
        ClusterError, match="called from a callback of a fit that holds"
    ):
        bounded(clf.fit, *data)
    assert_nothing_left(client)
    bounded(inner.fit, *data)


@ENGINES
def test_ctrl_c_in_a_callback_keeps_the_parameters(client, data, engine):
    clf = classifier(client, engine, At("end", "epoch", 1, KeyboardInterrupt()))
    clf.set_params(max_iter=10**6)
    with pytest.warns(UserWarning, match=r"Training interrupted by user\."):
        bounded(clf.fit, *data)
    assert_same_fit(clf, alone(clf, data, 2), data[0])


def test_ctrl_c_in_an_epoch_ends_its_task(client, data, monkeypatch):
    recorder = Recorder()
    strike_at(
        monkeypatch,
        peers.PeersRun,
        "_take_messages",
        KeyboardInterrupt,
        lambda: len(recorder.losses) == 1,
    )
    clf = classifier(client, "peers", recorder, max_iter=10**6)
    with pytest.warns(UserWarning, match=r"Training interrupted by user\."):
        bounded(clf.fit, *data)
    n_ended = len(recorder.losses)
    assert recorder.hooks == hooks_of("fit", n_ended)
    # The request to stop may come at the end of an epoch, or in the middle of one.
    whole = [fitted for fitted in recorder.fitted() if fitted is not None]
    assert len(whole) == clf.n_iter_ >= n_ended - 1
    assert_array_equal(whole[0].coefs_[0], alone(clf, data, 1).coefs_[0])


class Seen(Told):
    """Ends an endless fit once something was seen, which may be this callback."""

    def __init__(self):
        super().__init__()
        self.event = threading.Event()

    def on_fit_task_end(self, estimator, context):
        super().on_fit_task_end(estimator, context)
        return self.event.is_set()


class Lines(logging.Handler):
    """Passes every logged line to a function."""

    def __init__(self, take):
        super().__init__()
        self._take = take

    def emit(self, record):
        self._take(record.getMessage())


@pytest.mark.parametrize(
    ("engine", "what"),
    [
        ("local", "a verbose line"),
        ("local", "a call"),
        ("futures", "a verbose line"),
        ("futures", "a call"),
        ("peers", "a verbose line"),
        ("peers", "a call"),
        ("peers", "a line in the log"),
    ],
)
def test_progress_is_reported_while_a_fit_runs(
    client, data, monkeypatch, caplog, engine, what
):
    """An endless fit ends once it was seen, so progress arrived while it ran."""
    stop, lines = Seen(), []

    def take(line):
        lines.append(line)
        stop.event.set()

    clf = classifier(client, engine, stop, max_iter=10**6)
    clf.set_params(tol=0.0, n_iter_no_change=np.inf)
    logger = logging.getLogger("skdistmlp")
    handler = Lines(take)
    if what == "a verbose line":
        clf.set_params(verbose=True)
        monkeypatch.setattr("builtins.print", take)
    elif what == "a line in the log":
        caplog.set_level(logging.INFO, "skdistmlp")
        logger.addHandler(handler)
    else:
        clf.set_callbacks(stop, At("end", "epoch", 1))
    try:
        bounded(clf.fit, *data)
    finally:
        logger.removeHandler(handler)
    assert clf.n_iter_ < 10**6
    if what == "a verbose line":
        assert lines[0] == f"Iteration 1, loss = {clf.loss_curve_[0]:.8f}"
    elif what == "a line in the log":
        assert lines[0].startswith(f"round 0: 1 epoch, loss {clf.loss_curve_[0]:.6f}")


@ENGINES
def test_partial_fit_reports_one_epoch(client, data, engine):
    recorder = Recorder()
    clf = classifier(client, engine, recorder)
    for _ in range(2):
        clf.partial_fit(*data, classes=np.arange(10))
    assert recorder.hooks == 2 * hooks_of("partial_fit", 1)
    once, twice = recorder.fitted()
    assert_same_fit(twice, clf, data[0])
    assert once.t_ == 300


def test_callbacks_get_collections_and_score_them_on_the_cluster(client, data):
    X, y = (da.from_array(array, chunks=(100, -1)[: array.ndim]) for array in data)
    monitor = ScoringMonitor(scoring={"score": lambda clf, X, y: clf.score(X, y)})
    recorder = Recorder()
    clf = classifier(client, "peers", monitor, recorder, max_iter=2)
    bounded(clf.fit, X, y)
    assert all(given["X"] is X for _, given in recorder.given)
    rows = monitor.get_logs().data
    found = [row["score"] for row in rows if row["task_name"] == "epoch"]
    assert found == [alone(clf, data, n).score(*data) for n in (1, 2)]


def test_callbacks_of_a_local_search_see_every_fit(client, data):
    told = Told()
    search = GridSearchCV(classifier(client, "peers", told), {"alpha": [0.1, 1]}, cv=2)
    bounded(search.fit, *data)
    assert search.best_estimator_.engine_ == "peers"
    assert [hook for hook, name, _ in told.hooks if name == "epoch"] == 15 * [
        "begin",
        "end",
    ]
    assert [hook for hook, name, _ in told.hooks if name != "epoch"] == 5 * [
        "setup",
        "begin",
        "end",
        "teardown",
    ]


@pytest.mark.slow
def test_a_worker_lost_during_a_callback_is_named(tmp_path, data):
    class Murderer(Recorder):
        def on_fit_task_begin(self, estimator, context):
            if (context.task_name, context.task_id) == ("epoch", 1):
                running.workers[lost].kill()
                running.workers[lost].wait()

    with DaskProcesses(tmp_path, 2) as running, Client(running.address) as client:
        remember(client)
        lost = sorted(running.workers)[1]
        clf = classifier(client, "peers", Murderer())
        before = dict(vars(clf))
        with pytest.raises(WorkerLostError, match=lost):
            bounded(clf.fit, *data)
        assert vars(clf) == before
        assert_nothing_left(client)
