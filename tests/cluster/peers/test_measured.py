"""What is kept of measurements, and of those that failed."""

import gc
import threading
from contextlib import suppress
from dataclasses import replace
from weakref import ref

import pytest

from skdistmlp.cluster.peers import measured, measurement
from skdistmlp.cluster.peers.measured import (
    MeasurementError,
    UnreachableError,
    forget_machines,
    is_known,
    keep_machines,
    keep_timings,
    known_machines,
    measured_before,
    note_failure,
    note_steps,
    note_unreachable,
    unreachable_before,
)
from skdistmlp.cluster.peers.measurement import measure_machines
from skdistmlp.exceptions import ClusterError
from skdistmlp.parallel.grid import Grid
from skdistmlp.planning.machines import Speed, reference_machines
from skdistmlp.planning.rates import REFERENCE
from skdistmlp.training.trial import Trial
from tests.cluster.support import WITHIN_S, bounded, in_thread, wait_until
from tests.training.jobs import dataset_of, job_of

GRIDS = [Grid(1), Grid(3), Grid(1, 3)]


@pytest.fixture
def workers(client, monkeypatch):
    forget_machines()
    # The machine may be busy.
    monkeypatch.setattr(measurement, "MEASURING_TIMEOUT_S", WITHIN_S)
    yield tuple(client.nthreads())
    forget_machines()


@pytest.fixture
def trial():
    return Trial.of(job_of("adam"), dataset_of("adam"), 50)


def test_tables_are_not_held_while_something_is_measured(
    client, workers, trial, monkeypatch
):
    """Predictions and fits that end in other threads need them."""
    found = measure_machines(client, workers[:1], trial, GRIDS)
    gate = threading.Event()
    monkeypatch.setattr(measurement, "_measure", lambda *_: gate.wait(WITHIN_S))
    asked = in_thread(measure_machines, client, workers, trial, GRIDS)
    try:
        wait_until(measurement._MEASURING.locked, "it is measured", asked)
        machines = reference_machines(3)
        bounded(keep_machines, client, workers, (4, 9, 1), machines)
        assert bounded(known_machines, client, workers, (4, 9, 1)) == machines
        assert bounded(measured_before, client, workers[:1], trial, GRIDS) is found
        bounded(forget_machines)
        assert not asked.done()
    finally:
        gate.set()
    assert asked.result(WITHIN_S)


def test_what_is_known_of_a_job_or_its_network_is_said_without_a_client(
    client, workers, trial
):
    units = trial.network.layer_units
    assert not is_known(trial, units)
    keep_machines(client, workers, (4, 9, 1), reference_machines(3))
    assert is_known(trial, (4, 9, 1))
    assert not is_known(trial, (4, 8, 1))
    keep_timings(client, workers, trial, GRIDS, None)
    assert is_known(trial, (4, 8, 1))


def test_a_scheduler_that_hangs_holds_up_no_fit_on_another_cluster(
    client, workers, trial, monkeypatch
):
    machines = reference_machines(3)
    keep_machines(client, workers, (4, 9, 1), machines)
    note_unreachable(client, ("tcp://other:1",), "behind a firewall")
    gate, asked = threading.Event(), threading.Event()
    other = object()

    def gated(function):
        def ask(client, *args):
            if client is not other:
                return function(client, *args)
            asked.set()
            gate.wait(WITHIN_S)
            raise ClusterError("the scheduler has not answered")

        return ask

    for name in "scheduler_id", "scheduler_and_threads":
        monkeypatch.setattr(measured, name, gated(getattr(measured, name)))
    for ask, *args in [
        (measured_before, workers, trial, GRIDS),
        (keep_timings, workers, trial, GRIDS, None),
        (keep_machines, workers, (4, 9, 1), machines),
        (known_machines, workers, (4, 9, 1)),
        (note_unreachable, workers, ""),
        (unreachable_before, workers),
        (note_steps, workers, trial, (4, 9, 1), 9.0),
    ]:
        hangs = in_thread(ask, other, *args)
        try:
            wait_until(asked.is_set, "the other scheduler is asked", hangs)
            assert bounded(known_machines, client, workers, (4, 9, 1)) == machines
            assert bounded(unreachable_before, client, workers) is None
            assert not hangs.done()
        finally:
            gate.set()
        with pytest.raises(ClusterError):
            hangs.result(WITHIN_S)
        gate.clear()
        asked.clear()


def test_a_worker_that_has_come_back_with_other_threads_is_measured_again(
    client, workers, trial, monkeypatch
):
    ask = measured.scheduler_and_threads
    keep_timings(client, workers, trial, GRIDS, "measured")
    keep_machines(client, workers, (4, 9, 1), reference_machines(3))
    assert measured_before(client, workers, trial, GRIDS) == "measured"

    def restarted(client, workers):
        scheduler, (first, *others) = ask(client, workers)
        return scheduler, (first + 1, *others)

    monkeypatch.setattr(measured, "scheduler_and_threads", restarted)
    assert measured_before(client, workers, trial, GRIDS) is None
    assert known_machines(client, workers, (4, 9, 1)) is None


def test_a_scheduler_is_not_asked_about_what_nothing_is_known_of(
    client, workers, trial, monkeypatch
):
    for name in "scheduler_id", "scheduler_and_threads":
        monkeypatch.setattr(measured, name, lambda *_: pytest.fail("asked"))
    assert measured_before(client, workers, trial, GRIDS) is None
    assert known_machines(client, workers, (4, 9, 1)) is None
    assert unreachable_before(client, workers) is None


def test_what_has_failed_is_not_measured_again_at_once(
    client, workers, trial, monkeypatch
):
    tried = []

    def fail(*_):
        tried.append(1)
        raise UnreachableError("behind a firewall")

    monkeypatch.setattr(measurement, "_measure", fail)
    # The candidates of a search are other jobs on the same workers.
    for n_rows in 10, 10, 20:
        with pytest.raises(UnreachableError, match="behind a firewall"):
            measure_machines(client, workers, replace(trial, n_rows=n_rows), GRIDS)
    assert len(tried) == 1
    with pytest.raises(UnreachableError):
        measure_machines(client, workers[:2], trial, GRIDS)
    tried.pop()
    monkeypatch.setattr(measured, "MEASURING_RETRY_S", 0.0)
    forget_machines()
    for _ in range(2):
        with pytest.raises(UnreachableError):
            measure_machines(client, workers, trial, GRIDS)
    assert len(tried) == 3


def test_a_failure_that_is_remembered_keeps_nothing_else_in_memory(
    client, workers, trial, monkeypatch
):
    """Such as the X of the user, which frames of its traceback hold."""

    class Rows:
        pass

    held = []

    def fail(*_):
        rows = Rows()
        held.append(ref(rows))
        raise UnreachableError("behind a firewall")

    monkeypatch.setattr(measurement, "_measure", fail)
    with suppress(UnreachableError):
        measure_machines(client, workers, trial, GRIDS)
    gc.collect()
    assert held[0]() is None
    assert unreachable_before(client, workers) == "behind a firewall"


def test_few_measurements_are_kept(client, workers, trial, monkeypatch):
    monkeypatch.setattr(measured, "MAX_KEPT", 2)
    taken = []

    def measure(*args):
        taken.append(args)
        return args

    monkeypatch.setattr(measurement, "_measure", measure)
    for n_rows in (1, 2, 3, 3, 1):
        measure_machines(client, workers, replace(trial, n_rows=n_rows), GRIDS)
    assert [args[2].n_rows for args in taken] == [1, 2, 3, 1]


def test_the_measurement_that_was_not_used_for_longest_is_dropped(
    client, workers, trial, monkeypatch
):
    monkeypatch.setattr(measured, "MAX_KEPT", 2)
    often, once, other = (replace(trial, n_rows=n_rows) for n_rows in (1, 2, 3))
    keep_timings(client, workers, often, GRIDS, "of a job that is used often")
    keep_timings(client, workers, once, GRIDS, "of one that is not")
    assert measured_before(client, workers, often, GRIDS)
    keep_timings(client, workers, other, GRIDS, "of a new one")
    assert measured_before(client, workers, often, GRIDS)
    assert measured_before(client, workers, once, GRIDS) is None
    # A job that is measured again counts as used too.
    keep_timings(client, workers, other, GRIDS, "of the new one, again")
    keep_timings(client, workers, often, GRIDS, "of the first, again")
    keep_timings(client, workers, once, GRIDS, "of the one that was dropped")
    assert measured_before(client, workers, other, GRIDS) is None


@pytest.mark.parametrize("fits_s", [[2.0], [0.7] * 3, [1.9, 0.2]], ids=str)
def test_a_job_is_measured_again_after_two_seconds_of_misses(
    client, workers, trial, fits_s
):
    """Of one fit, or of several short ones."""
    units = 4, 9, 1

    def keep():
        keep_timings(client, workers, trial, GRIDS, "measured")
        keep_machines(client, workers, units, reference_machines(3))

    def miss(missed_s, taken=workers[:2]):
        note_steps(client, taken, trial, units, missed_s)

    for _ in range(2):
        keep()
        for missed_s in fits_s:
            assert measured_before(client, workers, trial, GRIDS)
            assert known_machines(client, workers, units)
            miss(missed_s, workers[1::-1])
        assert measured_before(client, workers, trial, GRIDS) is None
        assert known_machines(client, workers, units) is None
    # Misses of others do not count.
    keep()
    miss(1.9)
    miss(1.9, workers[1:])
    note_steps(client, workers[:2], trial, (4, 8, 1), 1.9)
    note_steps(client, workers[:2], replace(trial, n_rows=7), units, 1.9)
    assert measured_before(client, workers, trial, GRIDS)
    assert len(measured._MISSED_S) == 4
    forget_machines()
    keep()
    miss(1.9)
    assert measured_before(client, workers, trial, GRIDS)


def test_only_misses_since_the_last_hit_or_measurement_count(client, workers, trial):
    units = 4, 9, 1
    taken = workers[:2]

    def end_a_fit(missed_s, taken=taken):
        note_steps(client, taken, trial, units, missed_s)

    keep_timings(client, workers, trial, GRIDS, "measured")
    end_a_fit(1.9)
    end_a_fit(0.0, workers[1:])
    assert list(measured._MISSED_S.values()) == [1.9]
    end_a_fit(0.0)
    end_a_fit(1.9)
    assert measured_before(client, workers, trial, GRIDS)
    # On other workers, or of another job, it says nothing of these.
    keep_timings(client, workers[1:], trial, GRIDS, "measured")
    keep_timings(client, workers, replace(trial, n_rows=7), GRIDS, "measured")
    assert list(measured._MISSED_S.values()) == [1.9]
    keep_timings(client, workers, trial, GRIDS, "again")
    assert not measured._MISSED_S
    end_a_fit(1.9)
    assert measured_before(client, workers, trial, GRIDS)


def test_a_hit_asks_no_scheduler_if_nothing_has_missed(trial):
    note_steps(None, ("tcp://a:1",), trial, (4, 9, 1), 0.0)


def test_few_misses_are_kept(client, workers, trial, monkeypatch):
    monkeypatch.setattr(measured, "MAX_KEPT", 2)
    for n_rows in 1, 2, 1, 3:
        note_steps(client, workers, replace(trial, n_rows=n_rows), (4, 9, 1), 0.1)
    assert list(measured._MISSED_S.values()) == [0.2, 0.1]


def test_workers_are_out_of_reach_if_some_of_them_are(client, workers, trial):
    note_unreachable(client, workers[1::-1], "behind a firewall")
    assert unreachable_before(client, workers[:2]) == "behind a firewall"
    assert unreachable_before(client, workers) == "behind a firewall"
    assert unreachable_before(client, workers[1:]) is None
    with pytest.raises(UnreachableError, match="behind a firewall"):
        measured_before(client, workers, trial, GRIDS)


def test_workers_that_could_not_be_measured_may_be_out_of_reach_too(
    client, workers, trial
):
    note_failure(client, workers, MeasurementError("they are asleep"))
    assert unreachable_before(client, workers) is None
    with pytest.raises(MeasurementError, match="they are asleep"):
        measured_before(client, workers, trial, GRIDS)
    note_unreachable(client, workers[:2], "behind a firewall")
    assert unreachable_before(client, workers) == "behind a firewall"
    with pytest.raises(UnreachableError, match="behind a firewall"):
        measured_before(client, workers, trial, GRIDS)


def test_what_was_measured_last_is_known_to_predictions(client, workers):
    def machines_of(*speeds):
        each = tuple(Speed(REFERENCE, {Grid(1): speed}) for speed in speeds)
        return replace(reference_machines(len(each)), workers=each)

    units = 4, 9, 1
    assert known_machines(client, workers, units) is None
    keep_machines(client, workers, units, machines_of(1.0, 2.0, 3.0))
    keep_machines(client, workers[:1], units, machines_of(4.0))
    last = known_machines(client, workers[2:0:-1], units)
    assert last == machines_of(3.0, 2.0)
    assert known_machines(client, workers[:1], units) == machines_of(4.0)
    assert known_machines(client, workers[:1], (4, 8, 1)) is None
    assert known_machines(client, ["tcp://other:1"], units) is None
    forget_machines()
    assert known_machines(client, workers, units) is None
