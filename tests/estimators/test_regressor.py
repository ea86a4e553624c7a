"""The regressor's public surface; test_parity compares its results."""

import copy
import inspect
import pickle
import re

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_matrix
from sklearn.base import clone, is_regressor
from sklearn.compose import TransformedTargetRegressor
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils._param_validation import InvalidParameterError

from skdistmlp import DistributedMLPRegressor
from tests.estimators.configurations import Case
from tests.estimators.support import (
    assert_same_answers,
    assert_same_network,
    fit,
    quiet,
    result_of,
)
from tests.marks import only_quick

FUTURES = {"engine": "futures", "n_workers": 2}


# Parameters and attributes.


def _arguments(function):
    parameters = inspect.signature(function).parameters.values()
    return [(p.name, p.kind, p.default) for p in parameters]


def test_parameters_are_those_of_scikit_learn_and_ours():
    assert _arguments(DistributedMLPRegressor) == [
        *_arguments(MLPRegressor),
        ("dropout", inspect.Parameter.KEYWORD_ONLY, 0.0),
        ("weight_decay", inspect.Parameter.KEYWORD_ONLY, 0.01),
        ("rho", inspect.Parameter.KEYWORD_ONLY, 0.99),
        ("max_grad_norm", inspect.Parameter.KEYWORD_ONLY, None),
        ("warmup_steps", inspect.Parameter.KEYWORD_ONLY, 0),
        ("ema_decay", inspect.Parameter.KEYWORD_ONLY, None),
        ("scoring", inspect.Parameter.KEYWORD_ONLY, None),
        ("huber_delta", inspect.Parameter.KEYWORD_ONLY, 1.0),
        ("quantile", inspect.Parameter.KEYWORD_ONLY, 0.5),
        ("client", inspect.Parameter.KEYWORD_ONLY, None),
        ("n_workers", inspect.Parameter.KEYWORD_ONLY, None),
        ("n_replicas", inspect.Parameter.KEYWORD_ONLY, None),
        ("parameter_threshold", inspect.Parameter.KEYWORD_ONLY, None),
        ("engine", inspect.Parameter.KEYWORD_ONLY, "auto"),
        ("checkpoint", inspect.Parameter.KEYWORD_ONLY, None),
    ]


@pytest.mark.parametrize(
    "method", ["fit", "partial_fit", "predict", "score", "get_params", "set_params"]
)
def test_methods_have_the_signatures_of_scikit_learn(method):
    expected = _arguments(getattr(MLPRegressor, method))
    if method in ("fit", "partial_fit"):
        names = "X_val", "y_val", "sample_weight_val"
        expected += [(name, inspect.Parameter.KEYWORD_ONLY, None) for name in names]
    assert _arguments(getattr(DistributedMLPRegressor, method)) == expected


def test_every_parameter_is_documented_and_validated():
    names = DistributedMLPRegressor().get_params()
    described = re.findall(r"^(\w+) : ", inspect.getdoc(DistributedMLPRegressor), re.M)
    assert described[: len(names)] == list(
        inspect.signature(DistributedMLPRegressor).parameters
    )
    assert set(DistributedMLPRegressor._parameter_constraints) == set(names)


def test_the_estimator_is_a_regressor_with_scikit_learns_tags():
    assert is_regressor(DistributedMLPRegressor())
    assert (
        DistributedMLPRegressor().__sklearn_tags__()
        == MLPRegressor().__sklearn_tags__()
    )


@pytest.mark.parametrize(
    "name",
    ["numbers", "early stopping, two columns", "lbfgs, weighted, numbers", "counts"],
)
def test_fitted_attributes_are_those_of_scikit_learn_and_ours(name):
    case = Case.of(name)
    X = pd.DataFrame(case.X).add_prefix("pixel ")
    ours, theirs = case.pair()
    for estimator in (ours, theirs):
        fit(estimator, X, case.y)
    public, found = (
        {a for a in vars(e) if a.endswith("_") and not a.startswith("_")}
        for e in (theirs, ours)
    )
    ours_only = {"engine_", "n_workers_", "n_replicas_", "plan_"}
    if ours.solver != "lbfgs":
        ours_only |= {"validation_loss_curve_", "best_iter_"}
    assert len(public) >= 10
    assert found == public | ours_only
    for attribute in public:
        kind = type(getattr(theirs, attribute))
        value = getattr(ours, attribute)
        assert isinstance(value, float if issubclass(kind, float) else kind), attribute
    described = re.findall(r"^(\w+_) : ", inspect.getdoc(DistributedMLPRegressor), re.M)
    assert found <= set(described)


@pytest.mark.parametrize("loss", ["gamma", "log_loss", None, 2])
def test_unknown_losses_are_refused(loss):
    """As by scikit-learn, but for the names that are listed."""
    case = Case.of("numbers", loss=loss)
    for estimator in case.pair():
        with pytest.raises(
            InvalidParameterError, match="'loss' parameter of"
        ) as raised:
            estimator.fit(case.X, case.y)
        assert repr(loss) in str(raised.value)


# Targets.


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize(
    "y",
    [
        pytest.param(None, id="none"),
        pytest.param(np.full(240, np.nan), id="NaN"),
        pytest.param(np.full((240, 2), np.inf), id="infinity"),
        pytest.param(np.array(["one"] * 240, object), id="words"),
        pytest.param(np.zeros(239), id="too short"),
        pytest.param(np.zeros((240, 2, 2)), id="three dimensions"),
        pytest.param(np.zeros((240, 0)), id="no columns"),
        pytest.param(np.zeros(240) * 1j, id="complex"),
    ],
)
def test_bad_targets_are_refused_as_by_scikit_learn(y, method):
    case = Case.of("numbers")
    ours, theirs = (
        result_of(lambda e=e: getattr(e, method)(case.X, y)) for e in case.pair()
    )
    assert theirs.error is not None
    assert ours.error == theirs.error


def test_string_targets_are_refused():
    """scikit-learn fails in a subtraction."""
    case = Case.of("numbers")
    ours, theirs = case.pair()
    with pytest.raises(TypeError):
        theirs.fit(case.X, np.array(["one"] * 240))
    with pytest.raises(ValueError, match="could not convert string to float"):
        ours.fit(case.X, np.array(["one"] * 240))


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
@pytest.mark.parametrize("solver", ["adam", "lbfgs"])
@pytest.mark.parametrize("name", ["counts", "two columns of counts", "rates"])
def test_poisson_refuses_negative_targets(name, solver, method):
    if (solver, method) == ("lbfgs", "partial_fit"):
        solver = "sgd"
    case = Case.of(name, loss="poisson", solver=solver)
    y = case.y.astype(float)
    y[-1] -= 100
    ours, _ = case.pair()
    with pytest.raises(ValueError, match=f"poisson.*non-negative.* is {y.min()}"):
        getattr(ours, method)(case.X, y)
    assert not hasattr(ours, "coefs_")
    quiet(ours.set_params(loss="squared_error").fit, case.X, y)


def test_poisson_accepts_targets_that_are_all_zero():
    case = Case.of("counts", loss="poisson")
    ours, theirs = case.pair()
    for estimator in (ours, theirs):
        fit(estimator, case.X, np.zeros(240))
    assert_same_network(ours, theirs)
    assert (ours.predict(case.X) > 0).all()


@pytest.mark.parametrize("engine", only_quick(0, cases=["local", "futures", "peers"]))
@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("numbers", "two columns"),
        ("two columns", "numbers"),
        ("two columns", "a column"),
    ],
)
@pytest.mark.parametrize("call", only_quick(0, cases=["partial_fit", "fit"]))
@pytest.mark.filterwarnings("ignore:A column-vector")
def test_another_number_of_outputs_is_refused(client, before, after, call, engine):
    case = Case.of(before, warm_start=call == "fit")
    ours, _ = case.pair(client=client, **FUTURES | {"engine": engine})
    ours.partial_fit(case.X, case.y)
    expected = ours.predict(case.X)
    attributes = dict(vars(ours))
    with pytest.raises(ValueError, match=r"outputs?, but y has \d"):
        quiet(getattr(ours, call), case.X, Case.of(after).y)
    assert all(vars(ours)[name] is value for name, value in attributes.items())
    assert_array_equal(ours.predict(case.X), expected)
    ours.partial_fit(case.X, case.y)


def test_a_new_fit_may_have_another_number_of_outputs():
    one, two = Case.of("numbers"), Case.of("two columns")
    ours, theirs = one.pair()
    for case in (one, two, one):
        for estimator in (ours, theirs):
            fit(estimator, case.X, case.y)
        assert_same_network(ours, theirs)
        assert_same_answers(ours, theirs, case.X, case.y)


# Continued training.


@pytest.mark.parametrize("solver", ["adam", "sgd"])
@pytest.mark.parametrize("name", ["numbers", "two columns", "weighted, poisson"])
def test_partial_fit_matches_scikit_learn(name, solver):
    case = Case.of(name, solver=solver)
    ours, theirs = case.pair()
    for start in (0, 60, 120):
        rows = slice(start, start + 90)
        weight = None if case.sample_weight is None else case.sample_weight[rows]
        for estimator in (ours, theirs):
            estimator.partial_fit(case.X[rows], case.y[rows], weight)
        assert_same_network(ours, theirs)
        ours = pickle.loads(pickle.dumps(ours))
    assert_same_answers(ours, theirs, case.X, case.y)


@pytest.mark.parametrize("name", ["early stopping, numbers", "two columns", "counts"])
def test_a_warm_start_matches_scikit_learn(client, name):
    """On a different engine each time."""
    case = Case.of(name, warm_start=True, batch_size=120, max_iter=2)
    ours, theirs = case.pair(client=client)
    for engine in ("local", "futures", "local"):
        ours.set_params(**FUTURES | {"engine": engine})
        for estimator in (ours, theirs):
            fit(estimator, case.X, case.y)
        assert ours.engine_ == engine
        assert_same_network(ours, theirs)


def test_early_stopping_in_partial_fit_is_refused():
    case = Case.of("early stopping, numbers")
    ours, theirs = (
        result_of(lambda e=e: e.partial_fit(case.X, case.y)) for e in case.pair()
    )
    assert ours.error == theirs.error
    assert "does not support early_stopping" in theirs.error[1]


@pytest.mark.parametrize("n_shards", [1, 3])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("target", ["numbers", "two columns"])
def test_early_stopping_ends_with_the_best_parameters(target, weighted, n_shards):
    """A rate so high that the score goes up and down again."""
    name = f"early stopping, {target}{', weighted' * weighted}"
    case = Case.of(name, learning_rate_init=0.4, max_iter=12)
    ours, theirs = case.pair(engine="local", shares=[1.0] * n_shards)
    fit(ours, case.X, case.y, case.sample_weight)
    fit(theirs, case.X, case.y, case.sample_weight)
    assert_same_network(ours, theirs)
    assert ours.n_workers_ == n_shards
    scores = ours.validation_scores_
    assert 0 < np.argmax(scores) < len(scores) - 1
    assert ours.best_validation_score_ == max(scores)


def test_early_stopping_survives_scores_that_are_not_finite():
    """The outputs overflow in the first epoch; so does the loss."""
    case = Case.of(
        "early stopping, numbers", solver="sgd", learning_rate_init=1e160, max_iter=2
    )
    results, printed = [], []
    for estimator in case.pair(engine="local"):
        with np.errstate(all="ignore"):
            results.append(result_of(lambda e=estimator: e.fit(case.X, case.y)).error)
        printed.append(estimator.validation_scores_)
    assert np.isnan(printed[1]).all()
    assert_array_equal(printed[0], printed[1])
    assert results[0] == results[1]


# Predictions and scores.


@pytest.mark.parametrize("engine", ["local", "futures", "peers"])
@pytest.mark.parametrize(
    ("name", "shape"),
    [("numbers", (240,)), ("two columns", (240, 2)), ("counts", (240,))],
)
def test_predictions_have_the_shape_of_the_targets(client, name, shape, engine):
    case = Case.of(name, max_iter=1, batch_size=240)
    ours, _ = case.pair(client=client, **FUTURES | {"engine": engine})
    predicted = fit(ours, case.X, case.y).predict(case.X)
    assert predicted.shape == case.y.shape == shape
    assert ours.predict(case.X[:1]).shape == (1, *shape[1:])


@pytest.mark.filterwarnings("ignore:A column-vector")
def test_a_single_output_is_predicted_as_one_dimension():
    case = Case.of("a column")
    ours, theirs = case.pair()
    for estimator in (ours, theirs):
        fit(estimator, case.X, case.y)
        assert estimator.predict(case.X).shape == (240,)
    assert ours.score(case.X, case.y) == pytest.approx(theirs.score(case.X, case.y))


@pytest.mark.parametrize("method", ["predict", "score"])
def test_methods_of_an_unfitted_estimator_raise(method):
    case = Case.of("numbers")
    arguments = (case.X,) if method == "predict" else (case.X, case.y)
    ours, theirs = (
        result_of(lambda e=e: getattr(e, method)(*arguments)) for e in case.pair()
    )
    assert theirs.error is not None
    assert ours.error == theirs.error


# Copies, pipelines and searches.


@pytest.mark.parametrize("duplicate", [clone, copy.copy, copy.deepcopy])
def test_duplicates_keep_a_live_client(client, duplicate):
    original = DistributedMLPRegressor("poisson", (4,), client=client, n_workers=2)
    twin = duplicate(original)
    assert type(twin) is DistributedMLPRegressor
    assert twin is not original
    assert twin.client is client
    assert twin.get_params() == original.get_params()


def test_pickling_drops_a_live_client(client):
    case = Case.of("numbers")
    original = fit(case.pair(client=client)[0], case.X, case.y)
    woken = pickle.loads(pickle.dumps(original))
    assert woken.client is None
    assert original.client is client
    assert_array_equal(woken.predict(case.X), original.predict(case.X))


def test_the_regressor_works_in_pipelines_and_searches(client):
    case = Case.of("numbers", max_iter=2, batch_size=120)
    scores = []
    for estimator in case.pair(client=client, **FUTURES):
        pipeline = make_pipeline(
            StandardScaler(),
            TransformedTargetRegressor(estimator, transformer=StandardScaler()),
        )
        name = "transformedtargetregressor__regressor__alpha"
        search = GridSearchCV(pipeline, {name: [0.1, 10.0]}, cv=2, n_jobs=1)
        quiet(search.fit, case.X, case.y)
        scores.append(search.cv_results_["mean_test_score"])
    assert_allclose(scores[0], scores[1], rtol=1e-6)


def test_sparse_targets_are_refused_clearly():
    X = np.arange(6.0).reshape(3, 2)
    with pytest.raises(ValueError, match=r"targets y are sparse; pass y\.toarray\(\)"):
        DistributedMLPRegressor().fit(X, csr_matrix([[1.0, 0], [0, 1], [1, 1]]))


@pytest.mark.parametrize("sizes", [(512, 512), [512]])
def test_sizes_in_the_place_of_the_loss_are_recognised(sizes):
    """Whose place is the first, as in scikit-learn, but not as in the classifier."""
    expected = re.escape(f"Pass hidden_layer_sizes={sizes!r}.")
    with pytest.raises(ValueError, match=expected):
        DistributedMLPRegressor(sizes).fit(np.eye(4), np.arange(4.0))


def test_the_loss_of_large_targets_does_not_overflow_in_float32():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(50, 3)).astype(np.float32)
    y = 3e18 * rng.normal(size=50)
    params = {"max_iter": 3, "random_state": 0}
    ours, theirs = (
        fit(make(**params), X, y) for make in (DistributedMLPRegressor, MLPRegressor)
    )
    assert_allclose(ours.loss_, theirs.loss_, rtol=1e-3)


def test_another_number_of_hidden_layers_is_refused(digits):
    X, y = digits[0][:40], digits[1][:40]
    clf = fit(
        DistributedMLPRegressor(hidden_layer_sizes=(4,), max_iter=1, warm_start=True),
        X,
        y,
    )
    clf.set_params(hidden_layer_sizes=(4, 4))
    with pytest.raises(ValueError, match=r"has hidden layers of \(4,\), but hidden_la"):
        clf.fit(X, y)


def test_other_quantiles_than_those_of_the_network_are_refused():
    case = Case.of("numbers")
    ours = DistributedMLPRegressor("quantile", (9,), max_iter=2, warm_start=True)
    ours.set_params(quantile=[0.1, 0.9])
    fit(ours, case.X, case.y)
    for levels in ([0.1, 0.5, 0.9], 0.5):
        ours.set_params(quantile=levels)
        for call in (ours.fit, ours.partial_fit, ours.score):
            with pytest.raises(
                ValueError, match="the network was trained for 2 outputs"
            ):
                call(case.X, case.y)
