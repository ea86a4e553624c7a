"""Engines that end a fit with its plan."""

from dataclasses import replace

import pytest

from skdistmlp import ClusterError
from skdistmlp.cluster.run import free_memory
from skdistmlp.cluster.run.reservation import reserve_workers
from skdistmlp.engines.choice import ENGINES
from skdistmlp.engines.plans_only import PLANS_ONLY, PlanFound
from skdistmlp.planning.memory import WorkerMemory
from skdistmlp.planning.plan import local_plan
from tests.training.jobs import LAYER_UNITS, dataset_of, job_of, plan_of


def test_every_engine_ends_with_its_plan():
    assert set(PLANS_ONLY) == set(ENGINES)
    plan = local_plan(LAYER_UNITS, "it was asked for")
    engine = PLANS_ONLY["peers"](plan, None)
    with pytest.raises(PlanFound) as found:
        engine.train(job_of("adam"), dataset_of("adam"), None)
    assert found.value.plan is plan
    assert found.value.outline.layer_units == LAYER_UNITS
    with pytest.raises(NotImplementedError):
        engine.predict(None, None, None)


def train(plan, client):
    PLANS_ONLY[plan.engine](plan, client).train(job_of("adam"), dataset_of("adam"))


@pytest.mark.parametrize("engine", ["peers", "futures"])
def test_a_plan_without_room_ends_as_a_fit_would(client, monkeypatch, engine):
    monkeypatch.setattr(free_memory, "MEMORY_FREED_S", 0.0)
    plan = replace(plan_of(engine, client.nthreads(), 2), bytes_held=(0, 10**15))
    with pytest.raises(ClusterError, match=r"shard 1 would hold 1,000,000,000,000,000"):
        train(plan, client)
    with pytest.raises(PlanFound):
        train(replace(plan, bytes_held=(0, 10)), client)


@pytest.mark.parametrize("is_held", [False, True])
def test_what_workers_hold_for_another_fit_will_be_free(client, monkeypatch, is_held):
    """Nothing is known of what they hold then, and they are not asked."""
    monkeypatch.setattr(free_memory, "MEMORY_FREED_S", 0.0)
    plan = replace(plan_of("peers", client.nthreads(), 2), bytes_held=(100, 100))
    full = dict.fromkeys(plan.workers, WorkerMemory(200, taken=150))
    monkeypatch.setattr(free_memory, "worker_memory", lambda *_: full)
    monkeypatch.setattr(free_memory, "measured_memory", lambda *_: full)
    if is_held:
        with (
            reserve_workers(client, plan.workers[:1], lambda: None),
            pytest.raises(PlanFound),
        ):
            train(plan, client)
        return
    with pytest.raises(ClusterError, match="its process takes 150 bytes already"):
        train(plan, client)
