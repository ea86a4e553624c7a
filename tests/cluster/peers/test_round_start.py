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
from skdistmlp.cluster.peers.shard import Roster
from skdistmlp.wire.handshake import ADVICE

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
        assert not start.have_met
        start.note(ShardMet(rank, 5))
    assert start.have_met
    clock.now = 1e6
    assert not start.timed_out()


A, B, C = WORKERS


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        # Two answer, one of which has found all.
        ({A: [], B: [2]}, f"to {NAMES[2]}"),
        ({}, f"to {NAMES[1]}, {NAMES[2]}"),
        # All answer, and have found each other in an earlier round.
        ({A: [], B: [], C: []}, f"to {NAMES[1]}, {NAMES[2]}"),
        ({A: [], B: [2], C: [1]}, f"between {NAMES[1]} and {NAMES[2]}. {ADVICE}"),
        # One direction.
        ({A: [], B: [2], C: []}, f"between {NAMES[1]} and {NAMES[2]}. {ADVICE}"),
    ],
)
def test_the_error_names_the_silent_or_who_misses_whom(start, missing, named):
    start.note(ShardMet(0, 5))
    error = start.error(missing)
    # A worker that hangs can be reached again when it goes on.
    assert bool(error.apart) is named.startswith("between")
    assert str(error) == (
        "the shards could not connect to each other within 2 s "
        f"(skdistmlp.exchange-timeout): no connection {named}"
    )
    assert error.apart == (((1, 2),) if named.startswith("between") else ())


def test_the_shard_that_misses_most_is_named_once(start):
    """And those that miss it are named as such, healthy as they may be."""
    named = f"between {NAMES[2]} and {NAMES[0]}, {NAMES[1]}. "
    assert named in str(start.error({A: [2], B: [2], C: [0, 1]}))


def test_every_missing_pair_is_named(start):
    named = f"between {NAMES[0]} and {NAMES[1]}, {NAMES[2]}; between {NAMES[1]} and "
    assert named in str(start.error({A: [1, 2], B: [0, 2], C: [0, 1]}))
