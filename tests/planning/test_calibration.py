"""From measurements to speeds."""

from dataclasses import replace
from statistics import median_low

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.calibration import (
    FasterExchanges,
    Timings,
    are_equal,
    corners,
    equal_groups,
    machines_of,
)
from skdistmlp.planning.cost import StepCost
from skdistmlp.planning.machines import Speed
from skdistmlp.planning.rates import REFERENCE
from skdistmlp.planning.step_time import computation_s, step_time

UNITS = 784, 128, 128, 10
COST = StepCost.of_step(200, itemsize=4)
GRIDS = (Grid(1), Grid(3), Grid(1, 3))


def measurement(*first_s: float) -> Timings:
    """Return one in which workers take so long, and less on other grids."""
    each = tuple((s, s / 2, s / 3) for s in first_s)
    return Timings(UNITS, GRIDS, 0.5, each, (0.0, 1e6), (1e-4, 1e-2))


def test_a_single_process_and_the_most_of_each_kind_are_timed():
    assert corners(3, UNITS, 200) == list(GRIDS)
    assert corners(1, UNITS, 200) == [Grid(1)]
    assert corners(8, (4, 2, 2), 5) == [Grid(1), Grid(2), Grid(1, 5)]
    # Without hidden layers there is nothing to share but rows.
    assert corners(3, (4, 2), 200) == [Grid(1), Grid(1, 3)]


def test_what_was_measured_is_what_is_expected():
    machines = machines_of(measurement(0.9, 0.9, 0.9), COST)
    for grid, seconds in zip(GRIDS, (0.9, 0.45, 0.3), strict=True):
        split = NetworkSplit.even(UNITS, grid.n_shards)
        for speed in machines.workers:
            assert computation_s(split, COST, grid, speed) == pytest.approx(seconds)
    split = NetworkSplit.even(UNITS, 1)
    assert computation_s(split, COST, Grid(1), machines.here) == pytest.approx(0.5)
    assert machines.links[0].n_others == 2
    assert machines.links[0].exchange_s(1e6, 2, machines.here.rates) == pytest.approx(
        1e-2
    )


@pytest.mark.parametrize("n_timed", [64, 20_000])
def test_products_of_few_rows_count_as_slow_as_they_are(n_timed):
    """A machine that takes twice as long as the reference, with any rows.

    Also if all rows of a step are timed, but those of a replica are not.
    """
    large = replace(COST, n_rows=20_000)
    few = replace(large, n_rows=n_timed)
    of_reference = Speed(REFERENCE)

    def parts(n_shards, cost):
        split = NetworkSplit.even(UNITS, n_shards)
        products = replace(cost, moves_parameters=True)
        computed_s = computation_s(split, products, Grid(n_shards), of_reference)
        all_s = computation_s(split, cost, Grid(n_shards), of_reference)
        return computed_s, all_s - computed_s

    alone_s, update_s = parts(1, few)
    shard_s, shard_update_s = parts(3, few)
    times = 20_000 / n_timed
    each = (
        2 * (times * alone_s + update_s),
        2 * (times * shard_s + shard_update_s),
        # Not timed, but computed from the first.
        2 * (times * alone_s / 3 + update_s / 3),
    )
    n_rows = n_timed, n_timed, 0
    found = Timings(UNITS, GRIDS, each[0], (each,) * 3, (), (), n_rows)
    machines = machines_of(found, large)
    for grid in GRIDS:
        assert machines.workers[0].correction(grid) == pytest.approx(2)
    assert machines.here.correction(Grid(1)) == pytest.approx(2)
    # Computed in proportion to few rows, it would have been more.
    split = NetworkSplit.even(UNITS, 1)
    all_s = computation_s(split, large, Grid(1), machines.here)
    assert (all_s < 0.9 * each[0]) is (n_timed == 64)


def test_nearly_equal_workers_get_the_same_speed():
    first, second, slow = machines_of(measurement(0.9, 1.0, 1.6), COST).workers
    assert first == second
    assert slow != first
    assert are_equal(1.0, 1.2)
    assert are_equal(1.2, 1.0)
    assert not are_equal(1.0, 1.21)


def with_faster(*faster):
    """Return a measurement of four workers, and of exchanges among fewer of them."""
    sizes, slow_s = (0.0, 1.6e4, 1.28e5), (1e-3, 1e-2, 1e-1)
    found = tuple(
        FasterExchanges(
            workers,
            (*sizes, 1e6),
            tuple(s / times for s in (*slow_s, 0.8)),
            times * 1e7,
            1 / times,
        )
        for times, workers in faster
    )
    each = measurement(1.0, 1.0, 1.0, 1.0)
    return replace(
        each,
        sizes=sizes,
        exchange_s=slow_s,
        faster=found,
        here_bits_per_s=1e7,
        busy_share=0.5,
    )


def test_workers_whose_links_are_faster_have_links_of_their_own():
    links = machines_of(with_faster((50, (0, 2, 3)), (500, (0, 3))), COST).links
    assert links[0] == links[3]
    assert [link.seconds[2] for link in links] == [2e-4, 1e-1, 2e-3, 2e-4]
    assert [link.n_others for link in links] == [1, 3, 2, 1]
    assert [link.here_bits_per_s for link in links] == [5e9, 1e7, 5e8, 5e9]
    assert [link.busy_share for link in links] == [2e-3, 0.5, 2e-2, 2e-3]
    assert len(links[1].sizes) < len(links[0].sizes)


def test_links_that_only_seemed_slow_count_as_all_others():
    """Exchanges without them take as long, but for noise."""
    links = machines_of(with_faster((1.9, (0, 2, 3))), COST).links
    assert len(set(links)) == 1
    assert links[0].here_bits_per_s == 1e7
    # Compared with the link that counts, which is that of all.
    links = machines_of(with_faster((1.9, (0, 2, 3)), (2.1, (0, 3))), COST).links
    assert [link.n_others for link in links] == [1, 3, 3, 1]


@pytest.mark.parametrize(
    ("fast", "slow"),
    [
        ((1.0, 1.05), (1.45, 1.5)),
        ((1.0, 1.0, 1.02), (2.0, 2.1, 2.2)),
        # Most are fast, or slow.
        ((0.95, 1.0, 1.02, 1.1, 1.15), (3.0, 3.3)),
        ((1.0, 1.1), (2.0, 2.1, 2.2, 2.3, 2.35)),
    ],
)
def test_two_groups_of_workers_each_have_their_own_speed(fast, slow):
    workers = machines_of(measurement(*slow, *fast), COST).workers
    of_slow, of_fast = workers[: len(slow)], workers[len(slow) :]
    assert len(set(map(str, of_slow))) == len(set(map(str, of_fast))) == 1
    for grid in GRIDS:
        ratio = of_slow[0].correction(grid) / of_fast[0].correction(grid)
        assert ratio == pytest.approx(median_low(slow) / median_low(fast))


def test_noise_on_both_sides_of_the_median_makes_no_group():
    # More than 20% between the first and the last.
    assert equal_groups([1.12, 1.0, 0.88, 1.02]) == [[2, 1, 3, 0]]


@given(st.lists(st.floats(0.1, 100), max_size=30))
def test_each_worker_is_in_one_group_and_groups_are_in_order(seconds):
    groups = equal_groups(seconds)
    numbers = [number for group in groups for number in group]
    assert sorted(numbers) == list(range(len(seconds)))
    in_order = [seconds[number] for number in numbers]
    assert in_order == sorted(in_order)
    for group in groups:
        assert any(
            all(are_equal(seconds[number], seconds[centre]) for number in group)
            for centre in group
        )


def test_the_link_to_this_process_is_known_of_a_single_worker_too():
    alone = Timings(UNITS, (Grid(1),), 0.5, ((0.4,),), (), (), here_bits_per_s=1e6)
    assert machines_of(alone, COST).sent_s(10**6) > 8


def test_one_worker_exchanges_nothing():
    alone = Timings(UNITS, (Grid(1),), 0.5, ((0.4,),), (), ())
    machines = machines_of(alone, COST)
    split = NetworkSplit.even(UNITS, 1)
    time = step_time(split, COST, Grid(1), machines.workers, machines.links[0])
    assert time.seconds == pytest.approx(0.4)
