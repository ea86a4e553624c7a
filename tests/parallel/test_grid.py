"""Who takes part along which axis, and who computes which rows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from skdistmlp.parallel.grid import Grid, RowShare, optimizer_parts

grids = st.builds(Grid, st.integers(1, 5), st.integers(1, 5))


@given(grids)
def test_every_process_is_in_one_row_and_one_column(grid):
    ranks = range(grid.n_ranks)
    places = {(grid.replica(rank), grid.shard(rank)) for rank in ranks}
    assert len(places) == grid.n_shards * grid.n_replicas
    for rank in ranks:
        shards, replicas = grid.along("neurons", rank), grid.along("replicas", rank)
        assert [grid.replica(r) for r in shards] == grid.n_shards * [grid.replica(rank)]
        assert [grid.shard(r) for r in shards] == list(range(grid.n_shards))
        assert [grid.shard(r) for r in replicas] == grid.n_replicas * [grid.shard(rank)]
        assert [grid.replica(r) for r in replicas] == list(range(grid.n_replicas))
        assert set(shards) & set(replicas) == {rank}


def test_processes_have_titles():
    assert Grid(3).title(2) == "shard 2"
    assert Grid(3, 2).title(4) == "shard 1 of replica 1"


batches = st.one_of(
    st.lists(st.integers(0, 40), unique=True).map(np.array),
    st.builds(lambda start, n: slice(start, start + n), *2 * [st.integers(0, 9)]),
)


@given(batches, st.integers(1, 4))
def test_rows_of_a_batch_are_dealt_out(rows, n_replicas):
    whole = np.arange(50)[rows] if isinstance(rows, slice) else rows.astype(int)
    rows = rows if isinstance(rows, slice) else whole
    dealt = np.full(len(whole), -1)
    for replica in range(n_replicas):
        share = RowShare(replica, n_replicas)
        positions, own = share.positions(rows), share.own(rows)
        own = np.arange(50)[own] if isinstance(own, slice) else own
        assert_array_equal(own, whole[positions])
        assert_array_equal(own % n_replicas, replica)
        assert_array_equal(dealt[positions], -1)
        dealt[positions] = replica
    assert (dealt >= 0).all()


@pytest.mark.parametrize("start", range(4))
def test_neighbours_go_to_different_replicas(start):
    """So batches in the order of the data set are shared evenly."""
    rows = np.arange(start, start + 9)
    assert [len(RowShare(r, 3).own(rows)) for r in range(3)] == [3, 3, 3]


@given(st.integers(0, 30), st.integers(1, 9))
def test_the_optimisers_parts_tile_the_parameters(n_parameters, n_replicas):
    parts = optimizer_parts(n_parameters, n_replicas)
    assert len(parts) == n_replicas
    covered = [n for part in parts for n in range(part.start, part.stop)]
    assert covered == list(range(n_parameters))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
