"""Parameters that say what the network is made of: which are taken, which refused."""

import pickle
import threading
from functools import partial

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_digits

from skdistmlp import Activation, DistributedMLPClassifier
from skdistmlp.estimators.architecture import checked_activation, checked_dropout
from skdistmlp.nn.activations import ACTIVATIONS
from tests.nn.softsign import SOFTSIGN, softsign, softsign_backward

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def classifier(**parameters):
    defaults = {"hidden_layer_sizes": (9, 8), "max_iter": 3, "random_state": 0}
    return DistributedMLPClassifier(**defaults | parameters)


@pytest.fixture(scope="module")
def small():
    X, y = load_digits(return_X_y=True)
    return X[:300] / 16, y[:300]


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_every_activation_trains(name, small):
    clf = classifier(activation=name, max_iter=30, learning_rate_init=0.01).fit(*small)
    assert clf.score(*small) > 0.5


@pytest.mark.parametrize("sequence", [list, tuple, np.array])
def test_one_name_for_each_layer_is_that_name_for_all(sequence, small):
    each = classifier(activation=sequence(["gelu", "gelu"])).fit(*small)
    all_alike = classifier(activation="gelu").fit(*small)
    for a, b in zip(each.coefs_, all_alike.coefs_, strict=True):
        assert_array_equal(a, b)
    assert_array_equal(each.predict_proba(small[0]), all_alike.predict_proba(small[0]))


def test_an_activation_of_ones_own_trains_is_cloned_and_pickled(small):
    clf = clone(classifier(activation=["gelu", SOFTSIGN])).fit(*small)
    again = pickle.loads(pickle.dumps(clf))
    assert_array_equal(again.predict_proba(small[0]), clf.predict_proba(small[0]))
    again.partial_fit(*small)
    clf.partial_fit(*small)
    assert_array_equal(again.coefs_[0], clf.coefs_[0])


@pytest.mark.parametrize("engine", ["futures", "peers"])
def test_an_activation_without_a_name_travels_to_the_workers(engine, client, small):
    def backward(z, delta):
        delta *= 2 * z

    own = Activation(lambda z, out: np.multiply(z, z, out=out), backward, gain=0.5)
    ours = classifier(
        activation=own, client=client, engine=engine, n_workers=2, parameter_threshold=0
    ).fit(*small)
    alone = classifier(activation=own).fit(*small)
    assert ours.n_workers_ == 2
    for a, b in zip(ours.coefs_, alone.coefs_, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


def leave(z, out):
    """Write to nothing."""


def sort(z, out):
    out[...] = np.sort(z, axis=1)


def center(z, out):
    out[...] = z - z.mean(axis=0)


def overwrite(z, delta):
    z[...] = 0


def overwrite_z(z, out):
    np.tanh(z, out=z)
    out[...] = z


LOCK = threading.Lock()


def locked(z, out, lock):
    with lock:
        softsign(z, out)


@pytest.mark.parametrize(
    ("activation", "error", "message"),
    [
        (["relu", "gellu"], ValueError, "'gellu' is unknown, expected one of identity"),
        (["relu", 1], TypeError, "activation has 1, expected a name"),
        (["relu"], ValueError, "number of activations, 1, differs"),
        (Activation(leave, softsign_backward), ValueError, "unwritten, or wrote NaN"),
        (Activation(sort, softsign_backward), ValueError, "is not elementwise"),
        (
            Activation(softsign, overwrite),
            ValueError,
            "backward of .* writes to",
        ),
        (Activation(overwrite_z, leave), ValueError, "forward of .* writes to its fi"),
        (Activation(softsign, leave, gain=0), ValueError, "gain of .* must be a pos"),
        (Activation(softsign, leave, gain=np.nan), ValueError, "gain of .* must be"),
        (Activation(softsign, leave, gain="a"), ValueError, "gain of .* got 'a'"),
        (Activation(softsign, None), TypeError, "backward of an Activation is None"),
        (Activation(center, softsign_backward), ValueError, "is not elementwise"),
        (
            Activation(softsign, lambda z, delta: delta * 2 * z),
            ValueError,
            "returns a value, which is not used",
        ),
        (
            Activation(partial(locked, lock=LOCK), softsign_backward),
            ValueError,
            "cannot be sent to workers or saved: cannot pickle '_thread.lock'",
        ),
    ],
    ids=range(14),
)
def test_activations_that_cannot_be_used_are_refused_by_name(
    activation, error, message, small
):
    clf = classifier(activation=activation)
    with pytest.raises(error, match=message):
        clf.fit(*small)
    assert not hasattr(clf, "coefs_")


def test_a_gradient_that_is_no_derivative_is_warned_of_and_used(small):
    straight_through = Activation(lambda z, out: np.sign(z, out=out), leave)
    with pytest.warns(UserWarning, match="is not the derivative of forward"):
        clf = classifier(activation=straight_through).fit(*small)
    assert clf.loss_curve_[-1] < clf.loss_curve_[0]


def test_an_error_of_a_users_function_names_the_activation(small):
    broken = Activation(lambda *_: 1 / 0, softsign_backward)
    with pytest.raises(ZeroDivisionError) as raised:
        classifier(activation=broken).fit(*small)
    assert "This is forward of Activation(" in raised.value.__notes__[0]


def test_what_keeps_activations_may_work_in_place():
    def double(a, out):
        np.multiply(a, 2, out=out)

    def backward(a, delta):
        delta *= 2

    own = Activation(double, backward, keeps_input=False)
    assert checked_activation(own) is own


@pytest.mark.parametrize(
    ("dropout", "checked"), [(0, 0.0), (0.5, 0.5), ([0, 0.5], (0.0, 0.5))]
)
def test_rates_become_floats(dropout, checked):
    assert checked_dropout(dropout) == checked
    assert checked_dropout(np.array(dropout).tolist()) == checked


@pytest.mark.parametrize(
    ("dropout", "error", "message"),
    [
        ([0.1, 1.0, 0.1], ValueError, r"range \[0, 1\), got 1.0"),
        ([0.1, -0.5, 0.1], ValueError, r"range \[0, 1\), got -0.5"),
        ([0.1, float("nan"), 0.1], ValueError, "got nan"),
        ([0.1, "a", 0.1], TypeError, "dropout has 'a'"),
        ([0.1, True, 0.1], TypeError, "dropout has True"),
        ([0.1], ValueError, "number of dropout rates, 1, differs"),
    ],
)
def test_rates_that_are_none_are_refused(dropout, error, message, small):
    clf = classifier(dropout=dropout)
    with pytest.raises(error, match=message):
        clf.fit(*small)
    assert not hasattr(clf, "coefs_")


def test_nothing_is_dropped_in_predictions_and_scores(small):
    X, y = small
    clf = classifier(dropout=[0.3, 0.5, 0.5]).fit(X, y, X_val=X, y_val=y)
    assert clf.validation_scores_[-1] == clf.score(*small)
    assert_array_equal(clf.predict_proba(small[0]), clf.predict_proba(small[0]))


def test_dropout_leaves_the_initial_parameters_and_other_seeds_drop_others(small):
    def fitted(**parameters):
        clf = classifier(learning_rate_init=1e-300, max_iter=1, solver="sgd")
        return clf.set_params(**parameters).fit(*small)

    plain, dropped = fitted(), fitted(dropout=0.5)
    assert_array_equal(plain.coefs_[0], dropped.coefs_[0])
    assert plain.loss_ != dropped.loss_
    assert dropped.loss_ == fitted(dropout=0.5).loss_
    assert dropped._dropout_seed != fitted(dropout=0.5, random_state=1)._dropout_seed
