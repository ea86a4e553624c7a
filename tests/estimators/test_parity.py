"""Results match scikit-learn's estimators on one shard and on many."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.exceptions import ConvergenceWarning

from tests.estimators.configurations import CONFIGURATIONS, Case, pair
from tests.estimators.support import (
    assert_parity,
    assert_same_network,
    fit,
    result_of,
)
from tests.marks import only_quick


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_local_training_matches_scikit_learn(name):
    case = Case.of(name)
    ours = assert_parity(case, engine="local")
    converged = ours.n_iter_ < case.params["max_iter"]
    assert converged == CONFIGURATIONS[name].converges


FLOAT32 = [
    "defaults",
    "logistic, sgd, several labels",
    "tanh, adam, two classes",
    "early stopping, ten classes, weighted",
    "early stopping, two columns, weighted",
    "adaptive, momentum 0.7, nesterov True",
    "no hidden layer",
    "weighted, sgd, numbers",
    "weighted, poisson",
    "csr_matrix, ten classes",
    "csc_array, numbers",
]


@pytest.mark.parametrize("name", FLOAT32)
def test_local_float32_training_matches_for_20_epochs(name):
    case = Case.of(name, max_iter=20, n_iter_no_change=100).float32()
    ours = assert_parity(case, engine="local")
    assert ours.n_iter_ == 20
    assert {array.dtype for array in ours.coefs_ + ours.intercepts_} == {
        np.dtype(np.float32)
    }


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float16, np.bool_])
def test_other_dtypes_train_in_float64(dtype):
    case = Case.of("defaults")
    ours = assert_parity(replace(case, X=(case.X * 16).astype(dtype)))
    assert ours.coefs_[0].dtype == np.float64


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(np.asfortranarray, id="columns"),
        pytest.param(lambda X: np.repeat(X, 2, axis=0)[::2], id="every second row"),
        pytest.param(lambda X: X[::-1, ::-1].copy()[::-1, ::-1], id="backwards"),
    ],
)
def test_the_layout_of_x_does_not_matter(layout):
    case = Case.of("defaults")
    X = layout(case.X)
    assert_array_equal(X, case.X)
    assert X.strides != case.X.strides
    assert_parity(replace(case, X=X), engine="local")


def test_lists_are_accepted():
    case = Case.of("two columns", n_rows=60)
    ours, theirs = case.pair()
    for estimator in (ours, theirs):
        fit(estimator, case.X.tolist(), case.y.tolist(), [1.0] * 60)
    assert_same_network(ours, theirs)


@pytest.mark.parametrize("name", ["weighted, sgd", "weighted, sgd, numbers"])
def test_read_only_input_is_accepted(name):
    case = Case.of(name)
    for array in (case.X, case.y, case.sample_weight):
        array.flags.writeable = False
    assert_parity(case)


@pytest.mark.parametrize("name", ["defaults", "two columns", "lbfgs, strings"])
@pytest.mark.parametrize("weight", [2.0, [0, 1, 2] * 80, np.arange(240), -np.ones(240)])
def test_sample_weights_of_any_kind_match(weight, name):
    case = Case.of(name, max_iter=2)
    ours, theirs = case.pair(engine="local")
    for estimator in (ours, theirs):
        fit(estimator, case.X, case.y, weight)
    assert_same_network(ours, theirs)


@pytest.mark.parametrize("name", ["defaults", "numbers", "poisson, relu, sgd, counts"])
def test_features_of_another_dtype_than_the_network_are_predicted(name):
    case = Case.of(name)
    ours, theirs = case.pair(engine="local")
    for estimator in (ours, theirs):
        fit(estimator, case.X, case.y)
    method = "predict" if case.kind == "regressor" else "predict_proba"
    for dtype in (np.float32, np.int64):
        X = (case.X * 4).astype(dtype)
        outputs, expected = (getattr(e, method)(X) for e in (ours, theirs))
        assert outputs.dtype == expected.dtype
        np.testing.assert_allclose(outputs, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["defaults", "two columns", "csr_array, numbers"])
def test_predictions_longer_than_one_block_match(name):
    case = Case.of(name)
    ours, theirs = case.pair(engine="local")
    for estimator in (ours, theirs):
        fit(estimator, case.X, case.y)
    X = case.X[np.resize(np.arange(240), 4001)]  # two blocks, and one row
    method = "predict" if case.kind == "regressor" else "predict_proba"
    np.testing.assert_allclose(
        getattr(ours, method)(X), getattr(theirs, method)(X), rtol=1e-6, atol=1e-12
    )


@pytest.mark.parametrize(
    "name",
    [
        "early stopping, ten classes, weighted",
        "early stopping, two columns, weighted",
        "sparse, early stopping, weighted",
    ],
)
def test_validation_sets_longer_than_one_block_match(name):
    case = Case.of(name, n_rows=1797, validation_fraction=0.7, max_iter=2)
    assert_parity(case, engine="local")


@pytest.mark.parametrize(
    "params", [{}, {"early_stopping": True}, {"solver": "lbfgs", "max_iter": 2}]
)
def test_a_random_state_is_advanced_as_far_as_by_scikit_learn(params):
    case = Case.of("a random state", **params)
    ours, theirs = case.pair()
    for estimator in (ours, theirs):
        fit(estimator, case.X, case.y)
    assert ours.random_state.randint(2**31) == theirs.random_state.randint(2**31)


on_a_cluster = pytest.mark.parametrize("engine", ["futures", "peers"])
quickly_on_a_cluster = pytest.mark.parametrize(
    "engine", only_quick(1, cases=["futures", "peers"])
)
"""Each step of futures takes tens of milliseconds."""


def _shared(client, engine, n_workers):
    return {
        "engine": engine,
        "n_workers": n_workers,
        "client": client,
    }


@pytest.mark.parametrize("n_workers", only_quick(2, cases=[1, 2, 3]))
@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("defaults", {"hidden_layer_sizes": (20, 11)}),
        ("three hidden layers", {"activation": "tanh", "alpha": 0.5}),
        ("early stopping, two strings, weighted", {"solver": "sgd"}),
        ("weighted, several labels", {"activation": "logistic"}),
        ("lbfgs, weighted, numbers", {}),
        ("weighted, poisson", {}),
        ("sparse, early stopping, numbers", {}),
    ],
)
@quickly_on_a_cluster
def test_shards_match_scikit_learn(client, engine, name, params, n_workers):
    case = Case.of(name, n_rows=1797, batch_size=600, max_iter=2, **params)
    ours = assert_parity(case, **_shared(client, engine, n_workers))
    assert (ours.engine_, ours.n_workers_) == (engine, n_workers)


@pytest.mark.parametrize(
    ("name", "n_workers"),
    [
        ("an int for the hidden layer, numbers", 3),
        ("a column", 2),
        ("early stopping, two columns, weighted", 2),
        ("weighted, sgd, numbers", 3),
        ("lbfgs, strings", 2),
        ("lbfgs, weighted, several labels", 3),
        ("csc_array, two classes, lbfgs", 2),
        ("poisson, tanh, lbfgs, two columns of counts", 2),
        ("sparse on both sides", 3),
        ("wide indices, ten classes", 2),
        ("duplicates, numbers", 2),
        ("sparse, in order", 2),
        ("sparse, early stopping, weighted", 3),
        ("sparse, poisson", 2),
    ],
)
@quickly_on_a_cluster
def test_shards_match_for_other_solvers_targets_and_features(
    client, engine, name, n_workers
):
    case = Case.of(name, max_iter=2, batch_size=120)
    ours = assert_parity(case, **_shared(client, engine, n_workers))
    assert (ours.engine_, ours.n_workers_) == (engine, n_workers)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("adaptive, which stops", {"tol": 1.0, "learning_rate_init": 1e-5}),
        ("early stopping, which stops", {"tol": 1.0}),
        ("early stopping, numbers, which stops", {"tol": 1.0}),
        ("lbfgs, which stops", {"tol": 0.5}),
        ("lbfgs, out of evaluations", {}),
        ("no hidden layer", {"max_iter": 2}),
        ("no hidden layer, numbers", {"max_iter": 2}),
        ("lbfgs, no hidden layer", {"max_iter": 2}),
        ("a hidden layer of one", {"max_iter": 2}),
    ],
)
@quickly_on_a_cluster
def test_shards_stop_at_the_same_epoch_as_scikit_learn(client, engine, name, params):
    case = Case.of(name, batch_size=240, **params)
    ours = assert_parity(case, **_shared(client, engine, 2))
    assert ours.engine_ == engine
    converged = ours.n_iter_ < case.params["max_iter"]
    assert converged == CONFIGURATIONS[name].converges


@pytest.mark.parametrize(
    ("name", "n_workers"), [("defaults", 2), ("defaults", 3), ("numbers", 2)]
)
@quickly_on_a_cluster
def test_shards_match_in_float32_for_20_epochs(client, engine, name, n_workers):
    case = Case.of(name, max_iter=20, batch_size=240).float32()
    ours = assert_parity(case, **_shared(client, engine, n_workers))
    assert (ours.n_workers_, ours.n_iter_) == (n_workers, 20)
    assert {array.dtype for array in ours.coefs_ + ours.intercepts_} == {
        np.dtype(np.float32)
    }


# Losses that diverge.

DIVERGING = {
    "solver": "sgd",
    "activation": "identity",
    "batch_size": 240,
    "momentum": 0.0,
    "shuffle": False,
    "n_iter_no_change": 100,
}


@pytest.mark.parametrize("engine", ["local", "futures", "peers"])
def test_a_growing_loss_leaves_the_same_curve(client, engine):
    """Finite to the end; with this rate, rounding errors stay small."""
    case = Case.of("numbers", **DIVERGING, learning_rate_init=0.5, max_iter=4)
    ours = assert_parity(case, **_shared(client, engine, 2))
    assert ours.engine_ == engine
    assert ours.loss_curve_[-1] > 1e6 * ours.loss_curve_[0]


@pytest.mark.parametrize("engine", ["local", "futures", "peers"])
@pytest.mark.parametrize("name", ["numbers", "defaults", "counts"])
def test_an_infinite_loss_is_reported_as_by_scikit_learn(client, capsys, name, engine):
    case = Case.of(name, **DIVERGING, learning_rate_init=1e200, max_iter=3)
    ours, theirs = pair(
        case.params | {"verbose": True},
        case.kind,
        **_shared(client, engine, 2),
    )
    results, printed = [], []
    for estimator in (ours, theirs):
        results.append(result_of(lambda e=estimator: e.fit(case.X, case.y)))
        printed.append(capsys.readouterr().out)
    assert results[1].error[0] is ValueError
    assert results[0].error == results[1].error
    assert ours.engine_ == engine
    assert not np.isfinite(ours.loss_curve_[-1])
    np.testing.assert_allclose(ours.loss_curve_, theirs.loss_curve_, rtol=1e-6)
    assert printed[0] == printed[1]
    said = [{category for category, _ in result.warnings} for result in results]
    assert said[1] == {ConvergenceWarning, RuntimeWarning}
    # NumPy's overflow warnings stay on the worker.
    assert said[0] == (said[1] if engine == "local" else {ConvergenceWarning})
