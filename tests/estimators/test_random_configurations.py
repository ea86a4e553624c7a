"""Random configurations match scikit-learn on any number of uneven shards."""

import numpy as np
import pytest
from distributed import Client
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from skdistmlp.parallel.rows import RowHolding
from tests import strategies
from tests.cluster.leaks import assert_nothing_left, remember
from tests.estimators.configurations import CONFIGURATIONS, Case
from tests.estimators.support import (
    assert_parity,
    fit,
)
from tests.marks import only_quick

_COMMON = {
    "hidden_layer_sizes": st.lists(st.integers(1, 7), max_size=3) | st.integers(1, 9),
    "activation": st.sampled_from(["identity", "logistic", "tanh", "relu"]),
    "alpha": st.sampled_from([0.0, 1e-4, 1.0]),
    "random_state": st.integers(0, 1000),
}
_EPOCHS = _COMMON | {
    "batch_size": st.just("auto") | st.integers(8, 60),
    "max_iter": st.integers(1, 10),
    "shuffle": st.booleans(),
    "tol": st.sampled_from([0.0, 1e-4, 0.03]),
    "n_iter_no_change": st.integers(1, 4),
    "early_stopping": st.booleans(),
    "validation_fraction": st.floats(0.1, 0.5),
}

params = st.one_of(
    st.fixed_dictionaries(
        _EPOCHS
        | {
            "solver": st.just("sgd"),
            "learning_rate": st.sampled_from(["constant", "invscaling", "adaptive"]),
            "learning_rate_init": st.floats(1e-5, 0.05),
            "power_t": st.floats(0, 1),
            "momentum": st.floats(0, 0.9),
            "nesterovs_momentum": st.booleans(),
        }
    ),
    st.fixed_dictionaries(
        _EPOCHS
        | {
            "solver": st.just("adam"),
            "learning_rate_init": st.floats(1e-5, 0.05),
            "beta_1": st.floats(0, 0.9),
            "beta_2": st.floats(0.9, 0.9999),
            # A smaller one would turn rounding errors into steps of any length.
            "epsilon": st.floats(1e-4, 1e-2),
        }
    ),
    st.fixed_dictionaries(
        _COMMON
        | {
            "solver": st.just("lbfgs"),
            "max_iter": st.integers(1, 5),
            "max_fun": st.integers(2, 20),
            "tol": st.sampled_from([1e-4, 0.03]),
        }
    ),
)

TARGETS = {
    "two classes": lambda rng, n: rng.integers(0, 2, n),
    "four classes": lambda rng, n: np.array(list("abcd"))[rng.integers(0, 4, n)],
    "labels": lambda rng, n: rng.integers(0, 2, (n, 3)),
    "sparse labels": lambda rng, n: sparse.csr_matrix(rng.integers(0, 2, (n, 3))),
    "numbers": lambda rng, n: rng.normal(size=n),
    "two numbers": lambda rng, n: rng.normal(size=(n, 2)),
    "counts": lambda rng, n: rng.poisson(1.5, n),
}
REGRESSION = ("numbers", "two numbers", "counts")


@st.composite
def cases(draw):
    """Few rows: some sets are too small to split, and some classes too rare."""
    rng = np.random.default_rng(draw(strategies.seeds))
    n_samples = draw(st.integers(2, 8) | st.integers(9, 50))
    X = rng.uniform(-1, 1, (n_samples, draw(st.integers(1, 6))))
    chosen = draw(params)
    if chosen["solver"] != "lbfgs":  # which amplifies rounding errors: test_lbfgs
        X = X.astype(draw(st.sampled_from([np.float64, np.float32])))
    if draw(st.booleans()):
        X[rng.random(X.shape) < 0.6] = 0
        X = draw(st.sampled_from([sparse.csr_matrix, sparse.csc_array]))(X)
    target = draw(st.sampled_from(sorted(TARGETS)))
    loss = {}
    if target in REGRESSION:
        loss["loss"] = "poisson" if target == "counts" else "squared_error"
    return Case(
        chosen | loss,
        X,
        TARGETS[target](rng, n_samples),
        rng.uniform(0.1, 2, n_samples) if draw(st.booleans()) else None,
        "regressor" if loss else "classifier",
    )


@given(case=cases())
@settings(max_examples=40)
def test_random_configurations_match_scikit_learn_locally(case):
    """Errors and warnings have to match too."""
    assert_parity(case, engine="local")


@pytest.mark.slow
@given(case=cases())
@settings(max_examples=200)
def test_more_random_configurations_match_scikit_learn_locally(case):
    assert_parity(case, engine="local")


def check_on_uneven_shards(case, shares):
    ours = assert_parity(case, shares=shares)
    if hasattr(ours, "plan_"):
        hidden = ours.plan_.split.ranges
        assert ours.n_workers_ == (len(shares) if hidden else 1)


@given(case=cases(), shares=strategies.shares)
@settings(max_examples=30)
def test_random_configurations_match_on_uneven_shards(case, shares):
    check_on_uneven_shards(case, shares)


@pytest.mark.slow
@given(case=cases(), shares=strategies.shares)
@settings(max_examples=160)
def test_more_random_configurations_match_on_uneven_shards(case, shares):
    check_on_uneven_shards(case, shares)


on_grids = given(
    case=cases(),
    shares=strategies.few_shares,
    n_replicas=st.integers(1, 4),
    form=st.sampled_from(["copies", "once"]),
)


def check_on_grid(case, shares, n_replicas, form):
    rows = RowHolding(form)
    ours = assert_parity(case, shares=shares, n_replicas=n_replicas, rows=rows)
    if hasattr(ours, "plan_"):
        assert ours.n_replicas_ == n_replicas


@on_grids
@settings(max_examples=25)
def test_random_configurations_match_on_grids(case, shares, n_replicas, form):
    """Some replicas have no row of a mini-batch, or of any; so have shards."""
    check_on_grid(case, shares, n_replicas, form)


@pytest.mark.slow
@on_grids
@settings(max_examples=120)
def test_more_random_configurations_match_on_grids(case, shares, n_replicas, form):
    check_on_grid(case, shares, n_replicas, form)


def check_on_workers(cluster, case, engine, n_workers):
    with Client(cluster, set_as_default=False) as client:
        remember(client)
        ours = assert_parity(
            case,
            client=client,
            engine=engine,
            n_workers=n_workers,
        )
        assert_nothing_left(client)
    if hasattr(ours, "plan_"):
        assert ours.plan_.engine == engine


@given(case=cases(), n_workers=st.integers(1, 3))
@settings(max_examples=4)
def test_random_configurations_match_on_futures(cluster, case, n_workers):
    """On real workers; only a few, since each step takes tens of milliseconds."""
    check_on_workers(cluster, case, "futures", n_workers)


@given(case=cases(), n_workers=st.integers(1, 3))
@settings(max_examples=10)
def test_random_configurations_match_on_peers(cluster, case, n_workers):
    """On real workers; a fit takes a tenth of a second."""
    check_on_workers(cluster, case, "peers", n_workers)


@pytest.mark.slow
@given(case=cases(), n_workers=st.integers(1, 3))
@settings(max_examples=60)
def test_more_random_configurations_match_on_peers(cluster, case, n_workers):
    check_on_workers(cluster, case, "peers", n_workers)


@pytest.mark.parametrize(
    "name",
    only_quick(*range(0, len(CONFIGURATIONS), 6), cases=CONFIGURATIONS),
)
def test_named_configurations_match_on_uneven_shards(name):
    case = Case.of(name, max_iter=2)
    ours = assert_parity(case, shares=[3, 1, 5])
    assert ours.n_workers_ == (3 if ours.plan_.split.ranges else 1)


@pytest.mark.parametrize("name", ["defaults", "lbfgs, strings", "two columns"])
def test_more_shards_than_neurons_match(name):
    ours = assert_parity(Case.of(name), shares=[1] * 15)
    assert ours.n_workers_ == 15 > max(ours.plan_.split.layer_units[1:-1])


# Longer trainings in float32: single parameters drift apart, the loss does not.


@pytest.mark.parametrize(
    "shares", only_quick(2, cases=[None, [1, 1], [3, 1, 5]]), ids=str
)
@pytest.mark.parametrize(
    "name",
    only_quick(
        0,
        3,
        cases=[
            "defaults",
            "several labels",
            "numbers",
            "csr_matrix, numbers",
            "weighted, poisson",
        ],
    ),
)
def test_the_float32_loss_is_close_after_60_epochs(name, shares):
    case = Case.of(name, max_iter=60, n_iter_no_change=100).float32()
    ours, theirs = case.pair(engine="local", shares=shares)
    fit(ours, case.X, case.y, case.sample_weight)
    fit(theirs, case.X, case.y, case.sample_weight)
    assert ours.n_workers_ == len(shares or [1])
    assert ours.n_iter_ == theirs.n_iter_ == 60
    assert ours.coefs_[0].dtype == theirs.coefs_[0].dtype == np.float32
    np.testing.assert_allclose(
        ours.loss_curve_[:20], theirs.loss_curve_[:20], rtol=0, atol=1e-5
    )
    np.testing.assert_allclose(ours.loss_, theirs.loss_, rtol=0, atol=1e-3)
