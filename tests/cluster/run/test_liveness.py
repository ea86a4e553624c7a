"""Pings, and workers that do not accept tasks, without a cluster."""

from concurrent.futures import Future
from types import SimpleNamespace

import dask
import pytest

from skdistmlp.cluster.run import liveness
from skdistmlp.cluster.run.liveness import (
    LivenessCheck,
    PausedCheck,
    silent_workers,
    workers_around_silent,
)
from skdistmlp.exceptions import WorkerLostError

WORKERS = ["tcp://a", "tcp://b"]


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests set; a timeout of an exchange is 1 s."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(liveness, "time", SimpleNamespace(monotonic=lambda: clock.now))
    with dask.config.set({"skdistmlp.exchange-timeout": "1s"}):
        yield clock


@pytest.fixture
def pings(monkeypatch):
    """The answers to all pings so far, in order; to be set by tests."""
    sent = []

    def run_on_workers(_, workers, function):
        assert function is liveness.ping
        answers = {worker: Future() for worker in workers}
        sent.append(answers)
        return answers

    monkeypatch.setattr(liveness, "run_on_workers", run_on_workers)
    return sent


def answer(pings, *workers):
    for worker in workers:
        pings[-1][worker].set_result(None)


def test_workers_are_pinged_once_per_timeout(clock, pings):
    check = LivenessCheck(None, WORKERS)
    check.check()
    answer(pings, *WORKERS)
    check.check()
    assert len(pings) == 1
    clock.now += 4.1
    check.check()
    assert len(pings) == 2


def test_a_silent_worker_is_named_and_not_pinged_again(clock, pings):
    check = LivenessCheck(None, WORKERS)
    check.check()
    answer(pings, WORKERS[0])
    clock.now += 3.9
    check.check()
    clock.now += 0.2
    with pytest.raises(
        WorkerLostError, match="worker tcp://b has not answered for 4 s"
    ):
        check.check()
    assert len(pings) == 1


def test_all_silent_workers_are_named(clock, pings):
    check = LivenessCheck(None, WORKERS)
    check.check()
    clock.now += 4.1
    with pytest.raises(
        WorkerLostError, match="workers tcp://a, tcp://b have not answered for 4 s"
    ):
        check.check()


def test_a_late_answer_is_an_answer(clock, pings):
    check = LivenessCheck(None, WORKERS)
    check.check()
    clock.now += 100
    answer(pings, *WORKERS)
    check.check()
    assert len(pings) == 2


def test_an_error_is_an_answer(clock, pings):
    """Of a worker that has left, which others see to."""
    check = LivenessCheck(None, WORKERS)
    check.check()
    for future in pings[0].values():
        future.set_exception(OSError())
    clock.now += 100
    check.check()


def test_closing_cancels_the_answers_that_are_missing(clock, pings):
    check = LivenessCheck(None, WORKERS)
    check.check()
    answer(pings, WORKERS[0])
    check.close()
    assert [future.cancelled() for future in pings[0].values()] == [False, True]


@pytest.fixture
def statuses(monkeypatch):
    known = dict.fromkeys(WORKERS, "running")
    monkeypatch.setattr(liveness, "worker_statuses", lambda _: known)
    return known


def test_a_paused_worker_has_one_exchange_timeout(clock, statuses):
    check = PausedCheck(None)
    statuses[WORKERS[0]] = "paused"
    check.check(WORKERS)
    clock.now += 1.0
    check.check(WORKERS)
    clock.now += 0.1
    with pytest.raises(
        WorkerLostError, match="tcp://a has been paused for more than 1 s"
    ) as caught:
        check.check(WORKERS)
    assert caught.value.kind == "paused"


def test_a_resumed_worker_gets_its_full_time_again(clock, statuses):
    check = PausedCheck(None)
    for status in ("paused", "running", "paused"):
        statuses[WORKERS[0]] = status
        check.check(WORKERS)
        clock.now += 0.9
    check.check(WORKERS)


@pytest.mark.parametrize("still_queued", [[], WORKERS[1:]])
def test_a_worker_whose_tasks_started_gets_its_full_time_again(
    clock, statuses, still_queued
):
    check = PausedCheck(None)
    statuses[WORKERS[0]] = "paused"
    check.check(WORKERS)
    clock.now += 0.9
    # It resumed and started its task between two checks: it is not asked about.
    check.check(still_queued)
    clock.now += 0.9
    check.check(WORKERS)


def test_a_retired_worker_is_reported_at_once(clock, statuses):
    statuses[WORKERS[1]] = "closing_gracefully"
    with pytest.raises(WorkerLostError, match="tcp://b is being retired") as caught:
        PausedCheck(None).check(WORKERS)
    assert caught.value.kind == "retired"


def test_only_the_given_workers_are_checked(clock, statuses):
    statuses[WORKERS[1]] = "closing_gracefully"
    check = PausedCheck(None)
    check.check(WORKERS[:1])
    # One that has left is seen to by others.
    check.check(["tcp://gone"])
    assert statuses[WORKERS[1]] == "closing_gracefully"


def test_workers_that_do_not_answer_a_ping_are_silent(monkeypatch):
    """One that the scheduler is removing answers with an error."""
    answers = {name: Future() for name in ("there", "removed", "hangs")}
    answers["there"].set_result(None)
    answers["removed"].set_exception(OSError("connection closed"))
    monkeypatch.setattr(liveness, "run_on_workers", lambda *_: answers)
    monkeypatch.setattr(liveness, "PING_ANSWER_S", 0.05)
    assert silent_workers(None, answers) == ["removed", "hangs"]


@pytest.mark.parametrize(
    ("silent", "expected"), [([], None), (["b"], ["a", "c"]), (["a", "b", "c"], None)]
)
def test_tasks_are_pinned_only_if_some_workers_are_silent(
    monkeypatch, silent, expected
):
    present = dict.fromkeys("abc", 1)
    monkeypatch.setattr(liveness, "ask_scheduler", lambda *_: present)
    monkeypatch.setattr(liveness, "silent_workers", lambda *_: silent)
    assert workers_around_silent(None) == expected
