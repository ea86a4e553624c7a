"""Arithmetic, bytes and tasks of a step, an evaluation and a prediction."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_array

from skdistmlp.nn.layers import Network, dense_layers
from skdistmlp.nn.update_rules import Adam, Sgd
from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.cost import (
    SCIPY_VECTORS,
    WHOLE_ARRAYS,
    StepCost,
    bytes_held,
    bytes_held_by_tasks,
    bytes_sent_by_neurons,
    bytes_sent_by_rows,
    chained_tasks,
    cost_of_training,
    flop,
)
from skdistmlp.training.hold_out import HoldOut, LastRows
from skdistmlp.training.job import EpochTraining, LbfgsTraining, TrainingJob
from skdistmlp.training.loop import EpochOptions
from skdistmlp.training.scipy_lbfgs import LbfgsOptions

UNITS = (7, 6, 4, 3)
N_PARAMETERS = 7 * 6 + 6 + 6 * 4 + 4 + 4 * 3 + 3
N_ROWS = 10


def split_over(n_shards):
    return NetworkSplit.even(UNITS, n_shards)


def job_of(method, rule=None, dtype=np.float64):
    network = Network(dense_layers(UNITS, "relu"), "identity")
    return TrainingJob(
        network, split_over(1), np.dtype(dtype), method, initial=None, rule=rule
    )


EPOCHS = EpochTraining(EpochOptions(batch_size=8, max_epochs=3))
HELD_OUT = EpochTraining(
    EpochOptions(batch_size=8, max_epochs=3),
    HoldOut(0.5, stratify=False, score=max, include_initial=True),
)


@pytest.mark.parametrize(
    ("method", "rule", "n_arrays", "n_replaced", "buffer_rows", "validation_rows"),
    [
        # Parameters, gradient, moments, and the best parameters.
        (EPOCHS, Adam(0.9, 0.999, 1e-8), 2 + 2, 3, 8, 0),
        (EPOCHS, Sgd(0.9, nesterov=True), 2 + 1, 2, 8, 0),
        (HELD_OUT, Adam(0.9, 0.999, 1e-8), 2 + 2 + 1, 3, 20, 20),
    ],
    ids=["adam", "sgd", "early stopping"],
)
def test_the_cost_of_training_in_epochs_is_that_of_a_step(
    method, rule, n_arrays, n_replaced, buffer_rows, validation_rows
):
    dataset = Dataset(np.ones((40, 7)), np.ones((40, 3)))
    cost = cost_of_training(job_of(method, rule), dataset)
    assert cost == StepCost.of_step(
        8,
        itemsize=8,
        arrays_of_parameters=n_arrays,
        arrays_divided=n_replaced - 1,
        arrays_replaced=n_replaced,
        buffer_rows=buffer_rows,
        validation_rows=validation_rows,
        data_bytes=40 * 10 * 8,
        feature_bytes=40 * 7 * 8,
        piece_bytes=40 * 7 * 8,
        n_ordered_rows=40,
    )


def test_the_cost_of_lbfgs_is_that_of_an_evaluation():
    X = csr_array(np.eye(40, 7, dtype=np.float32))
    dataset = Dataset(X, np.ones((40, 3)))
    lbfgs = LbfgsTraining(LbfgsOptions(max_iter=5, max_fun=9, tol=0.1))
    cost = cost_of_training(job_of(lbfgs, dtype=np.float32), dataset)
    assert cost.n_rows == 40
    assert cost.itemsize == 4
    assert cost.nnz_per_row == 7 / 40
    assert cost.data_bytes == dataset.nbytes
    assert cost.moves_parameters
    assert cost.goes_backward


@pytest.mark.parametrize(
    ("shuffle", "hold_out", "by_chance"),
    [
        (True, None, True),
        (False, None, False),
        (False, HELD_OUT.hold_out, True),
        (False, LastRows(2, max, stops=True, include_initial=True), False),
    ],
)
def test_rows_that_are_neither_shuffled_nor_drawn_are_dealt_out_evenly(
    shuffle, hold_out, by_chance
):
    dataset = Dataset(np.ones((N_ROWS, 7)), np.ones((N_ROWS, 3)))
    options = EpochOptions(batch_size=8, max_epochs=3, shuffle=shuffle)
    job = job_of(EpochTraining(options, hold_out), Adam(0.9, 0.999, 1e-8))
    assert cost_of_training(job, dataset).rows_by_chance is by_chance


def test_constructors_say_what_flows_back_and_what_is_sent():
    step = StepCost.of_step(N_ROWS)
    evaluation = StepCost.of_evaluation(N_ROWS)
    prediction = StepCost.of_prediction(N_ROWS)
    assert [c.goes_backward for c in (step, evaluation, prediction)] == [1, 1, 0]
    assert [c.moves_parameters for c in (step, evaluation, prediction)] == [0, 1, 0]


def test_a_shard_alone_holds_its_arrays_its_buffers_and_the_data():
    cost = StepCost.of_step(N_ROWS, itemsize=4, data_bytes=1000)
    layout = split_over(1).layout(0)
    # Features, and activations and deltas of each layer.
    row = 7 + 2 * (6 + 4 + 3)
    expected = 4 * (4 * N_PARAMETERS + row * N_ROWS) + 1000
    assert bytes_held(layout, cost) == expected
    roomy = replace(cost, buffer_rows=3 * N_ROWS)
    assert bytes_held(layout, roomy) == expected + 4 * row * 2 * N_ROWS
    sparse = replace(cost, nnz_per_row=2.0)
    assert bytes_held(layout, sparse) == expected - 4 * 7 * N_ROWS


def test_tasks_hold_what_a_step_replaces_twice_and_all_results_of_a_step():
    layout = split_over(2).layout(0)
    n_own = layout.n_parameters
    cost = StepCost.of_step(N_ROWS, itemsize=4, data_bytes=1000)
    # All activations of the first layer, its own of the second; its own deltas of the
    # second, and from each shard a part of those of the first; all logits.
    results = 6 + 2 + 2 + 2 * 6 + 2 * 3
    # Features, and its own deltas of the first layer, in the largest task.
    row = results + 7 + 3
    expected = 4 * ((4 + 3) * n_own + row * N_ROWS) + 1000
    assert bytes_held_by_tasks(layout, cost) == expected
    sparse = replace(cost, nnz_per_row=2.0)
    # The largest copies are now those of the second layer.
    row = results + 6 + 2
    assert bytes_held_by_tasks(layout, sparse) == (
        4 * ((4 + 3) * n_own + row * N_ROWS) + 1000
    )
    # While it is validated, there is no gradient and one set of moments.
    validated = replace(cost, validation_rows=1000)
    assert bytes_held_by_tasks(layout, validated) == (
        4 * (3 * n_own + (6 + 2 + 2 * 3) * 1000) + 1000
    )


def test_dropout_and_some_activations_take_more_buffers():
    """As many as a shard allocates, beyond those that it has anyway."""
    cost = StepCost.of_step(N_ROWS, itemsize=4)
    kept = replace(cost, layers_kept=frozenset({0, 1}))
    dropped = replace(cost, layers_dropped=frozenset({0, 1, 2}))
    for n_shards in (1, 2):
        layout = split_over(n_shards).layout(0)
        plain = bytes_held(layout, cost)
        own = (6 + 4) // n_shards
        assert bytes_held(layout, kept) - plain == 4 * N_ROWS * own
        assert bytes_held(layout, dropped) - plain == 4 * N_ROWS * 2 * (7 + own)
        of_tasks = bytes_held_by_tasks(layout, dropped)
        # The largest task copies the features.
        assert of_tasks - bytes_held_by_tasks(layout, cost) == 4 * N_ROWS * 7


def test_the_cost_of_training_knows_activations_and_dropout():
    layers = dense_layers(UNITS, ["gelu", "relu"], [0.1, 0.0, 0.5])
    job = job_of(EPOCHS, Adam())
    job = replace(job, network=Network(layers, "identity"), ema_decay=0.9)
    cost = cost_of_training(job, Dataset(np.ones((40, 7)), np.ones((40, 3))))
    assert cost.layers_kept == {0}
    assert cost.layers_dropped == {0, 2}
    assert (cost.arrays_of_parameters, cost.arrays_replaced) == (2 + 3, 1 + 3)


@pytest.mark.parametrize(("n_rows", "at_once"), [(30, 30), (1000, 6 * N_ROWS)])
def test_tasks_hold_the_results_of_several_blocks_in_an_evaluation(n_rows, at_once):
    layout = split_over(1).layout(0)
    evaluation = StepCost.of_evaluation(
        n_rows,
        itemsize=4,
        arrays_of_parameters=3,
        arrays_divided=0,
        arrays_replaced=1,
        buffer_rows=N_ROWS,
    )
    results = 6 + 4 + 4 + 6 + 3
    n_numbers = 4 * N_PARAMETERS + results * at_once + (7 + 6) * N_ROWS
    assert bytes_held_by_tasks(layout, evaluation) == 4 * n_numbers


@pytest.mark.parametrize("n_shards", [1, 2])
def test_an_evaluation_also_holds_whole_arrays_and_the_vectors_of_scipy(n_shards):
    split = split_over(n_shards)
    step = StepCost.of_step(N_ROWS, itemsize=4)
    evaluation = StepCost.of_evaluation(N_ROWS, itemsize=4)
    for rank in range(n_shards):
        layout = split.layout(rank)
        more = bytes_held(layout, evaluation) - bytes_held(layout, step)
        whole = WHOLE_ARRAYS * N_PARAMETERS * 4 if n_shards > 1 else 0
        scipy = SCIPY_VECTORS * N_PARAMETERS * 8 if rank == 0 else 0
        assert more == whole + scipy


def test_training_chains_twice_as_many_tasks_as_there_are_layers():
    split = split_over(2)
    assert chained_tasks(split, StepCost.of_step(N_ROWS)) == 6
    # With that of the loss, and for each block of rows.
    assert chained_tasks(split, StepCost.of_evaluation(N_ROWS)) == 7
    in_blocks = StepCost.of_evaluation(N_ROWS, buffer_rows=4)
    assert chained_tasks(split, in_blocks) == 3 * 6 + 1
    assert chained_tasks(split, StepCost.of_prediction(N_ROWS)) == 4


def test_operations_are_those_of_the_matrix_products():
    split = split_over(1)
    first, others = 2 * N_ROWS * 7 * 6, 2 * N_ROWS * (6 * 4 + 4 * 3)
    assert flop(split, StepCost.of_prediction(N_ROWS)) == first + others
    # Backward, layer 0 has a gradient but carries no delta.
    assert flop(split, StepCost.of_step(N_ROWS)) == 2 * first + 3 * others
    sparse = StepCost.of_prediction(N_ROWS, nnz_per_row=3.5)
    assert flop(split, sparse) == first / 2 + others


@pytest.mark.parametrize(
    ("nnz_per_row", "n_numbers"), [(None, 7), (2.0, 4)], ids=["dense", "sparse"]
)
def test_a_prediction_sends_rows_and_parameters(nnz_per_row, n_numbers):
    cost = StepCost.of_prediction(N_ROWS, itemsize=4, nnz_per_row=nnz_per_row)
    rows = N_ROWS * n_numbers
    by_rows = bytes_sent_by_rows(split_over(1), cost, n_workers=3)
    assert by_rows == 4 * (3 * N_PARAMETERS + rows)
    by_neurons = bytes_sent_by_neurons(split_over(2), cost)
    # The activations of the layer between the hidden ones go to the other shard, and
    # both send what the outputs are summed from.
    assert by_neurons == 4 * (N_PARAMETERS + 2 * rows + N_ROWS * (6 + 2 * 3))
