"""Random combinations of old and new parameters give one answer on every plan.

What scikit-learn lacks is compared with one shard in this process, which
``tests/oracles`` holds to torch.
"""

import dask.array as da
import numpy as np
import pytest
from distributed import Client
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skdistmlp import DistributedMLPClassifier, DistributedMLPRegressor
from skdistmlp.nn.activations import ACTIVATIONS
from skdistmlp.parallel.rows import RowHolding
from tests import strategies
from tests.cluster.leaks import assert_nothing_left, remember
from tests.engines.thread_engine import in_threads
from tests.nn.softsign import SOFTSIGN

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    # Of the score of a constant prediction, and of batches larger than the data.
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning"),
]

CLOSE = {
    "float64": {"rtol": 1e-6, "atol": 1e-9},
    "float32": {"rtol": 1e-3, "atol": 1e-4},
}


def half(fraction):
    return 0.5 + fraction / 2


activations = st.sampled_from([*ACTIVATIONS, SOFTSIGN])
rates = st.sampled_from([0.0, 0.1, 0.4])


@st.composite
def networks(draw):
    n_hidden = draw(st.integers(0, 3))
    several = draw(st.booleans())
    return {
        "hidden_layer_sizes": [draw(st.integers(2, 9)) for _ in range(n_hidden)],
        "activation": [draw(activations) for _ in range(n_hidden)]
        if several
        else draw(activations),
        "dropout": [draw(rates) for _ in range(n_hidden + 1)]
        if several
        else draw(rates),
    }


trainings = st.fixed_dictionaries(
    {
        "solver": st.sampled_from(["sgd", "adam", "adamw", "rmsprop", "nadam"]),
        "weight_decay": st.sampled_from([0.0, 0.1]),
        # A smaller one would turn rounding errors into steps of any length.
        "epsilon": st.just(1e-3),
        "rho": st.sampled_from([0.5, 0.99]),
        "alpha": st.sampled_from([0.0, 1e-4, 1.0]),
        "learning_rate": st.sampled_from(
            ["constant", "invscaling", "adaptive", "cosine", "one_cycle", half]
        ),
        "learning_rate_init": st.sampled_from([1e-3, 1e-2]),
        "warmup_steps": st.sampled_from([0, 1, 5, 1000]),
        "max_grad_norm": st.sampled_from([None, 1e-2, 1.0, 100.0]),
        "ema_decay": st.sampled_from([None, 0.0, 0.9]),
        "batch_size": st.integers(8, 40),
        "max_iter": st.integers(1, 6),
        "shuffle": st.booleans(),
        "early_stopping": st.booleans(),
        "scoring": st.sampled_from([None, "loss"]),
        "random_state": st.integers(0, 100),
    }
)
whole_batches = st.fixed_dictionaries(
    {
        "solver": st.just("lbfgs"),
        "alpha": st.sampled_from([1e-4, 1.0]),
        # Rounding grows from one line search to the next.
        "max_iter": st.integers(1, 4),
        "random_state": st.integers(0, 100),
    }
)
classifiers = st.fixed_dictionaries(
    {
        "label_smoothing": st.sampled_from([0.0, 0.2]),
        "class_weight": st.sampled_from([None, {0: 0.5, 2: 3.0}]),
    }
)
regressors = st.fixed_dictionaries(
    {
        "loss": st.sampled_from(
            ["squared_error", "huber", "poisson", "absolute_error", "quantile"]
        ),
        "quantile": st.sampled_from([0.3, [0.1, 0.5, 0.9]]),
        "huber_delta": st.sampled_from([0.1, 2.0]),
    }
)


@st.composite
def cases(draw, solvers=(trainings, whole_batches)):
    """Return a class, its parameters and what its `fit` is given."""
    rng = np.random.default_rng(draw(strategies.seeds))
    dtype = draw(st.sampled_from(["float64", "float64", "float32"]))
    X = rng.uniform(-1, 1, (40, draw(st.integers(1, 5)))).astype(dtype)
    X_val = rng.uniform(-1, 1, (7, X.shape[1])).astype(dtype)
    if draw(st.booleans()):
        X, X_val = sparse.csr_matrix(X), sparse.csr_array(X_val)
    is_classifier, several = draw(st.booleans()), draw(st.booleans())
    in_epochs = draw(st.sampled_from(solvers)) is trainings
    # Dropout is refused by "lbfgs".
    parameters = draw(networks()) | draw(trainings if in_epochs else whole_batches)
    shapes = [(40, 3), (7, 3)] if several else [(40,), (7,)]
    if is_classifier:
        # Labels that a sample may have any number of, or classes.
        y, y_val = (rng.integers(0, 2 if several else 3, shape) for shape in shapes)
        y[:3] = np.eye(3) if several else [0, 1, 2]
        parameters |= draw(classifiers)
        if several:
            parameters["class_weight"] = None
    else:
        y, y_val = (rng.poisson(2.0, shape) for shape in shapes)
        parameters |= draw(regressors)
        if several:
            parameters["quantile"] = 0.3
    if dtype == "float32":
        # Rounding decides which of two epochs is better.
        parameters["early_stopping"] = False
        if parameters.get("learning_rate") == "adaptive":
            parameters["learning_rate"] = "constant"
    given = {"X": X, "y": y}
    if draw(st.booleans()):
        given["sample_weight"] = rng.uniform(0.1, 2, 40)
    if not in_epochs:
        parameters["dropout"] = 0.0
    elif draw(st.booleans()):
        given |= {"X_val": X_val, "y_val": y_val}
    cls = DistributedMLPClassifier if is_classifier else DistributedMLPRegressor
    return cls, parameters, given


def check(ours, case, to_worker=lambda values: values):
    cls, parameters, given = case
    alone = cls(**parameters, engine="local").fit(**given)
    ours.fit(**{name: to_worker(values) for name, values in given.items()})
    close = CLOSE[str(given["X"].dtype)]
    for name in ("coefs_", "intercepts_"):
        for a, b in zip(getattr(ours, name), getattr(alone, name), strict=True):
            assert_allclose(a, b, **close)
    assert_allclose(ours.loss_, alone.loss_, **close)
    if parameters["solver"] == "lbfgs":
        return
    assert_allclose(ours.loss_curve_, alone.loss_curve_, **close)
    if "X_val" in given or parameters["early_stopping"]:
        for name in ("validation_loss_curve_", "validation_scores_"):
            mine, theirs = getattr(ours, name), getattr(alone, name)
            assert_allclose(mine, theirs, **close)
        if given["X"].dtype == np.float64:
            assert ours.best_iter_ == alone.best_iter_


@pytest.mark.slow
@given(
    case=cases(),
    shares=strategies.few_shares,
    n_replicas=st.sampled_from([1, 1, 2, 3]),
    form=st.sampled_from(["copies", "copies", "once"]),
    of_rows=st.none() | st.lists(st.integers(1, 5), min_size=3, max_size=3),
)
@settings(max_examples=80)
def test_any_grid_gives_the_answer_of_one_shard(
    case, shares, n_replicas, form, of_rows
):
    cls, parameters, _ = case
    rows = RowHolding(form, shares=tuple(of_rows or ())[:n_replicas])
    check(in_threads(cls, shares, n_replicas, rows)(**parameters), case)


def as_dask(values):
    """Return arrays in blocks, where Dask has them: of NumPy."""
    return da.from_array(values, 13) if isinstance(values, np.ndarray) else values


def check_on_workers(cluster, engine, case, n_workers, in_blocks):
    cls, parameters, given = case
    in_blocks = in_blocks and isinstance(given["X"], np.ndarray)
    with Client(cluster, set_as_default=False) as client:
        remember(client)
        ours = cls(
            **parameters,
            client=client,
            engine=engine,
            n_workers=n_workers,
            parameter_threshold=0,
        )
        check(ours, case, as_dask if in_blocks else lambda values: values)
        assert_nothing_left(client)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["peers", "futures"])
@given(case=cases(), n_workers=st.integers(1, 3), in_blocks=st.booleans())
@settings(max_examples=3)
def test_workers_give_the_answer_of_one_shard(
    cluster, engine, case, n_workers, in_blocks
):
    check_on_workers(cluster, engine, case, n_workers, in_blocks)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["peers", "futures"])
@given(case=cases(), n_workers=st.integers(1, 3), in_blocks=st.booleans())
@settings(max_examples=40)
def test_more_cases_on_workers(cluster, engine, case, n_workers, in_blocks):
    check_on_workers(cluster, engine, case, n_workers, in_blocks)


@given(case=cases([trainings]))
@settings(max_examples=20)
def test_epochs_by_partial_fit_are_those_of_a_fit_in_order(case):
    """With dropout and averages, whose steps are counted across the calls."""
    cls, parameters, given = case
    schedule = parameters["learning_rate"]
    parameters |= {
        "shuffle": False,
        "early_stopping": False,
        "tol": 0.0,
        "n_iter_no_change": 100,
        "learning_rate": "constant" if schedule != "invscaling" else schedule,
    }
    whole = cls(**parameters).fit(**given)
    parts = cls(**parameters)
    classes = {} if cls is DistributedMLPRegressor else {"classes": [0, 1, 2]}
    for _ in range(parameters["max_iter"]):
        parts.partial_fit(**given, **classes)
    for a, b in zip(parts.coefs_, whole.coefs_, strict=True):
        assert_array_equal(a, b)
    assert parts.loss_curve_ == whole.loss_curve_
