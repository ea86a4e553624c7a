"""Dask's errors are translated, each once; all others pass."""

from concurrent.futures import CancelledError
from types import SimpleNamespace

import pytest
from distributed import KilledWorker

from skdistmlp.cluster._dask import CommClosedError
from skdistmlp.cluster.client import errors
from skdistmlp.cluster.client.errors import CONNECTION_ERRORS, translate_dask_errors
from skdistmlp.exceptions import ClusterError, ExchangeError, WorkerLostError

HERE, GONE, GONE_TOO = "tcp://here", "tcp://gone", "tcp://gone-too"


class Client:
    """As much of a client as is asked when something goes wrong."""

    def __init__(self, status="running"):
        self.status = status
        self.scheduler = SimpleNamespace(address="tcp://scheduler")


@pytest.fixture(autouse=True)
def answers(monkeypatch):
    """Answer in the scheduler's place."""

    def ask_scheduler(client, operation):
        assert operation == "ncores"
        if client.status == "hanging":
            raise ClusterError("no answer")
        if client.status != "running":
            raise CancelledError
        return {HERE: 1}

    monkeypatch.setattr(errors, "ask_scheduler", ask_scheduler)


def raised(error, workers=(HERE,), client=None, phases=("training",)):
    """Return what an error becomes in one or several contexts."""
    client = client or Client()
    with pytest.raises(Exception) as caught:  # noqa: PT011
        raise_through(error, workers, client, list(phases))
    return caught.value


def raise_through(error, workers, client, phases):
    if not phases:
        raise error
    with translate_dask_errors(client, workers, phases[0]):
        raise_through(error, workers, client, phases[1:])


LOST = {
    "cancelled": CancelledError(),
    "connection": CommClosedError("closed"),
    "killed": KilledWorker("task", SimpleNamespace(address=GONE), 3),
    "os": OSError("broken pipe"),
}


@pytest.mark.parametrize("error", LOST.values(), ids=LOST)
def test_a_lost_worker_is_named(error):
    found = raised(error, (HERE, GONE))
    assert type(found) is WorkerLostError
    assert str(found) == (
        "worker tcp://gone was lost while training; its shard is gone. The cluster has "
        "1 worker left; call again to start over on it."
    )
    assert found.__cause__ is error
    assert not hasattr(found, "__notes__")


def test_several_lost_workers_are_named():
    found = str(raised(CancelledError(), (GONE, HERE, GONE_TOO)))
    assert found.startswith(
        "workers tcp://gone, tcp://gone-too were lost while training"
    )
    assert "their shards are gone" in found


def test_cancelled_work_is_distinguished_from_a_lost_worker():
    found = raised(CancelledError())
    assert type(found) is WorkerLostError
    assert "dropped the data of this call while training, although worker" in str(found)
    assert "worker" not in str(raised(CancelledError(), ())).split(".")[0]


def test_a_connection_that_broke_for_a_while_is_reported():
    found = raised(CommClosedError("closed"))
    assert type(found) is ClusterError
    assert str(found) == (
        "the connection to the scheduler at tcp://scheduler, or to a worker, broke "
        "while training; it is there again. Call again to start over."
    )


def test_workers_killed_by_a_task_are_reported():
    found = raised(LOST["killed"])
    assert type(found) is ClusterError
    assert "several workers died one after another while training" in str(found)


@pytest.mark.parametrize("error", [*LOST.values(), RuntimeError("loop is closed")])
def test_a_closed_client_is_reported(error):
    found = raised(error, client=Client("closed"))
    assert type(found) is ClusterError
    assert str(found).startswith(
        "the client was closed or lost its connection to the scheduler at "
        "tcp://scheduler while training."
    )


@pytest.mark.parametrize(
    "error", [KeyError("ours"), ValueError("y"), TypeError(), OSError("disk full")]
)
def test_other_errors_pass_unchanged(error):
    """Among them KeyError, which Dask raises in one place only."""
    assert raised(error) is error
    assert not hasattr(error, "__notes__")
    assert KeyError not in CONNECTION_ERRORS


def test_errors_of_tasks_get_a_note():
    error = ValueError("y")
    error.add_note("This happened in task 'train' on worker tcp://here.")
    assert raised(error).__notes__[1:] == ["This was while training."]


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (ExchangeError("silence"), "Call again to start over."),
        (WorkerLostError("paused"), "Call again to start over."),
        (MemoryError(), "Use more workers, or smaller batches."),
    ],
)
def test_our_own_errors_get_advice_once(error, advice):
    found = raised(error, phases=("training", "training"))
    assert found is error
    assert found.__notes__ == [f"This was while training. {advice}"]


def test_nested_contexts_translate_once():
    found = raised(CancelledError(), (GONE,), phases=("training", "training"))
    assert "was lost while training" in str(found)
    assert not hasattr(found, "__notes__")


def test_the_phase_is_that_in_which_the_error_occurs():
    phases = ["placing"]

    def fail_while_training():
        with translate_dask_errors(Client(), (GONE,), lambda: phases[-1]):
            phases.append("training")
            raise CancelledError

    with pytest.raises(WorkerLostError, match="while training"):
        fail_while_training()


@pytest.mark.parametrize(
    ("present", "advice"),
    [
        ({}, "The cluster has no workers left; start some, and call again."),
        ({HERE: 1, GONE_TOO: 1}, "2 workers left; call again to start over on them."),
    ],
    ids=["none", "two"],
)
def test_the_advice_depends_on_the_workers_left(monkeypatch, present, advice):
    monkeypatch.setattr(errors, "ask_scheduler", lambda *_: present)
    assert str(raised(CancelledError(), (GONE,))).endswith(advice)


def test_a_scheduler_that_hangs_is_reported_as_such():
    found = raised(CancelledError(), client=Client("hanging"))
    assert str(found) == "no answer"
