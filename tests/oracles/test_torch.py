"""Twenty steps from the same parameters, compared with torch's in float64.

The reference is committed, so torch is not needed here. Where it is installed, a test
trains some cases once more with it. What the two leave out: momentum with a changing
rate (`FOLLOWS_SCHEDULES` in `cases`), quantile losses, which torch lacks, and squared
errors of several outputs, whose reported loss depends on scikit-learn's version.
"""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.exceptions import ConvergenceWarning

from skdistmlp import DistributedMLPClassifier, DistributedMLPRegressor
from skdistmlp.nn.activations import ACTIVATIONS
from skdistmlp.nn.update_rules import UPDATE_RULES
from tests.engines.thread_engine import in_threads
from tests.oracles import make_torch_reference
from tests.oracles.cases import (
    CASES,
    DEFAULTS,
    HIDDEN,
    N_ROWS,
    N_STEPS,
    count_outputs,
    make_data,
    make_initial,
    views,
)

RTOL = 1e-6
ATOL = 1e-12
"""For parameters that come to lie near zero."""


@pytest.fixture(scope="module")
def reference():
    with np.load(make_torch_reference.PATH) as file:
        return dict(file)


def train(case, reference, shares=(1,)):
    """Return an estimator that took `N_STEPS` steps, and the losses before them."""
    make = DistributedMLPClassifier if case.classifies else DistributedMLPRegressor
    if len(shares) > 1:
        make = in_threads(make, shares)
    X, y = reference["data/X"], reference[f"data/{case.target}"]
    weight = reference["data/sample_weight"] if case.weighted else None
    k = count_outputs(case, y)
    estimator = make(
        hidden_layer_sizes=HIDDEN,
        engine="local",
        batch_size=N_ROWS,
        shuffle=False,
        max_iter=1,
        tol=0,
        n_iter_no_change=np.inf,
        warm_start=True,
    )
    # Only so that it has classes and parameters, which are then replaced.
    with pytest.warns(ConvergenceWarning):
        estimator.fit(X, y)
    estimator.coefs_, estimator.intercepts_ = views(reference[f"initial/{k}"].copy(), k)
    known = estimator.get_params()
    params = {name: value for name, value in DEFAULTS.items() if name in known}
    estimator.set_params(max_iter=N_STEPS, **{**params, **case.params})
    # With `warm_start`, fit begins there with a new optimiser and at the first step of
    # the schedule, and only appends to the curve.
    with pytest.warns(ConvergenceWarning):
        estimator.fit(X, y, weight)
    assert len(estimator.loss_curve_) == 1 + N_STEPS
    return estimator, estimator.loss_curve_[1:]


def test_the_reference_has_the_data_and_initial_parameters_of_the_cases(reference):
    """Whoever changes `cases` must make the file again."""
    data = make_data()
    expected = {f"data/{name}": array for name, array in data.items()}
    expected |= {f"initial/{k}": make_initial(k) for k in (1, 2, 3)}
    for name, array in expected.items():
        assert_allclose(reference[name], array, rtol=1e-12, err_msg=name)
    named = {name.partition("/")[2] for name in reference if "losses/" in name}
    assert named == set(CASES)


def test_every_activation_and_solver_is_compared():
    values = [{**DEFAULTS, **case.params} for case in CASES.values()]
    assert {v["activation"] for v in values} >= set(ACTIVATIONS)
    assert {v["solver"] for v in values} == set(UPDATE_RULES)


def test_no_two_cases_end_alike(reference):
    """So that every parameter of every case takes part."""
    ends = {name: reference[f"parameters/{name}"] for name in CASES}
    names = sorted(ends)
    for i, name in enumerate(names):
        for other in names[:i]:
            if ends[name].shape == ends[other].shape:
                difference = np.abs(ends[name] - ends[other]).max()
                assert difference > 1e-3, (name, other, difference)


def check(reference, name, shares=(1,)):
    case = CASES[name]
    estimator, losses = train(case, reference, shares)
    assert estimator.n_workers_ == len(shares)
    assert_allclose(losses, reference[f"losses/{name}"], rtol=RTOL)
    trained = [*estimator.coefs_, *estimator.intercepts_]
    k = count_outputs(case, reference[f"data/{case.target}"])
    coefs, intercepts = views(reference[f"parameters/{name}"], k)
    for ours, theirs in zip(trained, [*coefs, *intercepts], strict=True):
        assert ours.dtype == np.float64
        assert_allclose(ours, theirs, rtol=RTOL, atol=ATOL)


@pytest.mark.parametrize("name", CASES)
def test_twenty_steps_agree_with_torch(reference, name):
    check(reference, name)


SHARDED = [
    "activation gelu",
    "always clipped sgd",
    "sometimes clipped adam",
    "always clipped alpha",
    "average nadam",
    "one_cycle rmsprop",
    "cosine warmup adamw",
    "weighted loss huber",
    "loss poisson",
    "everything",
]


@pytest.mark.parametrize("name", SHARDED)
@pytest.mark.parametrize("shares", [(1, 1), (3, 1, 2)], ids=str)
def test_twenty_steps_of_several_shards_agree_with_torch(reference, name, shares):
    check(reference, name, shares)


REPEATED = [
    "activation mish",
    "always clipped nadam",
    "average rmsprop",
    "cosine warmup adamw",
    "loss huber",
    "loss smoothed logistic",
    "everything",
]


@pytest.mark.parametrize("name", REPEATED)
def test_torch_trains_the_committed_parameters(reference, name):
    pytest.importorskip("torch")
    parameters, losses = make_torch_reference.train(CASES[name], make_data())
    assert_allclose(parameters, reference[f"parameters/{name}"], rtol=1e-9, atol=ATOL)
    assert_allclose(losses, reference[f"losses/{name}"], rtol=1e-9)
