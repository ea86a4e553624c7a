"""What only a cycle of references holds is freed, in otherwise idle processes."""

import gc
import threading
from weakref import ref

import pytest
from distributed import get_worker

from skdistmlp.cluster.run.garbage import run_task
from tests.cluster.leaks import assert_nothing_left, own_cluster
from tests.cluster.peers.test_driver import endless, steps_taken, stop_all
from tests.cluster.support import in_thread, wait_until


@pytest.fixture(scope="module")
def client():
    """A cluster whose processes do not collect garbage by themselves."""
    with own_cluster(n_workers=2) as connected:
        connected.run(gc.disable)
        yield connected


class Rows:
    """What a task is given: it can be referred to weakly."""


@pytest.mark.parametrize("error_held_s", [0, 2.5])
def test_what_a_failed_task_was_given_is_freed(client, error_held_s):
    """Also if the error is held for longer than until the first collection."""

    def fail(rows):
        get_worker().rows_of_a_test = ref(rows)
        error = ValueError("planted")
        threading.Timer(error_held_s, repr, [error]).start()
        raise error

    def is_held(dask_worker):
        return getattr(dask_worker, "rows_of_a_test", lambda: None)() is not None

    worker = next(iter(client.nthreads()))
    failing = client.submit(
        lambda: run_task(fail, Rows()), workers=[worker], pure=False
    )
    with pytest.raises(ValueError, match="planted"):
        failing.result()
    assert client.run(is_held, workers=[worker])[worker]
    failing.release()
    wait_until(lambda: not client.run(is_held, workers=[worker])[worker], "freed")


def test_a_shard_that_dask_tried_to_write_to_disk_is_freed(client, digits):
    """Dask's error holds the shard, which cannot be pickled."""

    def evict(dask_worker):
        # -1: it could not.
        return min(dask_worker.data.evict() for _ in range(len(dask_worker.data.fast)))

    X, y = digits
    training = in_thread(endless(client).fit, X, y)
    wait_until(lambda: steps_taken(client) > 2, "they train", during=training)
    assert set(client.run(evict).values()) == {-1}
    with pytest.warns(UserWarning, match="interrupted"):
        stop_all(client, training)
    assert_nothing_left(client)
