"""Calls to shards outside of tasks: what each answers, and what a shard refuses."""

import threading
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace

import pytest

from skdistmlp.cluster.peers import worker
from skdistmlp.cluster.peers.handover import HandOver
from skdistmlp.cluster.peers.shard import PeerShard
from skdistmlp.exceptions import ExchangeError, WorkerLostError
from tests.cluster.support import bounded
from tests.training.jobs import job_of


def shard_in_round(n_rounds):
    """Return a shard that has begun some rounds."""
    shard = object.__new__(PeerShard)
    shard._beginning = threading.Lock()
    shard._n_rounds, shard._is_withheld = n_rounds, False
    shard._rank, shard._job = 0, job_of("adam")
    # What `close` looks at.
    shard._listener = shard._communicator = shard._run = shard._dataset = None
    return shard


def test_a_shard_that_is_withheld_begins_no_further_round():
    shard = shard_in_round(3)
    assert shard.withhold(3)
    assert shard.withhold(3)
    with pytest.raises(ExchangeError, match="is asked for round 3"):
        shard.train(3, None, None, 0.0, False, lambda: False)


def test_a_shard_that_has_begun_the_round_is_not_withheld():
    shard = shard_in_round(4)
    assert not shard.withhold(3)
    assert not shard._is_withheld


@contextmanager
def naming_losses():
    """Stand for that of `Watch`, which waits until the scheduler knows of a loss."""
    try:
        yield
    except OSError as error:
        raise WorkerLostError("it was lost") from error


def calls_to(client, workers, run=b"run", check=lambda: None):
    tasks = SimpleNamespace(
        workers=tuple(workers),
        watch=SimpleNamespace(check=check, naming_losses=naming_losses),
        translate_dask_errors=nullcontext,
    )
    return HandOver(client, tasks, run)


def test_a_shard_that_is_gone_is_named(client):
    first, *_ = client.nthreads()
    calls = calls_to(client, [first], b"no such run")
    for call in (calls.copies, lambda: calls.withhold(0, 1)):
        with pytest.raises(ExchangeError, match="shard 0 is no longer on this worker"):
            bounded(call)


def test_each_worker_is_asked_for_its_shard(client, monkeypatch):
    workers = list(client.nthreads())
    calls = calls_to(client, workers)
    monkeypatch.setattr(
        "skdistmlp.cluster.peers.handover.worker",
        SimpleNamespace(copy_in_place=lambda run, rank: (run, rank)),
    )
    assert bounded(calls.copies) == [(b"run", rank) for rank in range(3)]


def test_a_worker_that_is_lost_meanwhile_is_named(client, monkeypatch):
    def break_connection(run, rank):
        raise OSError("connection closed")

    monkeypatch.setattr(worker, "copy_in_place", break_connection)
    calls = calls_to(client, client.nthreads())
    with pytest.raises(WorkerLostError):
        bounded(calls.copies)


def test_a_wait_ends_when_the_check_raises(client, monkeypatch):
    def hang(run, rank):
        import time

        time.sleep(1)

    def check():
        raise RuntimeError("nobody waits")

    monkeypatch.setattr("skdistmlp.cluster.client.rpc.WORKER_CHECK_S", 0.1)
    monkeypatch.setattr(worker, "copy_in_place", hang)
    first, *_ = client.nthreads()
    with pytest.raises(RuntimeError, match="nobody waits"):
        bounded(calls_to(client, [first], check=check).copies)
