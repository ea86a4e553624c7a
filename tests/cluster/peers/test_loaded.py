"""What room workers have before and after they load compiled code."""

import math
from collections import OrderedDict
from dataclasses import replace

import pytest

from skdistmlp.cluster.peers import loaded
from skdistmlp.cluster.peers.loaded import Room, note_loaded, room_for
from skdistmlp.nn.compiled import LOADED_BYTES
from skdistmlp.planning.memory import WorkerMemory
from skdistmlp.training.trial import Trial
from tests.training.jobs import dataset_of, job_of

WORKERS = A, B = "tcp://a:1", "tcp://b:1"


@pytest.fixture
def trial():
    return replace(Trial.of(job_of("adam"), dataset_of("adam"), 50), runs_compiled=True)


@pytest.fixture
def scheduler(monkeypatch):
    """Return what a scheduler knows: its id, and the threads of each worker."""
    known = {"id": "scheduler", A: 1, B: 1}
    monkeypatch.setattr(
        loaded,
        "scheduler_and_threads",
        lambda _, workers: (known["id"], [known[worker] for worker in workers]),
    )
    monkeypatch.setattr(loaded, "_LOADED", OrderedDict())
    return known


def memory_of(*taken):
    return {
        worker: WorkerMemory(10**9, taken=n_bytes)
        for worker, n_bytes in zip(WORKERS, taken, strict=False)
    }


def taken_of(memory):
    return [its.taken for its in memory.values()]


def test_a_fit_that_loads_no_compiled_code_needs_no_room_for_it(trial, monkeypatch):
    monkeypatch.setattr(
        loaded, "scheduler_and_threads", lambda *_: pytest.fail("asked")
    )
    memory = memory_of(1, 2)
    for its in None, replace(trial, runs_compiled=False):
        room = room_for(its, None, memory)
        assert room.now == room.in_fit == memory
    note_loaded(replace(trial, runs_compiled=False), None, room)


def test_a_scheduler_is_not_asked_before_anything_was_loaded(trial, monkeypatch):
    monkeypatch.setattr(loaded, "_LOADED", OrderedDict())
    monkeypatch.setattr(
        loaded, "scheduler_and_threads", lambda *_: pytest.fail("asked")
    )
    assert taken_of(room_for(trial, None, memory_of(1, 2)).now) == [1, 2]


def test_code_that_will_be_loaded_takes_room(trial, scheduler):
    room = room_for(trial, None, memory_of(1, 2))
    assert taken_of(room.now) == [1, 2]
    assert taken_of(room.in_fit) == [1 + LOADED_BYTES, 2 + LOADED_BYTES]
    assert room.have_loaded == set()


def test_code_that_was_loaded_is_counted_once(trial, scheduler, monkeypatch):
    note_loaded(trial, None, room_for(trial, None, memory_of(100)))
    # The scheduler does not know of it yet.
    room = room_for(trial, None, memory_of(100, 7))
    assert taken_of(room.now) == [100 + LOADED_BYTES, 7]
    assert taken_of(room.in_fit) == [100 + LOADED_BYTES, 7 + LOADED_BYTES]
    assert room.have_loaded == {A}
    # It does now, and of other things.
    more = 200 + LOADED_BYTES
    assert taken_of(room_for(trial, None, memory_of(more)).in_fit) == [more]
    # The worker has freed what it had before.
    monkeypatch.setattr(loaded, "HEARTBEAT_S", -math.inf)
    assert taken_of(room_for(trial, None, memory_of(50)).in_fit) == [50]


def test_workers_are_told_apart_by_their_scheduler_and_their_threads(trial, scheduler):
    note_loaded(trial, None, room_for(trial, None, memory_of(1, 2)))
    assert room_for(trial, None, memory_of(1, 2)).have_loaded == {A, B}
    scheduler[A] = 2
    assert room_for(trial, None, memory_of(1, 2)).have_loaded == {B}
    scheduler["id"] = "another"
    assert room_for(trial, None, memory_of(1, 2)).have_loaded == set()


def test_what_another_thread_has_noted_before_stays(trial, scheduler):
    memory = memory_of(100)
    before = room_for(trial, None, memory)
    note_loaded(trial, None, before)
    # One that has read the memory after the code was loaded there.
    taken = {A: WorkerMemory(10**9, taken=10**8 + 2 * LOADED_BYTES)}
    note_loaded(trial, None, Room(memory, taken))
    assert taken_of(room_for(trial, None, memory).now) == [100 + LOADED_BYTES]


def test_few_workers_are_remembered(trial, scheduler, monkeypatch):
    monkeypatch.setattr(loaded, "MAX_WORKERS", 1)
    note_loaded(trial, None, room_for(trial, None, memory_of(1, 2)))
    assert room_for(trial, None, memory_of(1, 2)).have_loaded == {B}
