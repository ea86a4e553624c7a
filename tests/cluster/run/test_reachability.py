"""Workers that wait for each other's values, and cannot connect, without a cluster.

``tests/cluster/faults/test_calls.py`` has them on real processes.
"""

import asyncio
from concurrent.futures import Future
from types import SimpleNamespace

import dask
import pytest

from skdistmlp.cluster.run import reachability
from skdistmlp.cluster.run.liveness import ping
from skdistmlp.cluster.run.reachability import ReachabilityCheck, unreachable_workers
from skdistmlp.exceptions import ExchangeError

A, B = WORKERS = ["tcp://a", "tcp://b"]


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests set; a timeout of an exchange is 1 s."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(
        reachability, "time", SimpleNamespace(monotonic=lambda: clock.now)
    )
    with dask.config.set({"skdistmlp.exchange-timeout": "1s"}):
        yield clock


@pytest.fixture
def asked(monkeypatch):
    """All questions and pings so far, and their answers, to be set by tests."""
    sent = []

    def run_on_workers(_, workers, function, *args):
        if function is unreachable_workers:
            assert args == ("run", WORKERS, 1.0)
        else:
            assert function is ping
        sent.append((function, {worker: Future() for worker in workers}))
        return sent[-1][1]

    monkeypatch.setattr(reachability, "run_on_workers", run_on_workers)
    return sent


@pytest.fixture
def check(clock, asked):
    return ReachabilityCheck(None, WORKERS, "run")


def find_unreachable(asked, *, a=(), b=()):
    """Answer the last question as Dask does: one answer per worker."""
    function, answers = asked[-1]
    assert function is unreachable_workers
    answers[A].set_result({A: list(a)})
    answers[B].set_result({B: list(b)})


def answer_ping(asked, worker):
    function, answers = asked[-1]
    assert function is ping
    answers[worker].set_result({worker: None})


def test_a_short_run_asks_nothing(check, clock, asked):
    clock.now += 0.9
    check.check()
    assert not asked


def test_workers_that_reach_each_other_are_asked_once_per_timeout(check, clock, asked):
    for n_asked in (1, 2, 3):
        clock.now += 1.1
        check.check()
        check.check()
        assert len(asked) == n_asked
        find_unreachable(asked)
        check.check()
        assert len(asked) == n_asked


def test_one_that_cannot_connect_twice_is_named_with_the_other(check, clock, asked):
    clock.now += 1.1
    check.check()
    find_unreachable(asked, b=[A])
    check.check()
    answer_ping(asked, A)
    # Asked again at once.
    check.check()
    find_unreachable(asked, b=[A])
    refused = "worker tcp://b could not connect to worker tcp://a within 2 s"
    with pytest.raises(ExchangeError, match=refused):
        check.check()
    assert len(asked) == 3


def test_one_that_was_busy_for_a_while_is_not_named(check, clock, asked):
    clock.now += 1.1
    check.check()
    find_unreachable(asked, b=[A])
    check.check()
    answer_ping(asked, A)
    check.check()
    find_unreachable(asked)
    check.check()
    assert len(asked) == 3


def test_another_pair_in_the_second_answer_is_not_confirmed(check, clock, asked):
    clock.now += 1.1
    check.check()
    find_unreachable(asked, b=[A])
    check.check()
    answer_ping(asked, A)
    check.check()
    find_unreachable(asked, a=[B])
    check.check()
    assert asked[-1][0] is ping


def test_one_that_hangs_is_left_to_the_check_of_liveness(check, clock, asked):
    clock.now += 1.1
    check.check()
    find_unreachable(asked, b=[A])
    for _ in range(5):
        clock.now += 10
        check.check()
    assert [function for function, _ in asked] == [unreachable_workers, ping]


def test_one_that_has_left_is_left_to_the_check_of_presence(check, clock, asked):
    clock.now += 1.1
    check.check()
    find_unreachable(asked, b=[A])
    check.check()
    asked[-1][1][A].set_exception(OSError("gone"))
    check.check()
    assert len(asked) == 2
    clock.now += 1.1
    check.check()
    assert asked[-1][0] is unreachable_workers


def test_an_error_of_a_worker_is_no_answer(check, clock, asked):
    clock.now += 1.1
    check.check()
    for answer in asked[-1][1].values():
        answer.set_exception(OSError("gone"))
    check.check()
    assert len(asked) == 1


def test_a_single_worker_is_not_asked(clock, asked):
    check = ReachabilityCheck(None, [A], "run")
    clock.now += 100
    check.check()
    assert not asked


def test_the_end_cancels_what_is_unanswered(check, clock, asked):
    clock.now += 1.1
    check.check()
    check.close()
    assert all(answer.cancelled() for answer in asked[0][1].values())


@pytest.mark.parametrize(
    ("awaited", "expected"),
    [
        ([("forward", "0123abcd", 1)], ["tcp://127.0.0.1:1"]),
        ([("forward", "another1", 1)], []),
        (["a key of somebody else's"], []),
        ([], []),
    ],
)
def test_a_worker_tries_only_if_it_waits_for_a_value_of_the_run(
    client, monkeypatch, awaited, expected
):
    """Nobody listens at port 1."""
    monkeypatch.setattr(reachability, "awaited_keys", lambda _: awaited)
    itself, other = sorted(client.nthreads())[:2]
    worker = SimpleNamespace(address=itself, connection_args={})
    workers = [itself, other, "tcp://127.0.0.1:1"]
    assert (
        asyncio.run(unreachable_workers("0123abcd", workers, 0.3, worker)) == expected
    )
