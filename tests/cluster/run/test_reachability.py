"""Workers that wait for each other's values, and cannot connect.

``tests/cluster/faults/test_calls.py`` has them on real processes.
"""

import asyncio
from concurrent.futures import Future
from types import SimpleNamespace

import dask
import pytest

from skdistmlp.cluster.run import reachability
from skdistmlp.cluster.run.reachability import (
    ReachabilityCheck,
    find_unreachable,
    unreachable_holders,
)
from skdistmlp.exceptions import ExchangeError
from tests.cluster.support import bounded

A, B, C = "tcp://a", "tcp://b", "tcp://c"


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
    """All questions so far: their keys, and answers to be set by tests."""
    sent = []

    def submit_rpc(_, function, client, keys, timeout_s):
        assert (function, timeout_s) == (find_unreachable, 1.0)
        sent.append((keys, Future()))
        return sent[-1][1]

    monkeypatch.setattr(reachability, "submit_rpc", submit_rpc)
    return sent


def awaited(*keys, done=False):
    return [SimpleNamespace(key=key, done=lambda: done) for key in keys]


@pytest.fixture
def check(clock, asked):
    futures = awaited("one") + awaited("two", done=True) + awaited("three")
    return ReachabilityCheck(None, lambda: futures, [A, B])


def test_a_short_wait_asks_nothing(check, clock, asked):
    clock.now += 0.9
    check.check()
    assert not asked


def test_a_wait_for_tasks_that_are_done_asks_nothing(clock, asked):
    check = ReachabilityCheck(None, lambda: awaited("one", done=True))
    clock.now += 100
    check.check()
    assert not asked


def test_one_question_per_timeout_names_what_is_awaited(check, clock, asked):
    for n_asked in (1, 2, 3):
        clock.now += 1.1
        check.check()
        check.check()
        assert [keys for keys, _ in asked] == [["one", "three"]] * n_asked
        asked[-1][1].set_result([])
        check.check()
        check.check()
        assert len(asked) == n_asked


def test_never_are_there_two_questions_at_a_time(check, clock, asked):
    for _ in range(5):
        clock.now += 10
        check.check()
    assert len(asked) == 1


def test_one_that_cannot_connect_is_named_with_the_other(check, clock, asked):
    clock.now += 1.1
    check.check()
    asked[-1][1].set_result([(B, A), (C, A)])
    refused = "worker tcp://b could not connect to worker tcp://a within 2 s"
    with pytest.raises(ExchangeError, match=refused) as caught:
        check.check()
    # Of the shards that it knows: one of them may only have blocks of the rows.
    assert caught.value.apart == ((1, 0),)


def test_an_error_is_no_answer(check, clock, asked):
    clock.now += 1.1
    check.check()
    asked[-1][1].set_exception(OSError("the scheduler was restarted"))
    check.check()
    clock.now += 1.1
    check.check()
    assert len(asked) == 2


def test_the_end_cancels_what_is_unanswered(check, clock, asked):
    check.close()
    clock.now += 1.1
    check.check()
    check.close()
    assert asked[0][1].cancelled()


class Attempts:
    """Stands for the attempts of workers to connect; gives the pairs that failed."""

    def __init__(self, *failed):
        self._failed = list(failed)

    async def __call__(self, _client, keys, timeout_s):
        assert (keys, timeout_s) == (["key"], 1.0)
        return set(self._failed.pop(0))


@pytest.fixture
def found(client, monkeypatch):
    """Return what is found after attempts in which some pairs failed."""

    def find(*failed):
        monkeypatch.setattr(reachability, "_try_to_connect", Attempts(*failed))
        return bounded(client.sync, find_unreachable, client, ["key"], 1.0)

    return find


def test_it_takes_two_attempts(client, found):
    first, second, third = sorted(client.nthreads())
    assert found([(first, second), (first, third)], [(first, third)]) == [
        (first, third)
    ]
    # Busy for a while, and reached the second time.
    assert found([(first, second)], []) == []
    # Another pair than the first time.
    assert found([(first, second)], [(second, first)]) == []
    # All could be reached at once: there is no second attempt.
    assert found([]) == []


@pytest.mark.slow  # Dask tries to connect for 30 s.
def test_one_that_has_left_is_not_named(client, found):
    first = min(client.nthreads())
    assert found([(first, "tcp://127.0.0.1:1")]) == []


NOBODY, NOBODY_ELSE = "tcp://127.0.0.1:1", "tcp://127.0.0.1:2"


def test_one_holder_of_a_value_is_enough(client):
    itself, other, another = sorted(client.nthreads())
    worker = SimpleNamespace(address=itself, connection_args={})

    def unreachable(*holders):
        return asyncio.run(unreachable_holders(holders, 0.3, worker))

    assert unreachable([other], [another], [other, another]) == []
    assert unreachable([other], [NOBODY]) == [NOBODY]
    assert unreachable([NOBODY, other]) == []
    assert unreachable([NOBODY, other], [NOBODY, NOBODY_ELSE]) == [NOBODY, NOBODY_ELSE]
