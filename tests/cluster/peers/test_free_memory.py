"""Whether workers have room for a fit, next to what their processes take."""

import os
import re
import signal
from dataclasses import replace

import numpy as np
import psutil
import pytest

from skdistmlp import ClusterError, DistributedMLPClassifier, WorkerLostError
from skdistmlp.cluster.peers import free_memory
from skdistmlp.cluster.peers.free_memory import check_free_memory
from skdistmlp.planning import plan as planning
from tests.cluster.leaks import own_cluster
from tests.cluster.peers.test_driver import endless, steps_taken
from tests.cluster.support import bounded, in_thread, wait_until
from tests.training.jobs import plan_of

MB = 1_000_000
LIMIT = 1000 * MB
"""Of each worker. One that has imported this package, and done nothing, takes 150 to
400 MB: files that it maps count as far as the machine has them in memory."""


@pytest.fixture(scope="module")
def small_cluster():
    with own_cluster(n_workers=2, memory_limit=LIMIT) as client:
        yield client


def resident_bytes() -> int:
    return psutil.Process().memory_info().rss


@pytest.fixture
def impatient(monkeypatch):
    """Wait for no memory to be freed."""
    monkeypatch.setattr(free_memory, "MEMORY_FREED_S", 0.0)


def test_what_a_process_takes_is_measured(small_cluster, impatient):
    plan = plan_of("peers", small_cluster.nthreads(), 2)
    memory = check_free_memory(
        small_cluster, replace(plan, bytes_held=(0, 0)), lambda: None
    )
    for worker in plan.workers:
        assert (memory[worker].limit, memory[worker].usable) == (LIMIT, 0.95)
        taken = small_cluster.run(resident_bytes, workers=[worker])[worker]
        assert abs(memory[worker].taken - taken) < 25 * MB
    too_much = replace(plan, bytes_held=(0, memory[plan.workers[1]].free + 50 * MB))
    with pytest.raises(ClusterError, match=r"shard 1 would .* its process takes"):
        check_free_memory(small_cluster, too_much, lambda: None)


def test_values_that_dask_can_write_to_disk_are_not_counted(small_cluster, impatient):
    plan = plan_of("peers", small_cluster.nthreads(), 2)
    plan = replace(plan, bytes_held=(0, 0))
    worker = plan.workers[0]
    before = check_free_memory(small_cluster, plan, lambda: None)
    value = small_cluster.scatter(np.ones(50 * MB, np.int8), workers=[worker])
    after = check_free_memory(small_cluster, plan, lambda: None)
    del value
    assert abs(after[worker].taken - before[worker].taken) < 25 * MB


def test_memory_that_is_freed_meanwhile_is_waited_for(small_cluster, monkeypatch):
    plan = replace(plan_of("peers", small_cluster.nthreads(), 2), bytes_held=(0, 1))
    looks = []

    def shortage(_plan, _memory):
        looks.append(1)
        return "too little" if len(looks) < 3 else None

    monkeypatch.setattr(free_memory, "memory_shortage", shortage)
    bounded(check_free_memory, small_cluster, plan, lambda: None)
    assert len(looks) == 3


def test_a_fit_that_would_have_its_worker_restarted_is_refused(
    small_cluster, impatient
):
    """It needs less than the limit, and less than 95% of it."""
    n_hidden = 880 * MB // (16 * 100) * 2
    clf = DistributedMLPClassifier(
        (n_hidden,), client=small_cluster, engine="peers", batch_size=8, max_iter=1
    )
    X = np.ones((8, 98), np.float32)
    processes = small_cluster.run(os.getpid)
    with pytest.raises(ClusterError, match="restarts it at 95% of") as caught:
        bounded(clf.fit, X, np.arange(8) % 2)
    numbers = re.findall(r"\d[\d,]{6,}", str(caught.value))
    held, limit, taken = (int(number.replace(",", "")) for number in numbers)
    assert limit == LIMIT
    assert held < 0.95 * limit < held + taken
    assert small_cluster.run(os.getpid) == processes


def test_a_lost_worker_near_its_limit_is_explained(monkeypatch):
    monkeypatch.setattr(planning, "NEAR_LIMIT", 0.0)
    with own_cluster(n_workers=2) as client:
        workers = tuple(client.nthreads())
        X = np.eye(40)
        (process,) = client.run(os.getpid, workers=workers[1:]).values()
        fit = in_thread(endless(client, batch_size=8).fit, X, np.arange(40) % 2)
        wait_until(lambda: steps_taken(client) > 2, "it trains", during=fit)
        # As a nanny ends it.
        os.kill(process, signal.SIGKILL)
        said = f"gone. Worker {workers[1]} probably ran out of memory: its memory_limit"
        with pytest.raises(WorkerLostError, match=said):
            bounded(fit.result)
        wait_until(lambda: len(client.nthreads()) == 2, "its nanny restarts it")
