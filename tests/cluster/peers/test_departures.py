"""Fits that leave workers which are being retired or stay paused: real processes."""

from collections.abc import Iterator

import dask
import pytest
from distributed import Client

from skdistmlp import WorkerLostError
from skdistmlp.cluster.client.workers import worker_statuses
from skdistmlp.cluster.peers import departures as module
from skdistmlp.cluster.peers import driver
from skdistmlp.cluster.peers.copies import StateCopies
from skdistmlp.cluster.peers.departures import Departures
from skdistmlp.cluster.recovery.departure import Departure, departure_named
from skdistmlp.cluster.run.reservation import reserve_workers
from tests.cluster.leaks import own_cluster
from tests.cluster.peers.test_recovery import (
    assert_same_bits,
    classifier,
    trained,
    undisturbed,
)
from tests.cluster.support import bounded, in_thread, load, wait_until
from tests.marks import only_quick

pytestmark = [
    pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning"),
    pytest.mark.filterwarnings("ignore:the fit left workers"),
]

A, B, C = "tcp://a:1", "tcp://b:1", "tcp://c:1"


# When a fit leaves.


@pytest.fixture
def statuses(monkeypatch) -> dict[str, str]:
    """What the scheduler says; nobody resumes."""
    known = {A: "running", B: "running", C: "running"}
    monkeypatch.setattr(module, "worker_statuses", lambda _: known)
    monkeypatch.setattr(module, "resume_paused", lambda _, workers: list(workers))
    return known


def test_a_worker_that_is_being_retired_is_left(statuses):
    departures = Departures(None, (A, B), lambda _: ())
    assert departures.among((A, B)) is None
    statuses[B] = "closing_gracefully"
    why = f"worker {B} is being retired"
    assert departures.among((A, B)) == Departure("retired", (B,), why)
    assert departures.among((A,)) is None
    with pytest.raises(WorkerLostError, match=why) as caught:
        departures.check((A, B))
    assert (caught.value.workers, caught.value.kind) == ((B,), "retired")


def test_those_that_are_being_retired_are_left_first(statuses):
    statuses.update({A: "paused", B: "closing_gracefully"})
    departure = Departures(None, (A, B), lambda _: ()).among((A, B))
    assert (departure.kind, departure.workers) == ("retired", (B,))


def test_a_paused_worker_is_left_if_another_may_take_its_place(statuses):
    statuses[A] = "paused"
    asked, spare = [], [C]

    def spare_for(workers):
        asked.append(workers)
        return spare

    departures = Departures(None, (A, B), spare_for)
    departure = departures.among((A, B))
    assert (departure.kind, departure.workers) == ("paused", (A,))
    statuses[B] = "paused"
    assert departures.among((A, B)) is None
    del spare[:]
    assert departures.among((B,)) is None
    # What was claimed for the first was given back by the second question.
    assert asked == [(A,), (A, B), (B,)]


def test_what_was_claimed_for_a_worker_that_resumes_is_given_back(
    statuses, monkeypatch
):
    asked = []

    def spare_for(workers):
        asked.append(workers)
        return [C for _ in workers]

    departures = Departures(None, (A, B), spare_for)
    statuses[A] = "paused"
    assert departures.among((A, B)).kind == "paused"
    # It has resumed before its shard was handed over.
    statuses[A] = "running"
    for _ in range(2):
        assert departures.among((A, B)) is None
    assert asked == [(A,), ()]
    monkeypatch.setattr(module, "resume_paused", lambda *_: [])
    statuses[A] = "paused"
    assert departures.among((A, B)) is None
    assert asked[2:] == [(A,), ()]


def test_a_paused_worker_that_resumes_is_not_left(statuses, monkeypatch):
    statuses[A] = "paused"
    monkeypatch.setattr(module, "resume_paused", lambda *_: [])
    assert Departures(None, (A, B), lambda _: [C]).among((A, B)) is None


def test_the_scheduler_is_not_asked_after_every_short_round(statuses, monkeypatch):
    statuses[A] = "closing_gracefully"
    departures = Departures(None, (A, B), lambda _: ())
    assert departures.after_round((), 0.0) is None
    departures._next_look_at = 0.0
    assert departures.after_round((), 0.0) is not None
    assert departures.after_round((), 0.0) is None


def test_a_faster_plan_is_looked_for_on_workers_that_accept_tasks(statuses):
    move = Departure("moved", (), "it saves time")
    asked = []

    def look(*round_):
        asked.append(round_)
        return move

    departures = Departures(None, (A, B), lambda _: (), look)
    assert departures.after_round(("a report",), 0.5) == move
    statuses[A] = "closing_gracefully"
    departures._next_look_at = 0.0
    assert departures.after_round((), 0.0).kind == "retired"
    assert asked == [(("a report",), 0.5)]


@pytest.mark.parametrize(
    ("status", "kind"),
    [("closing_gracefully", "retired"), ("paused", "paused"), ("running", None)],
)
def test_an_error_may_name_a_worker_that_still_answers(status, kind):
    error = WorkerLostError("it was lost", (A,))
    found = departure_named(error, {A: status, B: "running"})
    assert (found and found.kind) == kind
    assert departure_named(error, {B: "running"}) is None
    assert departure_named(WorkerLostError("it was lost"), {A: status}) is None


@pytest.mark.parametrize("kind", ["paused", "retired"])
def test_a_run_goes_on_with_workers_that_accept_tasks_again(statuses, kind):
    departures = Departures(None, (A, B), lambda _: [C])
    error = WorkerLostError("they accept no tasks", (A,), kind)
    assert departures.after_error(error) is None
    statuses[A] = "paused"
    assert departures.after_error(error).workers == (A,)
    del statuses[A]
    with pytest.raises(WorkerLostError) as caught:
        departures.after_error(error)
    assert caught.value is error


def test_a_worker_that_does_not_answer_is_lost_although_it_seems_well(statuses):
    departures = Departures(None, (A, B), lambda _: [C])
    with pytest.raises(WorkerLostError, match="no answer"):
        departures.after_error(WorkerLostError("no answer", (A,)))


# What becomes of it.


@pytest.fixture
def data(digits):
    return digits[0][:400], digits[1][:400]


@pytest.fixture
def epochs(monkeypatch) -> Iterator[list[int]]:
    """Rounds of an epoch without copies; the epochs that were trained, in order."""
    monkeypatch.setattr(driver, "ROUND_S", 0.0)
    monkeypatch.setattr(StateCopies, "is_due", False)
    trained_ones: list[int] = []
    write = driver.RoundLog.write

    def note(log, number, reports):
        write(log, number, reports)
        if (progress := reports[0].progress).n_iter not in trained_ones[-1:]:
            trained_ones.append(progress.n_iter)

    monkeypatch.setattr(driver.RoundLog, "write", note)
    with dask.config.set({"skdistmlp.max-recoveries": 3}):
        yield trained_ones


@pytest.fixture
def spare(epochs) -> Iterator[Client]:
    """A client of three workers."""
    with own_cluster(n_workers=3) as client:
        client.run(load)
        yield client


EACH_EPOCH = list(range(1, 13))


class Retirement:
    """Retires workers of a fit before a round starts, which waits until that is known.

    With `is_seen`, the client looks at the end of the round before; otherwise it
    notices while the task of the round is queued.
    """

    def __init__(self, monkeypatch, client, ranks=(1,), number=3, is_seen=True):
        self.retired, self._asked = [], []
        wait_s = 0.0 if is_seen else 60.0
        monkeypatch.setattr(module, "WORKER_CHECK_S", wait_s)
        place = "_departure_after_round" if is_seen else "_start_round"
        original = getattr(driver.PeersRun, place)

        def retire(run, *args):
            if run._n_rounds == number and not self.retired:
                self.retired = [run._workers[rank] for rank in ranks]
                self._asked.append(in_thread(client.retire_workers, self.retired))
                wait_until(lambda: self._is_known(client), "they are being retired")
            return original(run, *args)

        monkeypatch.setattr(driver.PeersRun, place, retire)

    def _is_known(self, client):
        known = worker_statuses(client)
        return all(known[worker] == "closing_gracefully" for worker in self.retired)

    def has_ended(self):
        """Wait until the workers are gone, as whoever retires them does."""
        for asked in self._asked:
            bounded(asked.result)


@pytest.mark.parametrize("is_seen", only_quick(0, cases=[True, False]))
def test_a_worker_that_is_being_retired_hands_its_shard_over(
    spare, data, epochs, monkeypatch, capsys, is_seen
):
    expected = undisturbed(spare, data, verbose=True)
    lines = capsys.readouterr().out
    epochs.clear()
    retirement = Retirement(monkeypatch, spare, is_seen=is_seen)
    clf = classifier(spare, verbose=True)
    left = "the fit left workers: worker .* was being retired after .* from epoch 3"
    with pytest.warns(UserWarning, match=left):
        bounded(clf.fit, *data)
    retirement.has_ended()
    assert_same_bits(clf, expected)
    (recovery,) = clf.recoveries_
    assert (recovery.kind, recovery.n_iter) == ("retired", 3)
    assert recovery.lost == tuple(retirement.retired)
    assert recovery.error == f"worker {retirement.retired[0]} is being retired"
    assert recovery.same_bits
    # Without a wait, and nothing twice.
    assert recovery.waited_s < 8
    assert epochs == EACH_EPOCH
    assert capsys.readouterr().out == lines


@pytest.mark.parametrize("is_seen", only_quick(1, cases=[True, False]))
def test_a_fit_leaves_its_only_worker(spare, data, epochs, monkeypatch, is_seen):
    expected = undisturbed(spare, data, n_workers=1)
    epochs.clear()
    retirement = Retirement(monkeypatch, spare, ranks=(0,), is_seen=is_seen)
    clf = bounded(classifier(spare, n_workers=1).fit, *data)
    retirement.has_ended()
    assert_same_bits(clf, expected)
    assert epochs == EACH_EPOCH
    assert [recovery.kind for recovery in clf.recoveries_] == ["retired"]


@pytest.mark.slow
def test_a_worker_that_dies_while_shards_are_handed_over_is_replaced(
    spare, data, epochs, monkeypatch
):
    def die_in_the_next_call():
        import os
        import signal

        from skdistmlp.cluster.peers import worker

        worker.copy_in_place = lambda *_: os.kill(os.getpid(), signal.SIGKILL)

    expected = undisturbed(spare, data)
    retirement = Retirement(monkeypatch, spare, ranks=(0,))
    victim = tuple(spare.nthreads())[1]
    spare.run(die_in_the_next_call, workers=[victim])
    clf = classifier(spare)
    with pytest.warns(UserWarning, match="the fit recovered from faults"):
        bounded(clf.fit, *data)
    retirement.has_ended()
    assert_same_bits(clf, expected)
    # No copies were taken.
    (recovery,) = clf.recoveries_
    assert (recovery.kind, recovery.n_iter) == ("lost", 0)
    assert victim in recovery.lost
    assert "lost while collecting the state of the shards" in recovery.error


@pytest.mark.slow
def test_retirements_do_not_count_as_losses(spare, data, epochs, monkeypatch):
    expected = undisturbed(spare, data)
    epochs.clear()
    retirement = Retirement(monkeypatch, spare, number=3)
    second = Retirement(monkeypatch, spare, ranks=(0,), number=2)
    # Not before the first run has ended.
    second.retired = [None]
    train = driver.PeersRun.train

    def arm(run):
        if retirement.retired and second.retired == [None]:
            second.retired = []
        return train(run)

    monkeypatch.setattr(driver.PeersRun, "train", arm)
    with dask.config.set(
        {"skdistmlp.max-recoveries": 1, "skdistmlp.recovery-wait": "1s"}
    ):
        clf = bounded(classifier(spare).fit, *data)
    retirement.has_ended()
    second.has_ended()
    assert [recovery.kind for recovery in clf.recoveries_] == ["retired"] * 2
    assert [recovery.n_iter for recovery in clf.recoveries_] == [3, 5]
    assert clf.n_workers_ == 1
    assert epochs == EACH_EPOCH
    assert clf.loss_curve_ == pytest.approx(expected.loss_curve_, rel=1e-6)


@pytest.mark.parametrize("stops", only_quick(0, cases=[False, True]))
def test_a_callback_sees_each_epoch_and_its_parameters(
    spare, epochs, monkeypatch, stops
):
    """A worker is retired before the callback asks for the parameters."""
    reported, known = [], []
    asked = []

    def report(state, snapshot):
        n_iter = state.progress.n_iter
        if n_iter == 3 and not asked:
            workers = tuple(spare.nthreads())
            asked.append(in_thread(spare.retire_workers, workers[1:2]))
            leaving = "closing_gracefully"
            wait_until(
                lambda: worker_statuses(spare)[workers[1]] == leaving, "it is known"
            )
        known.append(snapshot().progress.n_iter)
        reported.append(n_iter)
        return stops and n_iter == 3

    # The leaving worker of `trained` is its second.
    state, plans = trained(spare, report, lambda: bounded(asked[0].result))
    assert known == reported == list(range(1, len(reported) + 1))
    if stops:
        assert (state.progress.n_iter, len(plans)) == (3, 1)
    else:
        assert [r.kind for r in plans[-1].recoveries] == ["retired"]
        assert plans[-1].recoveries[0].n_iter == 3


@pytest.mark.slow
def test_an_interrupt_keeps_what_was_handed_over(spare, data, epochs, monkeypatch):
    retirement = Retirement(monkeypatch, spare, is_seen=False)
    leave = driver.PeersRun._leave

    def interrupt_and_leave(run, departure):
        if not run._interrupted:
            raise KeyboardInterrupt
        return leave(run, departure)

    monkeypatch.setattr(driver.PeersRun, "_leave", interrupt_and_leave)
    clf = classifier(spare)
    with pytest.warns(UserWarning, match="interrupted by user"):
        bounded(clf.fit, *data)
    retirement.has_ended()
    assert (clf.n_iter_, clf.recoveries_) == (3, ())


def test_an_interrupt_keeps_what_is_handed_over_while_copies_are_taken(
    client, data, epochs, monkeypatch
):
    interrupted = []

    def fail(copies, shards):
        raise WorkerLostError("retired", (copies._tasks.workers[1],), "retired")

    def leave(departures, error):
        return Departure("retired", error.workers, str(error))

    def interrupt(run, departure):
        interrupted.append(departure.kind)
        raise KeyboardInterrupt

    monkeypatch.setattr(StateCopies, "is_due", True)
    monkeypatch.setattr(StateCopies, "take", fail)
    monkeypatch.setattr(Departures, "after_error", leave)
    monkeypatch.setattr(driver.PeersRun, "_leave", interrupt)
    clf = classifier(client)
    with pytest.warns(UserWarning, match="interrupted by user"):
        bounded(clf.fit, *data)
    assert interrupted == ["retired"]
    assert (clf.n_iter_, clf.recoveries_) == (1, ())


def test_without_recoveries_a_retired_worker_ends_the_fit(
    spare, data, epochs, monkeypatch
):
    retirement = Retirement(monkeypatch, spare, is_seen=False)
    with (
        dask.config.set({"skdistmlp.max-recoveries": 0}),
        pytest.raises(WorkerLostError, match="is being retired: it accepts no new"),
    ):
        bounded(classifier(spare).fit, *data)
    retirement.has_ended()


def test_a_fit_that_nobody_goes_on_with_ends(epochs, data, monkeypatch):
    with own_cluster(n_workers=2) as client:
        client.run(load)
        retirement = Retirement(monkeypatch, client, ranks=(0,))
        monkeypatch.setattr(
            "skdistmlp.cluster.recovery.replacement.spare_workers", lambda *_: []
        )
        with (
            dask.config.set({"skdistmlp.recovery-wait": "0s"}),
            pytest.raises(WorkerLostError, match="What was trained was handed over"),
        ):
            bounded(classifier(client, n_workers=1).fit, *data)
        retirement.has_ended()


# Paused workers.


@pytest.fixture
def pause(client, epochs):
    """Return a function that pauses a worker, as Dask does with one short of memory."""

    def set_status(name, dask_worker):
        from distributed import Status

        # Dask's own memory monitor would undo it.
        fraction = False if name == "paused" else 0.8
        dask_worker.memory_manager.memory_pause_fraction = fraction
        dask_worker.status = Status[name]

    def change(worker, status="paused"):
        client.run(set_status, status, workers=[worker])
        wait_until(lambda: worker_statuses(client)[worker] == status, "it is known")

    yield change
    for worker in client.nthreads():
        change(worker, "running")


def when_round_starts(monkeypatch, number, action):
    """Do something to the workers of the first run before one of its rounds."""
    start, done = driver.PeersRun._start_round, []

    def act_and_start(run, started):
        if started == number and not done:
            done.append(run._workers)
            action(run._workers)
        return start(run, started)

    monkeypatch.setattr(driver.PeersRun, "_start_round", act_and_start)


def test_a_worker_that_stays_paused_hands_its_shard_over(
    client, data, epochs, pause, monkeypatch
):
    monkeypatch.setattr("skdistmlp.cluster.client.workers.RESUME_S", 0.3)
    expected = undisturbed(client, data)
    epochs.clear()
    when_round_starts(monkeypatch, 3, lambda workers: pause(workers[1]))
    clf = bounded(classifier(client).fit, *data)
    assert_same_bits(clf, expected)
    (recovery,) = clf.recoveries_
    assert (recovery.kind, recovery.n_iter, epochs) == ("paused", 3, EACH_EPOCH)
    assert "stayed paused after" in str(recovery)


def test_a_worker_that_is_paused_for_a_moment_keeps_its_shard(
    client, data, epochs, pause, monkeypatch
):
    # For the resumption to come in time on a busy machine.
    monkeypatch.setattr("skdistmlp.cluster.client.workers.RESUME_S", 60.0)
    resume_paused, resumed = module.resume_paused, []

    def resume(client, workers):
        resumed.append(in_thread(pause, workers[0], "running"))
        return resume_paused(client, workers)

    monkeypatch.setattr(module, "resume_paused", resume)
    when_round_starts(monkeypatch, 3, lambda workers: pause(workers[1]))
    clf = bounded(classifier(client).fit, *data)
    assert len(resumed) == 1
    assert (clf.recoveries_, epochs) == ((), EACH_EPOCH)


def test_a_worker_that_resumes_right_after_it_was_given_up_keeps_its_shard(
    client, data, epochs, pause, monkeypatch
):
    monkeypatch.setattr("skdistmlp.cluster.client.workers.RESUME_S", 0.3)
    after_error, resumed = Departures.after_error, []

    def resume_first(departures, error):
        resumed.append(error.kind)
        pause(error.workers[0], "running")
        return after_error(departures, error)

    monkeypatch.setattr(Departures, "after_error", resume_first)
    when_round_starts(monkeypatch, 3, lambda workers: pause(workers[1]))
    clf = bounded(classifier(client).fit, *data)
    assert resumed == ["paused"]
    assert (clf.recoveries_, epochs) == ((), EACH_EPOCH)


def test_a_worker_that_resumes_while_copies_are_taken_keeps_its_shard(
    client, data, epochs, monkeypatch
):
    failed = []

    def fail(copies, shards):
        if not failed:
            failed.append(copies._tasks.workers[1])
            raise WorkerLostError("it was paused", (failed[0],), "paused")

    monkeypatch.setattr(StateCopies, "is_due", True)
    monkeypatch.setattr(StateCopies, "take", fail)
    clf = bounded(classifier(client).fit, *data)
    assert failed == [clf.plan_.workers[1]]
    assert (clf.recoveries_, epochs) == ((), EACH_EPOCH)


def test_a_paused_worker_is_waited_for_while_another_fit_holds_the_spare(
    client, data, epochs, pause, monkeypatch
):
    """It has as long to resume as if there were no spare worker."""
    among, looks = Departures.among, []

    def look(departures, workers):
        departure = among(departures, workers)
        if not looks and worker_statuses(client)[paused] == "paused":
            looks.append(departure)
            pause(paused, "running")
        return departure

    _, paused, spare = client.nthreads()
    monkeypatch.setattr(Departures, "among", look)
    when_round_starts(monkeypatch, 3, lambda _: pause(paused))
    with (
        reserve_workers(client, [spare], lambda: None),
        dask.config.set({"skdistmlp.recovery-wait": "0s"}),
    ):
        clf = bounded(classifier(client).fit, *data)
    assert looks == [None]
    assert clf.plan_.workers[1] == paused
    assert (clf.recoveries_, epochs) == ((), EACH_EPOCH)


@pytest.mark.slow
def test_without_spare_workers_a_paused_one_is_waited_for(
    client, data, epochs, pause, monkeypatch
):
    """For an exchange's timeout; then the others go on from the same state."""
    expected = undisturbed(client, data, n_workers=3)
    epochs.clear()
    when_round_starts(monkeypatch, 3, lambda workers: pause(workers[1]))
    with dask.config.set(
        {"skdistmlp.exchange-timeout": "3s", "skdistmlp.recovery-wait": "1s"}
    ):
        clf = bounded(classifier(client, n_workers=3).fit, *data)
    (recovery,) = clf.recoveries_
    assert (recovery.kind, recovery.n_iter, epochs) == ("paused", 3, EACH_EPOCH)
    assert (clf.n_workers_, recovery.same_bits) == (2, False)
    assert clf.loss_curve_ == pytest.approx(expected.loss_curve_, rel=1e-6)


def test_a_worker_that_is_retired_before_the_first_round_is_not_called_lost(
    spare, data, epochs, monkeypatch
):
    """There is nothing to hand over yet."""
    expected = undisturbed(spare, data)
    epochs.clear()
    # The client has to look while the worker is there, which may not be for long: Dask
    # finds that what it holds cannot be moved.
    monkeypatch.setattr(driver, "WORKER_CHECK_S", 0.1)
    retirement = Retirement(monkeypatch, spare, number=0, is_seen=False)
    clf = bounded(classifier(spare).fit, *data)
    retirement.has_ended()
    assert_same_bits(clf, expected)
    (recovery,) = clf.recoveries_
    assert (recovery.kind, recovery.n_iter, epochs) == ("retired", 0, EACH_EPOCH)
