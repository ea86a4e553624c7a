"""Which workers a fit has lost, which take their place, and the plan on them."""

from dataclasses import replace

import pytest
from distributed import Client

from skdistmlp import WorkerLostError
from skdistmlp.cluster.run import replacement
from skdistmlp.cluster.run.departure import Departure
from skdistmlp.cluster.run.replacement import (
    AbandonedWorkers,
    await_workers,
    lost_among,
    plan_on,
    processes_of,
    recovery_of,
    replacements,
)
from skdistmlp.planning.cost import StepCost, cost_of_training
from skdistmlp.planning.plan import WorkerMemory, plan_training
from skdistmlp.training.progress import LbfgsProgress
from tests.cluster.support import bounded
from tests.training.jobs import dataset_of, job_of


def all_of(spare):
    return spare


def without(lost):
    """Return workers that are lost, by address."""
    return AbandonedWorkers(dict(lost))


def test_a_worker_that_is_restarted_at_its_address_was_lost(client):
    first, second, third = client.nthreads()
    plan = plan_training((4, 9, 1), "peers", [first, second], StepCost.of_step(10))
    before = processes_of(client)
    error = WorkerLostError("it was lost")
    assert lost_among(client, plan, before, error) == ()
    old = before | {second: "another directory"}
    assert lost_among(client, plan, old, error) == (second,)
    found = await_workers(client, plan, without({second: old[second]}), 0.0, all_of)
    assert found == (first, second)
    # It is still the same process.
    found = await_workers(client, plan, without({second: before[second]}), 0.0, all_of)
    assert found == (first, third)
    both = {second: before[second], third: before[third]}
    assert await_workers(client, plan, without(both), 0.0, all_of) == (first,)


def test_a_spare_worker_with_another_version_is_left_where_it_is(cluster):
    def set_version(version):
        import skdistmlp

        before, skdistmlp.__version__ = skdistmlp.__version__, version
        return before

    # A new client, which has not asked any worker yet.
    with Client(cluster, set_as_default=False) as client:
        first, second, third = client.nthreads()
        plan = plan_training((4, 9, 1), "peers", [first, second], StepCost.of_step(10))
        gone = {second: processes_of(client)[second]}
        version = client.run(set_version, "0.0.1", workers=[third])[third]
        try:
            assert await_workers(client, plan, without(gone), 0.0, all_of) == (first,)
        finally:
            client.run(set_version, version, workers=[third])
        assert await_workers(client, plan, without(gone), 0.0, all_of) == (first, third)


def test_a_spare_worker_that_does_not_answer_is_left_where_it_is(client, monkeypatch):
    first, second, third = client.nthreads()
    plan = plan_training((4, 9, 1), "peers", [first, second], StepCost.of_step(10))
    gone = {second: processes_of(client)[second]}

    def never(client, workers, check):
        assert list(workers) == [third]
        while True:
            check()

    monkeypatch.setattr(replacement, "PING_ANSWER_S", 0.1)
    monkeypatch.setattr(replacement, "check_versions", never)
    found = bounded(await_workers, client, plan, without(gone), 0.0, all_of)
    assert found == (first,)


def test_a_spare_worker_of_another_fit_is_taken_if_nobody_else_is_left(client):
    first, second, third = client.nthreads()
    plan = plan_training((4, 9, 1), "peers", [first, second], StepCost.of_step(10))
    processes = processes_of(client)

    def all_held(spare):
        return ()

    gone = {second: processes[second]}
    assert await_workers(client, plan, without(gone), 0.0, all_held) == (first,)
    gone[first] = processes[first]
    assert await_workers(client, plan, without(gone), 0.0, all_held) == (third,)


def test_a_lost_worker_outside_of_the_plan_is_named_last(client):
    first, second, third = client.nthreads()
    plan = plan_training((4, 9, 1), "peers", [first, second], StepCost.of_step(10))
    error = WorkerLostError("two are gone", (third, second))
    assert lost_among(client, plan, processes_of(client), error) == (second, third)


def test_a_worker_that_is_being_retired_is_of_use_once_that_is_refused(
    client, monkeypatch
):
    first, second, third = client.nthreads()
    plan = plan_training((4, 9, 1), "peers", [first, second], StepCost.of_step(10))
    statuses = dict.fromkeys((first, second, third), "running")
    statuses[first] = "closing_gracefully"
    monkeypatch.setattr(replacement, "worker_statuses", lambda _: statuses)
    monkeypatch.setattr(replacement, "workers_of", lambda _: (second, third))
    assert await_workers(client, plan, without({}), 0.0, all_of) == (third, second)
    monkeypatch.setattr(replacement, "workers_of", lambda _: (second,))
    assert await_workers(client, plan, without({}), 0.0, all_of) == (second,)
    # It has left, and the client does not know yet.
    del statuses[first]
    assert await_workers(client, plan, without({}), 0.0, all_of) == (second,)
    statuses[first] = "running"
    assert await_workers(client, plan, without({}), 0.0, all_of) == (first, second)


@pytest.mark.parametrize(("engine", "n_replicas"), [("peers", 2), ("futures", 1)])
def test_fewer_workers_share_the_network_as_the_engine_can(client, engine, n_replicas):
    workers = tuple(client.nthreads())
    job, dataset = job_of("adam"), dataset_of("adam")
    units, cost = job.network.layer_units, cost_of_training(job, dataset)
    plan = plan_training(units, engine, workers, cost)
    plan = plan_on(client, replace(plan, reason="why"), workers[:2], job, dataset)
    assert (plan.engine, plan.workers) == (engine, workers[:2])
    assert plan.n_replicas <= n_replicas
    assert plan.reason == "1 worker fewer than before (why)"
    same = plan_on(client, plan, workers[1:], job, dataset)
    assert same == replace(plan, workers=workers[1:])


def test_a_worker_that_was_paused_is_of_use_once_it_accepts_tasks(client):
    first, second, third = client.nthreads()
    processes = processes_of(client)
    statuses = dict.fromkeys(processes, "running")
    abandoned = AbandonedWorkers()
    paused = Departure("paused", (second,), "it is paused")
    abandoned.add(paused, processes, handed_over=True)
    statuses[second] = "paused"
    assert abandoned.others(client, statuses) == {first, third}
    statuses[second] = "running"
    assert abandoned.others(client, statuses) == {first, second, third}
    # From then on, it may be paused for a moment like any other.
    statuses[second] = "paused"
    assert abandoned.others(client, statuses) == {first, second, third}


def test_a_worker_that_is_paused_a_second_time_is_of_no_use_any_more(client):
    """A fit that takes as much memory on each worker would move to and fro."""
    first, second, third = client.nthreads()
    processes = processes_of(client)
    statuses = dict.fromkeys(processes, "running")
    abandoned = AbandonedWorkers()

    def leave(*workers):
        paused = Departure("paused", workers, "they are paused")
        abandoned.add(paused, processes, handed_over=True)
        return abandoned.others(client, statuses)

    assert leave(second) == {first, second, third}
    assert leave(second, third) == {first, third}
    assert leave(third) == {first}
    # At its address, there was another process.
    now, processes[first] = processes[first], "another directory"
    assert leave(first) == {first}
    processes[first] = now
    assert leave(first) == {first}


@pytest.mark.parametrize("kind", ["retired", "moved"])
def test_a_worker_that_is_left_but_well_is_of_use(client, kind):
    processes = processes_of(client)
    abandoned = AbandonedWorkers()
    departure = Departure(kind, tuple(processes)[:1], "it is left")
    abandoned.add(departure, processes, handed_over=True)
    assert abandoned.others(client, {}) == set(processes)


def test_a_worker_that_was_paused_by_its_shard_is_of_no_use_any_more(client):
    first, second, third = client.nthreads()
    processes = processes_of(client)
    statuses = dict.fromkeys(processes, "running")
    abandoned = AbandonedWorkers()
    paused = Departure("paused", (second,), "it is paused")
    abandoned.add(paused, processes, handed_over=False)
    assert abandoned.others(client, statuses) == {first, third}


def test_replacements_are_those_that_a_fit_would_find(client):
    first, second, third = client.nthreads()
    plan = plan_training((4, 9, 1), "peers", [first, second], StepCost.of_step(10))
    nobody = AbandonedWorkers()
    assert replacements(client, plan, [1], nobody, all_of) == {1: third}
    found = replacements(client, plan, [0, 1], nobody, all_of)
    assert tuple(found.values()) == (third,)
    assert replacements(client, plan, [1], nobody, lambda _: ()) == {}
    gone = without({third: processes_of(client)[third]})
    assert replacements(client, plan, [1], gone, all_of) == {}


@pytest.fixture
def memory(monkeypatch):
    """Memory limits of workers, by address, of whom none takes or frees anything."""
    limits = {}

    def known(_client, workers):
        return {w: WorkerMemory(limits[w]) for w in workers if w in limits}

    monkeypatch.setattr(replacement, "worker_memory", known)
    monkeypatch.setattr(replacement, "answers_in_time", lambda *_: {})
    return limits


def test_a_spare_worker_with_too_little_memory_is_left_where_it_is(client, memory):
    first, small, large = client.nthreads()
    plan = plan_training((4, 9, 1), "peers", [first], StepCost.of_step(10))
    gone = {first: processes_of(client)[first]}
    memory.update({small: plan.bytes_held[0] - 1, large: plan.bytes_held[0]})
    assert await_workers(client, plan, without(gone), 0.0, all_of) == (large,)
    gone[large] = processes_of(client)[large]
    assert await_workers(client, plan, without(gone), 0.0, all_of) == ()
    assert replacements(client, plan, [0], without(gone), all_of) == {}
    # Without a limit.
    memory.clear()
    assert await_workers(client, plan, without(gone), 0.0, all_of) == (small,)


def test_the_largest_shard_takes_the_largest_worker(client, memory):
    first, small, large = client.nthreads()
    plan = plan_training((4, 9, 1), "peers", ["a", "b"], StepCost.of_step(10))
    gone = without({first: processes_of(client)[first]})
    for held in ((100, 10), (10, 100)):
        plan = replace(plan, bytes_held=held)
        memory.update({small: 10, large: 100})
        expected = {held.index(10): small, held.index(100): large}
        assert replacements(client, plan, [0, 1], gone, all_of) == expected
        memory[large] = 99
        expected = {held.index(10): small}
        assert replacements(client, plan, [0, 1], gone, all_of) == expected


def test_a_worker_that_has_freed_memory_since_is_of_use(client, monkeypatch):
    first, second, third = client.nthreads()
    plan = plan_training((4, 9, 1), "peers", [first, second], StepCost.of_step(10))
    limit = 10**12

    def full(_client, workers):
        return {worker: WorkerMemory(limit, taken=limit) for worker in workers}

    monkeypatch.setattr(replacement, "worker_memory", full)
    assert replacements(client, plan, [1], without({}), all_of) == {1: third}


def test_workers_that_another_fit_holds_have_room_once_it_has_ended(
    client, monkeypatch
):
    first, second, third = client.nthreads()
    plan = plan_training((4, 9, 1), "peers", [first, second], StepCost.of_step(10))
    limit = max(plan.bytes_held)

    def full(_client, workers):
        return {worker: WorkerMemory(limit, taken=limit) for worker in workers}

    def nobody(_workers):
        return ()

    monkeypatch.setattr(replacement, "worker_memory", full)
    processes = processes_of(client)
    gone = {worker: processes[worker] for worker in (first, second)}
    assert await_workers(client, plan, without(gone), 0.0, nobody) == (third,)


def recovered(job, before, plan):
    dataset = dataset_of("adam")
    departure = Departure("lost", ("a",), "it was lost")
    return recovery_of(departure, 1.0, 2.0, before, plan, job, dataset)


def test_an_account_says_whether_bits_are_the_same():
    cost, units = StepCost.of_step(10), job_of("adam").network.layer_units
    before = plan_training(units, "peers", ["a", "b"], cost)
    moved = replace(before, workers=("a", "c"))
    job = job_of("adam")
    found = recovered(job, before, moved)
    assert (found.same_bits, found.restarts, found.n_iter) == (True, False, 0)
    fewer = plan_training(units, "peers", ["a"], cost)
    found = recovered(job, before, fewer)
    assert not found.same_bits
    # On the same worker from then on, which is not what it began with.
    fewer = replace(fewer, recoveries=(found,))
    assert not recovered(job, fewer, fewer).same_bits
    iterate = replace(job.initial, progress=LbfgsProgress(7, 0.5))
    found = recovered(replace(job, initial=iterate), before, moved)
    assert (found.same_bits, found.restarts, found.n_iter) == (False, True, 7)
    # Nothing is left of what was trained.
    begun = replace(job, initial=replace(job.initial, progress=None))
    assert recovered(begun, before, moved).same_bits
