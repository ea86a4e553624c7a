"""What reaches the shards of a process from outside of tasks."""

import pytest
from distributed.protocol import serialize

from skdistmlp.cluster.peers import worker
from skdistmlp.exceptions import ExchangeError
from tests.cluster.peers.test_shard import Fit


class FakeShard:
    """What a process knows of a shard."""

    def __init__(self, epoch=None, missing=()):
        self.epoch = epoch
        self.stops = 0
        self._missing = list(missing)

    def request_stop(self):
        self.stops += 1

    def missing(self):
        return self._missing


@pytest.fixture
def shards(monkeypatch):
    """Two shards of one run, and one of another."""
    here = {
        (b"one", 0): FakeShard("3 (loss 0.5)", [1]),
        (b"one", 1): FakeShard(None, [0, 2]),
        (b"other", 0): FakeShard("7 (loss 0.25)", [3]),
    }
    monkeypatch.setattr(worker, "_RUNS", here)
    return here


def test_a_stop_request_reaches_the_shards_of_one_run_only(shards):
    worker.request_stop(b"one")
    assert [shard.stops for shard in shards.values()] == [1, 1, 0]


def test_the_missing_shards_of_one_run_are_told(shards):
    assert worker.missing_shards(b"one") == [1, 0, 2]
    assert worker.missing_shards(b"none") == []


def test_the_epochs_of_all_shards_that_know_one_are_shown(shards):
    assert worker.epochs_here() == "3 (loss 0.5), 7 (loss 0.25)"


def test_a_call_to_a_shard_that_is_gone_says_so(shards):
    with pytest.raises(ExchangeError, match="shard 1 is no longer on this worker"):
        worker.withhold(b"other", 1, 0)


def test_dask_is_refused_a_shard_without_the_tracebacks_of_pickle(all_logs):
    with Fit(1) as fit:
        header, frames = serialize(fit.shards[0], on_error="message")
    assert header == {"serializer": "error"}
    assert "stays on its worker" in frames[-1].decode()
    assert not all_logs.messages
