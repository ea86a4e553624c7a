"""The plan where nothing is measured, and the workers that have room for it."""

import pytest

from skdistmlp.cluster.client import workers as workers_module
from skdistmlp.engines.choice import open_engine
from skdistmlp.engines.default_plan import MEMORY_ASKED_FROM_BYTES, DefaultPlanner
from skdistmlp.engines.engine import EngineRequest
from skdistmlp.planning.cost import StepCost
from skdistmlp.planning.memory import WorkerMemory
from tests.cluster.run.test_reservation import forget_choices

STEP = StepCost.of_step(200)

LARGE = (100, 3500, 3500, 10)
"""Takes 400 MB or so on one worker, and half of that on each of two."""


@pytest.fixture
def workers(client):
    forget_choices(client)
    yield tuple(client.nthreads())
    forget_choices(client)


def have_memory(monkeypatch, memory):
    monkeypatch.setattr(
        workers_module,
        "worker_memory",
        lambda _client, asked: {worker: memory[worker] for worker in asked},
    )


def planned(client, n_workers, n_replicas=None, engine="auto"):
    request = EngineRequest(client, n_workers, 0, engine, n_replicas)
    with open_engine(request, LARGE, STEP) as engine:
        return engine.plan


@pytest.mark.parametrize("engine", ["peers", "futures", "auto"])
@pytest.mark.parametrize(("n_workers", "n_replicas"), [(1, None), (2, 1), (2, 2)])
def test_a_number_of_workers_is_chosen_from_those_with_room(
    client, workers, monkeypatch, engine, n_workers, n_replicas
):
    if engine == "futures" and n_replicas == 2:
        pytest.skip("tasks have no replicas")
    small, *large = workers
    memory = dict.fromkeys(large, WorkerMemory(3 * 10**9))
    have_memory(monkeypatch, {small: WorkerMemory(10**8), **memory})
    plan = planned(client, n_workers, n_replicas, engine)
    assert max(plan.bytes_needed) > MEMORY_ASKED_FROM_BYTES
    assert plan.workers == tuple(large[:n_workers])


def test_without_enough_room_the_error_is_left_to_the_fit(client, workers, monkeypatch):
    have_memory(monkeypatch, dict.fromkeys(workers, WorkerMemory(10**8)))
    assert planned(client, 1, engine="peers").workers == workers[:1]


@pytest.mark.parametrize(
    ("limits", "n_replicas", "short"),
    [
        ((10**9, 10**9, 10**9), None, 0),
        ((10**7, 10**9, 10**9), None, 1),
        # Of three, each would need a third.
        ((10**7, 18 * 10**7, 18 * 10**7), None, 3),
        ((18 * 10**7, 18 * 10**7, 18 * 10**7), None, 0),
        # Of two replicas, each needs the whole network.
        ((2 * 10**8, 10**9, 10**9), 2, 1),
        ((2 * 10**8, 10**9, 10**7), 2, 2),
    ],
)
def test_workers_without_room_are_found(
    client, workers, monkeypatch, limits, n_replicas, short
):
    memory = zip(workers, map(WorkerMemory, limits), strict=True)
    have_memory(monkeypatch, dict(memory))
    request = EngineRequest(client, None, 0, "auto", n_replicas)
    planner = DefaultPlanner(request, LARGE, STEP, client)
    found = planner.workers_without_room(workers)
    assert len(found) == short
    assert all(each.bytes_free < each.bytes_needed for each in found)
