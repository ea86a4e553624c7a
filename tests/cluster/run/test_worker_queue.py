"""The queue of fits for workers, without a cluster and with a clock of its own."""

import asyncio
from types import SimpleNamespace

import pytest

from skdistmlp.cluster.run import worker_queue
from skdistmlp.cluster.run.worker_queue import Standing


class QueueAlone:
    """The queue without a cluster, with its own clock.

    One fit has the workers, another asks for them again and again.
    """

    def __init__(self, monkeypatch, silent_s):
        self.now = 1e6
        monkeypatch.setattr(
            worker_queue, "time", SimpleNamespace(time=lambda: self.now)
        )
        self.last_seen = {
            name: SimpleNamespace(last_seen=self.now) for name in ("holder", "waiting")
        }
        scheduler = SimpleNamespace(clients=self.last_seen, handlers={})
        self._queue = worker_queue.WorkerQueue()
        asyncio.run(self._queue.start(scheduler))
        self._silent_s = silent_s
        assert self.ask("holder", arrives=True) == Standing.HELD.value
        assert self.ask("waiting", arrives=True) == Standing.QUEUED.value

    def ask(self, name, arrives=False):
        return self._queue.reserve(name, name, ["a worker"], self._silent_s, arrives)

    def pass_by(self, seconds, heard=()):
        """Advance the time; the second fit asks, and some clients send heartbeats."""
        for _ in range(seconds):
            self.now += 1
            for name in heard:
                self.last_seen[name].last_seen = self.now
            self.ask("waiting")


def test_unclaimed_workers_are_those_that_no_fit_holds_waits_for_or_has_chosen(
    monkeypatch,
):
    alone = QueueAlone(monkeypatch, 40)
    workers = ["a worker", "another", "a third"]
    assert alone._queue.unclaimed(workers) == ["another", "a third"]
    assert alone._queue.choose(workers[1:], 1, intends=True) == ["another"]
    assert alone._queue.unclaimed(workers) == ["a third"]
    alone.now += worker_queue.INTENTION_S
    assert alone._queue.unclaimed(workers) == ["another", "a third"]


def test_unclaimed_workers_that_fewest_fits_share_come_first(monkeypatch):
    queue = QueueAlone(monkeypatch, 40)._queue
    workers = ["b", "c", "d", "e"]
    for name, shared in {"one": ["b", "d"], "other": ["b"]}.items():
        queue.share(name, "waiting", shared, 40)
    assert queue.unclaimed(workers) == ["c", "e", "d", "b"]


def test_a_choice_that_is_withdrawn_counts_no_more(monkeypatch):
    alone = QueueAlone(monkeypatch, 40)
    workers = ["another", "a third"]
    for _ in range(2):
        assert alone._queue.choose(workers, 2, intends=True) == workers
    # One for each fit that will not come, and none of others.
    alone._queue.withdraw(workers[:1])
    alone._queue.withdraw(workers)
    assert alone._queue.unclaimed(workers) == []
    alone._queue.withdraw(workers)
    assert alone._queue.unclaimed(workers) == workers


def test_of_two_fits_that_find_the_same_worker_one_claims_it(monkeypatch):
    queue = QueueAlone(monkeypatch, 40)._queue
    workers = ["b", "c", "d"]
    assert queue.claim("one", "holder", [], ["a"], 40)
    assert queue.claim("other", "waiting", [], ["b"], 40)
    assert queue.unclaimed(workers, "one") == queue.unclaimed(workers) == ["c", "d"]
    assert queue.claim("one", "holder", ["c"], ["a", "c"], 40)
    assert not queue.claim("other", "waiting", ["c"], ["b", "c"], 40)
    # It keeps what it had, and finds others.
    assert queue.unclaimed(workers, "other") == ["b", "d"]
    assert queue.claim("other", "waiting", ["d"], ["b", "d"], 40)
    # Again, as after a look that led to nothing.
    assert queue.claim("one", "holder", ["c"], ["a", "c"], 40)
    assert queue.unclaimed(workers) == []
    assert queue.claim("one", "holder", [], ["a"], 40)
    assert queue.unclaimed(workers) == ["c"]
    queue.leave("other")
    assert queue.unclaimed(workers) == workers


def test_a_fit_that_has_reserved_what_it_claims_counts_once(monkeypatch):
    queue = QueueAlone(monkeypatch, 40)._queue
    queue.claim("claim", "holder", [], ["another", "a third"], 40)
    queue.reserve("run", "holder", ["another", "a third"], 40, arrives=True)
    queue.share("tasks", "waiting", ["another"], 40)
    assert queue.choose(["a third", "another"], 1, intends=False) == ["a third"]
    # Twice, if one fit has it and another waits for it.
    queue.reserve("next", "waiting", ["a third"], 40, arrives=True)
    queue.reserve("last", "waiting", ["a third"], 40, arrives=True)
    assert queue.choose(["a third", "another"], 1, intends=False) == ["another"]
    # It claims nothing that a fit has chosen, either.
    queue.choose(["a fourth"], 1, intends=True)
    assert not queue.claim("claim", "holder", ["a fourth"], ["a fourth"], 40)


@pytest.mark.parametrize("heard", [(), ("holder",)], ids=["silent", "alive"])
def test_a_silent_client_claims_nothing(monkeypatch, heard):
    alone = QueueAlone(monkeypatch, 40)
    alone._queue.claim("claim", "holder", [], ["another"], 40)
    alone.pass_by(41, heard=["waiting", *heard])
    assert alone._queue.unclaimed(["another"]) == ([] if heard else ["another"])


def test_an_adaptive_cluster_keeps_what_fits_need(monkeypatch):
    alone = QueueAlone(monkeypatch, 40)
    queue = alone._queue
    queue.claim("claim", "holder", [], ["claimed"], 40)
    queue.share("tasks", "waiting", ["shared"], 40)
    assert queue.choose(["chosen"], 1, intends=True) == ["chosen"]
    named = ["a worker", "claimed", "shared", "chosen", "idle"]
    workers = [SimpleNamespace(address=address) for address in named]

    def idle():
        kept = queue.valid_workers_downscaling(None, workers)
        return [worker.address for worker in kept]

    assert idle() == ["idle"]
    alone.now += worker_queue.INTENTION_S
    assert idle() == ["chosen", "idle"]
    alone.pass_by(41, heard=["waiting"])
    assert idle() == ["claimed", "chosen", "idle"]
    # It was only silent: whether it has lost its workers, other fits decide.
    alone.pass_by(1, heard=["holder", "waiting"])
    assert idle() == ["chosen", "idle"]
    queue.leave("claim")
    queue.leave("tasks")
    assert idle() == ["claimed", "shared", "chosen", "idle"]


def test_a_client_that_has_gone_claims_nothing(monkeypatch):
    queue = QueueAlone(monkeypatch, 40)._queue
    queue.claim("claim", "holder", [], ["another"], 40)
    queue.remove_client(None, "holder")
    assert queue.claims == {}


def test_what_dead_clients_have_does_not_count(monkeypatch):
    alone = QueueAlone(monkeypatch, 40)
    alone._queue.share("tasks", "holder", ["another"], 40)
    # Behind the one that waits, who is not blocked by it.
    alone._queue.reserve("last", "holder", ["a third"], 40, arrives=True)
    workers = ["another", "a third", "a fourth"]
    assert alone._queue.choose(workers, 1, intends=False) == ["a fourth"]
    assert alone._queue.unclaimed(workers) == ["a fourth", "another"]
    alone.pass_by(41, heard=["waiting"])
    assert alone._queue.choose(workers, 2, intends=False) == workers[:2]
    assert alone._queue.unclaimed(workers) == workers


@pytest.mark.parametrize("silent_s", [40, 100])
def test_a_silent_client_loses_its_reservation(monkeypatch, silent_s):
    queue = QueueAlone(monkeypatch, silent_s)
    queue.pass_by(silent_s, heard=["waiting"])
    assert queue.ask("waiting") == Standing.QUEUED.value
    assert queue.ask("holder") == Standing.HELD.value
    queue.pass_by(1, heard=["waiting"])
    assert queue.ask("waiting") == Standing.HELD.value
    assert queue.ask("holder") == Standing.LOST.value


@pytest.mark.parametrize("jump_s", [3600, -3600])
def test_a_suspended_scheduler_expires_no_reservation(monkeypatch, jump_s):
    """It receives heartbeats only after it is asked, or its clock was changed."""
    queue = QueueAlone(monkeypatch, 40)
    queue.pass_by(5, heard=["holder", "waiting"])
    queue.now += jump_s
    assert queue.ask("waiting") == Standing.QUEUED.value
    queue.pass_by(200, heard=["holder", "waiting"])
    assert queue.ask("holder") == Standing.HELD.value
    # Silence counts again.
    queue.pass_by(41, heard=["waiting"])
    assert queue.ask("waiting") == Standing.HELD.value


@pytest.mark.parametrize("heard", [(), ("holder",)], ids=["silent", "alive"])
def test_a_silent_client_shares_no_workers(monkeypatch, heard):
    alone = QueueAlone(monkeypatch, 40)
    alone._queue.share("tasks", "holder", ["another"], 40)
    alone.pass_by(41, heard=["waiting", *heard])
    assert alone._queue.borrow("probe", "waiting", ["another"], 40) is not bool(heard)
