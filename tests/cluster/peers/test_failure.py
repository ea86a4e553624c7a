"""Which error of a round is raised, on tasks that are made up."""

from concurrent.futures import CancelledError
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from skdistmlp.cluster.peers import failure
from skdistmlp.cluster.peers.failure import raise_cause
from skdistmlp.exceptions import ExchangeError


@pytest.fixture
def tasks(monkeypatch):
    """Tasks whose futures are their errors; what is lost or silent, a test sets."""
    monkeypatch.setattr(failure, "WORKER_CHECK_S", 0.05)
    monkeypatch.setattr(failure, "LOSS_POLL_S", 0.0)
    found = SimpleNamespace(lost=None, silent=(), error_of=lambda future: future)

    def check_presence():
        if found.lost is not None:
            raise found.lost

    @contextmanager
    def ping_workers():
        yield SimpleNamespace(silent=lambda: found.silent)

    found.watch = SimpleNamespace(check_presence=check_presence)
    found.ping_workers = ping_workers
    return found


def test_an_error_of_another_kind_is_the_cause(tasks):
    with pytest.raises(ValueError, match="not finite"):
        raise_cause(tasks, [ExchangeError("broken"), None, ValueError("not finite")])


def test_a_lost_worker_is_the_cause(tasks):
    tasks.lost = CancelledError()
    with pytest.raises(CancelledError):
        raise_cause(tasks, [ExchangeError("broken")])


def test_without_another_cause_the_first_broken_exchange_is_raised(tasks):
    with pytest.raises(ExchangeError, match="one"):
        raise_cause(tasks, [None, ExchangeError("one"), ExchangeError("two")])


def test_a_broken_exchange_has_the_workers_that_are_silent(tasks):
    tasks.silent = ("tcp://a:1",)
    with pytest.raises(ExchangeError) as raised:
        raise_cause(tasks, [ExchangeError("broken")])
    assert raised.value.silent == ("tcp://a:1",)


def test_who_could_not_connect_is_the_cause_of_connections_that_were_closed(tasks):
    apart = ExchangeError("cannot connect")
    apart.apart = ((2, 1),)
    with pytest.raises(ExchangeError, match="cannot connect"):
        raise_cause(tasks, [ExchangeError("closed its connection"), None, apart])


def test_tasks_without_an_error_were_cancelled(tasks):
    with pytest.raises(CancelledError):
        raise_cause(tasks, [None, None])
