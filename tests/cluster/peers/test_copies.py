"""When copies of the state are taken, and what is left of them."""

from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace

import dask
import pytest

from skdistmlp.cluster.client import rpc
from skdistmlp.cluster.peers import copies as module
from skdistmlp.cluster.peers.copies import N_COPIES, Copies, StateCopies
from skdistmlp.exceptions import ExchangeError
from skdistmlp.planning.memory import WorkerMemory
from skdistmlp.training.loop import quiet
from tests.training.clock import Clock
from tests.training.jobs import plan_of

WORKERS = ("tcp://a:1", "tcp://b:1")


def copies_of(monkeypatch, n_bytes=1000, workers=WORKERS, memory=None, log=quiet):
    """Return the copies of a run that has trained for an hour.

    The state of each shard takes `n_bytes`.
    """
    clock = Clock(monkeypatch)
    monkeypatch.setattr(module, "worker_memory", lambda *_: memory or {})
    copies = (N_COPIES * n_bytes,) * len(workers) if len(workers) > 1 else ()
    held = copies or (0,)
    plan = replace(
        plan_of("peers", workers, len(workers)), bytes_held=held, bytes_of_copies=copies
    )
    made = StateCopies(None, SimpleNamespace(workers=workers), plan, log)
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
    assert copies.plan.copies_missing == ""
    said = f"worker {WORKERS[0]} has memory for 0 of the {N_COPIES * 1000:,} bytes that"
    copies.take(["shards"])
    # No time has passed, of which that would be a share.
    assert copies.is_due
    copies.take(["shards"])
    assert taken == []
    assert copies.plan.copies_missing.startswith(said)
    assert caplog.messages == lines
    (line,) = lines
    assert said in line
    assert "the fit will start over" in line
    memory |= dict.fromkeys(WORKERS, WorkerMemory(N_COPIES * 1000))
    copies.take(["shards"])
    assert copies.plan.bytes_of_copies == copies.plan.bytes_held
    # What these take is not free any more.
    memory |= dict.fromkeys(WORKERS, WorkerMemory(N_COPIES // 2 * 1000))
    copies.take(["shards"])
    memory |= dict.fromkeys(WORKERS, WorkerMemory(0))
    copies.take(["shards"])
    assert len(taken) == 2
    assert len(lines) == 1
    # Those that there are have stayed.
    assert copies.plan.copies_missing == ""


class Holders:
    """A cluster whose workers hold copies, until they die while they are asked."""

    def __init__(self, monkeypatch, workers, dying=(), silent=()):
        self.gone, self.asked, self.moved = set(), [], {}
        self._dying, self._workers = list(dying), workers
        monkeypatch.setattr(
            module, "silent_workers", lambda _, asked: {*silent} & {*asked}
        )
        monkeypatch.setattr(module, "ask_scheduler", self._who_has)
        monkeypatch.setattr(module, "submit_rpc", self._submit)
        monkeypatch.setattr(rpc, "WORKER_CHECK_S", 0.01)
        monkeypatch.setattr(module, "COPIES_ANSWER_S", 0.5)

    def _who_has(self, client, operation, keys):
        assert operation == "who_has"
        # Each key is the address of the worker that has it, after its number.
        homes = {key: [key.partition(" ")[2]] for key in keys} | self.moved
        return {
            key: [home for home in homes[key] if home not in self.gone] for key in keys
        }

    def _submit(self, client, method, futures, direct):
        self.asked.append([future.key for future in futures])
        answer = Future()
        if self._dying:
            self.gone.add(self._dying.pop(0))
        if not any(key.partition(" ")[2] in self.gone for key in self.asked[-1]):
            answer.set_result(self.asked[-1])
        return answer

    def copies(self, monkeypatch):
        """Return copies of a shard on each worker."""
        copies = copies_of(monkeypatch, workers=self._workers)
        copies._client = SimpleNamespace(gather=None)
        n = len(self._workers)
        copies._last = Copies(
            [SimpleNamespace(key=f"{r} {self._workers[r]}") for r in range(n)],
            [
                SimpleNamespace(key=f"{r} {self._workers[(r + 1) % n]}")
                for r in range(n)
            ],
        )
        return copies


def test_the_other_copy_is_taken_when_a_worker_dies(monkeypatch):
    a, b = WORKERS
    holders = Holders(monkeypatch, WORKERS, dying=[b])
    assert holders.copies(monkeypatch).fetch() == [f"0 {a}", f"1 {a}"]
    assert holders.asked == [[f"0 {a}", f"1 {b}"], [f"0 {a}", f"1 {a}"]]


def test_a_failed_answer_is_no_reason_to_take_less(monkeypatch):
    """Dask may run the task of a lost copy again, and the shard refuses."""
    a, b = WORKERS
    holders = Holders(monkeypatch, WORKERS, dying=[b])

    def submit(*args, **kwargs):
        answer = holders._submit(*args, **kwargs)
        if not answer.done():
            answer.set_exception(ExchangeError("asked for copy 0 again"))
        return answer

    monkeypatch.setattr(module, "submit_rpc", submit)
    assert holders.copies(monkeypatch).fetch() == [f"0 {a}", f"1 {a}"]


def test_copies_that_dask_has_moved_are_found(monkeypatch):
    a, b = WORKERS
    holders = Holders(monkeypatch, WORKERS)
    holders.moved = {f"0 {a}": ["tcp://c:1"], f"0 {b}": ["tcp://c:1"]}
    assert holders.copies(monkeypatch).fetch() == [f"0 {a}", f"1 {b}"]


@pytest.mark.parametrize("also", [[], ["tcp://b:1"]])
def test_a_copy_on_a_worker_that_hangs_is_the_last_choice(monkeypatch, also):
    """Dask may ask that worker, although another has the same copy."""
    a, b = WORKERS
    holders = Holders(monkeypatch, WORKERS, silent=["tcp://c:1"])
    holders.moved = {f"0 {a}": ["tcp://c:1", *also]}
    assert holders.copies(monkeypatch).fetch() == [f"0 {b}", f"1 {b}"]


def test_copies_end_with_the_last_workers_that_have_them(monkeypatch):
    holders = Holders(monkeypatch, WORKERS, dying=[*WORKERS])
    assert holders.copies(monkeypatch).fetch() is None


def test_copies_are_not_waited_for_forever(monkeypatch):
    holders = Holders(monkeypatch, WORKERS)
    monkeypatch.setattr(module, "submit_rpc", lambda *_, **__: Future())
    with pytest.raises(TimeoutError):
        holders.copies(monkeypatch).fetch()


def test_without_copies_there_is_nothing_to_fetch(monkeypatch):
    assert copies_of(monkeypatch).fetch() is None
