"""Shards as they run on workers, here in threads of this process."""

import gc
import pickle
import socket
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skdistmlp.cluster.peers import shard as peers_shard
from skdistmlp.cluster.peers.messages import Sender
from skdistmlp.cluster.peers.shard import PeerShard, Roster
from skdistmlp.exceptions import ExchangeError
from skdistmlp.nn.layers import Network, dense_layers
from skdistmlp.nn.update_rules import Sgd
from skdistmlp.parallel.communicators import SingleProcess
from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.local_network import open_local_network
from skdistmlp.parallel.shard import join_states
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.training.hold_out import LastRows
from skdistmlp.training.job import EpochTraining, TrainingJob
from skdistmlp.training.loop import EpochOptions
from skdistmlp.training.progress import Outcome, Progress
from skdistmlp.training.run import TrainingRun
from skdistmlp.training.schedules import LearningRateSchedule
from skdistmlp.training.state import TrainingState
from skdistmlp.wire.handshake import Credentials, listen

UNITS = (4, 6, 5, 2)
RNG = np.random.default_rng(0)
DATASET = Dataset(RNG.normal(size=(40, 4)), RNG.normal(size=(40, 2)))
N_EPOCHS = 3


@pytest.fixture(autouse=True)
def sent(monkeypatch):
    """Collect the messages of shards, which have no Dask worker here."""
    messages = []
    monkeypatch.setattr(Sender, "_send", lambda _, message: messages.append(message))
    return messages


def job_on(n_shards, max_epochs=N_EPOCHS, hold_out=None):
    schedule = LearningRateSchedule("constant", 0.01, 0.5)
    return TrainingJob(
        Network(dense_layers(UNITS, "tanh"), "identity", alpha=1e-4),
        NetworkSplit.even(UNITS, n_shards),
        np.dtype(float),
        EpochTraining(
            EpochOptions(
                batch_size=8,
                max_epochs=max_epochs,
                shuffle=True,
                tol=0.0,
                n_iter_no_change=np.inf,
            ),
            hold_out,
        ),
        TrainingState(None, np.random.RandomState(0), Progress(schedule, 0.01)),
        Sgd(momentum=0.9),
    )


class Fit:
    """The shards of one fit; a context that closes them."""

    def __init__(self, n_shards, **options):
        self.credentials = Credentials.new()
        job = job_on(n_shards, **options)
        self.split = job.split
        self.shards = []
        for rank in range(n_shards):
            own = replace(
                job,
                initial=replace(job.initial, random_state=np.random.RandomState(0)),
            )
            listener = listen("127.0.0.1")
            shard = PeerShard(self.credentials, rank, listener, None, own)
            self.shards.append(shard)
        self.roster = Roster(
            [shard.address for shard in self.shards],
            [f"shard {rank}" for rank in range(n_shards)],
            timeout_s=30.0,
        )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for shard in self.shards:
            shard.close()

    def round(self, number, round_s=0.0, stop=False):
        """Train a round on all shards; return their reports."""
        first = (DATASET, self.roster) if number == 0 else (None, None)
        with ThreadPoolExecutor(len(self.shards)) as threads:
            reports = [
                threads.submit(
                    shard.train, number, *first, round_s, stop, lambda: False
                )
                for shard in self.shards
            ]
        return [report.result() for report in reports]


def known_state():
    """Return the state that the same job reaches in one process."""
    job = job_on(1)
    state = job.start(job.split.layout(0))
    network = open_local_network(
        job.network, job.split, state.network, DATASET, SingleProcess(), 8
    )
    return TrainingRun(job, network, DATASET, state).train()


@pytest.mark.parametrize("round_s", [0.0, 60.0], ids=["epochs", "one round"])
@pytest.mark.parametrize("n_shards", [1, 2, 3])
def test_shards_train_in_rounds_to_the_result_of_one_process(n_shards, round_s):
    with Fit(n_shards) as fit:
        number, reports = 0, fit.round(0, round_s)
        while reports[0].state is None:
            number += 1
            reports = fit.round(number, round_s)
    assert number + 1 == (N_EPOCHS if round_s == 0 else 1)
    joined = join_states(fit.split, [report.state.network for report in reports])
    expected = known_state()
    assert_allclose(joined.parameters, expected.network.parameters, rtol=1e-9)
    for report in reports:
        assert report.progress.n_iter == N_EPOCHS
        assert report.progress.loss_curve == reports[0].progress.loss_curve
        assert 0 <= report.exchanging_s <= report.training_s


SCORE_S = 0.5


def slow_score(*_):
    time.sleep(SCORE_S)
    return 0.5


def test_the_first_shard_reports_for_how_long_it_scored_alone():
    """The others wait for it: it is nothing that each shard computes."""
    with Fit(2, hold_out=LastRows(10, slow_score, False, False)) as fit:
        first, second = fit.round(0)
    assert SCORE_S <= first.alone_s < first.training_s
    assert second.alone_s == 0.0
    assert second.exchanging_s >= SCORE_S
    for report in (first, second):
        parts_s = report.computed_s + report.exchanging_s + report.alone_s
        assert parts_s == pytest.approx(report.training_s)
    assert first.computed_s < SCORE_S


def test_shards_announce_each_round_and_that_they_have_met(sent):
    with Fit(2) as fit:
        fit.round(0)
        fit.round(1)
    kinds = [(type(m).__name__, m.rank, vars(m)) for m in sent]
    for number in (0, 1):
        for rank in (0, 1):
            of_round = [
                kind
                for kind, at, fields in kinds
                if at == rank and number in [*fields.values()][1:]
            ]
            assert of_round == ["ShardRunning", "ShardMet"]


def test_a_snapshot_between_rounds_is_not_changed_by_training():
    with Fit(2) as fit:
        fit.round(0)
        snapshot = fit.shards[1].snapshot()
        before = snapshot.network.parameters.copy()
        fit.round(1)
        after = fit.shards[1].snapshot()
    assert (snapshot.network.parameters == before).all()
    assert not np.array_equal(after.network.parameters, before)


def test_training_stops_at_the_end_of_a_round_on_request():
    with Fit(2) as fit:
        fit.round(0)
        reports = fit.round(1, stop=True)
    assert {report.state.outcome for report in reports} == {Outcome.STOPPED}
    assert reports[0].progress.n_iter == 1


def test_a_round_cannot_be_repeated_or_skipped():
    with Fit(1, max_epochs=9) as fit:
        fit.round(0)
        for number in (0, 2):
            with pytest.raises(ExchangeError, match=f"round {number}, but has done 1"):
                fit.round(number)
        assert fit.round(1)[0].progress.n_iter == 2


def test_a_shard_that_is_asked_to_stop_before_it_has_connected_stops():
    with Fit(2, max_epochs=9) as fit:
        fit.shards[1].request_stop()
        reports = fit.round(0)
    assert {report.state.outcome for report in reports} == {Outcome.INTERRUPTED}


def test_a_shard_does_not_hold_what_it_began_with():
    with Fit(1) as fit:
        fit.round(0)
        state = fit.shards[0].snapshot()
        fit.shards[0].close()
        job = fit.shards[0]._job
        resumed = PeerShard(
            fit.credentials, 0, listen("127.0.0.1"), None, replace(job, initial=state)
        )
        assert resumed._job.initial.network is None
        resumed.close()


def test_a_copy_leaves_out_the_iterate_of_lbfgs():
    """It is that of the whole network, which the worker may have no room for."""
    iterate = SimpleNamespace(copy=lambda: pytest.fail("it was copied"))
    with Fit(1) as fit:
        fit.round(0)
        run = fit.shards[0]._run
        run.state = replace(run.state, iterate=iterate)
        copy = fit.shards[0].copy()
    assert copy.state.iterate is None
    assert copy.state.network is not None


def test_a_shard_cannot_be_copied_to_another_worker():
    with Fit(1) as fit, pytest.raises(TypeError, match="stays on its worker"):
        pickle.dumps(fit.shards[0])


def test_a_shard_whose_training_fails_closes_its_port(monkeypatch):
    def fail(*args):
        raise ZeroDivisionError

    with Fit(1) as fit:
        monkeypatch.setattr(peers_shard, "meet", fail)
        with pytest.raises(ZeroDivisionError):
            fit.round(0)
        with socket.socket() as probe:
            assert probe.connect_ex(fit.shards[0].address) != 0


def test_a_shard_that_nobody_holds_frees_its_port_without_garbage_collection():
    """No reference cycle keeps the memory of a shard beyond its task."""
    fit = Fit(1)
    fit.round(0)
    known = weakref.ref(fit.shards[0])
    gc.disable()
    try:
        fit.shards.clear()
        assert known() is None
    finally:
        gc.enable()
