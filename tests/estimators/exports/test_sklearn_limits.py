"""Networks that were trained as scikit-learn cannot, exported to it all the same."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.neural_network import MLPClassifier, MLPRegressor

from skdistmlp import DistributedMLPClassifier
from skdistmlp.estimators.exports.sklearn_limits import SKLEARN_CHOICES
from skdistmlp.nn.update_rules import UPDATE_RULES
from tests.estimators.configurations import ESTIMATORS
from tests.estimators.exports.networks import fitted
from tests.estimators.support import fit, quiet
from tests.nn.softsign import SOFTSIGN

DEFAULTS = {**MLPClassifier().get_params(), "loss": "squared_error"}


def half(fraction):
    return 1 - fraction / 2


TRAININGS = {
    "one name per layer": {"activation": ["tanh", "tanh"]},
    "dropout": {"dropout": 0.25},
}
"""Parameters that scikit-learn lacks, of networks that it can predict with."""

NEW_PARAMETERS = {
    "adamw": {"solver": "adamw", "weight_decay": 0.1},
    "rmsprop": {"solver": "rmsprop"},
    "nadam": {"solver": "nadam"},
    "clipping": {"max_grad_norm": 0.1},
    "cosine": {"learning_rate": "cosine"},
    "cosine, sgd": {"learning_rate": "cosine", "solver": "sgd"},
    "one cycle, sgd": {"learning_rate": "one_cycle", "solver": "sgd"},
    "a function, sgd": {"learning_rate": half, "solver": "sgd"},
    "warm-up": {"warmup_steps": 3},
    "average": {"ema_decay": 0.9},
    "label smoothing": {"label_smoothing": 0.1},
    "absolute error": {"loss": "absolute_error"},
    "huber": {"loss": "huber", "huber_delta": 0.5},
    "one quantile": {"loss": "quantile", "quantile": 0.9},
}


def has(kind, params):
    return params.keys() <= ESTIMATORS[kind][0]().get_params().keys()


CASES = {
    f"{kind}, {name}": (kind, params)
    for kind in ESTIMATORS
    for name, params in (TRAININGS | NEW_PARAMETERS).items()
    if has(kind, params)
}


@pytest.mark.parametrize(("kind", "params"), CASES.values(), ids=CASES)
def test_scikit_learn_predicts_the_same_and_can_train_further(kind, params):
    name = {"classifier": "ten classes", "regressor": "numbers"}[kind]
    ours, X = fitted(name, **params)
    mlp = ours.to_sklearn()
    assert type(mlp) is {"classifier": MLPClassifier, "regressor": MLPRegressor}[kind]
    assert_array_equal(mlp.predict(X), ours.predict(X))
    if kind == "classifier":
        assert_array_equal(mlp.predict_proba(X), ours.predict_proba(X))
    for parameter, value in mlp.get_params().items():
        its = getattr(ours, parameter)
        known = SKLEARN_CHOICES.get(parameter, [])
        if parameter == "activation":
            assert value == (its if isinstance(its, str) else its[0])
        elif parameter in SKLEARN_CHOICES and its not in known:
            assert value == DEFAULTS[parameter]
        else:
            assert value == its
    before = [coef.copy() for coef in ours.coefs_]
    y = np.resize(getattr(ours, "classes_", np.arange(7.0)), len(X))
    quiet(mlp.partial_fit, X, y)
    fit(mlp.set_params(warm_start=True), X, y)
    assert len(mlp.loss_curve_) > len(ours.loss_curve_) + 1
    assert (mlp.coefs_[0] != ours.coefs_[0]).any()
    assert_array_equal(ours.coefs_[0], before[0])


@pytest.mark.parametrize("solver", UPDATE_RULES)
def test_only_an_optimizer_that_scikit_learn_has_is_exported(solver):
    ours, _ = fitted("ten classes", solver=solver)
    assert hasattr(ours.to_sklearn(), "_optimizer") == (solver in ("adam", "sgd"))


def test_the_optimizer_of_averaged_parameters_is_not_exported():
    ours, X = fitted("ten classes", ema_decay=0.9)
    mlp = ours.to_sklearn()
    assert not hasattr(mlp, "_optimizer")
    assert_array_equal(mlp.predict_proba(X), ours.predict_proba(X))
    assert (ours._raw_parameters[: mlp.coefs_[0].size] != mlp.coefs_[0].ravel()).any()


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", half])
def test_a_schedule_that_scikit_learn_lacks_becomes_a_constant_rate(schedule):
    ours, _ = fitted(
        "ten classes", solver="sgd", learning_rate=schedule, learning_rate_init=0.01
    )
    mlp = ours.to_sklearn()
    optimizer = mlp._optimizer
    assert (mlp.learning_rate, optimizer.lr_schedule) == ("constant", "constant")
    assert (optimizer.learning_rate, optimizer.learning_rate_init) == (0.01, 0.01)
    momenta = ours._optimizer_state.moments[0]
    assert_array_equal(optimizer.velocities[0].ravel(), momenta[: mlp.coefs_[0].size])


def test_an_activation_that_scikit_learn_lacks_is_named():
    for activation, named in (
        ("gelu", "'gelu'"),
        (["relu", "mish"], "'mish'"),
        (SOFTSIGN, r"Activation\(softsign"),
    ):
        clf, _ = fitted("ten classes", activation=activation)
        with pytest.raises(
            ValueError,
            match=rf"lacks the activation {named}.*identity, .*to_onnx\(\) or to_torch",
        ):
            clf.to_sklearn()


def test_different_activations_are_named():
    clf, _ = fitted("ten classes", activation=("relu", "tanh"))
    with pytest.raises(ValueError, match=r"different .*they are 'relu', 'tanh'"):
        clf.to_sklearn()


def test_several_quantiles_are_named():
    regressor, _ = fitted("numbers", loss="quantile", quantile=[0.1, 0.9])
    with pytest.raises(
        ValueError, match=r"lacks the output activation 'quantiles'.*exp, ident.*to_onn"
    ):
        regressor.to_sklearn()


@pytest.mark.parametrize(
    ("kind", "params", "is_reset"),
    [
        ("classifier", {}, False),
        ("classifier", {"label_smoothing": 0.1}, True),
        ("classifier", {"label_smoothing": 0.1, "early_stopping": True}, True),
        ("classifier", {"scoring": "f1_macro", "early_stopping": True}, True),
        ("regressor", {"loss": "huber"}, True),
        ("regressor", {"loss": "poisson"}, False),
    ],
)
def test_a_best_value_is_exported_if_it_means_the_same(kind, params, is_reset):
    name = {"classifier": "ten classes", "regressor": "counts"}[kind]
    ours, X = fitted(name, warm_start=True, **params)
    mlp = ours.to_sklearn()
    assert mlp.loss_curve_ == ours.loss_curve_
    if params.get("early_stopping"):
        assert (mlp.best_loss_, mlp.best_validation_score_) == (None, -np.inf)
    else:
        assert mlp.best_loss_ == (np.inf if is_reset else ours.best_loss_)
    fit(mlp, X, np.resize(getattr(ours, "classes_", np.arange(7)), len(X)))
    assert len(mlp.loss_curve_) == 2 * ours.max_iter


def test_a_best_score_of_rows_of_its_own_is_not_exported():
    """scikit-learn holds out others, whose scores do not compare with it."""
    ours, X = fitted("ten classes", warm_start=True, early_stopping=True)
    kept = ours.to_sklearn()
    assert kept.best_validation_score_ == ours.best_validation_score_
    y = np.resize(ours.classes_, len(X))
    fit(ours, X, y, X_val=X, y_val=y)
    assert ours.to_sklearn().best_validation_score_ == -np.inf
    assert pickle.loads(pickle.dumps(ours)).to_sklearn().best_validation_score_ < 0


def test_without_hidden_layers_any_activation_is_exported():
    clf, X = fitted("no hidden layer, two classes", activation="gelu")
    mlp = clf.to_sklearn()
    assert mlp.activation == "relu"
    assert_array_equal(mlp.predict_proba(X), clf.predict_proba(X))


def test_a_round_trip_keeps_what_scikit_learn_has():
    clf, X = fitted("ten classes", activation=["tanh", "tanh"], dropout=0.5)
    back = DistributedMLPClassifier.from_sklearn(clf.to_sklearn())
    assert (back.activation, back.dropout) == ("tanh", 0.0)
    assert_allclose(back.predict_proba(X), clf.predict_proba(X), rtol=1e-12)


def test_training_continues_with_dropout_after_an_import():
    mlp = fit(MLPClassifier((8,), max_iter=2, random_state=0), np.eye(6), np.arange(6))
    plain, dropped = (
        DistributedMLPClassifier.from_sklearn(mlp, dropout=dropout).partial_fit(
            np.eye(6), np.arange(6)
        )
        for dropout in (0.0, 0.5)
    )
    quiet(mlp.partial_fit, np.eye(6), np.arange(6))
    assert_allclose(plain.coefs_[0], mlp.coefs_[0], rtol=1e-9)
    assert not np.allclose(dropped.coefs_[0], mlp.coefs_[0], rtol=1e-9)
