"""Workers and clients of the "peers" engine that are lost, suspended or paused."""

import signal
import time

import dask
import pytest
from distributed import Client, Event

from skdistmlp import ClusterError, WorkerLostError
from skdistmlp.cluster.client.workers import worker_statuses
from skdistmlp.cluster.peers import driver as peers
from skdistmlp.cluster.peers.round_start import RoundStart
from skdistmlp.cluster.run.cache import clear_caches
from skdistmlp.cluster.run.scatter import Scatterer
from skdistmlp.exceptions import ExchangeError
from tests.cluster.leaks import assert_nothing_left, remember
from tests.cluster.peers.test_driver import (
    assert_as_scikit_learn,
    classifier,
    endless,
    executing,
    steps_taken,
    stop_all,
)
from tests.cluster.support import (
    bounded,
    in_thread,
    set_status,
    task_keys,
    wait_until,
)
from tests.marks import only_quick

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def data(digits):
    X, y = digits
    return X[:300], y[:300]


@pytest.mark.parametrize("rank", only_quick(0, cases=[0, 1]))
def test_a_worker_that_dies_is_named_and_the_next_fit_works(processes, data, rank):
    processes.have_workers(2)
    with Client(processes.address, set_as_default=False) as client:
        remember(client)
        worker = tuple(client.nthreads())[rank]
        fit = in_thread(endless(client).fit, *data)
        wait_until(lambda: steps_taken(client), "training has begun", fit)
        processes.kill_worker(worker)
        with pytest.raises(WorkerLostError, match=worker):
            bounded(fit.result)
        processes.have_workers(2)
        assert_as_scikit_learn(bounded(classifier(client).fit, *data), data)
        assert_nothing_left(client)


@pytest.mark.parametrize("rank", only_quick(1, cases=[0, 1]))
@pytest.mark.slow
def test_a_suspended_worker_is_named_after_the_timeout(processes, data, rank):
    """It still exists, so the exchange times out; once resumed, it can train again."""
    processes.have_workers(2)
    with Client(processes.address, set_as_default=False) as client:
        remember(client)
        worker = tuple(client.nthreads())[rank]
        with dask.config.set({"skdistmlp.exchange-timeout": "1s"}):
            fit = in_thread(endless(client).fit, *data)
            wait_until(lambda: steps_taken(client), "training has begun", fit)
            with (
                processes.stopped_worker(worker),
                pytest.raises(
                    ExchangeError,
                    match=rf"more than 1 s .*for shard {rank} on {worker} in ",
                ),
            ):
                bounded(fit.result)
        assert_as_scikit_learn(bounded(classifier(client).fit, *data), data)
        assert_nothing_left(client)


@pytest.mark.slow
def test_shards_that_cannot_connect_time_out(processes, data, monkeypatch):
    """One is suspended after all have started: Dask would notice after minutes."""
    processes.have_workers(2)
    with Client(processes.address, set_as_default=False) as client:
        victim = tuple(client.nthreads())[1]
        gate = Event("before-connecting", client=client)
        gate.clear()
        client.run(hold_before_connecting, workers=[victim])
        note = RoundStart.note

        def note_and_stop(round_start, message):
            note(round_start, message)
            if not round_start.waiting_workers:
                processes.workers[victim].send_signal(signal.SIGSTOP)

        monkeypatch.setattr(RoundStart, "note", note_and_stop)
        with (
            dask.config.set({"skdistmlp.exchange-timeout": "1s"}),
            processes.woken_worker(victim),
            pytest.raises(
                ExchangeError,
                match=rf"each other within 1 s.* to shard 1 on {victim}\n",
            ),
        ):
            bounded(classifier(client).fit, *data)
        monkeypatch.undo()
        gate.set()
        assert_as_scikit_learn(bounded(classifier(client).fit, *data), data)
        assert_nothing_left(client)


def hold_before_connecting():
    from skdistmlp.cluster.peers import shard

    meet = shard.meet

    def hold(*args):
        shard.meet = meet
        Event("before-connecting").wait(60)
        return meet(*args)

    shard.meet = hold


@pytest.mark.slow
def test_a_worker_suspended_before_the_fit_is_named(processes, data):
    processes.have_workers(2)
    with Client(processes.address, set_as_default=False) as client:
        victim = tuple(client.nthreads())[1]
        with (
            dask.config.set({"skdistmlp.exchange-timeout": "1s"}),
            processes.stopped_worker(victim),
            pytest.raises(WorkerLostError, match=f"{victim} has not answered for"),
        ):
            bounded(classifier(client).fit, *data)
        assert_as_scikit_learn(bounded(classifier(client).fit, *data), data)


def test_an_error_names_its_worker(client, data):
    victim = tuple(client.nthreads())[1]

    def install():
        from skdistmlp.cluster.peers import shard

        meet = shard.meet

        def fail(*_):
            shard.meet = meet
            raise RuntimeError("planted")

        shard.meet = fail

    client.run(install, workers=[victim])
    with pytest.raises(RuntimeError, match="planted") as caught:
        bounded(classifier(client).fit, *data)
    assert caught.value.__notes__ == [
        f"This happened in task 'train-shard1-of-2' on worker {victim}.",
        "This was while training.",
    ]


@pytest.mark.slow
def test_shards_of_a_killed_client_end(processes):
    """Even one that waits for another shard that has no deadline."""
    processes.have_workers(2)
    with Client(processes.address, set_as_default=False) as client:
        victim = tuple(client.nthreads())[1]
        gate = Event("before-connecting", client=client)
        gate.clear()
        client.run(hold_before_connecting, workers=[victim])
        with processes.endless_client() as process:
            wait_until(lambda: sum(training(client).values()) == 2, "one waits")
            process.kill()
        wait_until(lambda: sum(training(client).values()) == 1, "it has ended")
        gate.set()
        wait_until(lambda: not any(training(client).values()), "both have ended")
        assert_nothing_left(client)


def training(client):
    """Return the number of shards per worker that train or wait for others."""
    return client.run(
        lambda dask_worker: sum(
            task.key[1].startswith("train") for task in dask_worker.state.executing
        )
    )


@pytest.fixture
def short_rounds(monkeypatch):
    monkeypatch.setattr(peers, "ROUND_S", 0.05)


def test_a_shard_queued_between_rounds_is_waited_for(client, data, short_rounds):
    """Another task occupies a worker's thread for longer than the timeout."""
    busy = next(iter(client.nthreads()))
    with dask.config.set({"skdistmlp.exchange-timeout": "1s"}):
        clf = endless(client, n_workers=3)
        fit = in_thread(clf.fit, *data)
        wait_until(lambda: steps_taken(client, 3), "training has begun", fit)
        client.submit(time.sleep, 2.0, workers=[busy], pure=False).result()
        before = wait_until(lambda: steps_taken(client, 3), "training goes on", fit)
        wait_until(
            lambda: steps_taken(client, 3) > before + 10, "training goes on", fit
        )
        with pytest.warns(UserWarning, match="interrupted"):
            stop_all(client, fit)


@pytest.mark.parametrize("n_workers", only_quick(1, cases=[1, 2]))
def test_a_retired_worker_ends_the_fit(processes, data, short_rounds, n_workers):
    processes.have_workers(2)
    with Client(processes.address, set_as_default=False) as client:
        victim = next(iter(client.nthreads()))
        fit = in_thread(endless(client, n_workers=n_workers).fit, *data)
        wait_until(lambda: steps_taken(client, n_workers), "training has begun", fit)
        retiring = in_thread(client.retire_workers, [victim])
        with pytest.raises(WorkerLostError, match=f"{victim} (is being retired|went)"):
            bounded(fit.result)
        bounded(retiring.result)
        processes.workers.pop(victim).wait(60)
        wait_until(lambda: victim not in client.nthreads(), "it has gone")
        # Workers that Dask told to take the shard over remember that it failed.
        clear_caches()
        wait_until(lambda: not task_keys(client), "nothing is left")


@pytest.mark.slow
def test_a_shard_suspended_at_the_very_end_is_named(processes, data):
    """After the others have ended, and no longer wait for it."""
    processes.have_workers(2)
    with Client(processes.address, set_as_default=False) as client:
        victim = tuple(client.nthreads())[1]

        def stand_still_at_the_end():
            import os
            import signal

            from skdistmlp.cluster.peers.shard import PeerShard

            close = PeerShard.close

            def stand_still(shard):
                PeerShard.close = close
                os.kill(os.getpid(), signal.SIGSTOP)
                return close(shard)

            PeerShard.close = stand_still

        client.run(stand_still_at_the_end, workers=[victim])
        with (
            dask.config.set({"skdistmlp.exchange-timeout": "1s"}),
            processes.woken_worker(victim),
            pytest.raises(WorkerLostError, match=f"{victim} has not answered for"),
        ):
            bounded(classifier(client).fit, *data)


@pytest.fixture
def pause(client):
    """Return a function that pauses a worker, as Dask does with one short of memory."""

    def pause_worker(worker):
        client.run(set_status, "paused", workers=[worker])
        wait_until(lambda: worker_statuses(client)[worker] == "paused", "it is known")

    with dask.config.set({"skdistmlp.exchange-timeout": "1s"}):
        yield pause_worker
    client.run(set_status, "running")
    running = ["running"] * 3
    wait_until(lambda: [*worker_statuses(client).values()] == running, "it is known")


@pytest.mark.parametrize("n_workers", only_quick(1, cases=[1, 2]))
@pytest.mark.slow
def test_a_paused_worker_ends_the_fit(client, data, short_rounds, pause, n_workers):
    victim = next(iter(client.nthreads()))
    fit = in_thread(endless(client, n_workers=n_workers).fit, *data)
    wait_until(lambda: steps_taken(client, n_workers), "training has begun", fit)
    pause(victim)
    with pytest.raises(WorkerLostError, match=f"{victim} has been paused"):
        bounded(fit.result)
    clf = bounded(classifier(client, n_workers=None).fit, *data)
    assert victim not in clf.plan_.workers


def test_a_worker_paused_while_rows_are_placed_ends_the_fit(
    client, data, pause, monkeypatch
):
    victim = next(iter(client.nthreads()))
    place = Scatterer.scatter

    def pause_and_place(*args):
        pause(victim)
        return place(*args)

    monkeypatch.setattr(Scatterer, "scatter", pause_and_place)
    with pytest.raises(WorkerLostError, match=f"{victim} has been paused"):
        bounded(classifier(client).fit, *data)


def test_a_fit_inside_a_cancelled_task_ends(client, data, short_rounds):
    def fit():
        endless(None).fit(*data)

    future = client.submit(fit, pure=False)
    wait_until(lambda: steps_taken(client), "training has begun")
    future.cancel()
    wait_until(lambda: not any(executing(client).values()), "the shards have ended")


@pytest.mark.slow
def test_a_client_closed_during_a_fit_is_an_error(client, data, short_rounds):
    with Client(client.scheduler.address, set_as_default=False) as other:
        fit = in_thread(endless(other).fit, *data)
        wait_until(lambda: steps_taken(client), "training has begun", fit)
    with pytest.raises(ClusterError, match="was closed or lost its connection"):
        bounded(fit.result)
    wait_until(lambda: not any(executing(client).values()), "the shards have ended")
