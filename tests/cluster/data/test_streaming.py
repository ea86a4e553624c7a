"""Rows that reach workers piece by piece."""

import _thread
import os
import signal
import threading
import time
from contextlib import closing

import dask.array as da
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy import sparse

from skdistmlp.cluster.data import streaming
from skdistmlp.cluster.data.blocks import Block, whole_blocks
from skdistmlp.cluster.data.remote_dataset import RemoteFeatures
from skdistmlp.cluster.data.streaming import computed_waves, place_rows
from skdistmlp.cluster.run.placement import Placement
from skdistmlp.exceptions import ClusterError, WorkerLostError
from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.rows import RowHolding
from tests.cluster.leaks import own_cluster
from tests.cluster.support import bounded

X = np.random.default_rng(0).normal(size=(30, 4)) * (np.arange(4) % 3 > 0)
Y = np.arange(30.0)[:, np.newaxis]
WEIGHT = np.arange(30.0)
ON_DISK = RowHolding("once", on_disk=True)


def rows_there(dataset):
    """Return what a worker has: the kind of its store, its rows, and their numbers."""
    store = dataset.X
    taken = store.take(slice(0, store.shape[0]))
    taken = taken.toarray() if sparse.issparse(taken) else taken
    return type(store).__name__, taken, dataset.y, dataset.sample_weight


@pytest.fixture
def placement(client):
    with Placement(client, tuple(client.nthreads())[:2]) as tasks:
        yield tasks


def placed(client, placement, dataset, grid=None):
    """Place rows in files; return what each worker then has."""
    futures, distribution = bounded(
        place_rows, dataset, placement, grid or Grid(2), ON_DISK
    )
    there = [client.submit(rows_there, future) for future in futures]
    return client.gather(there), distribution


@pytest.mark.parametrize("grid", [Grid(2), Grid(1, 2)], ids=str)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("convert", "kind"),
    [(np.asarray, "DenseFileRows"), (sparse.csr_array, "SparseFileRows")],
)
def test_arrays_are_sent_in_pieces_to_files(
    client, placement, convert, kind, dtype, grid, monkeypatch
):
    """Each worker gets its own rows only."""
    monkeypatch.setattr(streaming, "BATCH_BYTES", 7 * 4 * 8)
    dataset = Dataset(convert(X), Y, WEIGHT).prepared(np.dtype(dtype))
    there, _ = placed(client, placement, dataset, grid)
    for rank, (found, rows, y, weight) in enumerate(there):
        assert found == kind
        assert rows.dtype == dtype
        assert_array_equal(rows, X.astype(dtype)[rank::2])
        assert_array_equal(y, Y)
        assert_array_equal(weight, WEIGHT)


def streamed(client, collection, dtype=np.float64):
    blocks = [
        Block((n, 4), np.dtype(float), None, 32 * n) for n in collection.chunks[0]
    ]
    features = RemoteFeatures(
        client,
        collection,
        [],
        blocks,
        np.dtype(dtype),
        is_streamed=True,
        estimator_name="MyEstimator",
    )
    return features.with_targets(Y, WEIGHT)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_blocks_are_computed_one_by_one_and_written(client, placement, dtype):
    dataset = streamed(client, da.from_array(X, chunks=((4, 11, 15), 4)), dtype)
    there, distribution = placed(client, placement, dataset)
    for shard, (kind, rows, *_) in enumerate(there):
        assert kind == "DenseFileRows"
        assert len(rows) == 15
        own = distribution.held(0, shard, 30)
        assert_array_equal(rows, X.astype(dtype)[own])


def test_the_same_blocks_may_be_placed_again_on_other_workers(client, placement):
    """There each worker writes other parts of them."""
    dataset = streamed(client, da.from_array(X, chunks=((4, 11, 15), 4)))
    placed(client, placement, dataset)
    with Placement(client, tuple(client.nthreads())[:1]) as alone:
        ((_, rows, *_),), _ = placed(client, alone, dataset, Grid(1))
    assert_array_equal(rows, X)


def test_blocks_that_are_others_when_placed_again_are_refused(
    client, placement, tmp_path
):
    changed = tmp_path / "changed"

    def computed(block, block_info=None):
        is_last = block_info[0]["chunk-location"] == (2, 0)
        return block * 0 if is_last and changed.exists() else block

    collection = da.from_array(X, chunks=((4, 11, 15), 4))
    dataset = streamed(client, collection.map_blocks(computed, dtype=float))
    placed(client, placement, dataset)
    changed.touch()
    message = "1 block of X, the first of them number 2, is not the same"
    with pytest.raises(ClusterError, match=message):
        placed(client, placement, dataset)


def test_blocks_of_a_worker_that_is_lost_may_be_computed_elsewhere(client):
    pieces = whole_blocks(range(3), [Block((10, 4), np.dtype(float), None, 320)] * 3)
    gone = "tcp://127.0.0.1:1"
    collection = da.from_array(X, chunks=(10, 4))
    with closing(computed_waves(client, collection, [pieces], [gone], True)) as waves:
        (written,) = next(waves).values()
        found = bounded(client.gather, written.futures)
    assert_array_equal(np.concatenate(found), X)


def test_all_blocks_can_be_fetched_a_few_at_a_time(client):
    dataset = streamed(client, da.from_array(X, chunks=(7, 4)), np.float32)
    assert_array_equal(bounded(dataset.to_local).X, X.astype(np.float32))


def test_values_are_checked_as_they_are_written(client, placement):
    spoilt = X.copy()
    spoilt[20, 1] = np.nan
    dataset = streamed(client, da.from_array(spoilt, chunks=(7, 4)))
    with pytest.raises(ValueError, match=r"Input X contains NaN") as caught:
        placed(client, placement, dataset)
    assert "MyEstimator" in str(caught.value)


def test_blocks_of_another_size_than_declared_are_refused(client, placement):
    collection = da.from_array(X, chunks=(10, 4)).map_blocks(
        lambda block: block[:5], dtype=float, chunks=(10, 4)
    )
    message = r"X declares a block of the shape \(10, 4\), but it has \(5, 4\)"
    with pytest.raises(ValueError, match=message):
        placed(client, placement, streamed(client, collection))


def test_sparse_blocks_among_dense_ones_are_refused(client, placement):
    collection = da.from_array(X, chunks=(10, 4)).map_blocks(
        sparse.csr_array, dtype=float, meta=np.empty((0, 0))
    )
    with pytest.raises(ValueError, match="some blocks of X are sparse and others are"):
        placed(client, placement, streamed(client, collection))


def test_an_error_of_a_block_is_raised(client, placement):
    def explode(block):
        raise ZeroDivisionError("computed")

    collection = da.from_array(X, chunks=(10, 4)).map_blocks(
        explode, dtype=float, meta=np.empty((0, 0))
    )
    with pytest.raises(ZeroDivisionError, match="computed"):
        placed(client, placement, streamed(client, collection))


def sleeping(block):
    time.sleep(0.3)
    return block


def test_an_interrupt_leaves_nothing(client, placement):
    """Neither blocks nor sinks; the fixture of the client looks."""
    collection = da.from_array(X, chunks=(1, 4)).map_blocks(sleeping, dtype=float)
    timer = threading.Timer(1, _thread.interrupt_main)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        place_rows(streamed(client, collection), placement, Grid(2), ON_DISK)
    timer.join()


@pytest.mark.slow
def test_a_worker_that_dies_while_rows_are_written_is_named():
    def die(block, block_info=None):
        if block_info[0]["chunk-location"] == (2, 0):
            os.kill(os.getpid(), signal.SIGKILL)
        return block

    collection = da.from_array(X, chunks=(6, 4)).map_blocks(die, dtype=float)
    with own_cluster(n_workers=2) as client:
        workers = tuple(client.nthreads())
        with Placement(client, workers) as tasks:
            with pytest.raises(ClusterError, match=f"{workers[0]}.* lost|died") as lost:
                bounded(
                    place_rows, streamed(client, collection), tasks, Grid(2), ON_DISK
                )
            assert isinstance(lost.value, WorkerLostError)
