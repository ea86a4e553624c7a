"""Fits to compare, what has no counterpart in scikit-learn, and differences."""

import math

import numpy as np
import pytest
from scipy import sparse

from skdistmlp import DistributedMLPClassifier, DistributedMLPRegressor
from skdistmlp.parity.fits import Answer, FitData, Fits, differences

X, Y = np.random.default_rng(0).standard_normal((40, 5)), np.arange(40) % 3


def fits(estimator, X=X, n_epochs=2, **fit_params):
    data = FitData(X, Y, fit_params)
    return Fits(estimator, n_epochs, data, data, None)


def as_series(values):
    return pytest.importorskip("pandas").Series(values)


def answer(**changes):
    fields = {
        "n_workers": 1,
        "n_replicas": 1,
        "layers": [np.array([0.5, -2.0]), np.array([1e-3, 1e-9])],
        "losses": {"loss_curve_": np.array([4.0, 1.0])},
        "predictions": np.array([[0.25, 100.0], [0.75, -400.0]]),
    }
    return Answer(**{**fields, **changes})


@pytest.mark.parametrize(
    ("estimator", "named"),
    [
        (DistributedMLPClassifier(), ()),
        (
            DistributedMLPClassifier(
                client="tcp://192.0.2.1:1",
                n_workers=2,
                parameter_threshold=0,
                engine="peers",
            ),
            (),
        ),
        (DistributedMLPRegressor("poisson", activation="tanh", solver="sgd"), ()),
        (
            DistributedMLPClassifier(class_weight="balanced"),
            ("class_weight='balanced'",),
        ),
        (DistributedMLPClassifier(activation="gelu"), ("activation='gelu'",)),
        (
            DistributedMLPClassifier((5, 5), ["relu", "tanh"], solver="adamw"),
            ("activation=['relu', 'tanh']", "solver='adamw'"),
        ),
        (DistributedMLPClassifier((5, 5), activation=["relu", "relu"]), ()),
        (DistributedMLPClassifier(activation=["gelu"]), ("activation=['gelu']",)),
        (DistributedMLPRegressor("huber"), ("loss='huber'",)),
    ],
)
def test_what_scikit_learn_lacks_or_refuses_is_named(estimator, named):
    assert fits(estimator).without_counterpart() == named


def test_a_parameter_of_a_later_version_is_named_where_it_is_no_default():
    class Later(DistributedMLPClassifier):
        def __init__(self, rate=0.0):
            super().__init__()
            self.rate = rate

    assert fits(Later()).without_counterpart() == ()
    assert fits(Later(0.5)).without_counterpart() == ("rate=0.5",)
    rates = np.array([0.0, 0.5])
    assert fits(Later(rates)).without_counterpart() == (f"rate={rates!r}",)


def test_a_long_value_is_cut():
    weights = dict.fromkeys(range(1000), 1.0)
    (named,) = fits(
        DistributedMLPClassifier(class_weight=weights)
    ).without_counterpart()
    assert named.startswith("class_weight={0: 1.0, ")
    assert len(named) < 80


def test_what_only_our_fit_takes_is_named():
    fit = fits(DistributedMLPClassifier(), sample_weight=np.ones(40), X_val=X)
    assert fit.without_counterpart() == ("X_val",)


@pytest.mark.parametrize(
    ("random_state", "seed"),
    [(None, 0), (3, 3), (np.int64(3), 3), (np.random.RandomState(3), 218175338)],
)
def test_all_fits_have_one_seed(random_state, seed):
    clf = DistributedMLPClassifier((3,), random_state=random_state)
    fit = fits(clf)
    assert fit.seed == fits(clf).seed == seed
    theirs, ours = fit.of_scikit_learn(), fit.of("local")
    assert differences(ours, theirs, True) == pytest.approx((0, 0, 0), abs=1e-12)
    assert (
        max(differences(ours, fits(clf.set_params(random_state=9)).of("local"), True))
        > 0.1
    )


def test_the_estimator_is_left_alone():
    clf = DistributedMLPClassifier((3,), verbose=True, max_iter=50)
    before = dict(vars(clf))
    fits(clf).of("local")
    assert vars(clf) == before


def test_fits_are_quiet_and_as_long_as_asked(capsys):
    clf = DistributedMLPClassifier((3,), verbose=True, max_iter=50)
    for answer in (fits(clf).of("local"), fits(clf).of_scikit_learn()):
        assert len(answer.losses["loss_curve_"]) == 2
    assert capsys.readouterr().out == ""


def test_sample_weights_reach_both():
    fit = fits(DistributedMLPClassifier((3,)), sample_weight=np.linspace(0, 2, 40))
    theirs = fit.of_scikit_learn()
    assert differences(fit.of("local"), theirs, True) == pytest.approx(
        (0,) * 3, abs=1e-12
    )
    unweighted = fits(DistributedMLPClassifier((3,))).of("local")
    assert differences(unweighted, theirs, True)[0] > 1e-4


@pytest.mark.parametrize(
    ("X", "dtype"),
    [
        (X, "float64"),
        (X.astype(np.float32), "float32"),
        (X.astype(int), "float64"),
        (sparse.csr_array(X.astype(np.float32)), "float32"),
        (X.tolist(), "float64"),
    ],
)
def test_the_dtype_is_that_of_training(X, dtype):
    fit = fits(DistributedMLPClassifier((3,)), X)
    assert fit.dtype == dtype
    assert fit.of("local").layers[0].dtype == dtype


@pytest.mark.usefixtures("not_yet_warned")
def test_the_engine_has_to_be_the_one_that_was_asked_for():
    with (
        pytest.warns(UserWarning, match="needs a cluster"),
        pytest.raises(RuntimeError, match="'peers' was asked for, but local trained"),
    ):
        fits(DistributedMLPClassifier((3,))).of("peers", 2)


# Differences.


def test_equal_answers_do_not_differ():
    assert differences(answer(), answer(), False) == (0, 0, 0)


def test_parameters_are_compared_by_the_norm_of_their_layer():
    before = answer(layers=[np.array([3.0, -4.0]), np.array([3e-3, 4e-3])])
    after = answer(layers=[np.array([3.0, -4.0]), np.array([3e-3, 4.5e-3])])
    assert differences(after, before, False) == (pytest.approx(0.1), 0, 0)
    after = answer(layers=[np.array([3.3, -4.4]), np.array([3e-3, 4e-3])])
    assert differences(after, before, False) == (pytest.approx(0.1), 0, 0)


def test_a_parameter_without_a_gradient_does_not_stand_out():
    """Adam moves it by the learning rate, whichever way rounding goes."""
    before = answer(layers=[np.full(10**6, 0.1)])
    layer = before.layers[0].copy()
    layer[0] += 1e-3
    found, _, _ = differences(answer(layers=[layer]), before, False)
    assert found == pytest.approx(1e-5)


@pytest.mark.parametrize(
    "convert", [np.asarray, list, as_series], ids=["array", "list", "series"]
)
def test_targets_of_a_regressor_are_converted_to_float32(convert):
    X32, y = X.astype(np.float32), convert(Y * 1.1)
    data = FitData(X32, y, {})
    fit = Fits(DistributedMLPRegressor(hidden_layer_sizes=(9,)), 9, data, data, None)
    assert fit.match_targets()
    assert type(fit.given.y) is (np.ndarray if convert is list else type(y))
    assert {np.asarray(d.y).dtype for d in (fit.here, fit.given)} == {np.dtype("f4")}
    assert not fit.match_targets()
    found = differences(fit.of("local"), fit.of_scikit_learn(), False)
    assert found == pytest.approx((0,) * 3, abs=1e-5)


@pytest.mark.parametrize(
    "fit",
    [
        fits(DistributedMLPRegressor()),
        fits(DistributedMLPClassifier(), X.astype(np.float32)),
    ],
    ids=["float64", "classes"],
)
def test_other_targets_stay(fit):
    assert not fit.match_targets()
    assert fit.here.y is Y


def test_differences_of_losses_are_relative_to_the_largest():
    changed = answer(losses={"loss_curve_": np.array([4.0, 1.1])})
    assert differences(changed, answer(), False) == (0, pytest.approx(0.025), 0)


def test_curves_that_only_one_has_are_left_out():
    more = {**answer().losses, "validation_loss_curve_": np.ones(2)}
    assert differences(answer(losses=more), answer(), False) == (0, 0, 0)
    other = {**answer().losses, "validation_loss_curve_": np.zeros(2)}
    assert differences(answer(losses=more), answer(losses=other), False)[1] == 1


def test_differences_of_predictions_are_relative_to_the_largest_of_the_output():
    changed = answer(predictions=np.array([[0.25, 100.0], [0.75, -399.0]]))
    assert differences(changed, answer(), False) == (0, 0, pytest.approx(1 / 400))


def test_probabilities_are_compared_as_they_are():
    before = answer(predictions=np.array([[1e-9, 1 - 1e-9]]))
    after = answer(predictions=np.array([[2e-9, 1 - 2e-9]]))
    assert differences(after, before, True) == (0, 0, pytest.approx(1e-9))


@pytest.mark.parametrize("curve", [[4.0], [4.0, math.nan]])
def test_curves_of_other_lengths_or_without_a_number_differ_infinitely(curve):
    changed = answer(losses={"loss_curve_": np.array(curve)})
    assert differences(changed, answer(), False) == (0, math.inf, 0)


def test_zeros_are_compared_as_they_are():
    zeros = answer(layers=[np.zeros(2), np.zeros(2)])
    assert differences(zeros, zeros, False)[0] == 0
    changed = answer(layers=[np.zeros(2), np.array([0.0, 1e-3])])
    assert differences(changed, zeros, False)[0] == 1e-3


def test_lbfgs_has_a_loss_without_a_curve():
    fit = fits(DistributedMLPClassifier((3,), solver="lbfgs"))
    theirs, ours = fit.of_scikit_learn(), fit.of("local")
    assert ours.losses.keys() == theirs.losses.keys() == {"loss_"}
    assert differences(ours, theirs, True) == pytest.approx((0,) * 3, abs=1e-10)


@pytest.mark.parametrize(
    "params",
    [{"weight_decay": 0.2}, {"rho": 0.5}, {"dropout": [0, 0.0]}, {"dropout": 0}],
    ids=str,
)
def test_a_parameter_without_effect_needs_no_counterpart(params):
    assert fits(DistributedMLPClassifier(**params)).without_counterpart() == ()


@pytest.mark.parametrize(
    "params",
    [
        {"solver": "adamw", "weight_decay": 0.2},
        {"solver": "rmsprop", "rho": 0.5},
        {"dropout": [0, 0.5]},
    ],
    ids=str,
)
def test_one_that_has_an_effect_is_named(params):
    named = fits(DistributedMLPClassifier(**params)).without_counterpart()
    assert named == tuple(f"{name}={value!r}" for name, value in params.items())
