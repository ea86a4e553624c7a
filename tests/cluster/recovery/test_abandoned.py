"""Which workers a fit has lost, and which of those that it left are of use again."""

import pytest

from skdistmlp import WorkerLostError
from skdistmlp.cluster.client.workers import known_workers
from skdistmlp.cluster.recovery.abandoned import (
    AbandonedWorkers,
    lost_among,
    processes_of,
)
from skdistmlp.cluster.recovery.departure import Departure
from skdistmlp.cluster.recovery.replacement import await_workers
from skdistmlp.planning.cost import StepCost
from skdistmlp.planning.plan import plan_training
from tests.cluster.recovery.spares import all_of, none_of


def test_a_lost_worker_outside_of_the_plan_is_named_last(client):
    first, second, third = client.nthreads()
    plan = plan_training((4, 9, 1), "peers", [first, second], StepCost.of_step(10))
    error = WorkerLostError("two are gone", (third, second))
    assert lost_among(client, plan, processes_of(client), error) == (second, third)


def test_a_worker_that_was_paused_is_of_use_once_it_accepts_tasks(client):
    first, second, third = client.nthreads()
    known = known_workers(client)
    abandoned = AbandonedWorkers()
    paused = Departure("paused", (second,), "it is paused")
    abandoned.add(paused, processes_of(client), handed_over=True)
    known[second]["status"] = "paused"
    assert abandoned.others(known) == {first, third}
    known[second]["status"] = "running"
    assert abandoned.others(known) == {first, second, third}
    # From then on, it may be paused for a moment like any other.
    known[second]["status"] = "paused"
    assert abandoned.others(known) == {first, second, third}


def test_a_worker_that_is_paused_a_second_time_is_the_last_choice(client):
    """A fit that takes as much memory on each worker would move to and fro."""
    first, second, third = client.nthreads()
    known, processes = known_workers(client), processes_of(client)
    abandoned = AbandonedWorkers()

    def leave(*workers):
        paused = Departure("paused", workers, "they are paused")
        abandoned.add(paused, processes, handed_over=True)
        return abandoned.others(known)

    assert leave(second) == {first, second, third}
    assert leave(second, third) == {first, third}
    assert leave(third) == {first}
    # Unless no other is left, but rather than to wait for another fit.
    alone = plan_training((4, 9, 1), "peers", [second], StepCost.of_step(10))
    assert await_workers(client, alone, abandoned, 0.0, all_of) == (first,)
    assert abandoned.others(known) == {first}
    assert await_workers(client, alone, abandoned, 0.0, none_of) == (second,)
    assert leave(second) == {first, third}
    assert leave(third) == {first}
    # At its address, there was another process.
    now = processes[first]
    processes[first] = now._replace(directory="another")
    assert leave(first) == {first}
    processes[first] = now
    assert leave(first) == {first}


@pytest.mark.parametrize("kind", ["retired", "moved"])
def test_a_worker_that_is_left_but_well_is_of_use(client, kind):
    processes = processes_of(client)
    abandoned = AbandonedWorkers()
    departure = Departure(kind, tuple(processes)[:1], "it is left")
    abandoned.add(departure, processes, handed_over=True)
    assert abandoned.others(known_workers(client)) == set(processes)


def test_a_worker_that_was_paused_by_its_shard_is_of_no_use_any_more(client):
    first, second, third = client.nthreads()
    abandoned = AbandonedWorkers()
    paused = Departure("paused", (second,), "it is paused")
    abandoned.add(paused, processes_of(client), handed_over=False)
    assert abandoned.others(known_workers(client)) == {first, third}
