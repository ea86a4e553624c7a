"""What room workers have once they have loaded the code of a fit."""

from dataclasses import replace

import pytest

from skdistmlp.cluster.run import loaded
from skdistmlp.cluster.run.loaded import AMPLE_BYTES, room_for
from skdistmlp.nn import compiled
from skdistmlp.nn.compiled import LOADED_BYTES
from skdistmlp.planning.memory import WorkerMemory
from skdistmlp.training.trial import Trial
from tests.training.jobs import dataset_of, job_of

WORKERS = A, B = "tcp://a:1", "tcp://b:1"

LIMIT, NEEDED = 10**9, 10**8

MODULE = "skdistmlp.cluster.peers.worker"


@pytest.fixture
def trial():
    return replace(Trial.of(job_of("adam"), dataset_of("adam"), 50), runs_compiled=True)


@pytest.fixture
def answers(monkeypatch):
    """Return what workers answer; those that are not there do not in time."""
    answers = {}
    monkeypatch.setattr(
        loaded,
        "answers_in_time",
        lambda _client, asked, *_: {w: answers[w] for w in asked if w in answers},
    )
    return answers


def memory_of(*taken):
    return {
        worker: WorkerMemory(LIMIT, taken=n_bytes)
        for worker, n_bytes in zip(WORKERS, taken, strict=True)
    }


def test_a_fit_that_loads_no_compiled_code_needs_no_room_for_it(trial, answers):
    memory = memory_of(0, LIMIT - 7)
    for its in None, replace(trial, runs_compiled=False):
        assert room_for(its, None, memory, NEEDED, MODULE) == memory
    # Heartbeats come late: a worker with little room is asked all the same.
    answers[B] = 0.8, 70
    room = room_for(replace(trial, runs_compiled=False), None, memory, NEEDED, MODULE)
    assert room == {A: memory[A], B: WorkerMemory(LIMIT, 0.8, 70)}


def test_only_workers_with_little_room_are_asked(trial, answers):
    most = LIMIT - NEEDED - AMPLE_BYTES
    answers |= dict.fromkeys(WORKERS, (0.8, 70))
    assert room_for(trial, None, memory_of(most, most + 1), NEEDED, MODULE) == {
        A: WorkerMemory(LIMIT, taken=most + LOADED_BYTES),
        B: WorkerMemory(LIMIT, 0.8, 70),
    }


def test_code_of_a_worker_that_does_not_answer_is_yet_to_be_loaded(trial, answers):
    answers[A] = 0.8, 70
    room = room_for(trial, None, memory_of(LIMIT - 7, LIMIT - 7), NEEDED, MODULE)
    assert [its.taken for its in room.values()] == [70, LIMIT - 7 + LOADED_BYTES]
    assert room[B].free == 0


def test_workers_say_whether_they_have_loaded_compiled_code(client, trial):
    def note_loaded(*kernels):
        compiled._compiled.clear()
        compiled._compiled.update(dict.fromkeys(kernels))

    memory = dict.fromkeys(client.nthreads(), WorkerMemory(1000))
    client.run(note_loaded, compiled.adam)
    after = room_for(trial, client, memory, 0, MODULE)
    client.run(note_loaded)
    before = room_for(trial, client, memory, 0, MODULE)
    without = room_for(replace(trial, runs_compiled=False), client, memory, 0, MODULE)
    assert before.keys() == after.keys() == memory.keys()
    for worker, its in after.items():
        # Its process takes some.
        assert its.taken > 30e6
        assert without[worker].taken == pytest.approx(its.taken, rel=0.1)
        more = before[worker].taken - its.taken
        assert more == pytest.approx(LOADED_BYTES, rel=0.3)
