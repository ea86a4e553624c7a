"""The parameter `checkpoint`: fits that were cut off, and those that resume them."""

import os
import re
import warnings
from pathlib import Path

import dask
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV

from skdistmlp import (
    CheckpointError,
    DistributedMLPClassifier,
    DistributedMLPRegressor,
)
from skdistmlp.checkpoints.checkpointing import Checkpointing
from skdistmlp.estimators import regressor
from skdistmlp.training import loop
from tests.checkpoints.support import KilledError, killed_after
from tests.estimators.support import InterruptAfter, fit
from tests.sklearn_versions import BEFORE_1_9

PARAMETERS = {
    "hidden_layer_sizes": (12,),
    "batch_size": 50,
    "max_iter": 9,
    "random_state": 0,
    "n_iter_no_change": 50,
}


def falling(done):
    return 1 - 0.9 * done


FITS = {
    "adam": {},
    "sgd, adaptive": {"solver": "sgd", "learning_rate": "adaptive", "tol": 10.0},
    "early stopping": {"early_stopping": True},
    "dropout and a moving average": {"dropout": 0.2, "ema_decay": 0.9},
    "callable rate": {"learning_rate": falling, "warmup_steps": 7},
    "one cycle": {"learning_rate": "one_cycle"},
    "rows in order": {"shuffle": False},
    "NumPy's own generator": {"random_state": None},
    "a generator": {"random_state": np.random.RandomState(5)},
}


@pytest.fixture(scope="module")
def data(digits):
    return digits[0][:300], digits[1][:300]


def classifier(**parameters):
    return DistributedMLPClassifier(**PARAMETERS | parameters)


def assert_same(one, other):
    assert one.n_iter_ == other.n_iter_
    assert one.loss_ == other.loss_
    assert one.loss_curve_ == other.loss_curve_
    for ours, theirs in zip(one.coefs_, other.coefs_, strict=True):
        assert_array_equal(ours, theirs)
    for ours, theirs in zip(one.intercepts_, other.intercepts_, strict=True):
        assert_array_equal(ours, theirs)


def killed(estimator, X, y, n_iter=4, **fit_params):
    """Fit until the process is as good as killed, as a copy: the user's is gone."""
    with killed_after(n_iter), pytest.raises(KilledError):
        fit(clone(estimator), X, y, **fit_params)


@pytest.mark.parametrize("kind", FITS)
def test_a_fit_that_was_cut_off_gives_the_bits_of_an_undisturbed_one(
    kind, data, tmp_path
):
    def fresh():
        np.random.mtrand._rand.seed(3)
        return clone(classifier(**FITS[kind], checkpoint=tmp_path))

    undisturbed = fit(fresh().set_params(checkpoint=None), *data)
    drawn_next = np.random.mtrand._rand.rand()
    killed(fresh(), *data)
    (file,) = os.listdir(tmp_path)
    assert re.fullmatch("[0-9a-f]{32}.checkpoint", file)
    resumed = fit(fresh(), *data)
    assert_same(resumed, undisturbed)
    if FITS[kind].get("random_state", 0) is None:
        assert np.random.mtrand._rand.rand() == drawn_next
    assert os.listdir(tmp_path) == []


def test_weights_validation_rows_sparse_features_and_float32(data, tmp_path):
    X, y = data
    weight = np.linspace(0.5, 2, 200)
    given = {
        "sample_weight": weight,
        "X_val": csr_array(X[200:].astype(np.float32)),
        "y_val": y[200:],
    }
    X = csr_array(X[:200].astype(np.float32))
    clf = classifier(checkpoint=tmp_path, early_stopping=True)
    undisturbed = fit(clone(clf).set_params(checkpoint=None), X, y[:200], **given)
    killed(clf, X, y[:200], **given)
    resumed = fit(clone(clf), X, y[:200], **given)
    assert_same(resumed, undisturbed)
    assert resumed.validation_scores_ == undisturbed.validation_scores_
    assert resumed.best_iter_ == undisturbed.best_iter_


def test_regressors_too(data, tmp_path):
    X, y = data
    targets = np.column_stack([X[:, 20], np.sin(y)])
    reg = DistributedMLPRegressor(**PARAMETERS, checkpoint=tmp_path, loss="huber")
    killed(reg, X, targets)
    undisturbed = fit(clone(reg).set_params(checkpoint=None), X, targets)
    assert_same(fit(clone(reg), X, targets), undisturbed)


def test_lbfgs_goes_on_from_its_last_iterate(data, tmp_path):
    """It begins again there, and says so: it reaches a minimum by other bits."""

    def resumed(clf):
        with pytest.warns(UserWarning, match="after iteration 20, where L-BFGS began"):
            return fit(clone(clf), *data)

    # Of one minimum only: then the loss does not depend on the way there.
    clf = classifier(solver="lbfgs", max_iter=900, alpha=10.0, activation="identity")
    clf.set_params(checkpoint=tmp_path)
    undisturbed = fit(clone(clf).set_params(checkpoint=None), *data)
    killed(clf, *data, n_iter=20)
    ended = resumed(clf)
    assert 20 < ended.n_iter_ < 900
    assert undisturbed.n_iter_ < 900
    assert_allclose(ended.loss_, undisturbed.loss_, rtol=0, atol=clf.tol)
    assert os.listdir(tmp_path) == []
    short = clone(clf).set_params(max_iter=30)
    killed(short, *data, n_iter=20)
    assert resumed(short).n_iter_ == 30
    # The first 20 iterations took 20 evaluations at least.
    few = clone(clf).set_params(max_fun=30)
    killed(few, *data, n_iter=20)
    assert resumed(few).n_iter_ <= 30


def test_a_warm_start_has_a_checkpoint_of_its_own(data, tmp_path):
    def begun():
        return fit(classifier(checkpoint=tmp_path, warm_start=True), *data)

    undisturbed = fit(begun(), *data)
    again = begun()
    with killed_after(4), pytest.raises(KilledError):
        fit(again, *data)
    # A fit that fails leaves the estimator as it was.
    assert_same(again, begun())
    assert_same(fit(again, *data), undisturbed)


def test_partial_fit_keeps_none(data, tmp_path):
    clf = classifier(checkpoint=tmp_path / "never")
    with killed_after(1):
        clf.partial_fit(*data, classes=np.arange(10))
    assert not (tmp_path / "never").exists()


@pytest.mark.parametrize(
    "changed", [{"alpha": 0.1}, {"max_iter": 10}, {"random_state": 1}]
)
def test_other_parameters_do_not_resume(data, tmp_path, changed):
    clf = classifier(checkpoint=tmp_path)
    killed(clf, *data)
    other = clone(clf).set_params(**changed)
    undisturbed = fit(clone(other).set_params(checkpoint=None), *data)
    assert_same(fit(other, *data), undisturbed)
    # That of the fit that was cut off is still there.
    assert len(os.listdir(tmp_path)) == 1


def test_other_rows_do_not_resume(data, tmp_path):
    X, y = data
    clf = classifier(checkpoint=tmp_path)
    killed(clf, X, y)
    changed = X.copy()
    changed[7, 7] += 1e-9
    undisturbed = fit(classifier(), changed, y)
    assert_same(fit(clone(clf), changed, y), undisturbed)


def test_a_loss_that_scikit_learn_has_changed_does_not_resume(
    data, tmp_path, monkeypatch
):
    """The squared error of several outputs is their mean up to 1.9, then their sum."""
    X, y = data[0], np.column_stack([data[1], -data[1]]) / 9
    mlp = DistributedMLPRegressor(**PARAMETERS, checkpoint=tmp_path)
    monkeypatch.setattr(regressor, "SUMS_OUTPUTS", False)
    killed(mlp, X, y)
    monkeypatch.setattr(regressor, "SUMS_OUTPUTS", True)
    undisturbed = fit(DistributedMLPRegressor(**PARAMETERS), X, y)
    assert_same(fit(clone(mlp), X, y), undisturbed)
    # That of the fit that was cut off is still there.
    assert len(os.listdir(tmp_path)) == 1


def test_an_interrupt_leaves_a_checkpoint_and_says_so(data, tmp_path, monkeypatch):
    undisturbed = fit(classifier(), *data)
    # 6 steps an epoch: in the middle of the fourth.
    step = loop.training_step
    monkeypatch.setattr(loop, "training_step", InterruptAfter(step, 20))
    clf = classifier(checkpoint=tmp_path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        clf.fit(*data)
    monkeypatch.undo()
    (warning,) = caught
    (file,) = tmp_path.iterdir()
    said = re.fullmatch(
        rf"Training interrupted by user\. {re.escape(str(file))} has its state after "
        r"epoch (\d): fit with the same arguments resumes from there\.",
        str(warning.message),
    )
    assert warning.filename == __file__
    assert 1 <= int(said[1]) <= 3
    assert_same(fit(clf, *data), undisturbed)
    assert os.listdir(tmp_path) == []


def test_a_verbose_fit_says_from_where_it_resumes(data, tmp_path, capsys):
    clf = classifier(checkpoint=tmp_path, verbose=True)
    killed(clf, *data)
    capsys.readouterr()
    fit(clone(clf), *data)
    first, second, *_ = capsys.readouterr().out.splitlines()
    (file,) = [part for part in first.split() if part.endswith(".checkpoint")]
    assert Path(file).parent == tmp_path
    assert first.startswith("Resuming: ")
    assert "after epoch 4" in first
    assert second.startswith("Iteration 5, loss = ")


def test_a_verbose_fit_says_if_it_finds_only_files_of_other_fits(
    data, tmp_path, capsys, caplog
):
    caplog.set_level("INFO", "skdistmlp")
    clf = classifier(checkpoint=tmp_path, verbose=True)
    fit(clone(clf), *data)
    assert "Starting" not in capsys.readouterr().out
    killed(clf, *data)
    capsys.readouterr()
    fit(clone(clf).set_params(alpha=0.1), *data)
    first, second, *_ = capsys.readouterr().out.splitlines()
    assert first == (
        f"Starting from scratch: {tmp_path} has 1 checkpoint, but none of a fit with "
        f"these parameters and this data."
    )
    assert caplog.messages == [first]
    assert second.startswith("Iteration 1, loss = ")


def test_a_fit_that_diverges_leaves_none(data, tmp_path):
    X, y = data
    reg = DistributedMLPRegressor(
        hidden_layer_sizes=(8,),
        solver="sgd",
        learning_rate_init=1e6,
        max_iter=20,
        random_state=0,
        checkpoint=tmp_path,
    )
    with (
        dask.config.set({"skdistmlp.checkpoint.interval": "0s"}),
        np.errstate(all="ignore"),
        pytest.raises(ValueError, match="non-finite parameter weights"),
    ):
        fit(reg, X * 1e6, y * 1e6)
    assert os.listdir(tmp_path) == []


def test_a_file_of_something_else_is_refused_by_name_and_left_alone(data, tmp_path):
    clf = classifier(checkpoint=tmp_path)
    killed(clf, *data)
    (file,) = tmp_path.iterdir()
    content = file.read_bytes()[:-100]
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=re.escape(str(file))):
        fit(clf, *data)
    assert file.read_bytes() == content
    assert not hasattr(clf, "coefs_")


def test_a_checkpoint_that_is_no_path_is_refused(data):
    with pytest.raises(ValueError, match="The 'checkpoint' parameter"):
        fit(classifier(checkpoint=3), *data)


def test_each_fit_of_a_search_has_a_file_of_its_own(data, tmp_path, monkeypatch):
    search = GridSearchCV(
        classifier(checkpoint=tmp_path, max_iter=3), {"alpha": [0.1, 0.01]}, cv=2
    )
    names = []
    end = Checkpointing.end

    def noted(self, outcome):
        names.append(str(self._file))
        end(self, outcome)

    monkeypatch.setattr(Checkpointing, "end", noted)
    fit(search, *data)
    assert len(set(names)) == 5
    assert os.listdir(tmp_path) == []


def test_a_plan_reads_and_writes_none(data, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        classifier(checkpoint=tmp_path / "never").plan_fit(*data)
    assert not (tmp_path / "never").exists()


PAGE = (Path(__file__).parents[2] / "docs" / "checkpoints.md").read_text()


def test_the_code_of_the_page_runs(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    namespace = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(code, namespace)
    assert namespace["clf"].n_iter_ == 30
    assert os.listdir(tmp_path) == ["checkpoints"]
    assert os.listdir(tmp_path / "checkpoints") == []


def own_score(estimator, X, y):
    return float(np.mean(estimator.predict(X) == y))


@pytest.mark.parametrize("scoring", ["accuracy", own_score, "loss"])
def test_a_fit_with_a_score_is_resumed_wherever_it_goes_on(data, tmp_path, scoring):
    clf = classifier(early_stopping=True, scoring=scoring, checkpoint=tmp_path)
    killed(clf, *data)
    undisturbed = fit(clone(clf).set_params(checkpoint=None), *data)
    elsewhere = clone(clf).set_params(
        verbose=True, engine="local", checkpoint=str(tmp_path)
    )
    resumed = fit(fit(elsewhere, *data), *data)
    assert_same(resumed, undisturbed)
    assert os.listdir(tmp_path) == []


def test_a_callback_that_fails_at_the_end_does_not_cost_the_checkpoint(data, tmp_path):
    if BEFORE_1_9:
        pytest.skip("scikit-learn has no callbacks")

    class Saver:
        def setup(self, estimator, context): ...

        def on_fit_task_begin(self, estimator, context): ...

        def on_fit_task_end(self, estimator, context):
            if context.task_name == "fit":
                raise OSError("no space left for the model")

        def teardown(self, estimator, context): ...

    clf = classifier(checkpoint=tmp_path)
    undisturbed = fit(clone(clf), *data)
    with (
        dask.config.set({"skdistmlp.checkpoint.interval": "0s"}),
        pytest.raises(OSError, match="no space left for the model"),
    ):
        fit(clone(clf).set_callbacks(Saver()), *data)
    assert len(os.listdir(tmp_path)) == 1
    assert_same(fit(clone(clf), *data), undisturbed)


@pytest.mark.parametrize(
    ("parameters", "advice"),
    [
        ({"warm_start": True}, "Use a new estimator: this one would start from"),
        ({"random_state": np.random.RandomState(0)}, "Use a new random_state: this"),
    ],
)
def test_advice_is_right_where_this_estimator_cannot_resume(
    data, tmp_path, monkeypatch, parameters, advice
):
    step = loop.training_step
    monkeypatch.setattr(loop, "training_step", InterruptAfter(step, 20))
    clf = classifier(checkpoint=tmp_path, **parameters)
    with pytest.warns(UserWarning, match=advice):
        clf.fit(*data)


def test_no_directory_is_refused(data):
    with pytest.raises(ValueError, match="checkpoint='' is no directory"):
        fit(classifier(checkpoint=""), *data)
