"""The answers of scikit-learn's MLPClassifier, on one shard and on many."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from tests.estimators.support import (
    CONFIGURATIONS,
    Case,
    assert_parity,
    assert_same_network,
    fit,
    pair,
)


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_local_is_scikit_learn(name):
    case = Case.of(name)
    ours = assert_parity(
        case.clf_params, case.X, case.y, case.sample_weight, engine="local"
    )
    converged = ours.n_iter_ < case.clf_params["max_iter"]
    assert converged == CONFIGURATIONS[name].converges


FLOAT32 = [
    "defaults",
    "logistic, sgd, several labels",
    "tanh, adam, two classes",
    "early stopping, ten classes, weighted",
    "adaptive, momentum 0.7, nesterov True",
    "no hidden layer",
]


@pytest.mark.parametrize("name", FLOAT32)
def test_local_in_float32_for_20_epochs(name):
    case = Case.of(name, max_iter=20, n_iter_no_change=100)
    X = case.X.astype(np.float32)
    ours = assert_parity(case.clf_params, X, case.y, case.sample_weight, engine="local")
    assert ours.n_iter_ == 20
    assert {array.dtype for array in ours.coefs_ + ours.intercepts_} == {
        np.dtype(np.float32)
    }


@pytest.mark.parametrize("dtype", [np.int64, np.uint8, np.float16, np.bool_])
def test_other_dtypes_train_in_float64(dtype):
    case = Case.of("defaults")
    X = (case.X * 16).astype(dtype)
    ours = assert_parity(case.clf_params, X, case.y)
    assert ours.coefs_[0].dtype == np.float64


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param(np.asfortranarray, id="columns"),
        pytest.param(lambda X: np.repeat(X, 2, axis=0)[::2], id="every second row"),
        pytest.param(lambda X: X[::-1, ::-1].copy()[::-1, ::-1], id="backwards"),
        pytest.param(np.ndarray.tolist, id="lists"),
    ],
)
def test_the_layout_of_x_does_not_matter(layout):
    case = Case.of("defaults")
    X = layout(case.X)
    assert_array_equal(X, case.X)
    assert_parity(case.clf_params, X, case.y, engine="local")


def test_read_only_input_is_enough():
    case = Case.of("weighted, sgd")
    for array in (case.X, case.y, case.sample_weight):
        array.flags.writeable = False
    assert_parity(case.clf_params, case.X, case.y, case.sample_weight)


@pytest.mark.parametrize("weight", [2.0, [0, 1, 2] * 80, np.arange(240), -np.ones(240)])
def test_weights_of_any_kind(weight):
    case = Case.of("defaults")
    ours, theirs = pair(case.clf_params, engine="local")
    for clf in (ours, theirs):
        fit(clf, case.X, case.y, weight)
    assert_same_network(ours, theirs)


def test_prediction_of_another_dtype_than_the_network():
    case = Case.of("defaults")
    ours, theirs = pair(case.clf_params, engine="local")
    for clf in (ours, theirs):
        fit(clf, case.X, case.y)
    for dtype in (np.float32, np.int64):
        X = (case.X * 16).astype(dtype)
        outputs = ours.predict_proba(X)
        assert outputs.dtype == theirs.predict_proba(X).dtype
        np.testing.assert_allclose(outputs, theirs.predict_proba(X), rtol=1e-6)


def test_more_rows_than_one_block_of_a_prediction():
    case = Case.of("defaults")
    ours, theirs = pair(case.clf_params, engine="local")
    for clf in (ours, theirs):
        fit(clf, case.X, case.y)
    X = np.tile(case.X, (18, 1))[:4001]  # two blocks, and one row
    np.testing.assert_allclose(
        ours.predict_proba(X), theirs.predict_proba(X), rtol=1e-6, atol=1e-12
    )


def test_more_rows_than_one_block_of_the_validation():
    case = Case.of("early stopping, ten classes, weighted", n_rows=1797)
    params = case.clf_params | {"validation_fraction": 0.7, "max_iter": 2}
    assert_parity(params, case.X, case.y, case.sample_weight, engine="local")


@pytest.mark.parametrize("early_stopping", [False, True])
def test_a_random_state_is_drawn_on_as_often_as_by_scikit_learn(early_stopping):
    case = Case.of("defaults")
    ours, theirs = pair(
        case.clf_params
        | {
            "random_state": np.random.RandomState(7),
            "early_stopping": early_stopping,
        }
    )
    for clf in (ours, theirs):
        fit(clf, case.X, case.y)
    assert ours.random_state.randint(2**31) == theirs.random_state.randint(2**31)


@pytest.mark.parametrize("n_workers", [1, 2, 3])
@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("defaults", {"hidden_layer_sizes": (20, 11)}),
        ("three hidden layers", {"activation": "tanh", "alpha": 0.5}),
        ("early stopping, two strings, weighted", {"solver": "sgd"}),
        ("weighted, several labels", {"activation": "logistic"}),
    ],
)
def test_futures_are_scikit_learn(client, name, params, n_workers):
    case = Case.of(name, n_rows=1797, batch_size=600, max_iter=2, **params)
    ours = assert_parity(
        case.clf_params,
        case.X,
        case.y,
        case.sample_weight,
        engine="futures",
        parameter_threshold=0,
        n_workers=n_workers,
        client=client,
    )
    assert (ours.engine_, ours.n_shards_) == ("futures", n_workers)


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("adaptive, which stops", {"tol": 1.0, "learning_rate_init": 1e-5}),
        ("early stopping, which stops", {"tol": 1.0}),
        ("no hidden layer", {"max_iter": 2}),
        ("a hidden layer of one", {"max_iter": 2}),
    ],
)
def test_futures_stop_where_scikit_learn_does(client, name, params):
    case = Case.of(name, batch_size=240, **params)
    ours = assert_parity(
        case.clf_params,
        case.X,
        case.y,
        engine="futures",
        parameter_threshold=0,
        n_workers=2,
        client=client,
    )
    assert ours.engine_ == "futures"
    converged = ours.n_iter_ < case.clf_params["max_iter"]
    assert converged == CONFIGURATIONS[name].converges


@pytest.mark.parametrize("n_workers", [2, 3])
def test_futures_in_float32_for_20_epochs(client, n_workers):
    case = Case.of("defaults", max_iter=20, batch_size=240)
    ours = assert_parity(
        case.clf_params,
        case.X.astype(np.float32),
        case.y,
        engine="futures",
        parameter_threshold=0,
        n_workers=n_workers,
        client=client,
    )
    assert (ours.n_shards_, ours.n_iter_) == (n_workers, 20)
    assert {array.dtype for array in ours.coefs_ + ours.intercepts_} == {
        np.dtype(np.float32)
    }


_FRACTION = st.floats(0, 0.99)

PARAMS = st.fixed_dictionaries(
    {
        "hidden_layer_sizes": st.lists(st.integers(1, 6), max_size=3),
        "activation": st.sampled_from(["identity", "logistic", "tanh", "relu"]),
        "solver": st.sampled_from(["sgd", "adam"]),
        "alpha": st.sampled_from([0.0, 1e-4, 1.0]),
        "batch_size": st.just("auto") | st.integers(1, 60),
        "learning_rate": st.sampled_from(["constant", "invscaling", "adaptive"]),
        "learning_rate_init": st.floats(1e-5, 0.1),
        "power_t": st.floats(0, 1),
        "max_iter": st.integers(1, 12),
        "shuffle": st.booleans(),
        "random_state": st.integers(0, 1000),
        "tol": st.sampled_from([0.0, 1e-4, 0.03]),
        "momentum": _FRACTION,
        "nesterovs_momentum": st.booleans(),
        "early_stopping": st.booleans(),
        "validation_fraction": st.floats(0.1, 0.5),
        "beta_1": _FRACTION,
        "beta_2": _FRACTION,
        "n_iter_no_change": st.integers(1, 4),
    }
)


@given(
    params=PARAMS,
    n_samples=st.integers(1, 50),
    n_features=st.integers(1, 5),
    target=st.sampled_from([2, 4, "labels"]),
    weighted=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=150)
def test_random_configurations(params, n_samples, n_features, target, weighted, seed):
    """Errors count as answers: a set too small to be split, a class too rare."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, (n_samples, n_features))
    if target == "labels":
        y = rng.integers(0, 2, (n_samples, 3))
    else:
        y = rng.integers(0, target, n_samples)
    weight = rng.uniform(0.1, 2, n_samples) if weighted else None
    assert_parity(params, X, y, weight, engine="local")
