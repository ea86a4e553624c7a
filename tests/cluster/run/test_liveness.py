"""Pings, and workers that do not accept tasks, without a cluster."""

import os
import signal
import time
from concurrent.futures import Future
from types import SimpleNamespace

import dask
import pytest

from skdistmlp.cluster.run import liveness
from skdistmlp.cluster.run.liveness import (
    LivenessCheck,
    PausedCheck,
    Pings,
    missing_workers,
    silent_workers,
    workers_around_silent,
)
from skdistmlp.exceptions import WorkerLostError
from skdistmlp.timeouts import PING_ANSWER_S
from tests.cluster.leaks import own_cluster
from tests.cluster.support import wait_until

WORKERS = ["tcp://a", "tcp://b"]

USERS_TASK, OUR_TASK = "load-1", ("mlp-train", "train-shard0", "0123abcd", 1)


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests set; a timeout of an exchange is 1 s."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(liveness, "time", SimpleNamespace(monotonic=lambda: clock.now))
    with dask.config.set({"skdistmlp.exchange-timeout": "1s"}):
        yield clock


@pytest.fixture
def pings(monkeypatch):
    """The answers to all pings so far, by worker and in order; to be set by tests."""
    sent = {worker: [] for worker in WORKERS}

    def submit_rpc(_, function, __, worker):
        assert function is liveness.ping_worker
        sent[worker].append(Future())
        return sent[worker][-1]

    monkeypatch.setattr(liveness, "submit_rpc", submit_rpc)
    return sent


@pytest.fixture
def tasks(monkeypatch):
    """The tasks of each worker; none unless tests add some."""
    processing = {worker: [] for worker in WORKERS}

    def ask_scheduler(_, operation):
        assert operation == "processing"
        return processing

    monkeypatch.setattr(liveness, "ask_scheduler", ask_scheduler)
    return processing


def answer(pings, *workers):
    for worker in workers:
        pings[worker][-1].set_result(None)


def number_of(pings):
    return [len(pings[worker]) for worker in WORKERS]


def test_workers_that_have_answered_are_pinged_in_each_check(clock, pings, tasks):
    check = LivenessCheck(None, WORKERS)
    check.check()
    assert number_of(pings) == [1, 1]
    answer(pings, WORKERS[0])
    check.check()
    # A worker that hangs has one ping at a time.
    assert number_of(pings) == [2, 1]
    answer(pings, *WORKERS)
    check.check()
    assert number_of(pings) == [3, 2]


def test_a_silent_worker_is_named_after_a_timeout(clock, pings, tasks):
    check = LivenessCheck(None, WORKERS)
    check.check()
    answer(pings, WORKERS[0])
    tasks[WORKERS[1]] = [OUR_TASK]
    clock.now += 0.9
    check.check()
    clock.now += 0.2
    said = r"worker tcp://b has not .* 1 s \(skdistmlp.exchange-timeout is 1 s\)"
    with pytest.raises(WorkerLostError, match=said) as caught:
        check.check()
    assert caught.value.workers == (WORKERS[1],)


def test_a_worker_that_hangs_does_not_hide_another(clock, pings, tasks):
    """The second is pinged while the first owes an answer."""
    check = LivenessCheck(None, WORKERS)
    tasks[WORKERS[0]] = [USERS_TASK]
    check.check()
    clock.now += 0.9
    answer(pings, WORKERS[1])
    check.check()
    clock.now += 1.1
    with pytest.raises(WorkerLostError, match=r"worker tcp://b has not"):
        check.check()


@pytest.mark.parametrize("why", ["its tasks", "the shards exchange values"])
def test_a_worker_that_may_be_busy_has_four_timeouts(clock, pings, tasks, why):
    """A task may hold the GIL; shards notice a silent one themselves."""
    are_watched = why == "the shards exchange values"
    if not are_watched:
        tasks[WORKERS[1]] = [OUR_TASK, USERS_TASK]
    check = LivenessCheck(None, WORKERS)
    check.check(are_watched)
    answer(pings, WORKERS[0])
    clock.now += 3.9
    check.check(are_watched)
    clock.now += 0.2
    said = r"worker tcp://b has not .* 4 s \(4 times skdistmlp.exchange-timeout is 4 s"
    with pytest.raises(WorkerLostError, match=said):
        check.check(are_watched)


def test_all_silent_workers_are_named(clock, pings, tasks):
    check = LivenessCheck(None, WORKERS)
    check.check()
    clock.now += 1.1
    with pytest.raises(
        WorkerLostError, match="workers tcp://a, tcp://b have not answered for 1 s"
    ):
        check.check()


def test_a_late_answer_is_an_answer(clock, pings, tasks):
    check = LivenessCheck(None, WORKERS)
    check.check()
    clock.now += 100
    answer(pings, *WORKERS)
    check.check()
    assert number_of(pings) == [2, 2]


def test_an_answer_that_had_arrived_in_time_counts(clock, pings, monkeypatch):
    """This process was suspended: it takes the answer while it asks for tasks."""

    def ask_scheduler(*_):
        answer(pings, WORKERS[1])
        return {}

    monkeypatch.setattr(liveness, "ask_scheduler", ask_scheduler)
    check = LivenessCheck(None, WORKERS)
    check.check()
    answer(pings, WORKERS[0])
    clock.now += 100
    check.check()


def test_an_error_is_an_answer(clock, pings, tasks):
    """Of a worker that has left, which others see to."""
    check = LivenessCheck(None, WORKERS)
    check.check()
    for worker in WORKERS:
        pings[worker][0].set_exception(OSError())
    clock.now += 100
    check.check()


def test_closing_cancels_the_answers_that_are_missing(clock, pings, tasks):
    check = LivenessCheck(None, WORKERS)
    check.check()
    answer(pings, WORKERS[0])
    check.close()
    cancelled = [pings[worker][0].cancelled() for worker in WORKERS]
    assert cancelled == [False, True]


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
    monkeypatch.setattr(liveness, "submit_rpc", lambda *args: answers[args[-1]])
    monkeypatch.setattr(liveness, "PING_ANSWER_S", 0.05)
    assert silent_workers(None, answers) == ("removed", "hangs")


def test_a_worker_that_was_killed_is_missing_without_a_ping():
    """The scheduler would try its port again and again until the ping is given up."""
    with own_cluster(n_workers=2) as client:
        killed, other = client.nthreads()
        os.kill(client.run(os.getpid)[killed], signal.SIGKILL)
        wait_until(lambda: killed not in client.nthreads(), "it has left")
        begun = time.monotonic()
        assert missing_workers(client, [other, killed]) == (killed,)
        assert time.monotonic() - begun < PING_ANSWER_S / 2


def test_without_a_scheduler_all_workers_are_missing(monkeypatch):
    failed = Future()
    failed.set_exception(OSError("connection closed"))
    for answer in (failed, Future()):
        monkeypatch.setattr(liveness, "submit_rpc", lambda *_, answer=answer: answer)
        monkeypatch.setattr(liveness, "PING_ANSWER_S", 0.05)
        assert missing_workers(None, ("a", "b")) == ("a", "b")


def test_answers_count_however_late_they_are_looked_at(monkeypatch):
    answer = Future()
    monkeypatch.setattr(liveness, "submit_rpc", lambda *_: answer)
    monkeypatch.setattr(liveness, "PING_ANSWER_S", -1.0)
    with Pings(None, ["worker"]) as pings:
        assert pings.silent() == ("worker",)
        answer.set_result(None)
        assert pings.silent() == ()


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
