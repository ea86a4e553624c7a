"""What a task can find out about itself and its worker."""

import pytest
from distributed import Event
from threadpoolctl import threadpool_info

from skdistmlp.cluster.run.task_context import own_blas_threads, task_cancellation
from tests.cluster.leaks import own_cluster
from tests.cluster.support import WITHIN_S


def test_outside_a_task_nothing_is_cancelled():
    assert not task_cancellation()()


def test_a_task_detects_its_cancellation(client):
    def task():
        import time

        is_cancelled = task_cancellation()
        assert not is_cancelled()
        Event("begun").set()
        while not is_cancelled():
            time.sleep(0.01)
        Event("ended").set()

    future = client.submit(task, pure=False)
    assert Event("begun", client=client).wait(WITHIN_S)
    future.cancel()
    assert Event("ended", client=client).wait(WITHIN_S)


def blas_threads_of_a_task():
    with own_blas_threads():
        return {
            pool["num_threads"]
            for pool in threadpool_info()
            if pool["user_api"] == "blas"
        }


def test_a_task_uses_its_workers_number_of_blas_threads(client):
    assert client.submit(blas_threads_of_a_task, pure=False).result(WITHIN_S) == {1}


@pytest.mark.parametrize("n_threads", [3])
def test_workers_that_are_threads_do_not_change_the_process(n_threads):
    before = {
        pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"
    }
    with own_cluster(
        n_workers=1, processes=False, threads_per_worker=n_threads
    ) as client:
        found = client.submit(blas_threads_of_a_task, pure=False).result(WITHIN_S)
    assert found == before
