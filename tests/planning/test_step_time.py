"""What a step takes by the formulas: products, messages, and what hides."""

import math
from dataclasses import replace

import numpy as np
import pytest

from skdistmlp.parallel import overlap
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.rows import RowHolding
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.cost import StepCost, flop
from skdistmlp.planning.machines import PAYLOAD, Link, Speed
from skdistmlp.planning.rates import SCIPY_PARAMETER_S, Rates
from skdistmlp.planning.step_time import (
    StepTime,
    computation_s,
    computations_s,
    expected_rows,
    step_time,
)
from skdistmlp.wire.packet import HEADER_BYTES

FREE = Rates({1: 1e9, 1024: 1e9}, math.inf, 0.0, 0.0, math.inf, 0.0)
"""Only products take time, at the same rate whatever their shape."""

UNITS = 784, 128, 128, 10
COST = StepCost.of_step(200, itemsize=4)
SPEED = Speed(FREE)
GBIT = Link.of_rate(1e9, FREE)


def time_on(grid: Grid, link: Link = GBIT, cost: StepCost = COST, **others) -> StepTime:
    split = NetworkSplit.even(UNITS, grid.n_shards)
    return step_time(split, cost, grid, [SPEED], link, **others)


def test_one_process_computes_everything():
    split = NetworkSplit.even(UNITS, 1)
    alone = computation_s(split, COST, Grid(1), SPEED)
    assert alone == pytest.approx(flop(split, COST) / 1e9)
    assert time_on(Grid(1)) == StepTime(alone)


@pytest.mark.parametrize("dtype_bytes", [4, 8])
def test_larger_numbers_take_longer(dtype_bytes):
    cost = replace(COST, itemsize=dtype_bytes)
    split = NetworkSplit.even(UNITS, 1)
    found = computation_s(split, cost, Grid(1), SPEED)
    assert found == pytest.approx(flop(split, cost) / 1e9 * dtype_bytes / 4)


def test_a_prediction_and_an_evaluation_have_no_optimiser():
    slow = Speed(replace(FREE, optimizer_bytes_per_s=1e9))
    split = NetworkSplit.even(UNITS, 1)
    step_s = computation_s(split, COST, Grid(1), slow)
    products_s = flop(split, COST) / 1e9
    assert step_s == pytest.approx(products_s + 28 * split.n_parameters / 1e9)
    evaluation = StepCost.of_evaluation(200, itemsize=4)
    assert computation_s(split, evaluation, Grid(1), slow) == pytest.approx(products_s)
    prediction = StepCost.of_prediction(200, itemsize=4)
    found = computation_s(split, prediction, Grid(1), slow)
    assert found == pytest.approx(flop(split, prediction) / 1e9)


def test_what_travels_is_hidden_by_the_gradient_that_is_computed_meanwhile():
    time = time_on(Grid(2))
    # Activations, deltas and logits, each in a message.
    n_bytes = 200 * 4 * (2 * 64 + 10) + 3 * HEADER_BYTES
    byte_s = 8 / (PAYLOAD * 1e9)
    assert time.travelled_s == pytest.approx(byte_s * n_bytes)
    gradient_s = 2 * 200 * 128 * 64 / 1e9
    deltas_s = byte_s * (200 * 4 * 64 + HEADER_BYTES)
    assert time.hidden_s == pytest.approx(min(gradient_s, deltas_s))
    assert time.seconds == pytest.approx(
        time.computed_s + time.travelled_s - time.hidden_s
    )
    assert time.with_overlap_s <= time.seconds <= time.without_overlap_s


def test_halves_hide_behind_the_layer_below_and_the_columns_that_are_here(monkeypatch):
    without = time_on(Grid(2), Link.of_rate(1e8, FREE))
    monkeypatch.setattr(overlap, "HALVED_BYTES", 1)
    time = time_on(Grid(2), Link.of_rate(1e8, FREE))
    below_s = 2 * 200 * 784 * 64 / 1e9 / 2
    own_s = 2 * 200 * 128 * 64 / 1e9 / 2
    half_s = 8 / (PAYLOAD * 1e8) * (200 * 4 * 64 / 2 + HEADER_BYTES)
    hidden_s = min(below_s, half_s) + min(own_s, half_s)
    assert time.hidden_s - without.hidden_s == pytest.approx(hidden_s)


def test_features_of_the_next_rows_hide_behind_the_whole_step():
    copies, once = time_on(Grid(2)), time_on(Grid(2), rows=RowHolding("once"))
    assert once.travelled_s > copies.travelled_s
    assert once.hidden_s - copies.hidden_s == pytest.approx(
        min(once.travelled_s - copies.travelled_s, copies.computed_s - 0)
    )


def test_nothing_hides_behind_what_hides_something_else():
    slow = Link.of_rate(1e7, FREE)
    time = time_on(Grid(2), slow, rows=RowHolding("once"))
    assert time.hidden_s == pytest.approx(time.computed_s)
    assert time.with_overlap_s <= time.seconds <= time.without_overlap_s


def test_replicas_hide_nothing():
    time = time_on(Grid(1, 2))
    assert time.hidden_s == 0
    assert time.travelled_s > 0
    fullest = expected_rows(COST, 2)
    assert time.computed_s == pytest.approx(
        flop(NetworkSplit.even(UNITS, 1), COST) / 1e9 * fullest / 200
    )


@pytest.mark.parametrize(("n_rows", "n_replicas"), [(200, 2), (200, 3), (2000, 8)])
def test_rows_fall_on_replicas_by_chance(n_rows, n_replicas):
    random = np.random.default_rng(0)
    drawn = random.multinomial(n_rows, [1 / n_replicas] * n_replicas, size=4000)
    fullest = drawn.max(axis=1).mean()
    mean = n_rows / n_replicas
    cost = StepCost.of_step(n_rows)
    assert expected_rows(cost, n_replicas) - mean == pytest.approx(
        fullest - mean, rel=0.1
    )


def test_an_evaluation_has_the_same_rows_on_each_replica():
    assert expected_rows(StepCost.of_evaluation(201), 2) == 101
    assert expected_rows(COST, 1) == 200


def test_rows_in_order_are_dealt_out_evenly():
    in_order = replace(COST, rows_by_chance=False)
    assert expected_rows(in_order, 3) == 67
    assert expected_rows(in_order, 2, 0.75) == 150
    assert expected_rows(COST, 3) > 67


def test_all_wait_for_the_slowest():
    slow = Speed(FREE, {Grid(1): 3.0})
    split = NetworkSplit.by_shares(UNITS, [1, 1])
    even = step_time(split, COST, Grid(2), [SPEED, SPEED], GBIT)
    waiting = step_time(split, COST, Grid(2), [SPEED, slow], GBIT)
    assert waiting.computed_s == pytest.approx(3 * even.computed_s)
    fair = NetworkSplit.by_shares(UNITS, [3, 1])
    assert step_time(fair, COST, Grid(2), [SPEED, slow], GBIT).computed_s < (
        0.6 * waiting.computed_s
    )


def test_each_process_computes_its_own_shard_at_its_own_speed():
    split, grid = NetworkSplit.even((784, 128, 127, 10), 2), Grid(2, 2)
    speeds = [SPEED, SPEED, Speed(FREE, {Grid(1): 3.0}), SPEED]
    first, second, slow, last = computations_s(split, COST, grid, speeds)
    assert slow == pytest.approx(3 * first)
    assert (second, second < first) == (last, True)
    assert step_time(split, COST, grid, speeds, GBIT).computed_s == slow


def test_all_wait_for_the_largest_shard_which_need_not_be_the_first():
    units, cost = (4, 5, 3), StepCost.of_step(200, itemsize=4)
    split = NetworkSplit.even(units, 2)
    assert [len(part) for part in split.ranges[0]] == [2, 3]
    free = Link.of_rate(math.inf, FREE)
    time = step_time(split, cost, Grid(2), [SPEED], free)
    # Twice for the first layer, three times for its rows of the second.
    assert time.computed_s == pytest.approx(2 * 200 * 3 * (2 * 4 + 3 * 3) / 1e9)


@pytest.mark.parametrize("grid", [Grid(1), Grid(2), Grid(1, 2)], ids=str)
def test_an_evaluation_waits_for_scipy_on_every_grid(grid, monkeypatch):
    evaluation = StepCost.of_evaluation(200, itemsize=4)
    of_scipy = SCIPY_PARAMETER_S * NetworkSplit.even(UNITS, 1).n_parameters
    found = time_on(grid, cost=evaluation)
    step = time_on(grid)
    monkeypatch.setattr("skdistmlp.planning.step_time.SCIPY_PARAMETER_S", 0.0)
    without = time_on(grid, cost=evaluation)
    assert found.seconds - without.seconds == pytest.approx(of_scipy)
    assert found.hidden_s == without.hidden_s
    assert time_on(grid) == step


def test_the_replica_with_the_most_rows_has_the_most_to_exchange():
    split = NetworkSplit.even(UNITS, 2)
    even, uneven = (
        step_time(split, COST, Grid(2, 2), [SPEED] * 4, GBIT, RowHolding(shares=shares))
        for shares in ((), (3, 1))
    )
    # Of its rows: activations, deltas and logits.
    more = 50 * 4 * (2 * 64 + 10)
    assert uneven.travelled_s - even.travelled_s == pytest.approx(
        8 * more / (PAYLOAD * 1e9)
    )


@pytest.mark.parametrize("busy", [0.0, 0.25, 1.0])
def test_nothing_hides_behind_an_exchange_while_the_processor_is_busy(busy):
    time = time_on(Grid(2), replace(GBIT, busy_share=busy))
    exchanges_s = time.handled_s + time.travelled_s
    assert time.handled_s == pytest.approx(busy * exchanges_s)
    # Whatever the processor does in it, an exchange takes as long.
    by_rates = time_on(Grid(2))
    assert exchanges_s == pytest.approx(by_rates.handled_s + by_rates.travelled_s)
    assert time.hidden_s <= time.travelled_s
    assert (time.hidden_s == 0) == (busy == 1)
    assert (time.seconds == time.without_overlap_s) == (busy == 1)


def test_messages_keep_the_processor_busy():
    busy = replace(FREE, message_s=1e-3)
    speed, link = Speed(busy), Link.of_rate(1e9, busy)
    split = NetworkSplit.even(UNITS, 2)
    time = step_time(split, COST, Grid(2), [speed], link)
    assert time.handled_s == pytest.approx(3e-3)
    assert time.travelled_s == pytest.approx(time_on(Grid(2)).travelled_s)
