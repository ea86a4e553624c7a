"""Tasks that are noted one by one and submitted together, each to its worker."""

import pytest

from skdistmlp.cluster.run.graph import PREDICT, TRAIN, PinnedGraph
from skdistmlp.cluster.run.held import HeldFutures
from skdistmlp.parallel.grid import Grid
from tests.cluster.support import bounded


def where(*_):
    from distributed import get_worker

    return get_worker().address


def double(value):
    return 2 * value


@pytest.fixture
def graph(client):
    """A graph over all workers; afterwards its futures are released."""
    held = HeldFutures()
    yield PinnedGraph(
        client, tuple(client.nthreads()), "a-run", held, name=Grid(3).task_name
    )
    held.close()


def test_tasks_run_on_the_worker_of_their_shard(client, graph):
    graph.begin()
    keys = [graph.add(rank, "where", where) for rank in (2, 0, 1)]
    workers = tuple(client.nthreads())
    found = bounded(client.gather, graph.submit(keys))
    assert found == [workers[2], workers[0], workers[1]]


def test_a_task_can_use_the_results_of_other_shards(client, graph):
    graph.begin()
    first = graph.add(0, "double", double, 21)
    (found,) = graph.submit([graph.add(1, "double", double, first)])
    assert bounded(found.result) == 84


def test_keys_name_operation_shard_run_and_step(graph):
    graph.begin()
    assert graph.key(1, "forward") == ("mlp-train", "forward-shard1-of-3", "a-run", 1)
    graph.begin()
    assert graph.key(1, "forward")[-1] == 2


def test_keys_name_shard_and_replica(client):
    held, name = HeldFutures(), Grid(2, 3).task_name
    graph = PinnedGraph(client, tuple(client.nthreads()), "run", held, PREDICT, name)
    assert graph.key(4, "train") == (PREDICT, "train-shard0-of-replica2", "run", 0)
    plain = PinnedGraph(client, tuple(client.nthreads()), "run", held)
    assert plain.key(1, "train") == (TRAIN, "train-shard1", "run", 0)


def test_tasks_of_an_interrupted_step_are_forgotten(client, graph):
    graph.begin()
    graph.add(0, "interrupted", double, "never submitted")
    graph.begin()
    (found,) = graph.submit([graph.add(0, "double", double, 4)])
    assert bounded(found.result) == 8
    known = client.run_on_scheduler(lambda dask_scheduler: list(dask_scheduler.tasks))
    assert not any("interrupted" in str(key) for key in known)


def test_submitted_futures_are_held_with_their_ranks(client):
    held = HeldFutures()
    graph = PinnedGraph(client, tuple(client.nthreads()), "run", held)
    graph.begin()
    futures = graph.submit([graph.add(rank, "double", double, rank) for rank in (1, 2)])
    assert [held.rank_of(future) for future in futures] == [1, 2]
    assert bounded(client.gather, futures) == [2, 4]
    held.close()
