"""Combinations of parameters that mean nothing, and those that scikit-learn has."""

import threading

import pytest
from sklearn.datasets import load_digits

from skdistmlp import DistributedMLPClassifier

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def small():
    X, y = load_digits(return_X_y=True)
    return X[:200] / 16, y[:200]


@pytest.mark.parametrize(
    "parameters",
    [
        {"dropout": 0.1},
        {"dropout": [0.0, 0.1]},
        {"max_grad_norm": 1.0},
        {"ema_decay": 0.9},
        {"learning_rate": "cosine"},
        {"learning_rate": "one_cycle"},
        {"learning_rate": abs},
        {"warmup_steps": 1},
        {"scoring": "accuracy"},
    ],
    ids=str,
)
def test_lbfgs_refuses_what_belongs_to_steps(parameters, small):
    (name,) = parameters
    clf = DistributedMLPClassifier(solver="lbfgs", **parameters)
    with pytest.raises(ValueError, match=f"^{name}=.* has no meaning with solver='lb"):
        clf.fit(*small)


@pytest.mark.parametrize("name", ["learning_rate", "scoring"])
def test_functions_that_cannot_be_sent_are_refused(name, small):
    lock = threading.Lock()
    clf = DistributedMLPClassifier(**{name: lambda *_: lock})
    with pytest.raises(ValueError, match=f"^{name}=.* cannot be sent to work"):
        clf.fit(*small)


@pytest.mark.parametrize(
    "parameters",
    [{"dropout": [0.0, 0.0]}, {"learning_rate": "adaptive"}, {"weight_decay": 0.5}],
    ids=str,
)
def test_lbfgs_ignores_what_scikit_learn_ignores(parameters, small):
    clf = DistributedMLPClassifier(solver="lbfgs", max_iter=2, **parameters)
    assert clf.fit(*small).n_iter_ == 2


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", abs], ids=str)
def test_partial_fit_refuses_schedules_that_need_an_end(schedule, small):
    clf = DistributedMLPClassifier(learning_rate=schedule)
    with pytest.raises(ValueError, match="needs to know where training ends"):
        clf.partial_fit(*small, classes=range(10))
    assert not hasattr(clf, "coefs_")


@pytest.mark.parametrize("solver", ["adam", "adamw", "rmsprop", "nadam"])
@pytest.mark.parametrize("schedule", ["invscaling", "adaptive"])
def test_schedules_of_scikit_learn_are_for_sgd_only(solver, schedule, small):
    parameters = {"solver": solver, "max_iter": 4, "tol": 10.0, "n_iter_no_change": 1}
    with_it = DistributedMLPClassifier(
        learning_rate=schedule, random_state=0, **parameters
    ).fit(*small)
    without = DistributedMLPClassifier(random_state=0, **parameters).fit(*small)
    assert with_it.loss_curve_ == without.loss_curve_
    assert with_it.n_iter_ == without.n_iter_ == 3


def test_partial_fit_warms_up_across_the_calls(small):
    def trained(n_calls, **parameters):
        clf = DistributedMLPClassifier(shuffle=False, random_state=0, **parameters)
        for _ in range(n_calls):
            clf.partial_fit(*small, classes=range(10))
        return clf

    # One step in each call.
    assert trained(4, warmup_steps=4)._optimizer_state.n_steps == 4
    assert trained(1).loss_curve_ == trained(1, warmup_steps=1).loss_curve_
    curves = trained(3).loss_curve_, trained(3, warmup_steps=3).loss_curve_
    assert curves[0][0] == curves[1][0]
    assert curves[0][2] < curves[1][2]
