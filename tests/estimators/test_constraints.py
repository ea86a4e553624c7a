"""Values that parameters may have, and the parameters that rule out methods."""

import numpy as np
import pytest
from sklearn.neural_network._multilayer_perceptron import BaseMultilayerPerceptron
from sklearn.utils._param_validation import (
    InvalidParameterError,
    validate_parameter_constraints,
)

from skdistmlp import DistributedMLPClassifier
from skdistmlp.estimators.constraints import (
    PARAMETER_CONSTRAINTS,
    solver_has_epochs,
)
from skdistmlp.nn.update_rules import UPDATE_RULES

OURS = {
    *("client", "n_workers", "n_replicas", "parameter_threshold", "engine"),
    "checkpoint",
    *("dropout", "weight_decay", "rho", "max_grad_norm", "warmup_steps"),
    *("ema_decay", "scoring"),
}
WIDER = {"solver", "activation", "learning_rate"}
"""Those of scikit-learn's that take more here."""


def check(**parameters):
    validate_parameter_constraints(
        {name: PARAMETER_CONSTRAINTS[name] for name in parameters},
        parameters,
        caller_name="Estimator",
    )


def as_value(constraint):
    return constraint if isinstance(constraint, str) else vars(constraint)


def test_shared_parameters_have_the_constraints_of_scikit_learn():
    theirs = BaseMultilayerPerceptron._parameter_constraints
    assert set(PARAMETER_CONSTRAINTS) == set(theirs) | OURS
    for name, constraints in theirs.items():
        if name not in WIDER:
            ours = PARAMETER_CONSTRAINTS[name]
            assert [*map(as_value, ours)] == [*map(as_value, constraints)]


@pytest.mark.parametrize(
    "parameters",
    [
        {"client": None},
        {"client": "tcp://10.0.0.1:8786"},
        {"n_workers": None},
        {"n_workers": 1},
        {"parameter_threshold": None},
        {"parameter_threshold": 0},
        {"parameter_threshold": np.int64(7)},
        {"engine": "auto"},
        {"engine": "peers"},
        {"dropout": 0.5},
        {"dropout": [0.1, 0.2]},
        {"weight_decay": 0},
        {"rho": 0.0},
        {"max_grad_norm": None},
        {"max_grad_norm": 1},
        {"warmup_steps": 10},
        {"ema_decay": 0.999},
        {"scoring": "loss"},
        {"scoring": "neg_log_loss"},
        {"scoring": max},
        {"learning_rate": "cosine"},
        {"learning_rate": "one_cycle"},
        {"learning_rate": max},
        {"activation": "gelu"},
        {"activation": ["gelu", "tanh"]},
        {"solver": "adamw"},
    ],
    ids=str,
)
def test_valid_values_of_our_parameters_pass(parameters):
    check(**parameters)


@pytest.mark.parametrize(
    "parameters",
    [
        {"client": 8786},
        {"n_workers": 0},
        {"n_workers": 1.5},
        {"parameter_threshold": -1},
        {"parameter_threshold": 0.5},
        {"engine": "rows"},
        {"engine": None},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"dropout": None},
        {"weight_decay": -1},
        {"rho": 1.0},
        {"max_grad_norm": 0},
        {"warmup_steps": 0.5},
        {"ema_decay": 1.0},
        {"scoring": "lose"},
        {"learning_rate": "cos"},
        {"activation": "gellu"},
        {"solver": "adagrad"},
    ],
    ids=str,
)
def test_invalid_values_of_our_parameters_are_refused(parameters):
    (name,) = parameters
    with pytest.raises(InvalidParameterError, match=f"The '{name}' parameter of Esti"):
        check(**parameters)


@pytest.mark.parametrize("solver", sorted(UPDATE_RULES))
def test_stochastic_solvers_have_epochs(solver):
    assert solver_has_epochs(DistributedMLPClassifier(solver=solver))


def test_lbfgs_has_no_epochs_and_the_error_says_so():
    with pytest.raises(AttributeError, match="partial_fit is only available for stoch"):
        solver_has_epochs(DistributedMLPClassifier(solver="lbfgs"))
