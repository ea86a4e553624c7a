"""The classifier's public surface: parameters, attributes, engine, copies, output."""

import inspect
import re

import numpy as np
import pandas as pd
import pytest
from distributed import Client
from numpy.testing import assert_array_equal
from sklearn.base import is_classifier
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

from skdistmlp import DistributedMLPClassifier
from skdistmlp.training import loop
from tests.estimators.configurations import Case
from tests.estimators.support import (
    InterruptAfter,
    assert_same_network,
    fit,
    quiet,
    result_of,
)

SMALL = {"hidden_layer_sizes": (4,), "max_iter": 1, "batch_size": 600}
SMALL_PARAMETERS = 64 * 4 + 4 + 4 * 10 + 10
FUTURES = {"engine": "futures"}


# Parameters and attributes.


def test_parameters_are_those_of_scikit_learn_and_ours():
    ours = list(inspect.signature(DistributedMLPClassifier).parameters.values())
    theirs = list(inspect.signature(MLPClassifier).parameters.values())
    assert [
        (parameter.name, parameter.kind, parameter.default) for parameter in ours
    ] == [
        *((parameter.name, parameter.kind, parameter.default) for parameter in theirs),
        ("dropout", inspect.Parameter.KEYWORD_ONLY, 0.0),
        ("weight_decay", inspect.Parameter.KEYWORD_ONLY, 0.01),
        ("rho", inspect.Parameter.KEYWORD_ONLY, 0.99),
        ("max_grad_norm", inspect.Parameter.KEYWORD_ONLY, None),
        ("warmup_steps", inspect.Parameter.KEYWORD_ONLY, 0),
        ("ema_decay", inspect.Parameter.KEYWORD_ONLY, None),
        ("scoring", inspect.Parameter.KEYWORD_ONLY, None),
        ("label_smoothing", inspect.Parameter.KEYWORD_ONLY, 0.0),
        ("class_weight", inspect.Parameter.KEYWORD_ONLY, None),
        ("client", inspect.Parameter.KEYWORD_ONLY, None),
        ("n_workers", inspect.Parameter.KEYWORD_ONLY, None),
        ("n_replicas", inspect.Parameter.KEYWORD_ONLY, None),
        ("parameter_threshold", inspect.Parameter.KEYWORD_ONLY, None),
        ("engine", inspect.Parameter.KEYWORD_ONLY, "auto"),
        ("checkpoint", inspect.Parameter.KEYWORD_ONLY, None),
    ]


@pytest.mark.parametrize(
    "method",
    [
        "fit",
        "partial_fit",
        "predict",
        "predict_proba",
        "predict_log_proba",
        "score",
        "get_params",
        "set_params",
    ],
)
def test_methods_have_the_signatures_of_scikit_learn(method):
    def arguments(cls):
        parameters = inspect.signature(getattr(cls, method)).parameters.values()
        return [(p.name, p.kind, p.default) for p in parameters]

    expected = arguments(MLPClassifier)
    if method in ("fit", "partial_fit"):
        names = "X_val", "y_val", "sample_weight_val"
        expected += [(name, inspect.Parameter.KEYWORD_ONLY, None) for name in names]
    assert arguments(DistributedMLPClassifier) == expected


def test_every_parameter_is_documented_and_validated():
    names = DistributedMLPClassifier().get_params()
    described = re.findall(r"^(\w+) : ", inspect.getdoc(DistributedMLPClassifier), re.M)
    assert described[: len(names)] == list(
        inspect.signature(DistributedMLPClassifier).parameters
    )
    assert set(DistributedMLPClassifier._parameter_constraints) == set(names)


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("defaults", str),
        ("early stopping, two strings", None),
        ("several labels", None),
        ("floats", None),
        ("lbfgs, strings", str),
    ],
)
def test_fitted_attributes_are_those_of_scikit_learn_and_ours(name, columns):
    case = Case.of(name)
    X = pd.DataFrame(case.X).rename(columns=columns) if columns else case.X
    ours, theirs = case.pair()
    for clf in (ours, theirs):
        fit(clf, X, case.y)
    public = {
        name for name in vars(theirs) if name.endswith("_") and not name.startswith("_")
    }
    ours_only = {"engine_", "n_workers_", "n_replicas_", "plan_"}
    if ours.solver != "lbfgs":
        ours_only |= {"validation_loss_curve_", "best_iter_"}
    assert len(public) >= 11
    assert {
        name for name in vars(ours) if name.endswith("_") and not name.startswith("_")
    } == public | ours_only
    for attribute in public:
        kind = type(getattr(theirs, attribute))
        value = getattr(ours, attribute)
        assert isinstance(value, float if issubclass(kind, float) else kind), attribute
    assert_same_network(ours, theirs)
    described = re.findall(
        r"^(\w+_) : ", inspect.getdoc(DistributedMLPClassifier), re.M
    )
    assert public | ours_only <= set(described)


def test_the_estimator_is_a_classifier_with_scikit_learns_tags():
    assert is_classifier(DistributedMLPClassifier())
    assert (
        DistributedMLPClassifier().__sklearn_tags__()
        == MLPClassifier().__sklearn_tags__()
    )


def test_fit_changes_no_parameter():
    case = Case.of("defaults")
    ours, _ = case.pair()
    before = ours.get_params()
    assert fit(ours, case.X, case.y) is ours
    assert ours.get_params() == before


# Choice of an engine.


def _reason(clf):
    return clf.plan_.reason


def test_networks_below_the_threshold_train_locally(client, digits):
    clf = fit(DistributedMLPClassifier(**SMALL, client=client), *digits)
    assert (clf.engine_, clf.n_workers_) == ("local", 1)
    assert _reason(clf) == (
        "310 parameters are fewer than the threshold of 50,000 "
        "(setting skdistmlp.parameter-threshold)"
    )
    assert str(clf.plan_).startswith(f"local: {_reason(clf)}")


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, None),
        ({"n_workers": 1}, None),
        ({"n_workers": 3}, "n_workers=3 needs a cluster"),
        ({"engine": "futures"}, "engine='futures' needs a cluster"),
    ],
)
@pytest.mark.usefixtures("not_yet_warned")
def test_networks_train_locally_without_a_cluster(asked, said, digits):
    """A request for more than that causes one warning."""
    clf = DistributedMLPClassifier(**SMALL, parameter_threshold=0, **asked)
    if said is not None:
        with pytest.warns(UserWarning, match=f"{said}.*training here") as caught:
            fit(clf, *digits)
        assert [warning.filename for warning in caught] == [fit.__code__.co_filename]
    fit(clf, *digits)
    assert (clf.engine_, clf.n_workers_) == ("local", 1)
    assert _reason(clf) == "no Dask client is active and none was given"
    assert clf.predict(digits[0]).shape == digits[1].shape


def test_engine_local_ignores_a_cluster(client, digits):
    clf = DistributedMLPClassifier(
        **SMALL, parameter_threshold=0, engine="local", client=client
    )
    fit(clf, *digits)
    assert clf.engine_ == "local"
    assert _reason(clf) == "engine='local' was asked for"


@pytest.mark.parametrize(
    ("threshold", "engine"),
    [
        (SMALL_PARAMETERS - 1, "futures"),
        (SMALL_PARAMETERS, "futures"),
        (SMALL_PARAMETERS + 1, "local"),
    ],
)
def test_a_network_as_large_as_the_threshold_is_distributed(
    client, digits, threshold, engine
):
    clf = DistributedMLPClassifier(
        **SMALL,
        parameter_threshold=threshold,
        engine="futures",
        client=client,
        n_workers=2,
    )
    fit(clf, *digits)
    assert clf.engine_ == engine
    assert sum(array.size for array in clf.coefs_ + clf.intercepts_) == SMALL_PARAMETERS


def test_auto_chooses_peers_above_the_threshold_and_reports_bytes_held(client, digits):
    clf = DistributedMLPClassifier(**SMALL, parameter_threshold=0, client=client)
    fit(clf, *digits)
    assert (clf.engine_, clf.n_workers_) == ("peers", 2)
    assert "nothing was measured: a fit of about" in _reason(clf)
    assert len(clf.plan_.bytes_held) == 2
    assert re.search(r"a step exchanges [\d,]+ bytes", str(clf.plan_))


@pytest.mark.parametrize("n_rows", [1, 200])
def test_a_small_prediction_does_not_look_for_workers(
    client, digits, monkeypatch, n_rows
):
    clf = DistributedMLPClassifier(**SMALL, parameter_threshold=0, engine="local")
    expected = fit(clf, *digits).predict(digits[0][:n_rows])
    clf.set_params(engine="auto", client=client)
    monkeypatch.setattr(type(client), "nthreads", pytest.fail)
    assert_array_equal(clf.predict(digits[0][:n_rows]), expected)


def test_the_plan_of_futures_says_which_worker_holds_which_neurons(client, digits):
    clf = DistributedMLPClassifier(**SMALL, **FUTURES, client=client, n_workers=2)
    fit(clf, *digits)
    assert (clf.engine_, clf.n_workers_) == ("futures", 2)
    assert _reason(clf) == "engine='futures' was asked for"
    workers = clf.plan_.workers
    assert len(set(workers)) == 2
    assert set(workers) <= set(client.nthreads())
    lines = str(clf.plan_).splitlines()
    for worker, neurons in zip(workers, ("0-1", "2-3"), strict=True):
        (line,) = (line for line in lines if worker in line)
        assert f"layer 0: neurons {neurons}" in line


def test_all_workers_are_used_without_n_workers(client, digits):
    clf = DistributedMLPClassifier(**SMALL, **FUTURES, client=client)
    assert fit(clf, *digits).n_workers_ == 3


def test_the_active_client_is_used(cluster, digits):
    with Client(cluster, set_as_default=False) as client, client.as_current():
        clf = fit(DistributedMLPClassifier(**SMALL, **FUTURES, n_workers=1), *digits)
    assert clf.engine_ == "futures"
    assert clf.client is None


# In pipelines and searches.


def test_a_pipeline_trains_and_predicts_on_a_cluster(client, digits):
    X, y = digits[0] * 16, digits[1]
    clf = DistributedMLPClassifier(
        **SMALL, **FUTURES, client=client, n_workers=2, random_state=0
    )
    pipeline = make_pipeline(MinMaxScaler(), clf)
    fit(pipeline, X, y)
    assert pipeline[-1].engine_ == "futures"
    theirs = make_pipeline(MinMaxScaler(), MLPClassifier(**SMALL, random_state=0))
    assert_array_equal(pipeline.predict(X), fit(theirs, X, y).predict(X))


def test_n_workers_can_be_searched_over(client, digits):
    X, y = digits[0][:120], digits[1][:120]
    clf = DistributedMLPClassifier(
        (4,), max_iter=1, random_state=0, client=client, **FUTURES
    )
    search = GridSearchCV(clf, {"n_workers": [1, 2]}, cv=2, n_jobs=1)
    quiet(search.fit, X, y)
    assert search.best_estimator_.engine_ == "futures"
    assert search.best_estimator_.client is client
    assert search.best_estimator_.n_workers_ == search.best_params_["n_workers"]
    one, two = search.cv_results_["mean_test_score"]
    assert one == two
    assert 0 < one < 1


# Names of features.


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(lambda X: X, id="the same"),
        pytest.param(lambda X: X.rename(columns={"pixel 0": "other"}), id="renamed"),
        pytest.param(lambda X: X[X.columns[::-1]], id="another order"),
        pytest.param(lambda X: X.drop(columns="pixel 3"), id="one missing"),
        pytest.param(lambda X: X.to_numpy(), id="no names"),
        pytest.param(lambda X: X.to_numpy()[:, 1:], id="no names, one missing"),
    ],
)
@pytest.mark.parametrize(
    ("name", "method", "engine"),
    [
        ("defaults", "predict", "local"),
        ("defaults", "partial_fit", "local"),
        ("lbfgs, strings", "predict_proba", "local"),
        pytest.param("defaults", "predict_proba", "futures", marks=pytest.mark.slow),
        pytest.param("numbers", "predict", "futures", marks=pytest.mark.slow),
        pytest.param("numbers", "partial_fit", "local", marks=pytest.mark.slow),
        pytest.param("strings", "predict", "local", marks=pytest.mark.slow),
    ],
)
def test_feature_names_are_set_and_checked(client, name, method, engine, frame):
    case = Case.of(name, max_iter=1, batch_size=240)
    X = pd.DataFrame(case.X).add_prefix("pixel ")
    results = []
    for clf in case.pair(client=client, n_workers=2, **FUTURES | {"engine": engine}):
        fit(clf, X, pd.Series(case.y))
        assert clf.feature_names_in_.tolist() == list(X.columns)
        target = (case.y,) if method == "partial_fit" else ()
        results.append(
            result_of(lambda c=clf, t=target: getattr(c, method)(frame(X), *t))
        )
    ours, theirs = results
    assert (ours.error, ours.warnings) == (theirs.error, theirs.warnings)
    if method != "partial_fit" and theirs.error is None:
        if theirs.value.dtype == np.float64:
            np.testing.assert_allclose(ours.value, theirs.value, rtol=1e-6)
        else:
            assert_array_equal(ours.value, theirs.value)


# Verbose output and interrupts.


@pytest.mark.parametrize("verbose", [True, 2])
@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("defaults", "Iteration 4, loss"),
        ("loss, which stops", "consecutive epochs. Stopping."),
        ("early stopping, which stops", "consecutive epochs. Stopping."),
        ("adaptive, which stops", "Learning rate too small. Stopping."),
        ("early stopping, adaptive, which stops", "too small. Stopping."),
        ("numbers", "Iteration 4, loss"),
        ("early stopping, two columns", "Validation score: "),
        ("loss, numbers, which stops", "consecutive epochs. Stopping."),
        ("csr_matrix, numbers", "Iteration 4, loss"),
    ],
)
def test_verbose_lines_are_those_of_scikit_learn(capsys, name, last, verbose):
    case = Case.of(name, verbose=verbose)
    outputs = []
    for clf in case.pair():
        fit(clf, case.X, case.y)
        outputs.append(capsys.readouterr())
    ours, theirs = outputs
    assert ours.out.splitlines() == theirs.out.splitlines()
    assert last in ours.out.splitlines()[-1]
    assert ours.err == ""


def test_verbose_lines_of_partial_fit(capsys):
    case = Case.of("adaptive, which stops", verbose=True, tol=10.0, n_iter_no_change=1)
    outputs = []
    for clf in case.pair():
        for _ in range(4):
            clf.partial_fit(case.X, case.y, classes=range(10))
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1]
    assert outputs[0].count("Iteration 1,") == 4
    assert "Setting learning rate to" in outputs[0]


def test_nothing_is_printed_without_verbose(capsys):
    case = Case.of("adaptive, which stops")
    ours, _ = case.pair()
    ours.fit(case.X, case.y)
    assert capsys.readouterr() == ("", "")


SLOW = pytest.mark.slow


def _interrupt_both(monkeypatch, theirs, n_steps):
    for owner, name in [(loop, "training_step"), (theirs, "_backprop")]:
        function = InterruptAfter(getattr(owner, name), n_steps)
        monkeypatch.setattr(owner, name, function)


@pytest.mark.parametrize("engine", ["local", "futures"])
@pytest.mark.parametrize(
    ("n_steps", "name", "params"),
    [
        pytest.param(0, "defaults", {}, id="before the first step"),
        pytest.param(2, "defaults", {}, id="in the first epoch"),
        pytest.param(8, "defaults", {}, id="between two epochs"),
        pytest.param(7, "defaults", {"early_stopping": True}, id="early stopping"),
        pytest.param(5, "defaults", {"solver": "sgd"}, id="sgd", marks=SLOW),
        pytest.param(5, "two columns", {}, id="regressor", marks=SLOW),
        pytest.param(7, "sparse, early stopping, numbers", {}, id="sparse", marks=SLOW),
    ],
)
def test_interrupted_training_keeps_the_parameters(
    monkeypatch, client, n_steps, name, params, engine
):
    case = Case.of(name, batch_size=60, **params)  # four steps an epoch
    ours, theirs = case.pair(
        client=client,
        engine=engine,
        n_workers=2,
    )
    _interrupt_both(monkeypatch, theirs, n_steps)
    for clf in (ours, theirs):
        with pytest.warns(UserWarning, match=r"Training interrupted by user\."):
            clf.fit(case.X, case.y)
    assert ours.engine_ == engine
    assert ours.n_iter_ == theirs.n_iter_ == n_steps // 4
    assert ours.t_ == theirs.t_
    assert ours.loss_curve_ == pytest.approx(theirs.loss_curve_)
    # Where no epoch has ended, scikit-learn has no loss.
    loss = getattr(theirs, "loss_", np.nan)
    assert ours.loss_ == pytest.approx(loss, nan_ok=True)
    for our_coef, their_coef in zip(ours.coefs_, theirs.coefs_, strict=True):
        np.testing.assert_allclose(our_coef, their_coef, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(
        ours.predict(case.X), theirs.predict(case.X), rtol=1e-6, atol=1e-9
    )


def test_interrupted_training_can_be_continued(monkeypatch):
    """A warm start after Ctrl-C works like one after an uninterrupted fit."""
    case = Case.of("defaults", warm_start=True)
    ours, theirs = case.pair()
    with monkeypatch.context() as patch:
        _interrupt_both(patch, theirs, 6)
        for clf in (ours, theirs):
            with pytest.warns(UserWarning, match="interrupted"):
                clf.fit(case.X, case.y)
    for clf in (ours, theirs):
        fit(clf, case.X, case.y)
    assert_same_network(ours, theirs)
