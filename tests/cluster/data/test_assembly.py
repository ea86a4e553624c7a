"""Workers that fetch blocks from each other and concatenate them."""

import sys
import traceback

import dask
import numpy as np
import pytest
from distributed import Client
from numpy.testing import assert_array_equal

from skdistmlp.cluster.data.assembly import BlockLocations, assemble_dataset
from skdistmlp.cluster.data.blocks import describe_block
from skdistmlp.cluster.data.dask_collections import release
from skdistmlp.exceptions import WorkerLostError
from skdistmlp.parallel.data import Dataset
from tests.cluster.support import bounded, wait_until

X = np.arange(40.0).reshape(10, 4)
Y = np.arange(10)[:, np.newaxis] > 4
PARTS = [X[:3], X[3:5], X[5:]]


@pytest.fixture
def blocks(client):
    """Futures of three blocks, one on each worker."""
    futures = [
        client.scatter(part, workers=[worker], hash=False)
        for part, worker in zip(PARTS, client.nthreads(), strict=True)
    ]
    yield futures
    release(futures)


def locations_of(client, blocks, dtype=np.float64):
    who_has = client.who_has(blocks)
    return BlockLocations(
        {block.key: who_has[block.key] for block in blocks},
        [describe_block(part, "Estimator") for part in PARTS],
        np.dtype(dtype),
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_worker_can_assemble_all_rows(client, blocks, dtype):
    locations = locations_of(client, blocks, dtype)
    weight = np.arange(10.0)
    for worker in client.nthreads():
        dataset = bounded(
            client.submit(
                assemble_dataset,
                locations,
                (Y, weight),
                workers=[worker],
                pure=False,
            ).result
        )
        assert type(dataset) is Dataset
        assert dataset.X.dtype == dtype
        assert_array_equal(dataset.X, X)
        assert_array_equal(dataset.y, Y)
        assert_array_equal(dataset.sample_weight, weight)


def test_fetched_blocks_are_not_stored_on_the_worker(client, blocks):
    before = client.who_has(blocks)
    worker = next(iter(client.nthreads()))
    made = client.submit(
        assemble_dataset, locations_of(client, blocks), (Y, None), workers=[worker]
    )
    bounded(made.result)
    assert client.who_has(blocks) == before
    keys = client.run(lambda dask_worker: set(dask_worker.data))[worker]
    assert keys == {made.key, *(key for key, at in before.items() if worker in at)}


def test_a_block_that_has_no_location_any_more_is_an_error(client, blocks):
    locations = locations_of(client, blocks)
    lost = {block.key: () for block in blocks[1:]}
    gone = BlockLocations(
        {**locations.who_has, **lost}, locations.blocks, locations.dtype
    )
    (holder,) = locations.who_has[blocks[0].key]
    made = client.submit(assemble_dataset, gone, (Y, None), workers=[holder])
    message = "could not fetch 2 of the blocks of X from the workers that held them"
    with pytest.raises(WorkerLostError, match=message) as caught:
        bounded(made.result)
    assert "Call again: Dask computes lost blocks once more" in str(caught.value)
    made.release()


def test_a_worker_that_blocks_cannot_be_fetched_from_is_named(client, blocks):
    """Then a fit recovers without it, though it has no shard."""
    locations = locations_of(client, blocks)
    (holder,) = locations.who_has[blocks[0].key]
    left = "tcp://127.0.0.1:1"
    who_has = {**locations.who_has, blocks[1].key: (left,)}
    gone = BlockLocations(who_has, locations.blocks, locations.dtype)

    def set_connect_timeout(duration):
        key = "distributed.comm.timeouts.connect"
        before = dask.config.get(key)
        dask.config.set({key: duration})
        return before

    # Dask tries for half a minute otherwise.
    before = client.run(set_connect_timeout, "1s", workers=[holder])[holder]
    try:
        made = client.submit(assemble_dataset, gone, (Y, None), workers=[holder])
        with pytest.raises(WorkerLostError, match=f"not fetch .* from {left}") as got:
            bounded(made.result)
    finally:
        client.run(set_connect_timeout, before, workers=[holder])
    assert got.value.workers == (left,)
    made.release()


def test_a_worker_is_free_after_a_fit_that_a_hanging_worker_has_ended(processes):
    """Also while Dask has not given up the one that hangs, for minutes."""

    def waits():
        stacks = map(traceback.extract_stack, sys._current_frames().values())
        return any("assemble_dataset" in [f.name for f in stack] for stack in stacks)

    with Client(processes.address, set_as_default=False) as client:
        free, hanging = client.nthreads()
        blocks = [client.scatter(part, workers=[hanging], hash=False) for part in PARTS]
        locations = locations_of(client, blocks)
        with processes.stopped_worker(hanging):
            made = client.submit(
                assemble_dataset, locations, (Y, None), workers=[free], pure=False
            )
            wait_until(lambda: client.run(waits, workers=[free])[free], "it waits")
            # As a fit does when it ends.
            made.release()
            other = client.submit(int, workers=[free], pure=False)
            assert bounded(other.result) == 0
        release(blocks)
