"""How far shards have come in starting a round."""

from types import SimpleNamespace

import pytest

from skdistmlp.cluster.peers import round_start
from skdistmlp.cluster.peers.messages import (
    ProgressLine,
    ShardMet,
    ShardRunning,
    TaskEnded,
)
from skdistmlp.cluster.peers.round_start import RoundStart
from skdistmlp.cluster.peers.worker import Roster

WORKERS = ["tcp://a", "tcp://b", "tcp://c"]
NAMES = [f"shard {rank} on {worker}" for rank, worker in enumerate(WORKERS)]


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(
        round_start, "time", SimpleNamespace(monotonic=lambda: clock.now)
    )
    return clock


@pytest.fixture
def start(clock):
    return RoundStart(Roster([], NAMES, timeout_s=2.0), WORKERS, number=5)


def test_workers_wait_until_their_tasks_run(start):
    assert start.waiting_workers == WORKERS
    start.note(ShardRunning(1, 5))
    assert start.waiting_workers == ["tcp://a", "tcp://c"]


def test_messages_of_other_rounds_and_kinds_are_ignored(start):
    for message in (
        ShardRunning(1, 4),
        ShardMet(1, 4),
        ProgressLine("Iteration 1"),
        TaskEnded(),
    ):
        start.note(message)
    assert start.waiting_workers == WORKERS


def test_there_is_no_deadline_before_all_tasks_run(start, clock):
    start.note(ShardRunning(0, 5))
    start.note(ShardRunning(1, 5))
    clock.now = 1e6
    assert not start.timed_out()
    start.note(ShardRunning(2, 5))
    clock.now += 1.9
    assert not start.timed_out()
    clock.now += 0.2
    assert start.timed_out()


def test_shards_that_have_met_have_no_deadline(start, clock):
    for rank in range(3):
        start.note(ShardRunning(rank, 5))
        start.note(ShardMet(rank, 5))
    clock.now = 1e6
    assert not start.timed_out()


@pytest.mark.parametrize(
    ("answering", "blamed"),
    [
        ({"tcp://a", "tcp://b"}, NAMES[2:]),
        ({"tcp://a", "tcp://b", "tcp://c"}, NAMES[1:]),
        (set(), NAMES[1:]),
    ],
)
def test_the_error_names_the_silent_or_all_missing_shards(start, answering, blamed):
    start.note(ShardMet(0, 5))
    assert str(start.error(answering)) == (
        "the shards could not connect to each other within 2 s "
        f"(skdistmlp.exchange-timeout): no connection to {', '.join(blamed)}"
    )
