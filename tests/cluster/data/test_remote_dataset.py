"""Features and data sets whose rows are on the workers of a cluster."""

import copy
import gc
from collections import Counter
from concurrent.futures import CancelledError
from dataclasses import replace
from functools import partial

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, futures_of
from numpy.testing import assert_array_equal
from scipy import sparse

from skdistmlp import ClusterError, DistributedMLPRegressor, WorkerLostError
from skdistmlp.cluster.data import blocks as blocks_module
from skdistmlp.cluster.data import remote_dataset
from skdistmlp.cluster.data.block_digests import BlockDigests
from skdistmlp.cluster.data.blocks import describe_block
from skdistmlp.cluster.data.dask_collections import (
    naming_lost_data,
    persist_blocks,
    release,
    wait_for,
)
from skdistmlp.cluster.data.remote_dataset import (
    RemoteDataset,
    RemoteFeatures,
    block_locations,
)
from skdistmlp.cluster.run import liveness
from skdistmlp.cluster.run.placement import Placement
from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.rows import COPIES, RowHolding
from tests.cluster.data.inputs import classifier
from tests.cluster.support import bounded

X = np.arange(60.0).reshape(15, 4) % 7
Y = np.arange(15)[:, np.newaxis] % 2 == 0
WEIGHT = np.linspace(1, 2, 15)


def features_of(client, rows=X, convert=np.asarray, dtype=np.float64):
    """Return features in three blocks, whose futures nobody holds yet."""
    collection = da.from_array(rows, chunks=(5, 4)).map_blocks(convert)
    parts = [convert(rows[start : start + 5]) for start in range(0, 15, 5)]
    blocks = [describe_block(part, "Estimator") for part in parts]
    return RemoteFeatures(client, collection, [], blocks, np.dtype(dtype))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["unweighted", "weighted"])
def test_a_remote_data_set_is_as_large_as_the_same_local_one(convert, dtype, weight):
    """A plan is made from these numbers before any row is fetched."""
    remote = features_of(None, convert=convert).with_targets(Y, weight)
    remote = remote.prepared(np.dtype(dtype))
    local = Dataset(convert(X), Y, weight).prepared(np.dtype(dtype))
    assert remote.n_rows == local.n_rows
    assert remote.nnz_per_row == local.nnz_per_row
    assert remote.nbytes == local.nbytes
    rows = np.array([0, 3, 14])
    assert remote.batch_totals(rows) == local.batch_totals(rows)
    assert_array_equal(remote.targets(rows), local.targets(rows))


def test_preparing_a_remote_data_set_leaves_the_original_unchanged():
    remote = features_of(None).with_targets(Y, None)
    prepared = remote.prepared(np.dtype(np.float32))
    assert prepared.features.dtype == np.float32
    assert remote.features.dtype == np.float64


def test_a_remote_data_set_has_the_client_that_reaches_it():
    client = object()
    assert features_of(client).with_targets(Y, None).client is client
    assert Dataset(X, Y).client is None


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_workers_have_as_many_bytes_of_rows_as_a_fit_will_hold(client, dtype):
    features = features_of(client, convert=partial(np.asarray, dtype=dtype))
    dataset = features.with_targets(Y, None).prepared(np.dtype(np.float32))
    # Nothing has been computed yet.
    assert dataset.bytes_on_workers() == {}
    with features.held() as futures:
        where = block_locations(client, futures)
        expected = Counter(worker for at in where.values() for worker in at)
        found = bounded(dataset.bytes_on_workers)
        assert found == {worker: 5 * 4 * 4 * n for worker, n in expected.items()}


@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_array])
def test_all_rows_can_be_fetched(client, convert):
    remote = features_of(client, convert=convert, dtype=np.float32)
    local = bounded(remote.with_targets(Y, WEIGHT).to_local)
    assert type(local) is Dataset
    assert local.X.dtype == np.float32
    rows = local.X.toarray() if sparse.issparse(local.X) else local.X
    assert_array_equal(rows, X)
    assert local.y is Y
    assert local.sample_weight is WEIGHT


def test_blocks_are_released_after_use_and_recomputed_when_needed(client):
    features = features_of(client)
    for _ in range(2):
        with features.held() as futures:
            assert len(futures) == 3
            keys = [future.key for future in futures]
            assert set(client.who_has(futures)) == set(keys)
        assert not features.futures
        assert_array_equal(bounded(features.fetch), X)
        assert not features.futures


def test_blocks_of_the_user_stay(client):
    persisted = client.persist(da.from_array(X, chunks=(5, 4)))
    features = features_of(client)
    features = RemoteFeatures(client, persisted, [], features.blocks, features.dtype)
    assert_array_equal(bounded(features.fetch), X)
    assert_array_equal(client.compute(persisted).result(), X)


def test_an_error_of_a_block_is_raised_and_nothing_is_held(client):
    def explode(block):
        raise ZeroDivisionError("computed")

    features = features_of(client)
    collection = features.collection.map_blocks(explode, meta=np.empty((0, 0)))
    features = RemoteFeatures(client, collection, [], features.blocks, features.dtype)
    with pytest.raises(ZeroDivisionError, match="computed"):
        bounded(features.fetch)
    assert not features.futures


def of_scattered(client, workers=None):
    """Return features made of three futures of scattered rows, and the futures."""
    parts = [X[start : start + 5] for start in range(0, 15, 5)]
    scattered = [client.scatter(part, workers=workers, hash=False) for part in parts]
    delayed = [da.from_delayed(dask.delayed(one), (5, 4), float) for one in scattered]
    features = features_of(client)
    collection = da.concatenate(delayed)
    return replace(features, collection=collection), scattered


def test_scattered_data_that_was_lost_is_named(client):
    features, scattered = of_scattered(client)
    assert_array_equal(bounded(features.fetch), X)
    # As when the worker that holds it dies.
    client.cancel(scattered[1:])
    message = r"lost the data of 2 of 3 futures that X .* Scatter the data again"
    with pytest.raises(ClusterError, match=message) as caught:
        bounded(features.fetch)
    assert caught.type is ClusterError, "a fit would try again after another"
    assert not features.futures
    clf = classifier(client)
    with pytest.raises(ClusterError, match=message):
        bounded(clf.fit, features.collection, np.arange(15) % 2)
    # Errors and the frames that caught them hold each other, and the futures in X.
    release(scattered)
    del features, caught
    gc.collect()


def test_lost_scattered_data_is_named_if_x_is_streamed(client):
    features, scattered = of_scattered(client)
    blocks = [replace(block, digest=None) for block in features.blocks]
    features = replace(features, blocks=blocks, is_streamed=True)
    client.cancel(scattered[1:])
    message = r"lost the data of 2 of 3 futures that X "
    workers = tuple(client.nthreads())[:2]
    with Placement(client, workers) as tasks:
        dataset = features.with_targets(Y, None)
        with pytest.raises(ClusterError, match=message) as placing:
            bounded(dataset.place_on, tasks, Grid(2), RowHolding("once", on_disk=True))
    assert placing.type is ClusterError, "a fit would try again after another"
    with pytest.raises(ClusterError, match=message) as fetching:
        bounded(features.fetch)
    clf = classifier(client, batch_size=5)
    with (
        dask.config.set({"skdistmlp.rows.memory-share": 1e-9}),
        pytest.raises(ClusterError, match=message) as fitting,
    ):
        bounded(clf.fit, features.collection, np.arange(15) % 2)
    release(scattered)
    del features, dataset, placing, fetching, fitting
    gc.collect()


def test_blocks_that_are_computed_again_are_not_lost(client, monkeypatch):
    """To the client they are, from the loss of their worker until then."""
    persisted = client.persist(da.from_array(X, chunks=(5, 4)))
    wait_for(client, futures_of(persisted))
    for future in futures_of(persisted):
        monkeypatch.setattr(future._state, "status", "lost")
    with (
        pytest.raises(WorkerLostError, match="by itself"),
        naming_lost_data(client, persisted),
    ):
        raise WorkerLostError("by itself")


def test_blocks_that_are_cancelled_otherwise_can_be_computed_again(client, monkeypatch):
    features = features_of(client)

    def cancel(client, futures, *_):
        client.cancel(futures)
        raise CancelledError

    with monkeypatch.context() as patch:
        patch.setattr(remote_dataset, "described_blocks", cancel)
        with pytest.raises(WorkerLostError, match="dropped the data of this call"):
            bounded(features.fetch)
    assert_array_equal(bounded(features.fetch), X)


def test_blocks_are_computed_around_a_worker_that_hangs(processes, monkeypatch):
    """Dask gives it tasks until it removes the worker, after minutes."""
    processes.have_workers(3)
    monkeypatch.setattr(liveness, "PING_ANSWER_S", 0.5)
    with Client(processes.address, set_as_default=False) as client:
        hanging, *others = client.nthreads()
        features = features_of(client)

        def computed_on():
            with features.held() as futures:
                where = block_locations(client, futures)
                return {worker for at in where.values() for worker in at}

        with processes.stopped_worker(hanging):
            assert bounded(computed_on) <= {*others}
            assert_array_equal(bounded(features.fetch), X)


def test_all_workers_may_compute_blocks_if_all_answer(client, monkeypatch):
    """So that those which join meanwhile may, too."""
    asked, persist = [], Client.persist

    def noted(client, *args, workers=None, **kwargs):
        asked.append(workers)
        return persist(client, *args, workers=workers, **kwargs)

    monkeypatch.setattr(Client, "persist", noted)
    assert_array_equal(bounded(features_of(client).fetch), X)
    assert asked == [None]


def test_every_worker_of_a_run_gets_all_rows(client):
    workers = tuple(client.nthreads())[:2]
    tasks = Placement(client, workers)
    dataset = features_of(client, dtype=np.float32).with_targets(Y, WEIGHT)
    try:
        tasks.open()
        rows = bounded(dataset.place_on, tasks, Grid(2), COPIES).futures
        held = client.who_has(rows)
        assert [held[future.key] for future in rows] == [(w,) for w in workers]
        for placed in client.gather(rows):
            assert_array_equal(placed.X, X)
            assert placed.X.dtype == np.float32
            assert_array_equal(placed.sample_weight, WEIGHT)
        assert not dataset.features.futures
    finally:
        tasks.close()


def test_locations_are_in_the_order_of_the_blocks(client):
    (futures,) = persist_blocks(client, [features_of(client).collection])
    bounded(client.gather, futures)
    locations = block_locations(client, futures)
    assert list(locations) == [future.key for future in futures]
    assert all(set(held) <= set(client.nthreads()) for held in locations.values())
    assert all(locations.values())


def test_remote_features_are_validated_by_their_columns(client):
    features, estimator = features_of(client), DistributedMLPRegressor()
    same, y = features.validated(estimator, [1] * 15, reset=True)
    assert same is features
    assert estimator.n_features_in_ == 4
    assert_array_equal(y, np.ones(15))
    narrow = RemoteFeatures(
        client,
        features.collection[:, :3],
        [],
        [describe_block(X[:, :3], "Estimator")],
        features.dtype,
    )
    with pytest.raises(ValueError, match=r"X has 3 features, but .* expecting 4"):
        narrow.validated(copy.copy(estimator), [1] * 15, reset=False)


@pytest.mark.parametrize("batch_bytes", [1, 10**6])
def test_what_tells_rows_from_others_is_the_same_if_they_are_streamed(
    client, batch_bytes, monkeypatch
):
    """So that a checkpoint is found on a cluster with more or less memory."""
    monkeypatch.setattr(blocks_module, "BATCH_BYTES", batch_bytes)
    features = features_of(client)
    blocks = [replace(block, digest=None) for block in features.blocks]
    streamed = replace(features, blocks=blocks, is_streamed=True)
    content = bounded(streamed.with_targets(Y, WEIGHT).content)
    assert content == features.with_targets(Y, WEIGHT).content()
    collection = streamed.collection + 1
    other = replace(streamed, collection=collection, digests=BlockDigests())
    assert bounded(other.described) != bounded(streamed.described)


def test_streamed_blocks_are_checked_when_they_are_described(client):
    features = features_of(client)
    spoilt = replace(features, collection=features.collection / 0, is_streamed=True)
    with pytest.raises(ValueError, match="Input X contains NaN"):
        bounded(spoilt.described)


def test_streamed_blocks_must_be_what_they_were_described_as(client):
    features = features_of(client)
    collection = features.collection.map_blocks(
        lambda block: block + np.random.default_rng().random(), dtype=float
    )
    streamed = replace(features, collection=collection, is_streamed=True)
    bounded(streamed.described)
    with Placement(client, tuple(client.nthreads())[:2]) as tasks:
        dataset = streamed.with_targets(Y, None)
        with pytest.raises(ClusterError, match="not the same when computed again"):
            bounded(dataset.place_on, tasks, Grid(2), RowHolding("once", on_disk=True))


def test_a_remote_data_set_is_a_value():
    features = features_of(None)
    dataset = features.with_targets(Y, WEIGHT)
    assert isinstance(dataset, RemoteDataset)
    with pytest.raises(AttributeError):
        dataset.y = None
