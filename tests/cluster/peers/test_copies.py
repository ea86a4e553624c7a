"""When copies of the state are taken, and what is left of them."""

from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace

import dask
import pytest

from skdistmlp.cluster.client import rpc
from skdistmlp.cluster.peers import copies as module
from skdistmlp.cluster.peers.copies import N_CHAINED, N_COPIES, Copies, StateCopies
from skdistmlp.exceptions import ExchangeError
from skdistmlp.planning.forecast import Forecast
from skdistmlp.planning.memory import WorkerMemory
from skdistmlp.planning.rates import TASK_S
from skdistmlp.training import pace
from skdistmlp.training.loop import quiet
from tests.training.clock import Clock
from tests.training.jobs import plan_of

WORKERS = ("tcp://a:1", "tcp://b:1")


def copies_of(
    monkeypatch, n_bytes=1000, workers=WORKERS, memory=None, log=quiet, trained_s=3600.0
):
    """Return the copies of a run that has trained for some time, by default an hour.

    The state of each shard takes `n_bytes`.
    """
    clock = Clock(monkeypatch)
    monkeypatch.setattr(module, "worker_memory", lambda *_: memory or {})
    copies = (N_COPIES * n_bytes,) * len(workers) if len(workers) > 1 else ()
    held = copies or (0,)
    plan = replace(
        plan_of("peers", workers, len(workers)), bytes_held=held, bytes_of_copies=copies
    )
    tasks = SimpleNamespace(workers=workers, noted=[])
    tasks.note_memory = tasks.noted.append
    made = StateCopies(None, tasks, plan, log)
    made.begin(0.0)
    clock.now = trained_s
    return made


def test_first_copies_come_early_and_not_at_any_cost(monkeypatch):
    # An hour is a fifth of the time of which 360 s are 2%.
    assert copies_of(monkeypatch, n_bytes=359 * 10**8).is_due
    assert not copies_of(monkeypatch, n_bytes=361 * 10**8).is_due
    with dask.config.set({"skdistmlp.copies.max-share": 0.5}):
        assert copies_of(monkeypatch, n_bytes=89 * 10**10).is_due
        assert not copies_of(monkeypatch, n_bytes=91 * 10**10).is_due


@pytest.mark.parametrize(
    ("bits_per_s", "first_at"), [(8e7, 3600), (1e10, 360), (None, 360)]
)
def test_a_slow_link_that_was_measured_is_counted(monkeypatch, bits_per_s, first_at):
    copies = copies_of(monkeypatch, n_bytes=36 * 10**8, trained_s=0.0)
    forecast = Forecast((), bits_per_s=bits_per_s)
    copies._plan = replace(copies._plan, forecast=forecast)
    copies.begin(0.0)
    pace.time.now = first_at - 1
    assert not copies.is_due
    pace.time.now = first_at + 1
    assert copies.is_due


def test_copies_are_not_taken_at_once_however_small(monkeypatch):
    """Their tasks take time too."""
    earned_s = N_CHAINED * TASK_S / 0.02
    assert not copies_of(monkeypatch, n_bytes=0, trained_s=earned_s / 5 - 0.01).is_due
    copies = copies_of(monkeypatch, n_bytes=0, trained_s=earned_s / 5 + 0.01)
    assert copies.is_due
    # As when the first round has ended.
    pace.time.now = 0.0
    copies.begin(earned_s / 5 + 0.01)
    assert copies.is_due


def test_nothing_is_copied_before_training_has_begun():
    plan = plan_of("peers", WORKERS, 2)
    plan = replace(plan, bytes_held=(0, 0), bytes_of_copies=(0, 1))
    tasks = SimpleNamespace(workers=WORKERS)
    assert not StateCopies(None, tasks, plan).is_due


def test_what_copies_took_decides_when_the_next_are_due(monkeypatch):
    copies = copies_of(monkeypatch, trained_s=5.0)

    def take(*_):
        pace.time.now += 1

    monkeypatch.setattr(StateCopies, "_take", take)
    copies.take(["shards"])
    # Twice a second is 2% of 100 s.
    pace.time.now = 99
    assert not copies.is_due
    pace.time.now = 100
    assert copies.is_due


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


def test_what_copies_take_is_noted_before_they_are_taken(monkeypatch, taken):
    """A worker may be lost that had no room for them when the run began."""
    memory = dict.fromkeys(WORKERS, WorkerMemory(0))
    copies = copies_of(monkeypatch, memory=memory)
    copies.take(["shards"])
    assert copies._tasks.noted == []
    memory |= dict.fromkeys(WORKERS, WorkerMemory(N_COPIES * 1000))
    copies.take(["shards"])
    (plan,) = copies._tasks.noted
    assert plan.bytes_of_copies == (N_COPIES * 1000,) * 2


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


def test_workers_of_the_run_are_not_asked_again_whether_they_hang(monkeypatch):
    a, b = WORKERS
    holders = Holders(monkeypatch, WORKERS, silent=[b])
    assert holders.copies(monkeypatch).fetch([a]) == [f"0 {b}", f"1 {b}"]


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
