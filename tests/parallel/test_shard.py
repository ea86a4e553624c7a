import numpy as np
import pytest
from hypothesis import given
from numpy.testing import assert_allclose, assert_array_equal

from skdistmlp.nn.activations import ACTIVATIONS
from skdistmlp.nn.losses import OUTPUTS
from skdistmlp.nn.optimizers import Adam, OptimizerState, Sgd
from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.shard import (
    Network,
    ShardState,
    affine,
    batch_loss,
    batch_penalty,
    gradient,
    hidden_forward,
    join_states,
    output_delta,
    predict_whole,
    propagate,
    split_state,
)
from skdistmlp.parallel.split import NetworkSplit
from tests.parallel.group_contract import PlainNetwork, make_problem
from tests.strategies import splits, update_rules

ROWS = [slice(1, 4), np.array([2, 0, 2])]

with_or_without_out = pytest.mark.parametrize("with_out", [False, True])


def frozen(*shape, seed=0):
    """Draw an array that a pure function must not write to."""
    array = np.random.default_rng(seed).normal(size=shape)
    array.flags.writeable = False
    return array


def room(with_out, *shape):
    return np.full(shape, np.nan) if with_out else None


def check_out(result, out):
    if out is not None:
        assert result is out


def state_of(split, rule):
    n = split.n_parameters
    flat = np.arange(n, dtype=float)
    moments = tuple(flat + (i + 1) * n for i in range(rule.n_moments))
    return ShardState(flat, OptimizerState(rule, moments, n_steps=5))


@given(splits, update_rules)
def test_joining_the_states_of_shards_gives_back_that_of_the_network(split, rule):
    whole = state_of(split, rule)
    parts = split_state(split, whole)
    assert len(parts) == split.n_shards
    for part in parts:
        assert not np.shares_memory(part.parameters, whole.parameters)
        assert (part.optimizer.rule, part.optimizer.n_steps) == (rule, 5)
        # Every parameter took its own moments along.
        for i, moment in enumerate(part.optimizer.moments):
            assert not np.shares_memory(moment, whole.optimizer.moments[i])
            shift = (i + 1) * split.n_parameters
            assert_array_equal(moment, part.parameters + shift)
    joined = join_states(split, parts)
    assert_array_equal(joined.parameters, whole.parameters)
    assert (joined.optimizer.rule, joined.optimizer.n_steps) == (rule, 5)
    for mine, theirs in zip(
        joined.optimizer.moments, whole.optimizer.moments, strict=True
    ):
        assert_array_equal(mine, theirs)


@given(splits)
def test_states_without_an_optimiser_are_split_and_joined_too(split):
    whole = ShardState(np.arange(split.n_parameters, dtype=float))
    parts = split_state(split, whole)
    assert all(part.optimizer is None for part in parts)
    joined = join_states(split, parts)
    assert joined.optimizer is None
    assert_array_equal(joined.parameters, whole.parameters)


@with_or_without_out
def test_affine(with_out):
    inputs, coef, intercept = frozen(4, 3), frozen(3, 2, seed=1), frozen(2, seed=2)
    out = room(with_out, 4, 2)
    result = affine(inputs, coef, intercept, out)
    check_out(result, out)
    assert_allclose(result, inputs @ coef + intercept)


@with_or_without_out
@pytest.mark.parametrize("n_inputs", [0, 3])
def test_affine_on_a_shard_without_the_intercept(n_inputs, with_out):
    """Where it has no inputs either, its piece of the sum is zero."""
    inputs, coef = frozen(4, n_inputs), frozen(n_inputs, 2, seed=1)
    result = affine(inputs, coef, np.empty(0), room(with_out, 4, 2))
    assert_allclose(result, inputs @ coef)


@with_or_without_out
@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_hidden_forward(activation, with_out):
    network = Network(NetworkSplit.even((3, 2, 2), 1), activation, "softmax")
    inputs, coef, intercept = frozen(4, 3), frozen(3, 2, seed=1), frozen(2, seed=2)
    out = room(with_out, 4, 2)
    result = hidden_forward(network, inputs, coef, intercept, out)
    check_out(result, out)
    expected = inputs @ coef + intercept
    ACTIVATIONS[activation].apply(expected)
    assert_allclose(result, expected)


@with_or_without_out
@pytest.mark.parametrize("rows", ROWS, ids=["slice", "indices"])
@pytest.mark.parametrize("weighted", [False, True])
def test_output_delta_and_loss_of_a_mini_batch(rows, weighted, with_out):
    y = np.eye(3, dtype=bool)[[0, 2, 1, 1, 0]]
    weight = np.array([0.5, 1, 2, 4, 8]) if weighted else None
    network = Network(NetworkSplit.even((2, 3), 1), "relu", "softmax")
    dataset = Dataset(np.zeros((5, 2)), y, weight)
    prediction = np.random.default_rng(0).dirichlet([1, 1, 1], size=3)
    prediction.flags.writeable = False
    out = room(with_out, 3, 3)
    delta = output_delta(prediction, dataset, rows, out)
    check_out(delta, out)
    w = np.ones(3) if weight is None else weight[rows]
    expected = (prediction - y[rows]) * w[:, np.newaxis] / w.sum()
    assert_allclose(delta, expected)
    loss = batch_loss(network, prediction, dataset, rows)
    mean = np.average(-np.log(prediction[y[rows]]), weights=w)
    assert_allclose(loss, 3 * mean)


def test_output_delta_may_overwrite_the_prediction():
    dataset = Dataset(np.zeros((2, 1)), np.array([[True], [False]]))
    prediction = np.array([[0.25], [0.75]])
    assert output_delta(prediction, dataset, slice(0, 2), prediction) is prediction
    assert_array_equal(prediction, [[-0.375], [0.375]])


def test_output_delta_keeps_the_dtype_of_the_network():
    dataset = Dataset(np.zeros((2, 1)), np.ones((2, 1), bool), np.ones(2))
    prediction = np.full((2, 1), 0.25, np.float32)
    assert output_delta(prediction, dataset, slice(0, 2)).dtype == np.float32


def test_batch_penalty_is_scikit_learns_times_the_number_of_rows():
    network = Network(NetworkSplit.even((2, 3), 1), "relu", "softmax", alpha=0.5)
    assert batch_penalty(network, 8.0, 10, 4.0) == 0.5 * 0.5 * 8.0 / 4.0 * 10


def test_gradient_writes_where_it_is_told():
    inputs, delta = frozen(4, 3), frozen(4, 2, seed=1)
    coef_out, intercept_out = room(True, 3, 2), room(True, 2)
    gradient(inputs, delta, coef_out, intercept_out)
    assert_allclose(coef_out, inputs.T @ delta)
    assert_allclose(intercept_out, delta.sum(axis=0))
    again = room(True, 3, 2)
    gradient(inputs, delta, again, np.empty(0))
    assert_array_equal(again, coef_out)


@with_or_without_out
def test_propagate(with_out):
    delta, coef = frozen(4, 2), frozen(3, 2, seed=1)
    out = room(with_out, 4, 3)
    result = propagate(delta, coef, out)
    check_out(result, out)
    assert_allclose(result, delta @ coef.T)


@pytest.mark.parametrize("output", sorted(OUTPUTS))
@pytest.mark.parametrize("hidden", [(), (4,), (4, 5)], ids=str)
@pytest.mark.parametrize("n_rows", [1, 7, 20])
@pytest.mark.parametrize("rows_per_block", [1, 7, 10, 100])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_prediction_of_an_undivided_network(
    output, hidden, n_rows, rows_per_block, dtype
):
    split = NetworkSplit.even((3, *hidden, 2), 1)
    problem = make_problem(split, "tanh", output, Sgd(), n_rows=n_rows, dtype=dtype)
    X = problem.dataset.X
    weights = split.whole().views(problem.initial.parameters)
    for array in (X, *weights.coefs, *weights.intercepts):
        array.flags.writeable = False
    outputs = predict_whole(problem.network, weights, X, rows_per_block)
    assert outputs.dtype == dtype
    expected = PlainNetwork(problem).outputs(slice(None))
    assert_allclose(outputs, expected, rtol=1e-5 if dtype == np.float32 else 1e-12)


@pytest.mark.parametrize("output", sorted(OUTPUTS))
def test_prediction_for_no_rows_has_its_shape_all_the_same(output):
    problem = make_problem(NetworkSplit.even((3, 4, 2), 1), output=output, rule=Adam())
    weights = problem.network.split.whole().views(problem.initial.parameters)
    outputs = predict_whole(problem.network, weights, np.empty((0, 3)), 10)
    assert outputs.shape == (0, 2)


def test_prediction_for_features_of_another_dtype_has_the_common_one():
    problem = make_problem(NetworkSplit.even((3, 4, 2), 1), dtype=np.float32)
    weights = problem.network.split.whole().views(problem.initial.parameters)
    X = np.ones((2, 3), int)
    assert predict_whole(problem.network, weights, X, 10).dtype == np.float64
