"""Who computes which rows, and who has their features."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from skdistmlp.parallel.rows import (
    DealtRows,
    RowHolding,
    RowRange,
    RowsByShares,
    RowsInRanges,
    even_ranges,
    numbers_of,
)

N_ROWS = 50

batches = st.one_of(
    st.lists(st.integers(0, N_ROWS - 1), unique=True).map(
        lambda rows: np.array(rows, int)
    ),
    st.builds(lambda start, n: slice(start, start + n), *2 * [st.integers(0, 9)]),
)


@st.composite
def ranges_of_rows(draw):
    """Return ranges of rows that tile them, some empty, with any owners."""
    n_replicas, n_shards = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    inner = sorted(draw(st.lists(st.integers(0, N_ROWS), max_size=6)))
    owners = st.tuples(st.integers(0, n_replicas - 1), st.integers(0, n_shards - 1))
    bounds = zip([0, *inner], [*inner, N_ROWS], strict=True)
    ranges = [RowRange(start, stop, *draw(owners)) for start, stop in bounds]
    return RowsInRanges(tuple(ranges), n_replicas, n_shards)


distributions = st.one_of(
    st.builds(DealtRows, st.integers(1, 4), st.integers(1, 4)),
    st.builds(
        RowsByShares,
        st.lists(st.integers(1, 7), min_size=1, max_size=4).map(tuple),
        st.integers(1, 4),
    ),
    ranges_of_rows(),
)


@given(batches, distributions)
def test_every_row_of_a_batch_has_one_replica_and_one_place(rows, distribution):
    whole = np.arange(N_ROWS)[rows]
    dealt = np.full(len(whole), -1)
    for replica in range(distribution.n_replicas):
        positions = distribution.positions(replica, rows)
        own = distribution.own(replica, rows)
        assert_array_equal(numbers_of(own), whole[positions])
        assert_array_equal(dealt[positions], -1)
        dealt[positions] = replica
        shards = distribution.shards(own)
        for shard in range(distribution.n_shards):
            there = numbers_of(distribution.held(replica, shard, N_ROWS))
            asked = numbers_of(own)[shards == shard]
            assert_array_equal(there[numbers_of(distribution.places(asked))], asked)
    assert (dealt >= 0).all()


@given(distributions)
def test_every_row_is_held_once(distribution):
    held = [
        numbers_of(distribution.held(replica, shard, N_ROWS))
        for replica in range(distribution.n_replicas)
        for shard in range(distribution.n_shards)
    ]
    assert_array_equal(np.sort(np.concatenate(held)), np.arange(N_ROWS))


@given(distributions)
def test_a_distribution_survives_pickling(distribution):
    rows = np.arange(N_ROWS)
    distribution.places(rows)
    again = pickle.loads(pickle.dumps(distribution))
    assert again == distribution
    assert_array_equal(again.places(rows), distribution.places(rows))


@pytest.mark.parametrize("start", range(4))
def test_neighbours_go_to_different_replicas(start):
    """So batches in the order of the data set are shared evenly."""
    rows = np.arange(start, start + 9)
    assert [len(DealtRows(3).own(r, rows)) for r in range(3)] == [3, 3, 3]


def test_some_replicas_get_more_neighbours_than_others():
    rows = RowsByShares((5, 2, 1))
    assert [len(rows.own(r, slice(3, 11))) for r in range(3)] == [5, 2, 1]
    assert [len(rows.own(r, np.arange(800))) for r in range(3)] == [500, 200, 100]
    # Of half a round each has about half.
    assert [len(rows.own(r, np.arange(4))) for r in range(3)] == [3, 1, 0]


def test_equal_shares_are_those_of_rows_that_are_dealt():
    by_shares, dealt = RowsByShares((1, 1, 1), 2), DealtRows(3, 2)
    for replica in range(3):
        own = dealt.own(replica, np.arange(N_ROWS))
        assert_array_equal(by_shares.own(replica, np.arange(N_ROWS)), own)
        assert_array_equal(by_shares.shards(own), dealt.shards(own))


@pytest.mark.parametrize("dealt", [DealtRows(3), RowsByShares((5, 2, 1))], ids=str)
def test_rows_of_a_replica_are_counted_without_listing_them(dealt):
    for start, stop in [(0, 0), (0, 9), (3, 11), (7, 30), (5, 6)]:
        for replica in range(3):
            own = numbers_of(dealt.own(replica, slice(start, stop)))
            assert dealt.n_own_of_each(start, stop)[replica] == len(own)


def test_the_replica_with_the_most_rows_holds_the_most():
    equal, unequal = RowHolding(), RowHolding(shares=(3, 1))
    assert [equal.largest_share(2), unequal.largest_share(2)] == [0.5, 0.75]
    assert [unequal.share(replica, 2) for replica in range(2)] == [0.75, 0.25]


@given(batches, st.integers(1, 4), st.integers(1, 4))
def test_who_computes_a_row_does_not_depend_on_who_has_it(rows, n_replicas, n_shards):
    for replica in range(n_replicas):
        assert_array_equal(
            numbers_of(DealtRows(n_replicas, n_shards).own(replica, rows)),
            numbers_of(DealtRows(n_replicas).own(replica, rows)),
        )


blocks = st.lists(
    st.tuples(st.integers(0, 20), st.lists(st.integers(0, 3), max_size=2)), max_size=8
)


@given(blocks, st.integers(4, 6))
def test_blocks_are_divided_evenly(blocks, n_parts):
    n_rows = sum(size for size, _ in blocks)
    ranges = even_ranges(blocks, n_parts)
    covered = [row for start, stop, _ in ranges for row in range(start, stop)]
    assert covered == list(range(n_rows))
    sizes = [
        sum(stop - start for start, stop, part in ranges if part == one)
        for one in range(n_parts)
    ]
    assert max(sizes) - min(sizes) <= 1


def test_blocks_are_divided_by_shares():
    ranges = even_ranges([(30, [0]), (50, [1])], 2, [3, 1])
    assert ranges == [(0, 30, 0), (30, 50, 1), (50, 80, 0)]


def test_blocks_stay_where_they_are_if_that_is_even():
    blocks = [(5, [1]), (5, [0]), (3, [0]), (3, [1])]
    assert even_ranges(blocks, 2) == [(0, 5, 1), (5, 10, 0), (10, 13, 0), (13, 16, 1)]


def test_only_what_evens_out_the_load_is_moved():
    """Of sixteen rows on one of two parts, eight move; of a block with two, none."""
    assert even_ranges([(10, [0]), (6, [0])], 2) == [(0, 8, 0), (8, 10, 1), (10, 16, 1)]
    assert even_ranges([(8, [0, 1]), (8, [0])], 2) == [(0, 8, 1), (8, 16, 0)]


def test_blocks_that_nobody_has_go_to_those_with_most_room():
    assert even_ranges([(4, []), (2, []), (2, [])], 2) == [
        (0, 4, 0),
        (4, 6, 1),
        (6, 8, 1),
    ]
