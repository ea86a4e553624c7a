"""A run that waits long for workers says for which, and what they are doing."""

import asyncio
import re
import time
from contextlib import contextmanager

import dask.array as da
import numpy as np
import pytest
from distributed import Client, Event

from skdistmlp import DistributedMLPClassifier
from skdistmlp.cluster.client import rpc
from skdistmlp.cluster.prediction.by_rows import predict_by_rows
from skdistmlp.cluster.run import placement, wait_notice
from skdistmlp.cluster.run.placement import Placement
from skdistmlp.cluster.run.reservation import reserve_workers
from skdistmlp.parallel.grid import Grid
from tests.cluster.support import WITHIN_S, bounded, in_thread, occupied, wait_until

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(wait_notice, "BUSY_AFTER_S", 0.2)
    monkeypatch.setattr(placement, "WORKER_CHECK_S", 0.1)


@pytest.fixture
def lines():
    return []


@pytest.fixture
def run(client, lines):
    """A run on the first two workers."""
    workers = tuple(client.nthreads())[:2]
    with Placement(client, workers, log=lines.append) as running:
        running.begin()
        yield running


def wait_in_task(name):
    Event(name).wait(WITHIN_S)


@contextmanager
def all_busy(client):
    """As `occupied`, and every task has begun."""
    with occupied(client) as release:
        wait_until(lambda: len(client.call_stack()) == 3, "the tasks run")
        yield release


def classifier(client, engine, **parameters):
    return DistributedMLPClassifier(
        hidden_layer_sizes=(8,),
        max_iter=2,
        random_state=0,
        client=client,
        engine=engine,
        n_workers=2,
        parameter_threshold=0,
        **parameters,
    )


@pytest.mark.parametrize("engine", ["peers", "futures"])
def test_a_fit_says_which_workers_are_busy_with_what(
    client, digits, engine, capsys, caplog
):
    X, y = digits
    clf = classifier(client, engine, verbose=True)
    with caplog.at_level("INFO", "skdistmlp"), all_busy(client) as release:
        fitting = in_thread(clf.fit, X[:200], y[:200])
        wait_until(lambda: "waits for" in caplog.text, "it says so", fitting)
        release()
        fitting.result(WITHIN_S)
    (line,) = [text for text in caplog.messages if "waits for" in text]
    assert line.startswith(("placing the network", "training"))
    for worker in clf.plan_.workers:
        assert f"worker {worker}, which is busy with lambda" in line
    assert capsys.readouterr().out.splitlines().count(line) == 1


def test_a_prediction_by_rows_logs_which_workers_are_busy(client, caplog):
    workers, rows = tuple(client.nthreads()), np.ones((6, 2))
    with caplog.at_level("INFO", "skdistmlp"), all_busy(client) as release:
        predicting = in_thread(
            predict_by_rows, client, workers, np.square, rows, 2, 0, rows
        )
        wait_until(lambda: "waits for" in caplog.text, "it says so", predicting)
        release()
        predicting.result(WITHIN_S)
    assert "predicting waits for worker" in caplog.text


def test_a_fit_says_what_keeps_its_collections_from_being_computed(
    client, digits, capsys, caplog, monkeypatch
):
    monkeypatch.setattr(rpc, "WORKER_CHECK_S", 0.1)
    X, y = digits
    clf = classifier(client, "peers", verbose=True)
    with caplog.at_level("INFO", "skdistmlp"), all_busy(client) as release:
        fitting = in_thread(clf.fit, da.from_array(X[:200], chunks=(100, -1)), y[:200])
        wait_until(lambda: "waits for" in caplog.text, "it says so", fitting)
        release()
        fitting.result(WITHIN_S)
    line = next(text for text in caplog.messages if "waits for" in text)
    assert line.startswith("computing the data waits for worker ")
    for worker in client.nthreads():
        assert f"worker {worker}, which is busy with lambda" in line
    assert capsys.readouterr().out.splitlines().count(line) == 1


def test_a_line_names_some_of_many_workers(client, lines, monkeypatch):
    monkeypatch.setattr(wait_notice, "MAX_NAMED", 1)
    with all_busy(client):
        notice = wait_notice.WaitNotice(client, "", lines.append)
        notice.check("computing the data", None, time.monotonic() - 1)
    assert re.search(r"busy with lambda, and 2 other workers$", lines[0])


def test_a_client_that_was_closed_meanwhile_ends_no_wait(client, lines, monkeypatch):
    loop = asyncio.new_event_loop()
    loop.close()
    monkeypatch.setattr(rpc, "asyncio_loop", lambda _client: loop)
    notice = wait_notice.WaitNotice(client, "", lines.append)
    notice.check("training", None, time.monotonic() - 1)
    assert not lines


def test_a_worker_that_cannot_be_asked_does_not_hide_the_others(
    client, lines, monkeypatch
):
    lost = next(iter(client.nthreads()))
    call_stack = Client.call_stack

    async def ask(self, keys):
        answer = await call_stack(self, keys=keys)
        if lost in answer:
            raise OSError("gone")
        return answer

    with all_busy(client):
        monkeypatch.setattr(Client, "call_stack", ask)
        notice = wait_notice.WaitNotice(client, "", lines.append)
        notice.check("training", None, time.monotonic() - 1)
        monkeypatch.undo()
    assert lines[0].count("which is busy with lambda") == 2
    assert lost not in lines[0]


def test_a_fit_that_waits_for_another_fit_says_so(client, digits, capsys):
    X, y = digits
    clf = classifier(client, "peers", verbose=True)
    workers = tuple(client.nthreads())
    printed = ""

    def is_said():
        nonlocal printed
        printed += capsys.readouterr().out
        return "another fit" in printed

    with reserve_workers(client, workers, lambda: None):
        fitting = in_thread(clf.fit, X[:200], y[:200])
        wait_until(is_said, "it says so", fitting)
    fitting.result(WITHIN_S)
    assert printed.splitlines()[0] == (
        f"the fit waits for workers {workers[0]}, {workers[1]}, some of which another "
        f"fit has reserved"
    )


def test_the_tasks_of_another_run_are_named(client, run, lines):
    event = Event("other-run", client=client)
    with Placement(
        client, tuple(client.nthreads())[:1], name=Grid(1).task_name
    ) as other:
        other.begin()
        blocking = other.submit([other.add(0, "block", wait_in_task, event.name)])
        wait_until(client.call_stack, "it runs")
        (mine,) = run.submit([run.add(0, "sum", sum, (1, 2))])
        waiting_ = in_thread(run.wait_for, mine)
        wait_until(lambda: lines, "it says so", waiting_)
        event.set()
        bounded(other.wait_for, *blocking)
        waiting_.result(WITHIN_S)
    assert lines[0].endswith("busy with block-shard0-of-1 of another fit or prediction")


def test_a_run_that_waits_for_its_own_tasks_says_nothing(client, run, lines):
    """Although tasks of others are queued behind them."""
    event = Event("own-run", client=client)
    (mine,) = run.submit([run.add(0, "block", wait_in_task, event.name)])
    worker = next(iter(client.nthreads()))
    wait_until(client.call_stack, "it runs")
    behind = client.submit(sum, (1, 2), workers=[worker], pure=False)
    notice = wait_notice.WaitNotice(client, mine.key[2], lines.append)
    wait_until(lambda: len(client.processing()[worker]) == 2, "the other is queued")
    notice.check("training", [worker], time.monotonic() - 1)
    assert not lines
    event.set()
    bounded(behind.result)


def test_a_short_wait_is_not_worth_a_line(client, run, lines):
    with all_busy(client):
        notice = wait_notice.WaitNotice(client, "12345678", lines.append)
        workers = list(client.nthreads())
        notice.check("training", workers, time.monotonic() + 1)
        assert not lines
        since = time.monotonic() - 1
        notice.check("training", workers, since)
        notice.check("training", workers, since)
        assert len(lines) == 1
