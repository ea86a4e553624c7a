"""Waiting for workers that a cluster had a moment ago."""

import logging
from concurrent.futures import CancelledError
from types import SimpleNamespace

import dask
import pytest

from skdistmlp import ClusterError
from skdistmlp.cluster.client import lost
from skdistmlp.cluster.client.lost import await_lost_workers, note_number
from skdistmlp.cluster.client.workers import choose_workers
from skdistmlp.timeouts import SEEN_VALID_S
from tests.cluster.client.support import classifier, small
from tests.cluster.leaks import own_cluster
from tests.cluster.support import WITHIN_S, bounded, in_thread, wait_until

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


class MadeUpClient:
    """What stands for a client, of which others keep weak references."""

    scheduler = SimpleNamespace(address="tcp://scheduler:1")
    status = "running"


CLIENT = MadeUpClient()


@pytest.fixture
def clock(monkeypatch):
    """A clock that only sleeping moves; nothing was seen before."""
    clock = SimpleNamespace(now=1000.0)

    def sleep(seconds):
        clock.now += seconds

    fake = SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep)
    monkeypatch.setattr(lost, "time", fake)
    monkeypatch.setattr(lost, "_SEEN", {})
    settings = {"skdistmlp.max-recoveries": 3, "skdistmlp.recovery-wait": "10s"}
    with dask.config.set(settings):
        yield clock


def seconds_waited(clock, n_wanted, numbers):
    """Wait for workers; `numbers` says how many there are, one second after another."""
    began, lines = clock.now, []

    def number_present():
        return numbers[min(int(clock.now - began), len(numbers) - 1)]

    await_lost_workers(CLIENT, n_wanted, number_present, lines.append)
    assert [line.partition(" (")[0] for line in lines] in (
        [],
        ["waiting for up to 10 s"],
    )
    return clock.now - began


def test_workers_that_were_there_are_waited_for_until_they_are_back(clock):
    note_number(CLIENT, 2)
    assert seconds_waited(clock, 2, [1, 1, 1, 2]) == pytest.approx(3, abs=0.2)
    assert seconds_waited(clock, 1, [0, 1]) == pytest.approx(1, abs=0.2)


def test_workers_that_never_were_there_are_not_waited_for(clock):
    assert seconds_waited(clock, 2, [1]) == 0
    note_number(CLIENT, 2)
    assert seconds_waited(clock, 3, [2]) == 0


def test_workers_that_do_not_come_back_are_waited_for_once(clock):
    note_number(CLIENT, 3)
    assert seconds_waited(clock, 2, [1]) == pytest.approx(10, abs=0.2)
    assert seconds_waited(clock, 2, [1]) == 0


def test_workers_that_were_there_long_ago_are_not_waited_for(clock):
    note_number(CLIENT, 2)
    clock.now += SEEN_VALID_S + 1
    assert seconds_waited(clock, 2, [1]) == 0


@pytest.mark.parametrize("setting", ["max-recoveries", "recovery-wait"])
def test_fits_that_do_not_recover_do_not_wait(clock, setting):
    note_number(CLIENT, 2)
    with dask.config.set({f"skdistmlp.{setting}": 0}):
        assert seconds_waited(clock, 2, [1]) == 0


@pytest.mark.parametrize("client_is_given", [True, False])
def test_the_next_fit_waits_for_workers_lost_since_the_last(
    digits, caplog, capsys, client_is_given
):
    """Also if each call makes its own client."""
    with own_cluster(n_workers=2, processes=False) as client:
        given = client if client_is_given else client.scheduler.address
        clf = classifier(client=given, n_workers=2, verbose=True)
        clf.fit(*small(digits))
        assert_waits(client, lambda: clf.fit(*small(digits)), caplog)
        assert clf.plan_.n_workers == 2
    assert "for workers in the place of lost ones" in capsys.readouterr().out


def assert_waits(client, call, caplog):
    """Assert that a call waits while one of two workers is missing, and then ends."""
    client.cluster.scale(1)
    wait_until(lambda: len(client.nthreads()) == 1, "a worker has left")
    with (
        caplog.at_level(logging.INFO, "skdistmlp"),
        dask.config.set(
            {
                "skdistmlp.max-recoveries": 1,
                "skdistmlp.recovery-wait": f"{WITHIN_S}s",
            }
        ),
    ):
        waiting = in_thread(call)
        wait_until(
            lambda: waiting.done() or "waiting for up to" in caplog.text, "it waits"
        )
        assert not waiting.done(), waiting.result()
        client.cluster.scale(2)
        waiting.result(WITHIN_S)


def test_workers_that_are_too_few_after_the_wait_are_an_error(caplog):
    settings = {"skdistmlp.max-recoveries": 1, "skdistmlp.recovery-wait": "200ms"}
    with own_cluster(n_workers=1, processes=False) as client:
        note_number(client, 2)
        with (
            dask.config.set(settings),
            caplog.at_level(logging.INFO, "skdistmlp"),
            pytest.raises(ClusterError, match=r"needs 2 workers, .* has 1"),
        ):
            bounded(choose_workers, client, 2)
        assert "waiting for up to 0.2 s (skdistmlp.recovery-wait)" in caplog.text


def test_a_client_that_is_closed_meanwhile_ends_the_wait(clock):
    client = MadeUpClient()
    note_number(client, 2)

    def close():
        client.status = "closed"
        return 1

    with pytest.raises(CancelledError):
        await_lost_workers(client, 2, close, lambda _: None)
