"""Fits that go on after workers were lost: real processes, which are killed."""

import os
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client
from numpy.testing import assert_allclose, assert_array_equal

from skdistmlp import (
    ClusterError,
    DistributedMLPClassifier,
    ExchangeError,
    WorkerLostError,
)
from skdistmlp.checkpoints.checkpointing import Checkpointing
from skdistmlp.cluster.client.workers import known_workers
from skdistmlp.cluster.peers import copies, driver, worker
from skdistmlp.cluster.peers.copies import StateCopies
from skdistmlp.cluster.peers.recovery import train_with_recovery
from skdistmlp.cluster.peers.shard import ShardCopy
from skdistmlp.cluster.recovery import replacement
from skdistmlp.cluster.run.placement import Placement
from skdistmlp.planning.cost import cost_of_training
from skdistmlp.planning.plan import plan_training
from tests.cluster import partition
from tests.cluster.faults import gates
from tests.cluster.forked import ForkedProcesses
from tests.cluster.leaks import assert_nothing_left, own_cluster
from tests.cluster.support import bounded, in_thread, load
from tests.estimators.recorder import Recorder, Told
from tests.marks import only_quick
from tests.sklearn_versions import BEFORE_1_9
from tests.training.jobs import dataset_of, job_of

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:the fit (recovered|left workers)"),
]

PARAMETERS = {
    "hidden_layer_sizes": (30, 20),
    "batch_size": 50,
    "max_iter": 12,
    "random_state": 0,
    "n_iter_no_change": 100,
    "engine": "peers",
    "n_workers": 2,
}


@pytest.fixture(scope="module")
def data(digits):
    return digits[0][:400], digits[1][:400]


@pytest.fixture
def short_rounds(monkeypatch):
    """Have a round end after every epoch, and copy the state after each."""
    monkeypatch.setattr(driver, "ROUND_S", 0.0)
    monkeypatch.setattr(StateCopies, "is_due", True)
    with dask.config.set({"skdistmlp.max-recoveries": 3}):
        yield


@pytest.fixture
def spare(short_rounds) -> Iterator[Client]:
    """A client of three workers, of which a fit takes two."""
    with own_cluster(n_workers=3) as client:
        client.run(load)
        yield client


class Killer:
    """Kills workers of a fit when it has taken some number of copies."""

    def __init__(
        self,
        monkeypatch,
        client,
        ranks=(1,),
        after=(2,),
        before_copy=False,
        signal_number=signal.SIGKILL,
    ):
        self.n_copies, self.killed, self.pids_struck = 0, [], []
        pids = client.run(os.getpid)
        take = StateCopies.take

        def kill(workers):
            for rank in ranks:
                # One that was started since has not told its number yet.
                pid = pids.get(workers[rank]) or client.run(os.getpid)[workers[rank]]
                self.killed.append(workers[rank])
                self.pids_struck.append(pid)
                os.kill(pid, signal_number)

        def counted(copies, shards):
            self.n_copies += 1
            is_time = self.n_copies in after
            if is_time and before_copy:
                kill(copies._tasks.workers)
            take(copies, shards)
            if is_time and not before_copy:
                kill(copies._tasks.workers)

        monkeypatch.setattr(StateCopies, "take", counted)


def classifier(client, **parameters):
    return DistributedMLPClassifier(**PARAMETERS | parameters, client=client)


def undisturbed(client, data, **parameters):
    """Return what the same workers train as long as nobody kills them."""
    clf = bounded(classifier(client, **parameters).fit, *data)
    assert clf.recoveries_ == ()
    return clf


def assert_same_bits(clf, other):
    for mine, theirs in zip(
        [*clf.coefs_, *clf.intercepts_],
        [*other.coefs_, *other.intercepts_],
        strict=True,
    ):
        assert_array_equal(mine, theirs)
    assert clf.loss_curve_ == other.loss_curve_
    assert clf.n_iter_ == other.n_iter_


@pytest.mark.parametrize(
    "parameters",
    only_quick(
        0,
        cases=[
            {"early_stopping": True, "dropout": 0.2, "solver": "sgd", "alpha": 0.01},
            {"n_replicas": 2, "ema_decay": 0.9, "learning_rate": "cosine"},
            {},
        ],
    ),
    ids=["early stopping", "replicas", "plain"],
)
def test_a_killed_worker_does_not_change_the_answer(
    spare, data, monkeypatch, parameters
):
    expected = undisturbed(spare, data, **parameters)
    killer = Killer(monkeypatch, spare)
    clf = classifier(spare, **parameters)
    recovered = "the fit recovered from faults"
    with pytest.warns(UserWarning, match=recovered) as warned:
        bounded(clf.fit, *data)
    # It points at the line that called `fit`.
    (where,) = {w.filename for w in warned if recovered in str(w.message)}
    assert Path(where).name == "support.py"
    assert_same_bits(clf, expected)
    (recovery,) = clf.recoveries_
    assert recovery.lost == tuple(killer.killed)
    assert recovery.same_bits
    # The second copies were those of the second epoch.
    assert recovery.n_iter == 2
    assert "lost while training" in recovery.error
    # The spare one took its place, without a wait.
    first = clf.plan_.workers[0]
    assert recovery.workers == clf.plan_.workers
    assert recovery.waited_s < 8
    assert {first, *killer.killed} < {*recovery.workers, *killer.killed}
    said = rf"worker {killer.killed[0]} was lost after \d+\.\d s, while training;"
    assert re.search(said, str(clf.plan_))


def test_an_interrupt_while_rows_are_placed_again_keeps_what_was_trained(
    spare, data, monkeypatch
):
    expected = undisturbed(spare, data, max_iter=2)
    place, placed = driver.place_rows, []

    def place_or_interrupt(*args):
        placed.append(args)
        if len(placed) == 2:
            raise KeyboardInterrupt
        return place(*args)

    Killer(monkeypatch, spare)
    monkeypatch.setattr(driver, "place_rows", place_or_interrupt)
    clf = classifier(spare)
    with pytest.warns(UserWarning, match=r"Training interrupted by user\."):
        bounded(clf.fit, *data)
    # The copies of the second epoch.
    assert_same_bits(clf, expected)
    assert [recovery.n_iter for recovery in clf.recoveries_] == [2]
    assert_nothing_left(spare)


def test_an_interrupted_fit_that_loses_a_worker_ends_with_its_copies(
    spare, data, monkeypatch, tmp_path
):
    expected = undisturbed(spare, data, max_iter=5)
    Killer(monkeypatch, spare, after=(5,))
    take, taken = StateCopies.take, []

    def take_and_interrupt(copies, shards):
        take(copies, shards)
        taken.append(shards)
        if len(taken) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(StateCopies, "take", take_and_interrupt)
    clf = classifier(spare, checkpoint=tmp_path)
    with pytest.warns(UserWarning, match=r"interrupted by user\. .* after epoch 5: "):
        bounded(clf.fit, *data)
    assert_same_bits(clf, expected)
    assert clf.recoveries_ == ()
    assert_nothing_left(spare)


@pytest.mark.parametrize(
    ("owner", "name"),
    only_quick(
        0,
        1,
        2,
        cases=[
            (Placement, "note_silent"),
            (StateCopies, "fetch"),
            (Placement, "close"),
            (Checkpointing, "keep"),
        ],
    ),
)
def test_an_interrupt_after_a_loss_keeps_what_was_trained(
    spare, data, monkeypatch, tmp_path, owner, name
):
    """The first one, wherever it arrives while the run ends."""
    expected = undisturbed(spare, data, max_iter=2)
    killer, original = Killer(monkeypatch, spare), getattr(owner, name)
    struck = []

    def strike(*args, **kwargs):
        if killer.killed and not struck:
            struck.append(name)
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, strike)
    clf = classifier(spare, checkpoint=tmp_path)
    with pytest.warns(UserWarning, match=r"Training interrupted by user\."):
        bounded(clf.fit, *data)
    assert struck
    # The copies of the second epoch.
    assert_same_bits(clf, expected)
    assert clf.recoveries_ == ()
    assert_nothing_left(spare)


def test_a_second_interrupt_after_a_loss_is_raised(spare, data, monkeypatch):
    Killer(monkeypatch, spare)
    asked = []

    def strike(*_):
        asked.append(1)
        raise KeyboardInterrupt

    monkeypatch.setattr(Placement, "note_silent", strike)
    with pytest.raises(KeyboardInterrupt):
        bounded(classifier(spare).fit, *data)
    assert len(asked) == 2
    assert_nothing_left(spare)


@pytest.mark.slow
def test_without_copies_a_fit_begins_again(spare, data, monkeypatch):
    expected = undisturbed(spare, data)
    Killer(monkeypatch, spare, after=(1,), before_copy=True)
    clf = bounded(classifier(spare).fit, *data)
    assert_same_bits(clf, expected)
    assert [recovery.n_iter for recovery in clf.recoveries_] == [0]


@pytest.mark.slow
def test_a_shard_that_is_lost_with_its_buddy_begins_again(spare, data, monkeypatch):
    expected = undisturbed(spare, data)
    Killer(monkeypatch, spare, ranks=(0, 1))
    clf = bounded(classifier(spare).fit, *data)
    assert_same_bits(clf, expected)
    assert len(clf.recoveries_[0].lost) == 2
    assert clf.recoveries_[0].n_iter == 0


@pytest.mark.slow
def test_copies_are_those_before_while_new_ones_are_taken(spare, data, monkeypatch):
    expected = undisturbed(spare, data)
    Killer(monkeypatch, spare, after=(3,), before_copy=True)
    clf = bounded(classifier(spare).fit, *data)
    assert_same_bits(clf, expected)
    assert [recovery.n_iter for recovery in clf.recoveries_] == [2]


def bytes_copied(dask_worker):
    """Return the bytes of the states that a worker has copies of, each counted once."""
    copies = [held for held in dask_worker.data.values() if isinstance(held, ShardCopy)]
    states = {id(copy.state): copy.state for copy in copies}.values()
    orders = [order for state in states for order in (state.row_order, state.held_out)]
    arrays = sum(order.nbytes for order in orders if order is not None)
    return arrays + sum(state.network.nbytes for state in states)


@pytest.mark.parametrize("n_replicas", only_quick(0, cases=[1, 2]))
def test_the_two_copies_of_a_shard_stay_apart(spare, data, monkeypatch, n_replicas):
    """Dask may drop any of several replicas of a value: there is one of each copy."""
    where, n_bytes, take = [], [], StateCopies.take

    def look(copies, shards):
        wait_for = copies._tasks.wait_for

        def wait_and_count(*futures):
            wait_for(*futures)
            # The ones before are still there.
            n_bytes.append(spare.run(bytes_copied))

        with monkeypatch.context() as patch:
            patch.setattr(copies._tasks, "wait_for", wait_and_count)
            take(copies, shards)
        for futures in copies._last:
            asked = spare.who_has(futures)
            where.append([asked[future.key] for future in futures])

    monkeypatch.setattr(StateCopies, "take", look)
    parameters = {"early_stopping": True, "n_replicas": n_replicas, "max_iter": 3}
    clf = bounded(classifier(spare, **parameters).fit, *data)
    first, second = workers = clf.plan_.workers
    assert where == 2 * [[(first,), (second,)], [(second,), (first,)]]
    first_ones, both = ([found[worker] for worker in workers] for found in n_bytes)
    assert both == [*clf.plan_.bytes_of_copies] == [2 * each for each in first_ones]


@pytest.mark.slow
def test_a_copy_is_not_made_again_when_training_has_gone_on(spare, data, monkeypatch):
    """Dask would do so when the worker that has the copy is lost."""
    take = StateCopies.take
    refused = []

    def take_again(copies, shards):
        take(copies, shards)
        again = spare.submit(worker.copy_of, shards[0], 0, pure=False)
        refused.append(again.exception())

    monkeypatch.setattr(StateCopies, "take", take_again)
    bounded(classifier(spare, max_iter=3).fit, *data)
    assert len(refused) == 2
    assert all("is asked for copy 0 of its state again" in str(e) for e in refused)


@pytest.mark.slow
def test_several_losses_in_a_row(spare, data, monkeypatch, capsys):
    """Each line is printed once."""
    expected = undisturbed(spare, data, verbose=True)
    lines = capsys.readouterr().out
    Killer(monkeypatch, spare, after=(2, 5))
    clf = bounded(classifier(spare, verbose=True).fit, *data)
    assert capsys.readouterr().out == lines
    assert lines.count("Iteration") == 12
    assert_same_bits(clf, expected)
    assert [recovery.n_iter for recovery in clf.recoveries_] == [2, 5]


def hide_new_workers(monkeypatch, client):
    """Have a fit that looks for workers never see those that nannies start."""
    present = set(client.nthreads())

    def known(client):
        found = known_workers(client).items()
        return {worker: info for worker, info in found if worker in present}

    monkeypatch.setattr(replacement, "known_workers", known)


def test_with_fewer_workers_the_answer_is_the_same_to_rounding(
    spare, data, monkeypatch
):
    expected = undisturbed(spare, data, n_workers=3)
    Killer(monkeypatch, spare)
    hide_new_workers(monkeypatch, spare)
    clf = classifier(spare, n_workers=3)
    with dask.config.set({"skdistmlp.recovery-wait": "1s"}):
        bounded(clf.fit, *data)
    (found,) = clf.recoveries_
    assert not found.same_bits
    assert found.waited_s >= 1
    assert (len(found.workers), clf.n_workers_) == (2, 2)
    assert "1 worker fewer than before" in clf.plan_.reason
    assert_allclose(clf.loss_curve_, expected.loss_curve_, rtol=1e-6)


@pytest.mark.slow
def test_a_nanny_starts_the_worker_that_takes_the_place(
    short_rounds, data, monkeypatch
):
    with own_cluster(n_workers=2) as client:
        client.run(load)
        expected = undisturbed(client, data)
        killer = Killer(monkeypatch, client)
        clf = bounded(classifier(client).fit, *data)
        assert killer.killed[0] not in clf.plan_.workers
    assert_same_bits(clf, expected)


@pytest.mark.slow
def test_a_retired_worker_is_replaced(spare, data, monkeypatch):
    expected = undisturbed(spare, data)
    retiring = []
    take = StateCopies.take

    def retire(copies, shards):
        take(copies, shards)
        if not retiring:
            victim = copies._tasks.workers[1]
            retiring.append(in_thread(spare.retire_workers, [victim]))

    monkeypatch.setattr(StateCopies, "take", retire)
    clf = bounded(classifier(spare).fit, *data)
    bounded(retiring[0].result)
    assert_same_bits(clf, expected)
    # Whether it is noticed after a round, in one or while the state is copied.
    (found,) = clf.recoveries_
    assert (found.kind, found.n_iter >= 1) == ("retired", True)


@pytest.mark.slow
def test_a_worker_that_is_cut_off_from_another_is_replaced(
    tmp_path, short_rounds, data, monkeypatch
):
    """It cannot connect again either, though both answer the client."""
    start, cut_off = driver.PeersRun._start_round, []

    def cut_and_start(run, number):
        if number == 3 and not cut_off:
            first, second = run._workers
            cut_off.append(second)
            client.run(partition.block, first, workers=[second])
            client.run(gates.cut_links, workers=[second])
        return start(run, number)

    with ForkedProcesses(tmp_path, {}) as cluster:
        cluster.add_workers([*partition.HOSTS, "127.0.0.4"])
        with Client(cluster.address, set_as_default=False) as client:
            expected = undisturbed(client, data)
            monkeypatch.setattr(driver.PeersRun, "_start_round", cut_and_start)
            with dask.config.set({"skdistmlp.exchange-timeout": "1s"}):
                clf = bounded(classifier(client).fit, *data)
            client.run(partition.unblock, workers=cut_off)
            assert_nothing_left(client)
    assert_same_bits(clf, expected)
    broken, lost = clf.recoveries_
    assert (broken.kind, broken.n_iter) == ("broken", 3)
    assert (lost.kind, lost.n_iter, lost.lost) == ("lost", 3, tuple(cut_off))
    assert "no connection between shard 0 on" in lost.error
    assert lost.same_bits


@pytest.mark.slow
@pytest.mark.parametrize("in_blocks", [False, True])
def test_a_worker_that_hangs_is_replaced(spare, data, monkeypatch, in_blocks):
    """Nor does it get blocks to compute, though Dask takes it for well."""
    expected = undisturbed(spare, data)
    X = data[0]
    if in_blocks:
        X = da.from_array(X, chunks=(20, -1)).map_blocks(lambda block: block + 0)
    killer = Killer(monkeypatch, spare, signal_number=signal.SIGSTOP)
    try:
        with dask.config.set({"skdistmlp.exchange-timeout": "1s"}):
            clf = bounded(classifier(spare).fit, X, data[1])
    finally:
        for pid in killer.pids_struck:
            os.kill(pid, signal.SIGCONT)
    assert_same_bits(clf, expected)
    assert clf.recoveries_[0].lost == tuple(killer.killed)
    # What the worker that hangs holds is not waited for.
    assert clf.recoveries_[0].n_iter == 2


@pytest.mark.slow
def test_a_spare_worker_that_hangs_is_not_taken(short_rounds, data, monkeypatch):
    take, stopped = StateCopies.take, []

    def stop_and_take(copies, shards):
        if not stopped:
            used = copies._tasks.workers
            stopped.append(next(w for w in known_workers(client) if w not in used))
            os.kill(pids[stopped[0]], signal.SIGSTOP)
        take(copies, shards)

    with own_cluster(n_workers=4) as client:
        client.run(load)
        # It asks all for their versions, which they are not asked for again.
        bounded(classifier(client, n_workers=4, max_iter=1).fit, *data)
        expected = undisturbed(client, data)
        pids = client.run(os.getpid)
        hide_new_workers(monkeypatch, client)
        monkeypatch.setattr(StateCopies, "take", stop_and_take)
        killer = Killer(monkeypatch, client)
        try:
            with dask.config.set({"skdistmlp.exchange-timeout": "1s"}):
                clf = bounded(classifier(client).fit, *data)
        finally:
            os.kill(pids[stopped[0]], signal.SIGCONT)
    assert_same_bits(clf, expected)
    (recovery,) = clf.recoveries_
    assert recovery.lost == tuple(killer.killed)
    assert stopped[0] not in recovery.workers


@pytest.mark.slow
def test_blocks_that_were_lost_are_computed_again(spare, data, monkeypatch):
    expected = undisturbed(spare, data)
    Killer(monkeypatch, spare)
    X = da.from_array(data[0], chunks=(100, -1))
    clf = bounded(classifier(spare).fit, X, data[1])
    assert_same_bits(clf, expected)


@pytest.mark.slow
@pytest.mark.parametrize("is_streamed", [False, True])
def test_rows_that_are_others_when_computed_again_end_the_fit(
    spare, data, monkeypatch, is_streamed
):
    Killer(monkeypatch, spare)
    X = da.from_array(data[0], chunks=(100, -1))
    # Without a seed.
    X = X.map_blocks(
        lambda block: block + np.random.default_rng().random(), dtype=float
    )
    # Too large for the memory of all workers, or not.
    share = 1e-9 if is_streamed else 0.5
    with (
        dask.config.set({"skdistmlp.rows.memory-share": share}),
        pytest.raises(ClusterError, match="not the same when computed again"),
    ):
        bounded(classifier(spare).fit, X, data[1])


@pytest.mark.slow
def test_a_copy_without_room_is_done_without(spare, data, monkeypatch, caplog):
    """The next is tried all the same: there may be room then."""
    caplog.set_level("INFO", "skdistmlp")
    expected = undisturbed(spare, data)
    n_left = []

    def no_room(copy):
        raise MemoryError

    keep = worker.keep
    monkeypatch.setattr("skdistmlp.cluster.peers.copies.worker.keep", no_room)
    take = StateCopies.take

    def counted(copies, shards):
        take(copies, shards)
        n_left.append(len(copies.fetch() or ()))
        if len(n_left) == 4:
            monkeypatch.setattr("skdistmlp.cluster.peers.copies.worker.keep", keep)

    monkeypatch.setattr(StateCopies, "take", counted)
    clf = bounded(classifier(spare).fit, *data)
    assert n_left == [*4 * [0], *7 * [2]]
    assert sum("a worker ran out of memory" in line for line in caplog.messages) == 1
    assert_same_bits(clf, expected)


@pytest.mark.slow
def test_a_worker_that_is_lost_while_it_sends_a_copy(spare, data, monkeypatch):
    """The other copy of its shard is taken: nothing is trained twice."""
    expected = undisturbed(spare, data)
    pids, take, submit = spare.run(os.getpid), StateCopies.take, copies.submit_rpc
    n_copies, killed = [], []

    def fail(copies, shards):
        n_copies.append(len(shards))
        if len(n_copies) == 3:
            raise ExchangeError("nobody is lost yet")
        take(copies, shards)

    def kill_and_submit(client, method, *args, **kwargs):
        if not killed:
            used = [at for at, keys in spare.has_what().items() if keys]
            killed.append(used[0])
            os.kill(pids[used[0]], signal.SIGKILL)
        return submit(client, method, *args, **kwargs)

    monkeypatch.setattr(StateCopies, "take", fail)
    monkeypatch.setattr(copies, "submit_rpc", kill_and_submit)
    clf = bounded(classifier(spare).fit, *data)
    (recovery,) = clf.recoveries_
    assert recovery.lost == tuple(killed)
    assert recovery.n_iter == 2
    assert_same_bits(clf, expected)


@pytest.mark.slow
def test_lbfgs_goes_on_from_its_last_iterate(spare, data, monkeypatch):
    lbfgs = {"solver": "lbfgs", "max_iter": 900, "alpha": 10.0}
    # Of one minimum only: then the loss does not depend on the way there.
    lbfgs |= {"activation": "identity", "hidden_layer_sizes": (12,)}
    expected = undisturbed(spare, data, **lbfgs)
    Killer(monkeypatch, spare, after=(20,))
    clf = bounded(classifier(spare, **lbfgs).fit, *data)
    (recovery,) = clf.recoveries_
    assert recovery.n_iter == 20
    assert recovery.restarts
    assert not recovery.same_bits
    assert 20 < clf.n_iter_ < 900
    assert expected.n_iter_ < 900
    assert_allclose(clf.loss_, expected.loss_, rtol=0, atol=clf.tol)


def trained(client, report, before_check=lambda: None):
    """Train on two workers; return the state, and the last plan of each run."""
    job, dataset = job_of("adam"), dataset_of("adam")
    workers, cost = tuple(client.nthreads())[:2], cost_of_training(job, dataset)
    plan = plan_training(job.network.layer_units, "peers", workers, cost)
    job, plans = replace(job, split=plan.split), {}

    def note(plan):
        plans[len(plan.recoveries)] = plan

    state, _ = bounded(train_with_recovery, client, plan, job, dataset, report, note)
    before_check()
    assert_nothing_left(client)
    return state, [*plans.values()]


def test_an_epoch_is_reported_once(spare, monkeypatch):
    killer = Killer(monkeypatch, spare, after=(3,), before_copy=True)
    reported = []

    def report(state, _):
        reported.append(state.progress.n_iter)
        return False

    _, plans = trained(spare, report)
    assert killer.killed
    assert reported == list(range(1, len(reported) + 1))
    assert [len(plan.recoveries) for plan in plans] == [0, 1]


@pytest.mark.slow
@pytest.mark.parametrize("stops", only_quick(1, cases=[False, True]))
def test_a_worker_that_is_lost_in_a_callback(spare, stops):
    """It may ask for the parameters, and stop training."""
    pids, workers = spare.run(os.getpid), list(spare.nthreads())
    reported, killed = [], []

    def report(state, snapshot):
        n_iter = state.progress.n_iter
        if n_iter == 3 and not killed:
            killed.append(workers[1])
            os.kill(pids[workers[1]], signal.SIGKILL)
        if not stops:
            snapshot()
        reported.append(n_iter)
        return stops and n_iter == 3

    state, plans = trained(spare, report)
    assert len(plans) == 2
    assert reported == list(range(1, len(reported) + 1))
    if stops:
        assert state.progress.n_iter == len(reported) == 3


@pytest.mark.slow
@pytest.mark.skipif(BEFORE_1_9, reason="scikit-learn has no callbacks")
def test_a_callback_before_one_that_asks_hears_of_each_epoch_once(spare, data):
    """scikit-learn fetches the parameters when the second callback is due."""
    pids = spare.run(os.getpid)

    class Killing(Told):
        def _note(self, hook, estimator, context):
            super()._note(hook, estimator, context)
            if self.hooks[-1] == ("end", "epoch", 2):
                used = [worker for worker, keys in spare.has_what().items() if keys]
                os.kill(pids[used[1]], signal.SIGKILL)

    killing, recorder = Killing(), Recorder()
    clf = classifier(spare, max_iter=5).set_callbacks(killing, recorder)
    bounded(clf.fit, *data)
    assert len(clf.recoveries_) == 1
    for told in (killing, recorder):
        ended = [n for hook, name, n in told.hooks if (hook, name) == ("end", "epoch")]
        assert ended == list(range(5))


@pytest.mark.slow
def test_recoveries_are_limited(spare, data, monkeypatch):
    Killer(monkeypatch, spare, after=(2, 5))
    with (
        dask.config.set({"skdistmlp.max-recoveries": 1}),
        pytest.raises(WorkerLostError, match="lost while") as caught,
    ):
        bounded(classifier(spare).fit, *data)
    assert any("max-recoveries" in note for note in caught.value.__notes__)
