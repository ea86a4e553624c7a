"""Whether workers have room for a plan, and for copies of the state besides."""

from dataclasses import replace

import pytest

from skdistmlp.parallel.rows import RowHolding
from skdistmlp.planning.cost import StepCost
from skdistmlp.planning.memory import (
    WorkerMemory,
    memory_needs,
    memory_shortage,
    plan_with_room,
    shortage_for_copies,
)
from skdistmlp.planning.plan import plan_training

WORKERS = ["tcp://a:1", "tcp://b:2"]


def plan_holding(*n_bytes):
    plan = plan_training((7, 9, 4), "peers", WORKERS, StepCost.of_step(20))
    return replace(plan, bytes_held=n_bytes)


def test_a_plan_fits_into_what_workers_have_free():
    plan = plan_holding(700, 750)
    assert memory_shortage(plan, {}) is None
    memory = dict.fromkeys(WORKERS, WorkerMemory(1000, 0.95, taken=200))
    assert memory_shortage(plan, memory) is None
    assert memory_shortage(plan_holding(700, 751), memory).startswith(
        "shard 1 would hold 751 bytes on worker tcp://b:2, whose memory_limit is 1,000 "
        "bytes; Dask pauses or restarts it at 95% of that; its process takes 200 "
        "bytes already. Use workers with more memory, more workers, "
    )
    of_one = {WORKERS[0]: WorkerMemory(699)}
    said = "whose memory_limit is 699 bytes. Use workers with"
    assert said in memory_shortage(plan, of_one)
    in_a_file = replace(plan, rows=RowHolding("once", on_disk=True))
    said = "float32 features. Smaller blocks of a Dask array need less; sparse ones too"
    assert said in memory_shortage(in_a_file, of_one)


def test_nothing_is_free_on_a_worker_that_has_taken_too_much():
    assert WorkerMemory(1000, 0.9, taken=950).free == 0


def test_a_worker_near_its_limit_has_probably_run_out_of_memory():
    memory = dict.fromkeys(WORKERS, WorkerMemory(1000, 0.95, taken=200))
    needs = memory_needs(plan_holding(400, 401), memory)
    assert list(needs) == WORKERS[1:]
    assert needs[WORKERS[1]].startswith(
        "Worker tcp://b:2 probably ran out of memory: its memory_limit was 1,000 "
        "bytes, its process took 200 before the fit, and its shard needs 401. Use "
    )
    assert memory_needs(plan_holding(400, 401), {}) == {}


def with_copies(plan, *n_bytes):
    held = tuple(map(sum, zip(plan.bytes_held, n_bytes, strict=True)))
    return replace(plan, bytes_held=held, bytes_of_copies=n_bytes)


def memory_of(*free):
    return dict(zip(WORKERS, map(WorkerMemory, free), strict=True))


def test_a_plan_is_not_refused_for_want_of_room_for_copies():
    plan = with_copies(plan_holding(700, 750), 100, 200)
    assert plan.bytes_held == (800, 950)
    assert memory_shortage(plan, memory_of(700, 750)) is None
    said = "shard 1 would hold 750 bytes on worker tcp://b:2"
    assert said in memory_shortage(plan, memory_of(700, 749))


@pytest.mark.parametrize(
    ("free", "said"),
    [
        ((800, 950), None),
        ((799, 950), "worker tcp://a:1 has memory for 99 of the 100 bytes that"),
        ((800, 750), "worker tcp://b:2 has memory for 0 of the 200 bytes that"),
        ((800, 700), "worker tcp://b:2 has memory for 0 of the 200 bytes that"),
    ],
)
def test_a_fit_does_without_copies_that_one_worker_has_no_room_for(free, said):
    without = plan_holding(700, 750)
    plan = with_copies(without, 100, 200)
    found = plan_with_room(plan, memory_of(*free))
    if said is None:
        assert found is plan
        return
    assert found.copies_missing.startswith(said)
    assert found == replace(without, copies_missing=found.copies_missing)
    text = str(found)
    assert f"no copies of the state: {said}" in text
    assert "If a worker is lost, the fit starts over" in text


def test_workers_without_a_limit_have_room_for_copies():
    plan = with_copies(plan_holding(700, 750), 100, 200)
    assert plan_with_room(plan, {}) is plan
    assert shortage_for_copies(WORKERS, (100, 200), {WORKERS[0]: 100}) is None


def test_a_plan_without_copies_needs_no_room_for_them():
    plan = plan_holding(700, 750)
    assert plan_with_room(plan, memory_of(700, 750)) is plan


def test_copies_count_when_a_worker_has_run_out_of_memory():
    memory = dict.fromkeys(WORKERS, WorkerMemory(1000, taken=200))
    plan = with_copies(plan_holding(300, 300), 100, 101)
    assert list(memory_needs(plan, memory)) == [WORKERS[1]]
