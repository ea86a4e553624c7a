"""scikit-learn's callbacks during a fit in this process."""

import os
import pickle
import re
import threading
from copy import deepcopy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal, assert_equal
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdistmlp import (
    DistributedMLPClassifier,
    DistributedMLPRegressor,
    WorkerLostError,
)
from skdistmlp.parallel.local_ops import LocalOps
from skdistmlp.training.run import TrainingRun
from tests.checkpoints.support import KilledError, killed_after
from tests.estimators.recorder import At, Recorder, Told

PAGE = (Path(__file__).parents[2] / "docs" / "progress.md").read_text()
PARAMETERS = {"hidden_layer_sizes": (6,), "random_state": 0, "batch_size": 50}


@pytest.fixture
def data(digits):
    X, y = digits
    return X[:200], y[:200]


def classifier(*callbacks, max_iter=3, **parameters):
    clf = DistributedMLPClassifier(**PARAMETERS | parameters, max_iter=max_iter)
    return clf.set_callbacks(*callbacks)


def fit(mlp, *data, **kwargs):
    """Fit, expecting a warning of too few epochs."""
    with pytest.warns(ConvergenceWarning):
        return mlp.fit(*data, **kwargs)


def epoch_hooks(numbers, name):
    return [(hook, name, n) for n in numbers for hook in ("begin", "end")]


def hooks_of(name, n_epochs, subtask="epoch"):
    return [
        ("setup", name, 0),
        ("begin", name, 0),
        *epoch_hooks(range(n_epochs), subtask),
        ("end", name, 0),
        ("teardown", name, 0),
    ]


def assert_same_fit(mine, theirs, X):
    """Return predictions and the history of the training, to the last bit."""
    assert_array_equal(mine.predict(X), theirs.predict(X))
    names = {name for name in vars(theirs) if name.endswith("_")} - {"plan_"}
    if theirs.solver != "lbfgs":
        names |= {"_optimizer_state", "_no_improvement_count", "_learning_rate"}
    assert {name for name in vars(mine) if name.endswith("_")} - {"plan_"} <= names
    for name in names:
        if name == "_optimizer_state":
            assert_equal(vars(mine._optimizer_state), vars(theirs._optimizer_state))
        else:
            assert_equal(getattr(mine, name), getattr(theirs, name), err_msg=name)


def test_a_fit_is_a_task_with_one_subtask_per_epoch(data):
    told = Told()
    clf = fit(classifier(told), *data)
    assert told.hooks == hooks_of("fit", 3)
    assert told.losses == clf.loss_curve_


def test_partial_fit_is_a_task_with_one_epoch(data):
    told = Told()
    clf = classifier(told)
    for _ in range(2):
        clf.partial_fit(*data, classes=np.arange(10))
    assert told.hooks == 2 * hooks_of("partial_fit", 1)


def lbfgs_hooks(n_iterations):
    return hooks_of("fit", n_iterations, "lbfgs-iter")


@pytest.mark.parametrize(
    ("dtype", "estimator"),
    [
        (np.float64, DistributedMLPClassifier),
        (np.float32, DistributedMLPRegressor),
    ],
)
def test_the_estimator_after_an_iteration_equals_a_fit_of_that_many(
    data, dtype, estimator
):
    recorder, X = Recorder(), data[0].astype(dtype)
    parameters = {"hidden_layer_sizes": (6,), "random_state": 0, "solver": "lbfgs"}
    mlp = fit(estimator(**parameters, max_iter=5).set_callbacks(recorder), X, data[1])
    assert recorder.hooks == lbfgs_hooks(5)
    assert recorder.callers == {(os.getpid(), threading.get_ident())}
    assert len(recorder.fitted()) == 0
    for number, fitted in enumerate(recorder.fitted("lbfgs-iter"), 1):
        alone = fit(estimator(**parameters, max_iter=number), X, data[1])
        assert_same_fit(fitted, alone, X)
        assert fitted.coefs_[0].dtype == np.float64
        assert recorder.losses[number - 1] == alone.loss_
        assert not hasattr(fitted, "loss_curve_")
    # It continues as if no callback had run.
    assert_same_fit(mlp, alone, X)
    (ended,) = recorder.fitted("fit")
    assert_same_fit(mlp, ended, X)


def test_the_iteration_that_lbfgs_gives_up_ends_without_an_estimator(data):
    """There is no lower loss than at the start, where it ends at once."""
    recorder = Recorder()
    clf = classifier(recorder, solver="lbfgs", max_iter=300, tol=1e9).fit(*data)
    assert clf.n_iter_ == 0
    assert recorder.hooks == lbfgs_hooks(1)
    assert recorder.fitted("lbfgs-iter") == [None]


@pytest.mark.parametrize("last", [0, 2, 4])
def test_a_callback_stops_lbfgs_after_an_iteration(data, last):
    stop = At("end", "lbfgs-iter", last)
    clf = classifier(stop, solver="lbfgs", max_iter=5).fit(*data)
    assert stop.hooks == lbfgs_hooks(last + 1)
    alone = fit(classifier(solver="lbfgs", max_iter=last + 1), *data)
    assert_same_fit(clf, alone, data[0])
    assert not scipys_threads()


def scipys_threads():
    return [t for t in threading.enumerate() if t.name == "skdistmlp-lbfgs"]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize("hook", ["begin", "end"])
def test_an_error_or_ctrl_c_in_a_callback_of_lbfgs_is_raised(data, hook, error):
    """L-BFGS has no parameters to keep in the middle, as in scikit-learn."""
    failing = At(hook, "lbfgs-iter", 2, error())
    clf = classifier(failing, solver="lbfgs")
    before = dict(vars(clf))
    with pytest.raises(error):
        clf.fit(*data)
    assert failing.hooks[-2:] == [(hook, "lbfgs-iter", 2), ("teardown", "fit", 0)]
    assert vars(clf) == before
    assert not scipys_threads()


def test_a_progress_bar_and_scores_follow_lbfgs(data, capsys):
    monitor = ScoringMonitor(scoring="accuracy")
    clf = fit(
        classifier(ProgressBar(), monitor, solver="lbfgs", max_iter=10, alpha=1), *data
    )
    assert re.search(r"DistributedMLPClassifier - fit .* 100%", capsys.readouterr().out)
    found = scores(monitor, "lbfgs-iter")
    assert len(found) == 10
    assert found[0] < found[-1] == clf.score(*data)


def test_callbacks_get_the_users_data_in_the_fitting_thread(data):
    recorder = Recorder()
    X, y = pd.DataFrame(data[0]).add_prefix("pixel "), pd.Series(data[1]).astype(str)
    weight = list(range(1, 201))
    clf = fit(classifier(recorder, max_iter=1), X, y, sample_weight=weight)
    for _, given in recorder.given:
        assert given["X"] is X
        assert given["y"] is y
        assert given["metadata"]["sample_weight"] is weight
        assert given["estimator"] is clf
        # X is the user's own, so nothing warns of missing feature names.
        assert given["fitted"].score(X, y) == clf.score(X, y)
    assert recorder.callers == {(os.getpid(), threading.get_ident())}
    fit(clf, data[0], y)
    assert recorder.given[-1][1]["metadata"] == {}


@pytest.mark.parametrize(
    "estimator", [DistributedMLPClassifier, DistributedMLPRegressor]
)
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"early_stopping": True, "learning_rate_init": 2.0},
        {"solver": "sgd", "learning_rate": "invscaling"},
    ],
    ids=["adam", "early stopping with a rate too large", "invscaling"],
)
def test_the_estimator_after_an_epoch_equals_a_fit_of_that_many_epochs(
    data, estimator, parameters
):
    recorder = Recorder()
    parameters = PARAMETERS | parameters
    mlp = estimator(**parameters, max_iter=5).set_callbacks(recorder)
    fit(mlp, *data)
    assert len(recorder.fitted()) == 5
    for number, fitted in enumerate(recorder.fitted(), 1):
        alone = fit(estimator(**parameters, max_iter=number), *data)
        assert_same_fit(fitted, alone, data[0])
    if mlp.early_stopping:
        assert np.argmax(mlp.validation_scores_) < 4, "the best are not the last"
    # It continues as if no callback had run.
    assert_same_fit(mlp, alone, data[0])


def test_the_estimator_after_an_epoch_can_be_trained_further(data):
    recorder = Recorder()
    fit(classifier(recorder, shuffle=False), *data)
    first = clone(recorder.fitted()[0]).set_callbacks()
    fit(first.set_params(max_iter=1), *data)
    for clf in (recorder.fitted()[0].set_callbacks(), first):
        clf.partial_fit(*data)
    assert_same_fit(recorder.fitted()[0], first, data[0])


def test_a_warm_start_counts_its_own_epochs(data):
    recorder = Recorder()
    clf = classifier(recorder, warm_start=True, max_iter=2)
    for n_before in (0, 2):
        fit(clf, *data)
        assert recorder.hooks[-8:] == hooks_of("fit", 2)
        for number, fitted in enumerate(recorder.fitted()[-2:], 1):
            assert fitted.n_iter_ == number
            assert len(fitted.loss_curve_) == n_before + number


def test_nothing_is_copied_unless_a_callback_asks(data, monkeypatch):
    def refuse(run, state=None):
        raise AssertionError("somebody has asked")

    monkeypatch.setattr(TrainingRun, "snapshot", refuse)
    told = Told()
    fit(classifier(told), *data)
    assert told.hooks == hooks_of("fit", 3)
    with pytest.raises(AssertionError, match="somebody has asked"):
        classifier(Recorder()).fit(*data)


def test_no_callback_hears_of_an_epoch_whose_parameters_were_lost(data, monkeypatch):
    """If the fit recovers, the epoch is trained again, and all hear of it then."""
    snapshot = TrainingRun.snapshot

    def lose(run, state=None):
        if state.progress.n_iter == 2:
            raise WorkerLostError("a worker was lost")
        return snapshot(run, state)

    monkeypatch.setattr(TrainingRun, "snapshot", lose)
    before, after = Told(), Told()
    with pytest.raises(WorkerLostError):
        classifier(before, Recorder(), after).fit(*data)
    for told in (before, after):
        assert ("end", "epoch", 0) in told.hooks
        assert ("end", "epoch", 1) not in told.hooks


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("last", [0, 1, 2])
def test_a_callback_stops_training_without_a_warning(data, early_stopping, last):
    stop, told = At("end", "epoch", last), Told()
    clf = classifier(stop, told, early_stopping=early_stopping)
    clf.fit(*data)
    assert told.hooks == hooks_of("fit", last + 1)
    alone = classifier(max_iter=last + 1, early_stopping=early_stopping)
    assert_same_fit(clf, fit(alone, *data), data[0])


AT_ANY_TIME = [
    ("setup", "fit", 0),
    ("begin", "fit", 0),
    ("begin", "epoch", 0),
    ("end", "epoch", 1),
    ("begin", "epoch", 2),
    ("end", "epoch", 2),
    ("end", "fit", 0),
]


@pytest.mark.parametrize("fitted", [False, True])
@pytest.mark.parametrize("where", AT_ANY_TIME, ids=str)
def test_an_error_in_a_callback_leaves_the_estimator_unchanged(data, where, fitted):
    clf = classifier()
    if fitted:
        fit(clf, *data)
    failing = At(*where, ZeroDivisionError("a test"))
    clf.set_callbacks(failing)
    before = deepcopy({k: v for k, v in vars(clf).items() if k != "_skl_callbacks"})
    with pytest.raises(ZeroDivisionError, match="a test"):
        clf.fit(data[0][:, ::2], data[1])
    assert failing.hooks[-1] == ("teardown", "fit", 0)
    after = {k: v for k, v in vars(clf).items() if k != "_skl_callbacks"}
    assert_equal(pickle.dumps(after), pickle.dumps(before))


def test_an_error_in_a_callback_undoes_the_first_partial_fit(data):
    clf = classifier(At("end", "epoch", 0, ZeroDivisionError()))
    before = dict(vars(clf))
    with pytest.raises(ZeroDivisionError):
        clf.partial_fit(*data, classes=np.arange(10))
    assert vars(clf) == before


def test_callbacks_are_torn_down_but_not_called_for_invalid_input(data):
    told = Told()
    with pytest.raises(ValueError, match="inconsistent numbers of samples"):
        classifier(told).fit(data[0], data[1][1:])
    assert told.hooks == [("setup", "fit", 0), ("teardown", "fit", 0)]


@pytest.mark.parametrize("where", [("end", "epoch", 1), ("begin", "epoch", 2)])
def test_ctrl_c_in_a_callback_acts_like_ctrl_c_in_an_epoch(data, where):
    clf = classifier(At(*where, KeyboardInterrupt()), max_iter=5)
    with pytest.warns(UserWarning, match=r"Training interrupted by user\."):
        clf.fit(*data)
    alone = fit(classifier(max_iter=2), *data)
    assert_array_equal(clf.predict_proba(data[0]), alone.predict_proba(data[0]))
    assert clf.n_iter_ == 2


def test_an_interrupted_epoch_ends_without_an_estimator(data, monkeypatch):
    n_steps = []

    def interrupt(shard, rows):
        n_steps.append(rows)
        if len(n_steps) == 6:
            raise KeyboardInterrupt
        return original(shard, rows)

    original = LocalOps.inputs
    monkeypatch.setattr(LocalOps, "inputs", interrupt)
    recorder = Recorder()
    with pytest.warns(UserWarning, match=r"Training interrupted by user\."):
        classifier(recorder).fit(*data)
    assert recorder.hooks == hooks_of("fit", 2)
    first, second = recorder.fitted()
    assert first.n_iter_ == 1
    assert second is None


def killed_after_two_epochs(data, told, checkpoint):
    clf = classifier(told, max_iter=5, checkpoint=checkpoint)
    with killed_after(2), pytest.raises(KilledError):
        clf.fit(*data)


def test_a_resumed_fit_numbers_its_epochs_on(data, tmp_path):
    before, after = Told(), Told()
    killed_after_two_epochs(data, before, tmp_path)
    assert before.hooks[-2:] == [("begin", "epoch", 2), ("teardown", "fit", 0)]
    fit(classifier(after, max_iter=5, checkpoint=tmp_path), *data)
    assert after.hooks[2:-2] == epoch_hooks([2, 3, 4], "epoch")


def test_a_resumed_fit_that_is_interrupted_at_once_has_ended_no_epoch(
    data, tmp_path, monkeypatch
):
    killed_after_two_epochs(data, Told(), tmp_path)

    def interrupt(shard, rows):
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalOps, "inputs", interrupt)
    recorder = Recorder()
    clf = classifier(recorder, max_iter=5, checkpoint=tmp_path)
    with pytest.warns(UserWarning, match=r"Training interrupted by user\."):
        clf.fit(*data)
    assert clf.n_iter_ == 2
    assert recorder.fitted() == [None]


def scores(monitor, task_name="epoch"):
    rows = monitor.get_logs().data
    return [row["accuracy"] for row in rows if row["task_name"] == task_name]


def test_scores_of_epochs_equal_those_of_shorter_fits(data):
    monitor = ScoringMonitor(scoring="accuracy")
    clf = fit(classifier(monitor, learning_rate_init=0.02, max_iter=4), *data)
    alone = [fit(clone(clf).set_params(max_iter=n), *data) for n in range(1, 5)]
    expected = [one.set_callbacks().score(*data) for one in alone]
    logged = monitor.get_logs(select="all")[0].data
    found = [row["accuracy"] for row in logged if row["task_name"] == "epoch"]
    assert found == expected
    assert len(set(expected)) == 4


def test_a_progress_bar_reaches_its_end(data, capsys):
    fit(classifier(ProgressBar()), *data)
    printed = capsys.readouterr().out
    assert re.search(r"DistributedMLPClassifier - fit .* 100%", printed)


def test_callbacks_of_a_pipeline_see_the_epochs_of_its_network(data, capsys):
    monitor = ScoringMonitor(scoring="accuracy")
    mlp = classifier(monitor, max_iter=2)
    pipeline = make_pipeline(StandardScaler(), mlp).set_callbacks(ProgressBar())
    fit(pipeline, *data)
    printed = capsys.readouterr().out
    assert re.search(
        r"Pipeline - fit-final-estimator \| DistributedMLPClassifier - fit #1 .*100%",
        printed,
    )
    assert scores(monitor)[-1] == pipeline.score(*data)
    # The search's bar was only lent.
    assert mlp._skl_callbacks == [monitor]
    assert not hasattr(mlp, "_parent_callback_ctx")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("n_jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_callbacks_of_a_search_see_the_epochs_of_every_fit(data, n_jobs):
    monitor = ScoringMonitor(scoring="accuracy")
    search = GridSearchCV(
        classifier(monitor, max_iter=2), {"alpha": [1e-4, 1.0]}, cv=2, n_jobs=n_jobs
    )
    search.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(*data)
    rows = monitor.get_logs().data
    epochs = [row["task_id_path"] for row in rows if row["task_name"] == "epoch"]
    # Two candidates in two folds, and the refit: two epochs each.
    assert len(set(epochs)) == 10
    parents = {
        row["parent_task_id_path"] for row in rows if row["task_name"] == "epoch"
    }
    assert len(parents) == 5


@pytest.mark.parametrize(
    "copied", [clone, deepcopy, lambda clf: pickle.loads(pickle.dumps(clf))]
)
@pytest.mark.parametrize("fitted", [False, True])
def test_copies_keep_callbacks_and_run_them(data, copied, fitted):
    told = Told()
    clf = classifier(told, ProgressBar(), ScoringMonitor(scoring="accuracy"))
    if fitted:
        fit(clf, *data)
    n_before = len(told.hooks)
    copy = copied(clf)
    first = copy._skl_callbacks[0]
    assert (first is told) == (copied is clone)
    fit(copy, *data)
    assert first.hooks[n_before:] == hooks_of("fit", 3)
    assert (copied is clone) or len(told.hooks) == n_before


def test_callbacks_can_be_removed(data):
    told = Told()
    fit(classifier(told).set_callbacks(), *data)
    assert told.hooks == []
    with pytest.raises(TypeError, match="FitCallback protocol"):
        classifier(print)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_code_of_the_page_runs(capsys, caplog):
    caplog.set_level("INFO", "skdistmlp")  # restored after the test
    names = {}
    for block in re.findall("```python\n(.*?)```", PAGE, flags=re.DOTALL):
        exec(block, names)
    printed = capsys.readouterr().out.splitlines()
    scores = [line.split() for line in printed if line.startswith("epoch ")]
    assert [int(number) for _, number, _ in scores] == list(range(10))
    assert float(scores[0][2]) < float(scores[-1][2])
    assert int(printed[-1]) < 200
    assert names["clf"].score(names["X_test"], names["y_test"]) > 0.95
