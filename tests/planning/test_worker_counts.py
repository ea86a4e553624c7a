"""For how many workers plans are considered."""

import numpy as np
import pytest

from skdistmlp.planning.worker_counts import (
    ROUNDS_FOR_ROOM,
    group_with_room,
    worker_counts,
)

SMALL = [1, 2, 3, 4, 5, 6, 7, 8]


def test_all_small_numbers_powers_of_two_and_all_workers_are_considered():
    assert worker_counts([1.0]) == [1]
    assert worker_counts([1.0] * 5) == [1, 2, 3, 4, 5]
    assert worker_counts([1.0] * 40) == [*SMALL, 16, 32, 40]


def test_all_workers_but_slow_ones_are_considered():
    assert worker_counts([1.0] * 14 + [20.0]) == [*SMALL, 14, 15]
    assert worker_counts([1.0] * 28 + [10.0] * 2) == [*SMALL, 16, 28, 30]
    three_groups = [1.0] * 10 + [1.5] * 10 + [2.0] * 10
    assert worker_counts(three_groups) == [*SMALL, 10, 16, 20, 28, 30]


def test_a_number_with_many_divisors_is_considered_below_a_prime():
    assert worker_counts([1.0] * 61 + [9.0] * 2) == [*SMALL, 16, 32, 60, 61, 63]
    assert worker_counts([1.0] * 1021)[-3:] == [512, 1008, 1021]


def test_numbers_are_multiples_of_the_number_of_replicas():
    assert worker_counts([1.0] * 32, 3) == [3, 6, 12, 24, 30]
    assert worker_counts([1.0] * 28 + [10.0] * 2, 3) == [3, 6, 12, 24, 27, 30]
    assert worker_counts([1.0] * 2, 3) == []
    # Fewer fast ones than replicas.
    assert worker_counts([1.0] * 2 + [10.0] * 2, 3) == [3]


def test_fewer_workers_than_the_least_are_not_considered():
    assert worker_counts([1.0] * 10, least=7) == [7, 8, 10]
    assert worker_counts([1.0] * 3, least=7) == [3]
    assert worker_counts([1.0] * 8, 2, least=3) == [4, 6, 8]


@pytest.mark.parametrize("n_workers", [1000, 1023, 1024])
def test_numbers_are_few_whatever_the_speeds(n_workers):
    slowness = sorted(np.random.default_rng(0).uniform(1, 100, n_workers))
    assert len(worker_counts(slowness)) <= 26


def group(*free, needed=12):
    """Return the workers that share, of those with this much memory, what needs it."""

    def with_room(n_workers):
        return [place for place, its in enumerate(free) if its >= needed / n_workers]

    return [*group_with_room(range(len(free)), with_room)]


def test_workers_that_have_room_are_fewer_the_fewer_they_are():
    assert group(4, 4, 4) == [0, 1, 2]
    assert group(9, 1, 9, 9) == [0, 2, 3]
    # Among three, the second has no room any more.
    assert group(9, 3, 9, 1) == [0, 2]
    # None has room in the end.
    assert group(5, 5, 1) == group(1, 1) == []


def test_rounds_in_which_workers_are_left_out_are_bounded():
    # Each smaller group has one that has just no room.
    free = [12 / n - 1e-9 for n in range(64, 0, -1)]
    assert len(group(*free)) == 64 - ROUNDS_FOR_ROOM
