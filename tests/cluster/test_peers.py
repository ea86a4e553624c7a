"""Shards that train by themselves, in real worker processes."""

import re
import signal
import time

import dask
import numpy as np
import pytest
from distributed import Client, Event, LocalCluster
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.neural_network import MLPClassifier

from skdistmlp import ClusterError, DistributedMLPClassifier, WorkerLostError
from skdistmlp.cluster import peers
from skdistmlp.cluster.client import worker_statuses
from skdistmlp.cluster.kept import keep_nothing
from skdistmlp.cluster.meeting import Meeting
from skdistmlp.cluster.pinned import PinnedTasks
from skdistmlp.exceptions import ExchangeError
from tests.cluster.leaks import assert_nothing_left, remember
from tests.cluster.support import (
    DaskProcesses,
    bounded,
    in_thread,
    task_keys,
    transitions,
    wait_until,
)
from tests.estimators.support import InterruptAfter

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

PARAMETERS = {"hidden_layer_sizes": (20, 9), "batch_size": 100, "random_state": 0}


def classifier(client, n_workers=2, **parameters):
    return DistributedMLPClassifier(
        **PARAMETERS | {"max_iter": 3} | parameters,
        client=client,
        engine="peers",
        parameter_threshold=0,
        n_workers=n_workers,
    )


@pytest.fixture
def data(digits):
    X, y = digits
    return X[:300], y[:300]


@pytest.fixture
def rounds_of_an_epoch(monkeypatch):
    monkeypatch.setattr(peers, "ROUND_S", 0.0)


def assert_as_scikit_learn(clf, data, **parameters):
    theirs = MLPClassifier(**PARAMETERS | {"max_iter": 3} | parameters).fit(*data)
    for mine, other in zip(clf.coefs_, theirs.coefs_, strict=True):
        assert_allclose(mine, other, rtol=1e-6, atol=1e-12)
    assert clf.n_iter_ == theirs.n_iter_
    assert_allclose(clf.loss_curve_, theirs.loss_curve_, rtol=1e-9)


@pytest.mark.parametrize("early_stopping", [False, True])
def test_rounds_go_on_where_the_last_one_ended(
    client, data, rounds_of_an_epoch, early_stopping
):
    before = {key for key, _, _ in transitions(client)}
    clf = classifier(client, early_stopping=early_stopping).fit(*data)
    assert_as_scikit_learn(clf, data, early_stopping=early_stopping)
    begun = [
        key[0]
        for key, _, end in transitions(client)
        if end == "processing" and key not in before
    ]
    for rank in (0, 1):
        assert begun.count(f"train-shard{rank}-of-2") == 3


def test_every_round_is_logged_with_its_pace(client, data, rounds_of_an_epoch, caplog):
    with caplog.at_level("INFO", "skdistmlp"):
        clf = classifier(client).fit(*data)
    ours = [record for record in caplog.records if record.name == "skdistmlp"]
    lines = [record.getMessage() for record in ours]
    assert len(lines) == 3
    for number, line in enumerate(lines):
        match = re.fullmatch(
            r"round (\d): (\d) epochs, loss ([\d.]+), ([\d,]+) samples/s, [\d.]+ s, "
            r"(\d+)% of it exchanging, slowest shard ([01]) on (\S+)",
            line,
        )
        assert match, line
        assert [int(match[1]), int(match[2])] == [number, number + 1]
        assert float(match[3]) == pytest.approx(clf.loss_curve_[number], abs=1e-6)
        assert int(match[4].replace(",", "")) > 0
        assert 0 <= int(match[5]) <= 100
        assert match[7] == clf.plan_.workers[int(match[6])]


def test_the_random_state_of_the_caller_goes_on(client, data):
    after = []
    for make in (lambda **p: classifier(client, **p), lambda **p: MLPClassifier(**p)):
        random_state = np.random.RandomState(3)
        make(**PARAMETERS | {"max_iter": 3, "random_state": random_state}).fit(*data)
        after.append(random_state.random_sample(3))
    assert_array_equal(*after)


def endless(client, **parameters):
    """Return a classifier that goes on until it is stopped."""
    return classifier(
        client, max_iter=10**6, tol=0.0, n_iter_no_change=np.inf, **parameters
    )


def test_losses_reach_the_client_while_the_round_runs(client, data, monkeypatch):
    """The user sees the first one and presses Ctrl-C, in a round without end."""
    monkeypatch.setattr(peers, "ROUND_S", np.inf)
    lines = []

    def print_and_interrupt(line):
        lines.append(line)
        if len(lines) == 1:
            raise KeyboardInterrupt

    monkeypatch.setattr("builtins.print", print_and_interrupt)
    clf = endless(client, verbose=True)
    with pytest.warns(UserWarning, match=r"Training interrupted by user\."):
        bounded(clf.fit, *data)
    assert lines[0] == f"Iteration 1, loss = {clf.loss_curve_[0]:.8f}"
    assert clf.n_iter_ < clf.max_iter


def steps_taken(client, n_shards=2):
    """Return the steps of the shard that has taken the fewest; 0 if one is missing."""

    def n_steps():
        from skdistmlp.cluster import shard_run

        # Shards that have failed or ended have none.
        meshes = [shard._mesh for shard in list(shard_run._RUNS.values())]
        return [mesh._step for mesh in meshes if mesh is not None]

    taken = [n for ns in client.run(n_steps).values() for n in ns]
    return min(taken) if len(taken) == n_shards else 0


def stop_all(client, fit):
    """Ask all shards to stop, and wait for the fit."""

    def request_stop():
        from skdistmlp.cluster import shard_run

        for run in {run for run, _ in shard_run._RUNS}:
            shard_run.request_stop(run)

    client.run(request_stop)
    return bounded(fit.result)


def test_an_interrupt_stops_all_shards_at_the_same_step(client, data, monkeypatch):
    """The weights are those of scikit-learn after as many steps."""
    interrupted = []

    def interrupt_once(run, timeout_s):
        if not interrupted:
            wait_until(lambda: steps_taken(client), "training has begun")
            interrupted.append(True)
            raise KeyboardInterrupt
        return original(run, timeout_s)

    original = peers.PeersRun._take_messages
    monkeypatch.setattr(peers.PeersRun, "_take_messages", interrupt_once)
    clf = endless(client)
    with pytest.warns(UserWarning, match=r"Training interrupted by user\."):
        bounded(clf.fit, *data)
    assert 0 < clf.n_iter_ < clf.max_iter
    n_steps = clf._optimizer_state.n_steps
    assert n_steps >= 3 * clf.n_iter_
    theirs = MLPClassifier(**PARAMETERS, max_iter=clf.max_iter, n_iter_no_change=10**9)
    monkeypatch.setattr(theirs, "_backprop", InterruptAfter(theirs._backprop, n_steps))
    with pytest.warns(UserWarning, match=r"Training interrupted by user\."):
        theirs.fit(*data)
    for mine, other in zip(clf.coefs_, theirs.coefs_, strict=True):
        assert_allclose(mine, other, rtol=1e-6, atol=1e-9)


def test_two_fits_at_once_on_the_same_workers(client, data):
    fits = [in_thread(classifier(client).fit, *data) for _ in range(4)]
    for fit in fits:
        assert_as_scikit_learn(bounded(fit.result), data)


def test_fits_inside_tasks_share_the_workers(client, data):
    def fit(seed):
        clf = classifier(None, random_state=seed, max_iter=2)
        return clf.fit(*data).loss_, clf.engine_

    futures = client.map(fit, range(4), pure=False)
    losses = bounded(client.gather, futures)
    for seed, (loss, engine) in enumerate(losses):
        theirs = MLPClassifier(**PARAMETERS | {"random_state": seed}, max_iter=2)
        assert engine == "peers"
        assert_allclose(loss, theirs.fit(*data).loss_)
    del futures


def test_a_shard_that_is_queued_is_waited_for(client, data):
    """One worker is busy with somebody's task for longer than the timeout."""
    gate, running = Event("gate", client=client), Event("running", client=client)
    busy = sorted(client.nthreads())[0]

    def hold():
        Event("running").set()
        Event("gate").wait()

    held = client.submit(hold, workers=[busy], pure=False)
    assert running.wait(30)
    with dask.config.set({"skdistmlp.exchange-timeout": "50ms"}):
        fit = in_thread(classifier(client, n_workers=3).fit, *data)
        time.sleep(0.5)  # ten times the timeout, in which nothing may happen
        assert not fit.done()
        gate.set()
        held.result()
        clf = bounded(fit.result)
    assert_as_scikit_learn(clf, data)


def test_an_error_in_a_shard_reaches_the_caller_as_it_is(client, data):
    clf = classifier(client)
    weight = np.ones(len(data[0]))
    weight[:100] = 0.0
    clf.set_params(shuffle=False)
    with pytest.raises(ZeroDivisionError, match="Weights sum to zero"):
        bounded(clf.fit, *data, sample_weight=weight)
    assert_as_scikit_learn(bounded(classifier(client).fit, *data), data)


FOUND_THREADS = 3


def blas_limits(client):
    """Return the numbers of threads that BLAS libraries of the workers use."""

    def limits():
        from threadpoolctl import threadpool_info

        return {i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"}

    return set().union(*client.run(limits).values())


def set_blas_limits(client, n_threads):
    def set_limits():
        from threadpoolctl import OpenBLASController, threadpool_limits

        import skdistmlp.cluster.shard_run  # noqa: F401  loads every BLAS there is

        threadpool_limits(n_threads, user_api="blas")
        # Else no other thread could set limits from now on.
        OpenBLASController.clear_controlling_thread()

    client.run(set_limits)


@pytest.fixture
def found_threads(client):
    """Somebody has given the one-thread workers' processes more threads."""
    assert blas_limits(client) == {1}
    set_blas_limits(client, FOUND_THREADS)
    yield
    set_blas_limits(client, 1)


def interrupt(client, fit, monkeypatch):
    with pytest.warns(UserWarning, match="interrupted"):
        stop_all(client, fit)


def abandon(client, fit, monkeypatch):
    """The client fails: nobody waits for the shards any more."""

    def fail(*_):
        raise BrokenPipeError

    monkeypatch.setattr(peers.PeersRun, "_take_messages", fail)
    with pytest.raises(BrokenPipeError):
        bounded(fit.result)


@pytest.mark.parametrize("end", [interrupt, abandon])
def test_products_use_the_threads_of_the_worker_until_training_ends(
    client, data, found_threads, monkeypatch, end
):
    """However it ends, the limits that were found come back."""
    fit = in_thread(endless(client, n_workers=3).fit, *data)
    wait_until(lambda: steps_taken(client, n_shards=3), "training has begun")
    assert blas_limits(client) == {1}
    end(client, fit, monkeypatch)
    # Shards that are abandoned outlive the fit for a moment.
    wait_until(lambda: blas_limits(client) == {FOUND_THREADS}, "limits are restored")


def test_limits_of_threads_come_back_after_rounds_and_errors(
    client, data, found_threads, rounds_of_an_epoch
):
    bounded(classifier(client, n_workers=3).fit, *data)
    assert blas_limits(client) == {FOUND_THREADS}
    clf = classifier(client, n_workers=3, shuffle=False)
    weight = np.ones(len(data[0]))
    weight[:100] = 0.0
    with pytest.raises(ZeroDivisionError):
        bounded(clf.fit, *data, sample_weight=weight)
    wait_until(lambda: blas_limits(client) == {FOUND_THREADS}, "limits are restored")


def test_a_worker_with_two_threads_lets_products_use_both(data):
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=2, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        assert blas_limits(client) == {1}
        fit = in_thread(endless(client, n_workers=1).fit, *data)
        wait_until(lambda: steps_taken(client, n_shards=1), "training has begun")
        assert blas_limits(client) == {2}
        with pytest.warns(UserWarning, match="interrupted"):
            stop_all(client, fit)
        assert blas_limits(client) == {1}


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    with DaskProcesses(tmp_path_factory.mktemp("dask"), n_workers=2) as running:
        yield running


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_that_dies_is_named_and_the_next_fit_works(processes, data, rank):
    processes.have_workers(2)
    with Client(processes.address, set_as_default=False) as client:
        remember(client)
        worker = tuple(client.nthreads())[rank]
        fit = in_thread(endless(client).fit, *data)
        wait_until(lambda: steps_taken(client), "training has begun")
        processes.kill_worker(worker)
        with pytest.raises(WorkerLostError, match=worker):
            bounded(fit.result)
        processes.have_workers(2)
        assert_as_scikit_learn(bounded(classifier(client).fit, *data), data)
        assert_nothing_left(client)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_that_stands_still_is_named_after_the_timeout(processes, data, rank):
    """It is not gone, so it is the exchange that ends; awake again it trains again."""
    processes.have_workers(2)
    with Client(processes.address, set_as_default=False) as client:
        remember(client)
        worker = tuple(client.nthreads())[rank]
        with dask.config.set({"skdistmlp.exchange-timeout": "1s"}):
            fit = in_thread(endless(client).fit, *data)
            wait_until(lambda: steps_taken(client), "training has begun")
            with (
                processes.stopped_worker(worker),
                pytest.raises(
                    ExchangeError,
                    match=rf"more than 1 s .*for shard {rank} on {worker} in the ",
                ),
            ):
                bounded(fit.result)
        assert_as_scikit_learn(bounded(classifier(client).fit, *data), data)
        assert_nothing_left(client)


def test_shards_that_do_not_find_each_other_have_a_deadline(
    processes, data, monkeypatch
):
    """One stands still when all have begun: Dask would notice after minutes."""
    processes.have_workers(2)
    with Client(processes.address, set_as_default=False) as client:
        victim = tuple(client.nthreads())[1]
        gate = Event("before-meeting", client=client)
        gate.clear()
        client.run(hold_before_meeting, workers=[victim])
        note = Meeting.note

        def note_and_stop(meeting, message):
            note(meeting, message)
            if not meeting.queued_on:
                processes.workers[victim].send_signal(signal.SIGSTOP)

        monkeypatch.setattr(Meeting, "note", note_and_stop)
        with (
            dask.config.set({"skdistmlp.exchange-timeout": "1s"}),
            processes.woken_worker(victim),
            pytest.raises(
                ExchangeError, match=rf"not meet within 1 s.* for shard 1 on {victim}$"
            ),
        ):
            bounded(classifier(client).fit, *data)
        monkeypatch.undo()
        gate.set()
        assert_as_scikit_learn(bounded(classifier(client).fit, *data), data)
        assert_nothing_left(client)


def hold_before_meeting():
    from skdistmlp.cluster import shard_run

    meet = shard_run.meet

    def hold(*args):
        shard_run.meet = meet
        Event("before-meeting").wait(60)
        return meet(*args)

    shard_run.meet = hold


def test_a_worker_that_stands_still_before_the_fit_is_named(processes, data):
    processes.have_workers(2)
    with Client(processes.address, set_as_default=False) as client:
        victim = tuple(client.nthreads())[1]
        with (
            dask.config.set({"skdistmlp.exchange-timeout": "250ms"}),
            processes.stopped_worker(victim),
            pytest.raises(WorkerLostError, match=f"{victim} has not answered for"),
        ):
            bounded(classifier(client).fit, *data)
        assert_as_scikit_learn(bounded(classifier(client).fit, *data), data)


@pytest.mark.parametrize(
    ("answer", "said"),
    [("0.0.9", r"has 0\.0\.9 skdistmlp, but"), (None, "has no skdistmlp, but")],
)
def test_another_version_on_a_worker_is_named(client, data, answer, said):
    """Before anything is sent to it that it might not be able to read."""
    victim = tuple(client.nthreads())[1]

    def install(answer):
        from importlib import metadata

        found = metadata.version

        def version(package):
            metadata.version = found
            if answer is None:
                raise metadata.PackageNotFoundError(package)
            return answer

        metadata.version = version

    client.run(install, answer, workers=[victim])
    with pytest.raises(ClusterError, match=f"worker {victim} {said}"):
        bounded(classifier(client).fit, *data)
    assert_as_scikit_learn(bounded(classifier(client).fit, *data), data)


def test_an_error_says_on_which_worker_it_happened(client, data):
    victim = tuple(client.nthreads())[1]

    def install():
        from skdistmlp.cluster import shard_run

        meet = shard_run.meet

        def fail(*_):
            shard_run.meet = meet
            raise RuntimeError("planted")

        shard_run.meet = fail

    client.run(install, workers=[victim])
    with pytest.raises(RuntimeError, match="planted") as caught:
        bounded(classifier(client).fit, *data)
    assert caught.value.__notes__ == [
        f"This happened in task 'train-shard1-of-2' on worker {victim}."
    ]


def test_shards_of_a_client_that_was_killed_end(processes):
    """Also one that waits for another, for which it has no deadline itself."""
    processes.have_workers(2)
    with Client(processes.address, set_as_default=False) as client:
        victim = tuple(client.nthreads())[1]
        gate = Event("before-meeting", client=client)
        gate.clear()
        client.run(hold_before_meeting, workers=[victim])
        with processes.endless_client() as process:
            wait_until(lambda: sum(training(client).values()) == 2, "one waits")
            process.kill()
        wait_until(lambda: sum(training(client).values()) == 1, "it has ended")
        gate.set()
        wait_until(lambda: not any(training(client).values()), "both have ended")
        assert_nothing_left(client)


def training(client):
    """Return how many shards each worker trains, or has waiting for others."""
    return client.run(
        lambda dask_worker: sum(
            task.key[0].startswith("train") for task in dask_worker.state.executing
        )
    )


def executing(client):
    return client.run(lambda dask_worker: len(dask_worker.state.executing))


@pytest.fixture
def short_rounds(monkeypatch):
    monkeypatch.setattr(peers, "ROUND_S", 0.05)


def test_a_shard_that_is_queued_between_rounds_is_waited_for(
    client, data, short_rounds
):
    """Somebody's task gets the thread of a worker, for longer than the timeout."""
    busy = next(iter(client.nthreads()))
    with dask.config.set({"skdistmlp.exchange-timeout": "50ms"}):
        clf = endless(client, n_workers=3)
        fit = in_thread(clf.fit, *data)
        wait_until(lambda: steps_taken(client, 3), "training has begun")
        client.submit(time.sleep, 0.5, workers=[busy], pure=False).result()
        before = wait_until(lambda: steps_taken(client, 3), "training goes on")
        wait_until(lambda: steps_taken(client, 3) > before + 10, "training goes on")
        with pytest.warns(UserWarning, match="interrupted"):
            stop_all(client, fit)


@pytest.mark.parametrize("n_workers", [1, 2])
def test_a_worker_that_is_retired_ends_the_fit(
    processes, data, short_rounds, n_workers
):
    processes.have_workers(2)
    with Client(processes.address, set_as_default=False) as client:
        victim = next(iter(client.nthreads()))
        fit = in_thread(endless(client, n_workers=n_workers).fit, *data)
        wait_until(lambda: steps_taken(client, n_workers), "training has begun")
        retiring = in_thread(client.retire_workers, [victim])
        with pytest.raises(WorkerLostError, match=f"{victim} (is being retired|went)"):
            bounded(fit.result)
        bounded(retiring.result)
        processes.workers.pop(victim).wait(60)
        wait_until(lambda: victim not in client.nthreads(), "it has gone")
        # Workers that Dask told to take the shard over remember that it failed.
        keep_nothing()
        wait_until(lambda: not task_keys(client), "nothing is left")


def test_a_shard_that_stands_still_at_the_very_end_is_named(processes, data):
    """When the others have ended, and wait for nothing any more."""
    processes.have_workers(2)
    with Client(processes.address, set_as_default=False) as client:
        victim = tuple(client.nthreads())[1]

        def stand_still_in_collect():
            import os
            import signal

            from skdistmlp.parallel.buffered import BufferedShard

            collect = BufferedShard.collect

            def stand_still(shard):
                BufferedShard.collect = collect
                os.kill(os.getpid(), signal.SIGSTOP)
                return collect(shard)

            BufferedShard.collect = stand_still

        client.run(stand_still_in_collect, workers=[victim])
        with (
            dask.config.set({"skdistmlp.exchange-timeout": "250ms"}),
            processes.woken_worker(victim),
            pytest.raises(WorkerLostError, match=f"{victim} has not answered for"),
        ):
            bounded(classifier(client).fit, *data)


@pytest.fixture
def pause(client):
    """Return a function that pauses a worker, as Dask does with one short of memory."""

    def set_status(name, dask_worker):
        from distributed import Status

        # Dask's own look at the memory would undo it.
        fraction = False if name == "paused" else 0.8
        dask_worker.memory_manager.memory_pause_fraction = fraction
        dask_worker.status = Status[name]

    def pause_worker(worker):
        client.run(set_status, "paused", workers=[worker])
        wait_until(lambda: worker_statuses(client)[worker] == "paused", "it is known")

    def load():
        import skdistmlp.cluster.shard_run  # noqa: F401

    # A worker that loads for the first time does not answer meanwhile.
    client.run(load)
    with dask.config.set({"skdistmlp.exchange-timeout": "1s"}):
        yield pause_worker
    client.run(set_status, "running")
    running = ["running"] * 3
    wait_until(lambda: [*worker_statuses(client).values()] == running, "it is known")


@pytest.mark.parametrize("n_workers", [1, 2])
def test_a_worker_that_is_paused_ends_the_fit(
    client, data, short_rounds, pause, n_workers
):
    victim = next(iter(client.nthreads()))
    fit = in_thread(endless(client, n_workers=n_workers).fit, *data)
    wait_until(lambda: steps_taken(client, n_workers), "training has begun")
    pause(victim)
    with pytest.raises(WorkerLostError, match=f"{victim} is paused"):
        bounded(fit.result)
    clf = bounded(classifier(client, n_workers=None).fit, *data)
    assert victim not in clf.plan_.workers


def test_a_worker_that_is_paused_while_rows_are_placed_ends_the_fit(
    client, data, pause, monkeypatch
):
    victim = next(iter(client.nthreads()))
    place = PinnedTasks.place

    def pause_and_place(*args):
        pause(victim)
        return place(*args)

    monkeypatch.setattr(PinnedTasks, "place", pause_and_place)
    with pytest.raises(WorkerLostError, match=f"{victim} is paused"):
        bounded(classifier(client).fit, *data)


def test_a_fit_in_a_task_ends_when_the_task_is_cancelled(client, data, short_rounds):
    def fit():
        endless(None).fit(*data)

    future = client.submit(fit, pure=False)
    wait_until(lambda: steps_taken(client), "training has begun")
    future.cancel()
    wait_until(lambda: not any(executing(client).values()), "the shards have ended")


def test_a_client_that_is_closed_in_the_middle(client, data, short_rounds):
    with Client(client.scheduler.address, set_as_default=False) as other:
        fit = in_thread(endless(other).fit, *data)
        wait_until(lambda: steps_taken(client), "training has begun")
    with pytest.raises(ClusterError, match="or was closed"):
        bounded(fit.result)
    wait_until(lambda: not any(executing(client).values()), "the shards have ended")
