from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array, csr_matrix
from sklearn.neural_network._base import DERIVATIVES, LOSS_FUNCTIONS

from skdistmlp.nn.layers import Network, dense_layers
from skdistmlp.nn.losses import OUTPUTS
from skdistmlp.nn.optimizers import OptimizerState
from skdistmlp.nn.update_rules import Adam, Sgd
from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.shard import (
    ShardState,
    add_penalty,
    affine,
    batch_loss,
    batch_penalty,
    gradient,
    join_states,
    output_delta,
    predict_whole,
    propagate,
    split_state,
)
from skdistmlp.parallel.split import NetworkSplit
from tests.parallel.ops_contract import HEADS, LOSSES, PlainNetwork, make_problem
from tests.strategies import splits, update_rules

ROWS = [slice(1, 4), np.array([2, 0, 2])]

BINARY = Network(dense_layers((1, 1), "relu"), "logistic")

formats = pytest.mark.parametrize("sparse", [csr_matrix, csr_array])
with_or_without_out = pytest.mark.parametrize("with_out", [False, True])


def frozen(*shape, seed=0):
    """Draw an array that a pure function must not write to."""
    array = np.random.default_rng(seed).normal(size=shape)
    array.flags.writeable = False
    return array


def sparse_rows(sparse, *shape):
    """Draw sparse rows, the first of them empty, that must not be written to."""
    rng = np.random.default_rng(3)
    array = np.where(rng.random(shape) < 0.5, rng.normal(size=shape), 0)
    array[0] = 0
    rows = sparse(array)
    for part in (rows.data, rows.indices, rows.indptr):
        part.flags.writeable = False
    return rows


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
def test_joining_states_restores_the_state_of_the_network(split, rule):
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
def test_states_without_an_optimizer_are_split_and_joined(split):
    whole = ShardState(np.arange(split.n_parameters, dtype=float))
    parts = split_state(split, whole)
    assert all(part.optimizer is None for part in parts)
    joined = join_states(split, parts)
    assert joined.optimizer is None
    assert_array_equal(joined.parameters, whole.parameters)


@with_or_without_out
def test_affine_is_a_product_plus_intercepts(with_out):
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
@formats
@pytest.mark.parametrize("n_rows", [0, 1, 5])
def test_sparse_rows_give_the_results_of_dense_rows(n_rows, sparse, with_out):
    """Forward, and the gradient."""
    inputs = sparse_rows(sparse, 5, 3)[5 - n_rows :]
    dense = inputs.toarray()
    coef, intercept, delta = frozen(3, 2), frozen(2, seed=1), frozen(n_rows, 2, seed=2)
    out = room(with_out, n_rows, 2)
    result = affine(inputs, coef, intercept, out)
    check_out(result, out)
    assert type(result) is np.ndarray
    assert_allclose(result, affine(dense, coef, intercept), rtol=1e-12)
    coef_out, intercept_out = room(True, 3, 2), room(True, 2)
    gradient(inputs, delta, coef_out, intercept_out)
    assert_allclose(coef_out, dense.T @ delta, atol=1e-15)
    assert_allclose(intercept_out, delta.sum(axis=0))


@with_or_without_out
@pytest.mark.parametrize("rows", ROWS, ids=["slice", "indices"])
@pytest.mark.parametrize("batch", [None, slice(0, 5)], ids=["alone", "of all rows"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("output", "n_outputs"), HEADS)
def test_output_delta_and_loss_of_rows(
    output, n_outputs, rows, batch, weighted, with_out
):
    problem = make_problem(
        NetworkSplit.even((2, n_outputs), 1), output=output, n_rows=5
    )
    weight = np.array([0.5, 1, 2, 4, 8]) if weighted else None
    dataset = replace(problem.dataset, sample_weight=weight)
    batch = rows if batch is None else batch
    prediction = np.random.default_rng(0).uniform(0.1, 0.9, (3, n_outputs))
    prediction.flags.writeable = False
    out = room(with_out, 3, n_outputs)
    delta = output_delta(problem.network, prediction, dataset, rows, batch, out)
    check_out(delta, out)
    w = np.ones(5) if weight is None else weight
    expected = (prediction - dataset.y[rows]) * w[rows, np.newaxis] / w[batch].sum()
    assert_allclose(delta, expected)
    found = batch_loss(problem.network, prediction, dataset, rows, batch)
    loss = OUTPUTS[output].loss(dataset.y[rows], prediction, w[rows])
    assert type(found) is float
    assert_allclose(found, loss / w[batch].sum() * len(w[batch]))


def test_output_delta_may_overwrite_the_prediction():
    dataset, rows = Dataset(np.zeros((2, 1)), np.array([[True], [False]])), slice(0, 2)
    prediction = np.array([[0.25], [0.75]])
    found = output_delta(BINARY, prediction, dataset, rows, rows, prediction)
    assert found is prediction
    assert_array_equal(prediction, [[-0.375], [0.375]])


@pytest.mark.parametrize("y", [np.ones((2, 1), bool), np.ones((2, 1))], ids=str)
def test_output_delta_keeps_the_dtype_of_the_network(y):
    dataset, rows = Dataset(np.zeros((2, 1)), y, np.ones(2)), slice(0, 2)
    prediction = np.full((2, 1), 0.25, np.float32)
    delta = output_delta(BINARY, prediction, dataset, rows, rows)
    assert delta.dtype == np.float32


@pytest.mark.parametrize("output", sorted(OUTPUTS))
def test_weights_that_sum_to_zero_are_refused_as_by_scikit_learn(output):
    problem = make_problem(NetworkSplit.even((2, 3), 1), output=output, n_rows=4)
    weight = np.array([0.0, 0.0, 1.0, 1.0])
    dataset = replace(problem.dataset, sample_weight=weight)
    prediction, zeros, every = np.full((2, 3), 1 / 3), slice(0, 2), slice(0, 4)
    with pytest.raises(ZeroDivisionError) as theirs:
        LOSS_FUNCTIONS[LOSSES[output]](dataset.y[zeros], prediction, weight[zeros])
    with pytest.raises(ZeroDivisionError) as ours:
        batch_loss(problem.network, prediction, dataset, zeros, zeros)
    assert str(ours.value) == str(theirs.value)
    # Among others they only count for nothing.
    assert batch_loss(problem.network, prediction, dataset, zeros, every) == 0.0
    assert not output_delta(problem.network, prediction, dataset, zeros, every).any()


def test_batch_penalty_is_scikit_learns_times_the_number_of_rows():
    network = Network(dense_layers((2, 3), "relu"), "softmax", alpha=0.5)
    assert batch_penalty(network, 8.0, 10, 4.0) == 0.5 * 0.5 * 8.0 / 4.0 * 10


@pytest.mark.parametrize("block", [1, 4, 6, 100])
def test_add_penalty_adds_to_the_gradients_of_coefficients_alone(block, monkeypatch):
    monkeypatch.setattr("skdistmlp.nn.optimizers.BLOCK_BYTES", 8 * block)
    network = Network(dense_layers((2, 3), "relu"), "softmax", alpha=0.5)
    parameters, gradient_sum = frozen(9), np.ones(9)
    penalty = add_penalty(network, 6, parameters, gradient_sum, 10, 4.0)
    coefs = parameters[:6]
    assert_allclose(penalty, 0.5 * 0.5 * np.sum(coefs**2) / 4.0 * 10)
    assert_allclose(gradient_sum, 1 + np.append(0.5 / 4.0 * coefs, [0, 0, 0]))


def test_gradient_writes_to_the_given_arrays():
    inputs, delta = frozen(4, 3), frozen(4, 2, seed=1)
    coef_out, intercept_out = room(True, 3, 2), room(True, 2)
    gradient(inputs, delta, coef_out, intercept_out)
    assert_allclose(coef_out, inputs.T @ delta)
    assert_allclose(intercept_out, delta.sum(axis=0))
    again = room(True, 3, 2)
    gradient(inputs, delta, again, np.empty(0))
    assert_array_equal(again, coef_out)


@with_or_without_out
def test_propagate_carries_the_delta_to_the_layer_before(with_out):
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
@pytest.mark.parametrize("sparse", [None, csr_matrix, csr_array])
def test_an_unsplit_network_predicts_in_blocks(
    output, hidden, n_rows, rows_per_block, dtype, sparse
):
    split = NetworkSplit.even((3, *hidden, 2), 1)
    problem = make_problem(
        split, "tanh", output, Sgd(), n_rows=n_rows, dtype=dtype, sparse=sparse
    )
    X = problem.dataset.X
    parameters = split.unsplit_layout().views(problem.initial.parameters)
    stored = [X] if sparse is None else [X.data, X.indices, X.indptr]
    for array in (*stored, *parameters.coefs, *parameters.intercepts):
        array.flags.writeable = False
    outputs = predict_whole(problem.network, parameters, X, rows_per_block)
    assert outputs.dtype == dtype
    expected = PlainNetwork(problem).outputs(slice(None))
    close = 1e-5 if dtype == np.float32 else 1e-12
    assert_allclose(outputs, expected, rtol=close, atol=close)


@pytest.mark.parametrize("first", sorted(DERIVATIVES))
@pytest.mark.parametrize("second", sorted(DERIVATIVES))
def test_prediction_applies_the_activation_of_each_layer(first, second):
    split = NetworkSplit.even((3, 4, 5, 2), 1)
    problem = make_problem(split, [first, second])
    parameters = split.unsplit_layout().views(problem.initial.parameters)
    outputs = predict_whole(problem.network, parameters, problem.dataset.X, 7)
    expected = PlainNetwork(problem).outputs(slice(None))
    assert_allclose(outputs, expected, rtol=1e-12)


@pytest.mark.parametrize("output", sorted(OUTPUTS))
@pytest.mark.parametrize("make_rows", [np.empty, csr_matrix, csr_array])
def test_a_prediction_for_no_rows_has_the_right_shape(output, make_rows):
    problem = make_problem(NetworkSplit.even((3, 4, 2), 1), output=output, rule=Adam())
    parameters = problem.split.unsplit_layout().views(problem.initial.parameters)
    outputs = predict_whole(problem.network, parameters, make_rows((0, 3)), 10)
    assert outputs.shape == (0, 2)


@pytest.mark.parametrize("convert", [np.asarray, csr_matrix, csr_array])
def test_a_prediction_for_another_dtype_has_the_common_dtype(convert):
    problem = make_problem(NetworkSplit.even((3, 4, 2), 1), dtype=np.float32)
    parameters = problem.split.unsplit_layout().views(problem.initial.parameters)
    X = convert(np.ones((2, 3), int))
    assert predict_whole(problem.network, parameters, X, 10).dtype == np.float64
