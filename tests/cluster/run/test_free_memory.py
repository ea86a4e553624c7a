"""Whether workers have room for a fit, next to what their processes take."""

import asyncio
import os
import re
import signal
import sys
from contextlib import ExitStack
from dataclasses import replace

import dask
import dask.array as da
import numpy as np
import psutil
import pytest
from distributed import Client

from skdistmlp import ClusterError, DistributedMLPClassifier, WorkerLostError
from skdistmlp.cluster.client.workers import worker_memory
from skdistmlp.cluster.run import free_memory
from skdistmlp.cluster.run.free_memory import check_free_memory
from skdistmlp.planning import memory as planning
from tests.cluster.leaks import own_cluster
from tests.cluster.peers.test_driver import endless, steps_taken
from tests.cluster.support import bounded, in_thread, wait_until
from tests.marks import only_quick
from tests.training.jobs import plan_of

ENGINES = [("peers", 16), ("futures", 28)]
"""With the bytes that a worker holds per parameter of its shard, with Adam."""

MB = 1_000_000
LIMIT = 1000 * MB
"""Of each worker. One that has imported this package, and done nothing, takes 150 to
400 MB: files that it maps count as far as the machine has them in memory."""


TERMINATE = "distributed.worker.memory.terminate"

PAUSE = "distributed.worker.memory.pause"

RESTARTED_AT = 0.9
"""Fraction of the limit at which nannies restart these workers, which are never paused;
this process is configured otherwise."""


@pytest.fixture(scope="module")
def small_cluster():
    with ExitStack() as stack:
        with dask.config.set({TERMINATE: RESTARTED_AT, PAUSE: False}):
            client = stack.enter_context(
                own_cluster(method="spawn", n_workers=2, memory_limit=LIMIT)
            )
        # Loads this module there, which takes memory.
        client.run(resident_bytes)
        yield client


@pytest.fixture
def plan(small_cluster):
    """A plan that needs nothing."""
    return plan_of("peers", small_cluster.nthreads(), 2)


def looked_at(client, plan):
    return check_free_memory(client, plan, MODULE, lambda: None)


MODULE = "skdistmlp.cluster.peers.worker"


def resident_bytes() -> int:
    return psutil.Process().memory_info().rss


@pytest.fixture
def impatient(monkeypatch):
    """Wait for no memory to be freed."""
    monkeypatch.setattr(free_memory, "MEMORY_FREED_S", 0.0)


@pytest.mark.parametrize("configured_here", only_quick(1, cases=[False, 0.5]))
def test_what_a_process_takes_and_may_take_is_asked_of_the_worker(
    small_cluster, plan, impatient, configured_here
):
    with dask.config.set({TERMINATE: configured_here}):
        memory = looked_at(small_cluster, plan)
    for worker in plan.workers:
        assert (memory[worker].limit, memory[worker].usable) == (LIMIT, RESTARTED_AT)
        taken = small_cluster.run(resident_bytes, workers=[worker])[worker]
        assert abs(memory[worker].taken - taken) < 25 * MB
    too_much = replace(plan, bytes_held=(0, memory[plan.workers[1]].free + 50 * MB))
    with pytest.raises(ClusterError, match=r"shard 1 would .* its process takes"):
        looked_at(small_cluster, too_much)


def test_a_worker_without_a_nanny_is_paused_but_not_restarted(processes):
    processes.have_workers(2)
    with Client(processes.address, set_as_default=False) as client:
        plan = plan_of("peers", client.nthreads(), 2)
        memory = looked_at(client, plan)
    assert {its.usable for its in memory.values()} == {dask.config.get(PAUSE)}


def test_values_that_dask_can_write_to_disk_are_not_counted(
    small_cluster, plan, impatient
):
    worker = plan.workers[0]
    before = looked_at(small_cluster, plan)
    value = small_cluster.scatter(np.ones(50 * MB, np.int8), workers=[worker])
    after = looked_at(small_cluster, plan)
    del value
    assert abs(after[worker].taken - before[worker].taken) < 25 * MB


def test_memory_that_is_freed_meanwhile_is_waited_for(small_cluster, plan, monkeypatch):
    looks = []

    def shortage(_plan, _memory):
        looks.append(1)
        return "too little" if len(looks) < 4 else None

    monkeypatch.setattr(free_memory, "memory_shortage", shortage)
    bounded(looked_at, small_cluster, plan)
    assert len(looks) == 4


@pytest.mark.skipif(sys.platform != "linux", reason="the C library cannot")
def test_memory_that_was_freed_but_not_returned_is_no_shortage(
    small_cluster, plan, impatient
):
    worker = plan.workers[0]
    before = looked_at(small_cluster, plan)[worker]
    small_cluster.run(scatter_holes, workers=[worker])
    try:
        kept = looked_at(small_cluster, plan)[worker].taken - before.taken
        assert kept > 150 * MB
        # More than is free with what was not returned, by more than its size varies.
        needed = replace(plan, bytes_held=(before.free - 75 * MB, 0))
        assert looked_at(small_cluster, needed)[worker].taken < before.taken + 50 * MB
    finally:
        small_cluster.run(HOLES.clear, workers=[worker])


HOLES = []


def scatter_holes():
    """Free 200 MB between small pieces that stay: malloc returns only what is last."""
    # Smaller than what malloc asks the system for separately.
    pieces = [(bytearray(100_000), bytearray(1000)) for _ in range(2000)]
    HOLES.extend(kept for _, kept in pieces)


@pytest.mark.parametrize(("engine", "bytes_per_parameter"), ENGINES)
def test_a_fit_that_would_have_its_worker_restarted_is_refused(
    small_cluster, impatient, engine, bytes_per_parameter
):
    """It needs less than the limit, and less than 90% of it."""
    processes = small_cluster.run(os.getpid)
    with pytest.raises(ClusterError, match="restarts it at 90% of") as caught:
        bounded(*fit_of(small_cluster, engine, 800 * MB // bytes_per_parameter))
    numbers = re.findall(r"\d[\d,]{6,}", str(caught.value))
    held, limit, taken = (int(number.replace(",", "")) for number in numbers)
    assert limit == LIMIT
    assert held < RESTARTED_AT * limit < held + taken
    assert small_cluster.run(os.getpid) == processes


def fit_of(client, engine, n_own_parameters):
    """Return a fit, and what it is called with, by the parameters of each worker."""
    n_hidden = n_own_parameters // 100 * 2
    clf = DistributedMLPClassifier(
        (n_hidden,), client=client, engine=engine, batch_size=8, max_iter=1
    )
    return clf.fit, np.ones((8, 98), np.float32), np.arange(8) % 2


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize(("engine", "n_arrays"), [("peers", 2), ("futures", 3)])
def test_a_fit_gets_what_an_earlier_one_has_freed(
    small_cluster, plan, engine, n_arrays
):
    """Two at once would not fit. Nearly all are activations and deltas."""
    free = min(its.free for its in looked_at(small_cluster, plan).values())
    n_rows = 8000
    n_own = int(0.55 * free) // (4 * n_arrays * n_rows)
    clf = DistributedMLPClassifier((2 * n_own,), client=small_cluster, max_iter=1)
    clf.set_params(engine=engine, batch_size=n_rows)
    X = np.ones((n_rows, 4), np.float32)
    for _ in range(2):
        bounded(clf.fit, X, np.arange(n_rows) % 2)
        assert 0.5 * free < max(clf.plan_.bytes_held) < 0.6 * free


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_fit_that_has_no_room_for_copies_trains_without(small_cluster, plan):
    free = min(its.free for its in looked_at(small_cluster, plan).values())
    # Its copies would take three times as much.
    fit, X, y = fit_of(small_cluster, "peers", int(0.4 * free) // 16)
    with dask.config.set({"skdistmlp.max-recoveries": 3}):
        planned = fit.__self__.plan_fit(X, y)
        found = bounded(fit, X, y).plan_
    assert min(planned.bytes_held) > free > max(found.bytes_held)
    assert found.bytes_held == planned.bytes_needed
    assert found.bytes_of_copies == ()
    assert re.search("has memory for .* bytes that copies take", found.copies_missing)


def miss_workers_late(dask_scheduler):
    """Have a scheduler learn of a lost worker after it has tried to ask it."""
    remove_worker = dask_scheduler.remove_worker

    async def remove_late(*args, **kwargs):
        await asyncio.sleep(0.5)
        return await remove_worker(*args, **kwargs)

    dask_scheduler.remove_worker = remove_late


def miss_workers_at_once(dask_scheduler):
    del dask_scheduler.remove_worker


@pytest.mark.parametrize(
    "given", only_quick(0, 2, cases=["peers", "futures", "blocks"])
)
def test_a_worker_that_is_lost_when_it_is_asked_is_named(processes, monkeypatch, given):
    """The scheduler cannot pass the question on, and answers with its own error."""
    processes.have_workers(2)
    (victim, _) = processes.workers

    def lost_meanwhile(*args):
        memory = worker_memory(*args)
        if victim in processes.workers:
            processes.kill_worker(victim)
        return memory

    monkeypatch.setattr(free_memory, "worker_memory", lost_meanwhile)
    X, engine = np.eye(40), given
    if given == "blocks":
        X, engine = da.from_array(X, chunks=20), "peers"
    with Client(processes.address, set_as_default=False) as client:
        client.run_on_scheduler(miss_workers_late)
        clf = DistributedMLPClassifier((8,), client=client, engine=engine)
        with pytest.raises(WorkerLostError, match=r"lost|dropped"):
            bounded(clf.fit, X, np.arange(40) % 2)
        client.run_on_scheduler(miss_workers_at_once)


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
