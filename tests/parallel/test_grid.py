"""Who takes part along which axis."""

from hypothesis import given
from hypothesis import strategies as st

from skdistmlp.parallel.grid import Grid, optimizer_parts

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


def test_tasks_are_named_by_shard_and_replica():
    assert Grid(3).task_name(2) == "shard2-of-3"
    assert Grid(3, 2).task_name(4) == "shard1-of-replica1"
    assert Grid(1, 2).task_name(1) == "shard0-of-replica1"


@given(st.integers(0, 30), st.integers(1, 9))
def test_the_optimisers_parts_tile_the_parameters(n_parameters, n_replicas):
    parts = optimizer_parts(n_parameters, n_replicas)
    assert len(parts) == n_replicas
    covered = [n for part in parts for n in range(part.start, part.stop)]
    assert covered == list(range(n_parameters))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
