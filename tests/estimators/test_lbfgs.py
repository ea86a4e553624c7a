"""Behaviour specific to solver="lbfgs"; test_parity compares its results."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.utils import gen_batches

from skdistmlp.training import job, lbfgs
from tests.estimators.configurations import ESTIMATORS, Case
from tests.estimators.support import (
    HISTORY,
    InterruptAfter,
    assert_parity,
    assert_same_network,
    fit,
    result_of,
)
from tests.marks import only_quick

FUTURES = {"engine": "futures", "n_workers": 2}
BOTH = pytest.mark.parametrize("name", ["lbfgs, strings", "lbfgs, weighted, numbers"])
"""One configuration of each estimator."""


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_lbfgs_has_no_partial_fit(kind):
    ours, _ = ESTIMATORS[kind]
    estimator = ours(solver="lbfgs")
    assert not hasattr(estimator, "partial_fit")
    assert hasattr(estimator.set_params(solver="sgd"), "partial_fit")
    assert not hasattr(estimator.set_params(solver="lbfgs"), "partial_fit")


@pytest.mark.parametrize("kind", ESTIMATORS)
def test_the_error_says_why_lbfgs_has_no_partial_fit(kind):
    """With the message of scikit-learn's classifier; its regressor has none."""
    raised = []
    for cls in (ESTIMATORS[kind][0], MLPClassifier):
        with pytest.raises(AttributeError) as error:
            cls(solver="lbfgs").partial_fit  # noqa: B018 (the attribute itself)
        raised.append(error.value)
    ours, theirs = raised
    name = ESTIMATORS[kind][0].__name__
    assert str(ours) == str(theirs).replace("MLPClassifier", name)
    assert str(ours.__cause__) == str(theirs.__cause__)


def _cut_into_blocks_of(monkeypatch, block_rows):
    def blocks_of(n_rows, *_):
        return list(gen_batches(n_rows, block_rows))

    monkeypatch.setattr(job, "blocks_of", blocks_of)


@BOTH
@pytest.mark.parametrize("block_rows", only_quick(1, 2, cases=[1, 77, 240]))
def test_rows_are_evaluated_in_blocks(monkeypatch, name, block_rows):
    _cut_into_blocks_of(monkeypatch, block_rows)
    case = Case.of(name)
    assert_parity(case, engine="local")
    assert_parity(case, shares=[2, 1])


@BOTH
def test_futures_evaluate_rows_in_blocks(monkeypatch, client, name):
    _cut_into_blocks_of(monkeypatch, 50)
    ours = assert_parity(Case.of(name, max_iter=2), client=client, **FUTURES)
    assert ours.engine_ == "futures"


@BOTH
@pytest.mark.parametrize("activation", ["relu", "logistic"])
def test_float32_features_train_in_float32(name, activation):
    """Losses and gradients are in float32, steps and parameters in float64."""
    case = Case.of(name, activation=activation, max_iter=5).float32()
    ours = assert_parity(case, engine="local")
    assert {a.dtype for a in ours.coefs_ + ours.intercepts_} == {np.dtype(np.float64)}


@BOTH
@pytest.mark.parametrize("activation", ["relu", "logistic"])
def test_the_float32_loss_is_close_after_20_iterations(name, activation):
    case = Case.of(name, activation=activation, max_iter=20).float32()
    ours, theirs = case.pair(engine="local")
    for estimator in (ours, theirs):
        fit(estimator, case.X, case.y, case.sample_weight)
    assert ours.n_iter_ == theirs.n_iter_ == 20
    np.testing.assert_allclose(ours.loss_, theirs.loss_, rtol=0, atol=1e-3)


@BOTH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_warm_start_continues(name, dtype):
    """It continues in float64, the dtype of the parameters by then."""
    case = Case.of(name, warm_start=True, max_iter=3)
    X = case.X.astype(dtype)
    ours, theirs = case.pair(engine="local")
    losses = []
    for rows in (slice(None), slice(40, None), slice(None)):
        for estimator in (ours, theirs):
            fit(estimator, X[rows], case.y[rows])
        assert_same_network(ours, theirs, {"rtol": 0, "atol": 1e-5})
        losses.append(ours.loss_)
    assert losses[2] < losses[0]


@BOTH
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("stochastic", ["adam", "sgd"])
def test_a_warm_start_may_change_the_solver(name, stochastic, early_stopping):
    """Curve, best loss and scores survive lbfgs, and continue afterwards."""
    case = Case.of(
        name, warm_start=True, early_stopping=early_stopping, max_iter=3, tol=0.0
    )
    ours, theirs = case.pair(engine="local")
    for solver in (stochastic, "lbfgs", stochastic, "lbfgs"):
        for estimator in (ours, theirs):
            fit(estimator.set_params(solver=solver), case.X, case.y)
        assert_same_network(ours, theirs)
    assert len(ours.loss_curve_) == 6


def _begin_history(theirs):
    """Set the attributes without which scikit-learn's estimator fails after "lbfgs"."""
    assert not hasattr(theirs, "loss_curve_")
    theirs.loss_curve_, theirs.best_loss_ = [], np.inf
    theirs.validation_scores_ = theirs.best_validation_score_ = None
    theirs._no_improvement_count = 0


@BOTH
def test_a_stochastic_solver_continues_after_lbfgs(name):
    case = Case.of(name, warm_start=True, max_iter=3)
    ours, theirs = case.pair(engine="local")
    for estimator in (ours, theirs):
        fit(estimator, case.X, case.y)
        estimator.set_params(solver="adam")
    _begin_history(theirs)
    for estimator in (ours, theirs):
        fit(estimator, case.X, case.y)
    assert_same_network(ours, theirs)
    assert len(ours.loss_curve_) == 3


@BOTH
def test_partial_fit_continues_after_lbfgs(name):
    case = Case.of(name, max_iter=3)
    ours, theirs = case.pair(engine="local")
    for estimator in (ours, theirs):
        fit(estimator, case.X, case.y)
        estimator.set_params(solver="adam")
    _begin_history(theirs)
    for _ in range(3):
        for estimator in (ours, theirs):
            estimator.partial_fit(case.X, case.y)
        assert_same_network(ours, theirs)


@BOTH
def test_a_new_fit_leaves_no_history_of_another_solver(name):
    """Unlike scikit-learn, which keeps the curve of the previous training."""
    case = Case.of(name)
    ours, theirs = case.pair(engine="local")
    for solver in ("adam", "lbfgs"):
        for estimator in (ours, theirs):
            fit(estimator.set_params(solver=solver), case.X, case.y)
    assert len(theirs.loss_curve_) == 4
    assert not [attribute for attribute in HISTORY if hasattr(ours, attribute)]
    assert ours.t_ == theirs.t_ == 0
    fresh, _ = case.pair(engine="local")
    fit(fresh, case.X, case.y)
    for again, coef in zip(ours.coefs_, fresh.coefs_, strict=True):
        assert_array_equal(again, coef)


@BOTH
def test_lbfgs_prints_nothing(capsys, name):
    """As in scikit-learn, since SciPy no longer prints anything."""
    case = Case.of(name, verbose=True)
    ours, theirs = case.pair()
    for estimator in (ours, theirs):
        fit(estimator, case.X, case.y)
        assert capsys.readouterr() == ("", "")


@BOTH
@pytest.mark.parametrize("engine", ["local", "futures", "peers"])
def test_reaching_max_iter_causes_a_warning(client, name, engine):
    case = Case.of(name, max_iter=2)
    ours, theirs = case.pair(client=client, **FUTURES | {"engine": engine})
    results = [
        result_of(lambda e=estimator: e.fit(case.X, case.y))
        for estimator in (ours, theirs)
    ]
    assert results[0].warnings == results[1].warnings
    ((category, message),) = results[0].warnings
    assert category is ConvergenceWarning
    assert message.startswith("lbfgs failed to converge after 2 iteration(s)")


@BOTH
@pytest.mark.parametrize(
    ("engine", "fitted", "n_evaluations"),
    only_quick(
        *(0, 3),
        cases=[
            ("local", False, 0),
            ("local", True, 2),
            ("futures", True, 0),
            ("futures", False, 2),
        ],
    ),
)
def test_an_interrupt_leaves_the_estimator_unchanged(
    monkeypatch, client, name, engine, fitted, n_evaluations
):
    """scikit-learn raises KeyboardInterrupt too."""
    case = Case.of(name, max_iter=3)
    ours, theirs = case.pair(client=client, **FUTURES | {"engine": engine})
    if fitted:
        fit(ours, case.X, case.y)
    before = dict(vars(ours))
    with monkeypatch.context() as patch:
        for owner, function in [(lbfgs, "backpropagate"), (theirs, "_backprop")]:
            interrupt = InterruptAfter(getattr(owner, function), n_evaluations)
            patch.setattr(owner, function, interrupt)
        for estimator in (ours, theirs):
            with pytest.raises(KeyboardInterrupt):
                estimator.fit(case.X, case.y)
    assert list(vars(ours)) == list(before)
    assert all(vars(ours)[attribute] is before[attribute] for attribute in before)
    assert hasattr(ours, "coefs_") == fitted
    assert fit(ours, case.X, case.y).engine_ == engine


@pytest.mark.parametrize(
    "engine", only_quick(0, 2, cases=["local", "futures", "peers"])
)
@pytest.mark.parametrize("scale", only_quick(0, cases=[1e160, 1e308]))
def test_a_loss_that_is_not_finite_is_an_error(client, engine, scale):
    case = Case.of("lbfgs, no hidden layer, numbers", max_iter=5)
    ours, theirs = case.pair(client=client, **FUTURES | {"engine": engine})
    results = [
        result_of(lambda e=estimator: e.fit(case.X * scale, case.y))
        for estimator in (ours, theirs)
    ]
    assert results[0].error is results[1].error is None
    assert not np.isfinite(theirs.loss_)
    assert ours.engine_ == engine
    assert_same_network(ours, theirs)
    said = [[w for w in r.warnings if w[0] is ConvergenceWarning] for r in results]
    assert said[0] == said[1]
    assert len(said[1]) == 1
