"""The private names of scikit-learn that we use exist and do what we rely on."""

import ast
import importlib.util
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize, rosen, rosen_der
from sklearn import config_context
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils._param_validation import InvalidParameterError
from sklearn.utils.validation import check_is_fitted

from skdistmlp import DistributedMLPClassifier, DistributedMLPRegressor
from skdistmlp.estimators import _sklearn
from skdistmlp.estimators._sklearn import (
    SITE,
    SUMS_OUTPUTS,
    AdamOptimizer,
    CallbackSupportMixin,
    DocumentationLinkMixin,
    HasMethods,
    Interval,
    Options,
    SGDOptimizer,
    StrOptions,
    callbacks_of,
    check_optimize_result,
    check_partial_fit_first_call,
    check_sample_weight,
    fit_context,
    refused_parameters,
    root_context,
)
from tests.estimators import recorder
from tests.sklearn_versions import BEFORE_1_9

PACKAGE = Path(importlib.util.find_spec("skdistmlp").origin).parent


class Fitted(BaseEstimator):
    """Fits anything, if its parameter is valid."""

    _parameter_constraints = {  # noqa: RUF012 (as scikit-learn reads it)
        "size": [
            None,
            Interval(Integral, 1, None, closed="left"),
            Options(Real, {np.inf}),
            StrOptions({"auto"}),
            HasMethods(["scatter", "gather"]),
        ],
        "inner": "no_validation",
    }

    def __init__(self, size=None, inner=None):
        self.size = size
        self.inner = inner

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self):
        self.inner_ = None if self.inner is None else self.inner.fit()
        return self


class Client:
    def scatter(self):
        """Be there."""

    def gather(self):
        """Be there."""


@pytest.mark.parametrize("size", [None, 1, 7, np.int64(2), np.inf, "auto", Client()])
def test_fit_context_lets_valid_parameters_pass(size):
    assert Fitted(size).fit().inner_ is None


@pytest.mark.parametrize("size", [0, -1, 1.5, "local", object(), np.nan])
def test_fit_context_refuses_invalid_parameters(size):
    with pytest.raises(InvalidParameterError, match="'size' parameter of Fitted"):
        Fitted(size).fit()


def test_fit_context_does_not_validate_when_turned_off():
    with config_context(skip_parameter_validation=True):
        assert Fitted(-1).fit().inner_ is None


def test_fit_context_skips_validation_of_nested_estimators():
    assert isinstance(Fitted(1, inner=Fitted(-1)).fit().inner_, Fitted)


def test_an_invalid_parameter_is_a_value_error_and_a_type_error():
    assert issubclass(InvalidParameterError, ValueError)
    assert issubclass(InvalidParameterError, TypeError)


def test_the_first_call_of_partial_fit_sets_the_classes():
    estimator = Fitted()
    assert check_partial_fit_first_call(estimator, ["b", "a"])
    assert estimator.classes_.tolist() == ["a", "b"]
    assert not check_partial_fit_first_call(estimator, None)
    assert not check_partial_fit_first_call(estimator, ["a", "b"])
    with pytest.raises(ValueError, match="is not the same as on last call"):
        check_partial_fit_first_call(estimator, ["a", "c"])


def test_the_first_call_of_partial_fit_needs_classes():
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        check_partial_fit_first_call(Fitted(), None)


@pytest.mark.parametrize(
    ("weight", "dtype"),
    [
        (np.array([1, 0, 2], np.float32), np.float32),
        (np.array([1, 0, 2], np.float64), np.float64),
        (np.array([1, 0, 2]), np.float64),
        ([1, 0, 2], np.float64),
    ],
)
def test_sample_weights_become_floating(weight, dtype):
    checked = check_sample_weight(weight, np.ones((3, 2)))
    assert checked.dtype == dtype
    assert checked.tolist() == [1, 0, 2]


def test_a_number_is_the_weight_of_every_sample():
    assert check_sample_weight(2.0, np.ones((3, 2))).tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    "weight", [[1.0, 2.0], [[1.0], [1.0], [1.0]], [1.0, np.nan, 1.0]]
)
def test_bad_sample_weights_are_refused(weight):
    with pytest.raises(ValueError, match=r"(?i)sample.?weight"):
        check_sample_weight(weight, np.ones((3, 2)))


def _optimised(**options):
    """Minimize a narrow valley, starting far away."""
    return minimize(
        rosen, [-3.0, 4.0], method="L-BFGS-B", jac=rosen_der, options=options
    )


def test_a_converged_optimization_returns_its_iterations():
    result = _optimised()
    assert check_optimize_result("lbfgs", result, 500) == result.nit > 3


@pytest.mark.parametrize(
    ("options", "advice"), [({"maxiter": 3}, True), ({"maxfun": 2}, False)]
)
def test_an_optimization_that_did_not_converge_causes_a_warning(options, advice):
    result = _optimised(**options)
    with pytest.warns(ConvergenceWarning, match="lbfgs failed to converge") as caught:
        assert check_optimize_result("lbfgs", result, 3) == result.nit
    (warning,) = caught
    assert result.message in str(warning.message)
    assert ("Increase the number of iterations" in str(warning.message)) == advice


def test_check_is_fitted_calls_sklearn_is_fitted():
    class Asked(Fitted):
        def __sklearn_is_fitted__(self):
            return hasattr(self, "weights")

    estimator = Asked().fit()
    with pytest.raises(NotFittedError):
        check_is_fitted(estimator)
    estimator.weights = []
    check_is_fitted(estimator)


def _weights_and_gradients():
    return [np.array([[1.0, 2.0]]), np.array([3.0])], [
        np.array([[0.5, -1.0]]),
        np.array([2.0]),
    ]


def test_adam_stores_moments_the_step_count_and_the_last_rate():
    weights, gradients = _weights_and_gradients()
    adam = AdamOptimizer(weights, 0.1, 0.5, 0.8, 1e-3)
    assert set(vars(adam)) == {
        *("learning_rate_init", "learning_rate", "beta_1", "beta_2", "epsilon"),
        *("t", "ms", "vs"),
    }
    assert (adam.t, adam.learning_rate) == (0, 0.1)
    for _ in range(2):
        adam.update_params(weights, gradients)
    assert adam.t == 2
    assert adam.learning_rate == pytest.approx(0.1 * (1 - 0.8**2) ** 0.5 / (1 - 0.5**2))
    for first, second, gradient in zip(adam.ms, adam.vs, gradients, strict=True):
        np.testing.assert_allclose(first, (1 - 0.5**2) * gradient)
        np.testing.assert_allclose(second, (1 - 0.8**2) * gradient**2)


def test_sgd_stores_velocities_and_the_next_rate():
    weights, gradients = _weights_and_gradients()
    sgd = SGDOptimizer(weights, 0.1, "invscaling", 0.5, False, 0.25)
    assert set(vars(sgd)) == {
        *("learning_rate_init", "learning_rate", "lr_schedule", "momentum"),
        *("nesterov", "power_t", "velocities"),
    }
    for _ in range(2):
        sgd.update_params(weights, gradients)
    for velocity, gradient in zip(sgd.velocities, gradients, strict=True):
        np.testing.assert_allclose(velocity, -0.15 * gradient)
    sgd.iteration_ends(15)
    assert sgd.learning_rate == pytest.approx(0.1 / 16**0.25)


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("mlp", [MLPClassifier, MLPRegressor])
@pytest.mark.parametrize("solver", ["adam", "sgd", "lbfgs"])
def test_scikit_learns_networks_have_exactly_these_private_attributes(
    mlp, solver, early_stopping
):
    X = np.linspace(0, 1, 60).reshape(30, 2)
    fitted = mlp(
        hidden_layer_sizes=(3,),
        solver=solver,
        max_iter=3,
        early_stopping=early_stopping,
        random_state=0,
    )
    with pytest.warns(ConvergenceWarning):
        fitted.fit(X, np.arange(30) % 3)
    expected = {"_random_state", "_best_coefs", "_best_intercepts"}
    if mlp is MLPClassifier:
        expected |= {"_label_binarizer"}
    if solver == "lbfgs":
        expected |= {"_coef_indptr", "_intercept_indptr"}
    else:
        expected |= {"_optimizer", "_no_improvement_count"}
        optimizer = AdamOptimizer if solver == "adam" else SGDOptimizer
        assert type(fitted._optimizer) is optimizer
        if early_stopping:
            assert fitted._best_coefs is fitted.coefs_
            assert fitted._best_intercepts is fitted.intercepts_
    assert {name for name in vars(fitted) if name.startswith("_")} == expected


def test_parameters_are_refused_one_by_one():
    params = {"activation": "gelu", "solver": "sgd", "alpha": -1, "shuffle": "no"}
    refused = ["activation", "alpha", "shuffle"]
    assert refused_parameters(MLPClassifier, params) == refused
    valid = MLPClassifier().get_params()
    assert refused_parameters(MLPClassifier, valid) == []
    with pytest.raises(InvalidParameterError):
        MLPClassifier(activation="gelu").fit([[0], [1]], [0, 1])


class Told(Fitted, CallbackSupportMixin):
    """Begins and ends the task of its fit."""

    @fit_context(prefer_skip_nested_validation=True)
    def fit(self):
        context = root_context(self, "fitting", 2)
        assert context.max_subtasks == 2
        context.call_on_fit_task_begin(estimator=self)
        context.call_on_fit_task_end(estimator=self)
        return self


@pytest.mark.skipif(BEFORE_1_9, reason="scikit-learn before 1.9")
def test_callbacks_are_set_up_by_the_root_context_and_torn_down_by_the_fit_context():
    callback = recorder.Told()
    told = Told()
    assert callbacks_of(told) == []
    before = dict(vars(told.set_callbacks(callback)))
    assert callbacks_of(told) == [callback]
    told.fit()
    hooks = ["setup", "begin", "end", "teardown"]
    assert callback.hooks == [(hook, "fitting", 0) for hook in hooks]
    assert vars(told) == before


def _private_names(source: str) -> list[str]:
    """Return the private names that a module imports from scikit-learn."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            names.append(ast.unparse(node))
    return [
        name
        for name in names
        if name.split(".")[0] == "sklearn"
        and any(part.startswith("_") for part in name.split("."))
    ]


def test_the_scan_finds_private_names():
    assert _private_names("from sklearn.base import clone\nimport numpy._core") == []
    assert _private_names(
        "import sklearn._loss\n"
        "from sklearn.base import _fit_context as fit_context\n"
        "from sklearn.utils._param_validation import Interval\n"
        "sklearn._config"
    ) == [
        "sklearn._loss",
        "sklearn.base._fit_context",
        "sklearn.utils._param_validation.Interval",
        "sklearn._config",
    ]


def test_private_names_are_imported_in_one_module_only():
    modules = sorted(PACKAGE.rglob("*.py"))
    found = {path for path in modules if _private_names(path.read_text("utf-8"))}
    assert found == {Path(_sklearn.__file__)}
    assert len(modules) > 10


def test_every_private_name_is_tested_here():
    tried = {name for name in _sklearn.__all__ if name in globals()}
    assert tried == set(_sklearn.__all__)


@pytest.mark.parametrize("cls", [DistributedMLPClassifier, DistributedMLPRegressor])
def test_the_html_representation_links_to_the_site(cls):
    page = f'href="{SITE}/api/skdistmlp.{cls.__name__}.html"'
    for shown in (cls(), make_pipeline(StandardScaler(), cls())):
        assert page in shown._repr_html_()


def test_the_loss_of_several_outputs_is_known_to_be_their_mean_or_their_sum():
    """Of a network that predicts zero: its loss is that of its intercepts."""
    X, y = np.zeros((4, 1)), np.full((4, 2), 3.0)
    mlp = MLPRegressor(hidden_layer_sizes=(), max_iter=1, solver="sgd", random_state=0)
    mlp.partial_fit(X, y)
    start = np.random.RandomState(0).uniform(-(2**0.5), 2**0.5, 4)[2:]
    by_output = 0.5 * (start - 3) ** 2
    expected = by_output.sum() if SUMS_OUTPUTS else by_output.mean()
    assert mlp.loss_ == pytest.approx(expected, rel=1e-3)


def test_estimators_of_other_packages_have_no_such_link():
    for module, linked in (("skdistmlp.estimators", True), ("theirs", False)):
        bases = (DocumentationLinkMixin, BaseEstimator)
        cls = type("Documented", bases, {"__module__": module})
        assert (SITE in cls()._repr_html_()) is linked
