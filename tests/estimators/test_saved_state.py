"""Inner values of an estimator, saved as plain data and rebuilt."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal

import skdistmlp
from skdistmlp import DistributedMLPClassifier
from skdistmlp.estimators.saved_state import VERSION, from_plain, to_plain
from skdistmlp.nn.optimizers import OptimizerState
from skdistmlp.nn.update_rules import Adam, Sgd
from skdistmlp.training.schedules import LearningRateSchedule

MOMENTS = (np.arange(3.0), np.arange(3.0, 6.0))
SCHEDULE = LearningRateSchedule("invscaling", 0.1, 0.5)


def is_plain(value):
    """Say whether a value needs no class of ours to be loaded."""
    if isinstance(value, dict):
        return all(is_plain(v) for v in (*value.keys(), *value.values()))
    if isinstance(value, tuple | list):
        return all(map(is_plain, value))
    return type(value).__module__ in ("builtins", "numpy")


@pytest.mark.parametrize(
    ("rule", "moments"),
    [(Adam(0.9, 0.99, 1e-7), MOMENTS), (Sgd(0.5, nesterov=False), MOMENTS[:1])],
    ids=["adam", "sgd"],
)
def test_the_optimizer_is_rebuilt_from_plain_data(rule, moments):
    attributes = {"t_": 7, "_optimizer_state": OptimizerState(rule, moments, 12)}
    plain = to_plain(attributes)
    assert is_plain(plain)
    assert b"skdistmlp." not in pickle.dumps(plain)
    found = from_plain(pickle.loads(pickle.dumps(plain)), {})
    assert found["t_"] == 7
    state = found["_optimizer_state"]
    assert state.rule == rule
    assert state.n_steps == 12
    for mine, theirs in zip(state.moments, moments, strict=True):
        assert_array_equal(mine, theirs)


def test_the_schedule_is_rebuilt_from_plain_data():
    plain = to_plain({"_schedule": SCHEDULE})
    assert is_plain(plain)
    assert from_plain(plain, {}) == {"_schedule": SCHEDULE}


@pytest.mark.parametrize(
    "attributes",
    [{}, {"alpha": 0.1}, {"_optimizer_state": None}, {"_schedule": None}],
    ids=str,
)
def test_other_attributes_are_unchanged(attributes):
    assert to_plain(attributes) == attributes | {VERSION: skdistmlp.__version__}
    assert from_plain(attributes, {}) == attributes


def test_attributes_themselves_are_not_modified():
    attributes = {"_schedule": SCHEDULE}
    to_plain(attributes)
    assert attributes == {"_schedule": SCHEDULE}
    plain = to_plain(attributes)
    from_plain(plain, {})
    assert isinstance(plain["_schedule"], dict)


class Unlisted(Adam):
    """A rule that the table of optimisers lacks."""


def test_an_optimizer_that_could_not_be_rebuilt_is_named():
    state = OptimizerState(Unlisted(), (np.zeros(3), np.zeros(3)))
    with pytest.raises(TypeError, match="Unlisted is not in UPDATE_RULES"):
        to_plain({"_optimizer_state": state})


def test_parameters_that_an_older_version_had_not_have_their_defaults():
    clf = DistributedMLPClassifier(alpha=0.1)
    state = clf.__getstate__()
    del state["beta_1"]
    older = DistributedMLPClassifier.__new__(DistributedMLPClassifier)
    older.__setstate__(state)
    assert older.get_params() == clf.get_params()
    assert VERSION not in vars(older)


PARAMETERS = {"activation": "relu", "solver": "adam", "alpha": 0.1}


@pytest.mark.parametrize(
    ("newer", "what"),
    [
        (
            {"_optimizer_state": {"solver": "lion", "hyperparameters": {}}},
            "the state of its optimiser",
        ),
        (
            {
                "_optimizer_state": {
                    "solver": "adam",
                    "hyperparameters": {"beta_3": 0.1},
                    "moments": (),
                    "n_steps": 1,
                }
            },
            "the state of its optimiser",
        ),
        ({"_schedule": {"warm_up": 3}}, "the state of its optimiser"),
        ({"activation": "swish"}, "its parameters activation='swish'"),
        ({"solver": "lion"}, "its parameters solver='lion'"),
        ({"dropout_": 1, "_some": 2, "mixup": 0.1}, "its parameters mixup=0.1"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_a_newer_version_has_saved_is_refused_by_name(newer, what):
    plain = {VERSION: "9.1.0", **PARAMETERS, **newer}
    said = (
        rf"was saved by skdistmlp 9\.1\.0, and {skdistmlp.__version__}, which is "
        rf"installed, does not know {what}\. Install version 9\.1\.0, or export"
    )
    with pytest.raises(ValueError, match=said):
        from_plain(plain, PARAMETERS)


def test_what_a_newer_version_has_saved_is_read_if_nothing_is_unknown():
    plain = {VERSION: "9.1.0", **PARAMETERS, "_some": 2, "coefs_": []}
    assert from_plain(plain, PARAMETERS) == {**PARAMETERS, "_some": 2, "coefs_": []}
