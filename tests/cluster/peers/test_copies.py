"""When copies of the state are taken, and what is left of them."""

from types import SimpleNamespace

import dask
import pytest

from skdistmlp.cluster.peers import copies as module
from skdistmlp.cluster.peers.copies import (
    N_COPIES,
    Copies,
    StateCopies,
    state_bytes,
)
from skdistmlp.planning.plan import WorkerMemory
from skdistmlp.training.loop import quiet
from tests.training.clock import Clock
from tests.training.jobs import job_of

WORKERS = ("tcp://a:1", "tcp://b:1")


def copies_of(monkeypatch, n_bytes=1000, workers=WORKERS, memory=None, log=quiet):
    """Return the copies of a run that has trained for an hour."""
    clock = Clock(monkeypatch)
    monkeypatch.setattr(module, "worker_memory", lambda *_: memory or {})
    made = StateCopies(None, SimpleNamespace(workers=workers), n_bytes, log)
    clock.now = 3600
    return made


def test_first_copies_are_expected_to_take_their_time(monkeypatch):
    # 2% of an hour are 72 s.
    assert copies_of(monkeypatch, n_bytes=71 * 10**8).is_due
    assert not copies_of(monkeypatch, n_bytes=73 * 10**8).is_due
    with dask.config.set({"skdistmlp.copies.max-share": 0.5}):
        assert copies_of(monkeypatch, n_bytes=10**11).is_due


def test_no_copies_are_made_of_a_single_shard(monkeypatch):
    assert not copies_of(monkeypatch, workers=WORKERS[:1]).is_due


def test_a_share_of_zero_makes_no_copies(monkeypatch):
    with dask.config.set({"skdistmlp.copies.max-share": 0}):
        assert not copies_of(monkeypatch, n_bytes=0).is_due


@pytest.fixture
def taken(monkeypatch):
    """How often the state was copied: nothing is submitted."""
    taken = []

    def take(copies, shards):
        taken.append(shards)
        copies._last = Copies([], [])

    monkeypatch.setattr(StateCopies, "_take", take)
    return taken


@pytest.mark.parametrize("missing", [0, 1])
def test_copies_need_room_on_every_worker(monkeypatch, taken, missing):
    least = WorkerMemory(N_COPIES * 1000 - missing)
    memory = {WORKERS[0]: WorkerMemory(10**9), WORKERS[1]: least}
    copies_of(monkeypatch, memory=memory).take(["shards"])
    assert len(taken) == 1 - missing


def test_room_is_asked_for_each_time_and_named_once(monkeypatch, taken, caplog):
    caplog.set_level("INFO", "skdistmlp")
    memory, lines = dict.fromkeys(WORKERS, WorkerMemory(0)), []
    copies = copies_of(monkeypatch, memory=memory, log=lines.append)
    copies.take(["shards"])
    # No time has passed, of which that would be a share.
    assert copies.is_due
    copies.take(["shards"])
    assert taken == []
    assert caplog.messages == lines
    (line,) = lines
    assert f"worker {WORKERS[0]} has no memory for them" in line
    assert "the fit will start over" in line
    memory |= dict.fromkeys(WORKERS, WorkerMemory(N_COPIES * 1000))
    copies.take(["shards"])
    # What these take is not free any more.
    memory |= dict.fromkeys(WORKERS, WorkerMemory(N_COPIES // 2 * 1000))
    copies.take(["shards"])
    assert len(taken) == 2
    assert len(lines) == 1


def test_the_order_of_the_rows_is_part_of_the_state():
    job = job_of("adam", 2)
    without, with_rows = state_bytes(job, 0), state_bytes(job, 1000)
    assert without >= 3 * 8 * job.split.layout(0).n_parameters
    assert with_rows == without + 8 * 1000


def test_without_copies_there_is_nothing_to_fetch(monkeypatch):
    assert copies_of(monkeypatch).fetch() is None
