"""Measuring workers: real sockets and steps, and what keeps it from happening."""

import asyncio
import math
import pickle
import socket
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from distributed import Client, Event

from skdistmlp.cluster.client import rpc
from skdistmlp.cluster.client.rpc import wait_while
from skdistmlp.cluster.data import remote_dataset
from skdistmlp.cluster.peers import measurement as module
from skdistmlp.cluster.peers import probe
from skdistmlp.cluster.peers.measured import (
    HeldError,
    MeasurementError,
    UnreachableError,
    forget_machines,
    measured_before,
)
from skdistmlp.cluster.peers.measurement import (
    NoRoomError,
    check_room_for_trial,
    measure_again,
    measure_machines,
    rate_here,
)
from skdistmlp.cluster.peers.probe import MeetingError, ProbeReport
from skdistmlp.cluster.peers.shard import Roster
from skdistmlp.cluster.run import placement, reservation
from skdistmlp.cluster.run.reservation import borrow_workers, reserve_workers
from skdistmlp.exceptions import ExchangeError
from skdistmlp.nn import compiled
from skdistmlp.nn.layers import Network, dense_layers
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.split import count_parameters
from skdistmlp.planning.calibration import machines_of
from skdistmlp.planning.cost import StepCost
from skdistmlp.planning.memory import WorkerMemory
from skdistmlp.planning.rates import DASK_BYTE_S
from skdistmlp.timeouts import MEETING_S
from skdistmlp.training import trial as trial_module
from skdistmlp.training.trial import Trial
from skdistmlp.wire.handshake import Credentials
from tests.cluster.run.test_reservation import goes_on, places
from tests.cluster.slow_link import slow_link
from tests.cluster.support import WITHIN_S, bounded, occupied
from tests.training.jobs import dataset_of, job_of

GRIDS = [Grid(1), Grid(3), Grid(1, 3)]


@pytest.fixture
def workers(client, monkeypatch):
    forget_machines()
    # The machine may be busy.
    monkeypatch.setattr(module, "MEASURING_TIMEOUT_S", WITHIN_S)
    yield tuple(client.nthreads())
    forget_machines()


@pytest.fixture
def trial():
    return Trial.of(job_of("adam"), dataset_of("adam"), 50)


@pytest.fixture
def clock(monkeypatch):
    """Stop the clock by which deadlines are kept, but for what a test moves it by."""
    now = [1000.0]

    def move(seconds):
        now[0] += seconds

    clock = SimpleNamespace(
        monotonic=lambda: now[0],
        move=move,
        sleep=time.sleep,
        perf_counter=time.perf_counter,
    )
    monkeypatch.setattr(module, "time", clock)
    return clock


def test_every_worker_times_steps_and_all_time_their_exchanges(client, workers, trial):
    found = measure_machines(client, workers, trial, GRIDS)
    assert found.grids == tuple(GRIDS)
    assert 0 < found.here_s < 1
    assert len(found.worker_s) == 3
    assert all(len(each_s) == 3 for each_s in found.worker_s)
    assert all(0 < s < 1 for each_s in found.worker_s for s in each_s)
    assert list(found.sizes) == sorted(found.sizes)
    assert len(found.sizes) >= probe.MIN_SIZES
    # One number for each of the two others, in each row.
    assert found.sizes[0] == 2 * probe.ROWS * probe.FLOAT_BYTES
    assert min(found.exchange_s) > 0
    assert found.here_bits_per_s == math.inf
    assert 0 <= found.busy_share <= 1


@pytest.mark.parametrize("number", [0, 2])
def test_a_worker_behind_a_slow_link_does_not_make_those_of_others_slow(
    client, workers, trial, number
):
    with slow_link(client, workers[number]):
        found = measure_machines(client, workers, trial, GRIDS)
    cost = StepCost.of_step(50)
    slow, *others = sorted(
        machines_of(found, cost).links, key=lambda link: -link.slowness
    )
    assert found.faster[0].workers == tuple({0, 1, 2} - {number})
    assert 0 <= found.faster[0].busy_share <= 1
    assert others[0] == others[1]
    assert others[0].n_others == 1
    assert slow.slowness > 2 * others[0].slowness


def test_all_load_compiled_code_before_anything_is_timed(
    client, workers, trial, monkeypatch
):
    def measure(*_):
        raise ValueError(f"{len(compiled._compiled)} loaded")

    monkeypatch.setattr(module.probe, "measure", measure)
    monkeypatch.setattr(compiled, "_compiled", {})
    client.run(lambda: compiled._compiled.clear())
    for runs_compiled in False, True:
        forget_machines()
        with pytest.raises(MeasurementError, match=f"{int(runs_compiled)} loaded"):
            measure_machines(
                client, workers, replace(trial, runs_compiled=runs_compiled), GRIDS
            )
        assert (compiled.adam in compiled._compiled) is runs_compiled


def test_code_that_has_to_be_compiled_takes_no_time_from_the_measurement(
    client, workers, trial, monkeypatch, clock
):
    gate = Event("gate-of-a-compiler", client=client)

    def load_here(_):
        # Longer than a measurement may take; the workers take a little longer still.
        clock.move(30.0)
        gate.set()

    monkeypatch.setattr(module, "MEASURING_TIMEOUT_S", 15.0)
    monkeypatch.setattr(Trial, "load_kernels", load_here)
    monkeypatch.setattr(
        module.probe,
        "load_kernels",
        lambda *_: Event("gate-of-a-compiler").wait(WITHIN_S),
    )
    compiled_trial = replace(trial, runs_compiled=True)
    assert bounded(measure_machines, client, workers, compiled_trial, GRIDS).here_s > 0


def test_workers_that_compile_for_too_long_are_not_waited_for(
    client, workers, trial, monkeypatch
):
    gate = Event("gate-of-a-slow-compiler", client=client)
    monkeypatch.setattr(module, "LOADING_TIMEOUT_S", 0.1)
    monkeypatch.setattr(
        module.probe,
        "load_kernels",
        lambda *_: Event("gate-of-a-slow-compiler").wait(WITHIN_S),
    )
    compiled_trial = replace(trial, runs_compiled=True)
    try:
        with pytest.raises(MeasurementError, match=r"was not loaded within 0\.1 s"):
            bounded(measure_machines, client, workers, compiled_trial, GRIDS)
    finally:
        gate.set()
    assert places(client) == []


def test_a_single_worker_has_nobody_to_exchange_with(client, workers, trial):
    found = measure_machines(client, workers[:1], trial, [Grid(1)])
    assert len(found.worker_s) == 1
    assert (found.sizes, found.exchange_s) == ((), ())
    assert found.here_bits_per_s == math.inf


@pytest.mark.parametrize("name", ["is_on_loopback", "can_connect"])
def test_the_link_to_this_process_is_measured_unless_it_is_within_one_machine(
    client, workers, trial, monkeypatch, name
):
    """It is not, if this process cannot connect to what looks like one, by a tunnel."""
    fetched = []

    def rate(fetched_s):
        fetched.extend(fetched_s(n_bytes) for n_bytes in (0, *module.PIECES))
        return 5e8

    monkeypatch.setattr(module, "rate_here", rate)
    assert measure_machines(client, workers, trial, GRIDS).here_bits_per_s == math.inf
    assert fetched == []
    forget_machines()
    monkeypatch.setattr(module, name, lambda *_: False)
    assert measure_machines(client, workers, trial, GRIDS).here_bits_per_s == 5e8
    assert len(fetched) == 4


def test_the_link_to_this_process_is_measured_without_slow_workers_too(
    client, workers, trial, monkeypatch
):
    """Theirs would count for plans that leave them out."""
    rates, noted, add = iter([1e6, 5e8]), [], module.Placement.add

    def rate(fetched_s):
        assert all(fetched_s(n_bytes) > 0 for n_bytes in (0, *module.PIECES))
        return next(rates)

    def add_and_note(placement, rank, operation, function, *args):
        if function is probe.piece_of:
            noted.append((rank, args[0]))
        return add(placement, rank, operation, function, *args)

    monkeypatch.setattr(module, "can_connect", lambda *_: False)
    monkeypatch.setattr(module, "rate_here", rate)
    monkeypatch.setattr(module.Placement, "add", add_and_note)
    with slow_link(client, workers[1]):
        found = measure_machines(client, workers, trial, GRIDS)
    links = machines_of(found, StepCost.of_step(50)).links
    assert [link.here_bits_per_s for link in links] == [5e8, 1e6, 5e8]
    assert noted == [
        (rank, size // len(ranks))
        for ranks in ((0, 1, 2), (0, 2))
        for size in module.PIECES
        for rank in ranks
    ]
    assert places(client) == []


@pytest.mark.parametrize(
    ("bits_per_s", "latency_s", "largest", "within_s"),
    [
        (1e10, 0.003, 1_000_000, 0.03),
        (1e8, 0.003, 256_000, 0.06),
        (1e7, 0.003, 32_000, 0.06),
        (1e6, 0.003, 32_000, 0.6),
        (1e10, 0.025, 1_000_000, 0.03),
        (1e8, 0.025, 1_000_000, 0.2),
        (1e7, 0.025, 256_000, 0.5),
        (1e6, 0.025, 32_000, 0.6),
        # Over a long distance even a fast link takes long to get up to speed.
        (1e10, 0.05, 256_000, 0.03),
        (1e8, 0.05, 256_000, 0.2),
    ],
)
def test_the_link_to_this_process_is_measured_by_what_it_carries_in_a_moment(
    bits_per_s, latency_s, largest, within_s
):
    fetched = []

    def fetched_s(n_bytes):
        fetched.append(n_bytes)
        return latency_s + n_bytes * (DASK_BYTE_S + 8 / bits_per_s)

    assert rate_here(fetched_s) == pytest.approx(bits_per_s, rel=1e-6)
    assert max(fetched) == largest
    carried_s = sum(fetched_s(n_bytes) - latency_s for n_bytes in [*fetched])
    assert carried_s < within_s


def test_a_piece_that_is_held_up_does_not_make_a_link_slow():
    delays_s = iter([0.0, 0.1, 0.1, 0.0, 0.1, 0.0])

    def fetched_s(n_bytes):
        return 0.003 + next(delays_s) + n_bytes * (DASK_BYTE_S + 8e-9)

    assert rate_here(fetched_s) == pytest.approx(1e9, rel=1e-6)


def test_a_link_that_adds_nothing_to_what_dask_takes_has_no_limit():
    assert rate_here(lambda n_bytes: 0.003 + 1e-9 * n_bytes) == math.inf


def test_a_connection_that_begins_slowly_carries_larger_pieces():
    fetched = []

    def fetched_s(n_bytes):
        fetched.append(n_bytes)
        # Round trips until it is at full speed.
        return 0.02 * (1 + (n_bytes > 0) + (n_bytes > 10**5)) + 1e-7 * n_bytes

    # By the first piece alone 11 Mbit/s, by the second 32.
    assert rate_here(fetched_s) > 5e7
    assert max(fetched) == 1_000_000


def test_the_same_is_measured_once(client, workers, trial):
    found = measure_machines(client, workers, trial, GRIDS)
    assert measure_machines(client, workers, trial, GRIDS) is found
    other = measure_machines(client, workers[:2], trial, GRIDS)
    assert other is not found
    longer = replace(trial, n_rows=51)
    assert measure_machines(client, workers, longer, GRIDS) is not found
    forget_machines()
    assert measure_machines(client, workers, trial, GRIDS) is not found


def test_a_client_that_is_made_for_a_single_fit_finds_what_was_measured(
    client, workers, trial
):
    found = measure_machines(client, workers, trial, GRIDS)
    with Client(client.scheduler.address, set_as_default=False) as other:
        assert measure_machines(other, workers, trial, GRIDS) is found


def test_a_slow_worker_is_told_from_those_that_wait_for_it():
    """But for a step of a single process: nobody waits for anybody there."""

    def reports(*own_s):
        slowest = max(own_s)
        return [ProbeReport([], [s, s / 2], [slowest, slowest / 2]) for s in own_s]

    found = module._worker_seconds(reports(1.0, 1.0, 3.0))
    assert found == ((1.0, 0.5), (1.0, 0.5), (3.0, 1.5))
    assert module._worker_seconds(reports(1.0, 1.1)) == ((1.0, 0.55), (1.1, 0.55))
    assert module._worker_seconds(reports(1.0, 1.0, 1.4, 1.4))[0] == (1.0, 0.5)


def test_workers_that_lose_each_other_are_not_said_to_be_out_of_reach(
    client, workers, trial, monkeypatch
):
    def fail(*_):
        raise ExchangeError("lost its connection")

    monkeypatch.setattr(module.probe, "measure", fail)
    with pytest.raises(MeasurementError, match="lost its connection") as failed:
        measure_machines(client, workers, trial, GRIDS)
    assert not isinstance(failed.value, UnreachableError)


def test_threads_that_want_the_same_measure_it_once(client, workers, trial):
    with ThreadPoolExecutor(2) as pool:
        asked = [
            pool.submit(measure_machines, client, workers, trial, GRIDS)
            for _ in range(2)
        ]
        first, second = (bounded(each.result) for each in asked)
    assert first is second


def test_threads_that_measure_for_too_long_are_not_waited_for(
    client, workers, trial, monkeypatch
):
    monkeypatch.setattr(module, "MEASURING_TIMEOUT_S", 0.1)
    with module._MEASURING, pytest.raises(HeldError, match="of this process measure"):
        bounded(measure_machines, client, workers, trial, GRIDS)
    assert not module._MEASURING.locked()


def test_threads_that_measure_and_slow_workers_have_one_deadline_together(
    client, workers, trial, monkeypatch, clock
):
    """Workers that had only what was left of it are tried again."""
    lock = threading.Lock()

    def acquire(blocking=True, timeout=-1.0):
        if not blocking:
            return False
        clock.move(0.9 * timeout)
        return lock.acquire()

    others = SimpleNamespace(acquire=acquire, release=lock.release)
    monkeypatch.setattr(module, "_MEASURING", others)
    monkeypatch.setattr(module, "MEASURING_TIMEOUT_S", 15.0)
    monkeypatch.setattr(clock, "sleep", clock.move)
    begun = clock.monotonic()
    with occupied(client), pytest.raises(HeldError, match="of this process measure"):
        bounded(measure_machines, client, workers, trial, GRIDS)
    assert clock.monotonic() - begun == pytest.approx(15.0, abs=0.1)
    assert not lock.locked()
    assert places(client) == []
    assert measured_before(client, workers, trial, GRIDS) is None


def test_workers_that_a_fit_holds_are_left_alone(client, workers, trial):
    with (
        reserve_workers(client, workers[:1], goes_on),
        pytest.raises(MeasurementError, match="other fits hold or measure"),
    ):
        measure_machines(client, workers, trial, GRIDS)
    assert places(client) == []
    assert measure_machines(client, workers, trial, GRIDS)


def test_workers_that_another_process_measures_are_left_alone(client, workers, trial):
    with borrow_workers(client, workers[:1], goes_on) as are_free:
        assert are_free
        with pytest.raises(MeasurementError, match="hold or measure the workers"):
            measure_machines(client, workers, trial, GRIDS)
    assert places(client) == []


def test_a_scheduler_that_answers_late_is_waited_for(
    client, workers, trial, monkeypatch
):
    """It says nothing of the workers that it has not answered yet."""
    submitted = reservation.submit_rpc

    def submit_late(client, method, /, *args, **kwargs):
        async def call():
            # Longer than a check takes to come.
            await asyncio.sleep(3 * rpc.WORKER_CHECK_S)
            return await method(*args, **kwargs)

        return submitted(client, call)

    monkeypatch.setattr(rpc, "WORKER_CHECK_S", 0.1)
    monkeypatch.setattr(reservation, "submit_rpc", submit_late)
    assert bounded(measure_machines, client, workers, trial, GRIDS)
    monkeypatch.setattr(module, "MEASURING_TIMEOUT_S", 0.1)
    forget_machines()
    with pytest.raises(MeasurementError, match=r"did not answer within 0\.1 s"):
        bounded(measure_machines, client, workers, trial, GRIDS)


def test_busy_workers_are_not_waited_for(client, workers, trial, monkeypatch):
    monkeypatch.setattr(module, "MEASURING_TIMEOUT_S", 0.3)
    with (
        occupied(client),
        pytest.raises(MeasurementError, match=r"did not answer within 0\.3 s"),
    ):
        measure_machines(client, workers, trial, GRIDS)
    assert places(client) == []


def test_a_probe_that_fails_is_enough_though_another_is_still_to_begin(
    client, workers, trial, monkeypatch
):
    gate = Event("gate-of-a-late-probe", client=client)

    def measure(probe, *_):
        if probe._rank == 0:
            Event("gate-of-a-late-probe").wait(WITHIN_S)
            raise MeetingError("nobody is there")
        raise ExchangeError("probe 0 did not begin")

    monkeypatch.setattr(module.probe, "measure", measure)
    try:
        with pytest.raises(MeasurementError, match="did not begin") as failed:
            bounded(measure_machines, client, workers, trial, GRIDS)
        assert not gate.is_set()
    finally:
        gate.set()
    assert not isinstance(failed.value, UnreachableError)


@pytest.mark.parametrize("order", [1, -1])
def test_the_cause_is_raised_and_not_what_others_make_of_it(order):
    errors = [
        MeetingError("finds nobody"),
        ExchangeError("lost its connection"),
        MeetingError("finds nobody either"),
        ZeroDivisionError("the cause"),
    ]
    tasks = SimpleNamespace(error_of=lambda future: future.error)

    def results(*errors):
        futures = [SimpleNamespace(status="error", error=error) for error in errors]
        return module._results(tasks, futures[::order], lambda: None)

    with pytest.raises(ZeroDivisionError):
        results(*errors)
    with pytest.raises(ExchangeError, match="lost its connection"):
        results(*errors[:-1])
    with pytest.raises(MeetingError):
        results(*errors[::2])


@pytest.mark.parametrize("name", ["check_versions", "submit_rpc"])
def test_an_answer_that_does_not_come_is_not_waited_for(
    client, workers, trial, monkeypatch, clock, name
):
    """Of a worker that is frozen: the question for its version, or its result."""
    asked = []

    def ask(client, question, *args, **_):
        asked.append(question)
        clock.move(2 * WITHIN_S)
        if name == "check_versions":
            (check,) = args
            wait_while(check, [Future()])
        return Future()

    monkeypatch.setattr(placement, name, ask)
    with pytest.raises(MeasurementError, match=f"did not answer within {WITHIN_S:g} s"):
        bounded(measure_machines, client, workers, trial, GRIDS)
    assert asked
    assert places(client) == []


def test_an_error_on_a_worker_is_the_reason(client, workers, trial):
    wrong = replace(trial, targets=np.zeros((4, 3)))
    with pytest.raises(MeasurementError, match="IndexError: "):
        measure_machines(client, workers, wrong, GRIDS)
    assert places(client) == []


def test_workers_that_cannot_reach_each_other_are_told_apart(
    client, workers, trial, monkeypatch
):
    # Nothing listens there.
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = closed.getsockname()

    def roster(addresses, *others):
        return Roster([address] * len(addresses), *others)

    monkeypatch.setattr(module, "Roster", roster)
    with pytest.raises(UnreachableError, match=r"cannot connect|could not connect"):
        measure_machines(client, workers, trial, GRIDS)


def test_packets_that_are_dropped_are_not_waited_for(
    client, workers, trial, monkeypatch
):
    def set_meeting_s(seconds):
        probe.MEETING_S = seconds

    # Its backlog is full: connections stay unanswered, as behind a firewall.
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
        filling = [socket.create_connection(full.getsockname()) for _ in range(1)]

        def roster(addresses, *others):
            return Roster([full.getsockname()] * len(addresses), *others)

        monkeypatch.setattr(module, "Roster", roster)
        client.run(set_meeting_s, 1.0)
        try:
            with pytest.raises(UnreachableError, match="not connect to the others"):
                measure_machines(client, workers, trial, GRIDS)
        finally:
            client.run(set_meeting_s, MEETING_S)
        for connection in filling:
            connection.close()


def test_a_worker_that_is_busy_is_not_said_to_be_out_of_reach(monkeypatch):
    monkeypatch.setattr(probe, "MEETING_S", 0.3)
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    addresses = [listener.getsockname() for listener in listeners]
    roster = Roster(addresses, ["here", "elsewhere"], 10.0)
    waiting = probe.Probe(Credentials.new(), 0, listeners[0], None)
    with pytest.raises(ExchangeError, match=r"elsewhere did not begin") as failed:
        waiting.measure(roster, None, [], lambda: False)
    assert not isinstance(failed.value, MeetingError)
    listeners[1].close()


@pytest.mark.parametrize("apart", [((0, 1),), ()])
def test_only_a_worker_that_could_not_connect_is_out_of_reach(monkeypatch, apart):
    def fail(*_):
        error = ExchangeError("elsewhere closed its connection")
        error.apart = apart
        raise error

    monkeypatch.setattr(probe, "meet", fail)
    listener = socket.create_server(("127.0.0.1", 0))
    roster = Roster([listener.getsockname()] * 2, ["here", "elsewhere"], 10.0)
    waiting = probe.Probe(Credentials.new(), 0, listener, None)
    with pytest.raises(ExchangeError, match="closed its connection") as failed:
        waiting.measure(roster, None, [], lambda: False)
    assert isinstance(failed.value, MeetingError) is bool(apart)


def test_an_interrupt_ends_a_measurement(client, workers, trial, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_results", interrupted)
    with pytest.raises(KeyboardInterrupt):
        measure_machines(client, workers, trial, GRIDS)
    assert places(client) == []
    monkeypatch.undo()
    # Nothing is remembered of it.
    assert measure_machines(client, workers, trial, GRIDS).here_s > 0


def test_a_probe_stays_on_its_worker():
    listener = socket.create_server(("127.0.0.1", 0))
    held = probe.Probe(Credentials.new(), 0, listener, None)
    with pytest.raises(TypeError, match="stays on its worker"):
        pickle.dumps(held)
    del held
    assert listener.fileno() == -1


def test_a_fit_measures_the_workers_that_it_holds_anew(client, workers, trial):
    """What it holds is not reserved again, and nothing comes from the cache."""
    first, *others = workers
    measure_machines(client, workers, trial, GRIDS)
    with reserve_workers(client, [first], goes_on):
        found = [
            measure_again(client, workers, [first], trial, GRIDS) for _ in range(2)
        ]
        assert found[0].worker_s != found[1].worker_s
        with pytest.raises(MeasurementError, match="other fits hold or measure"):
            measure_again(client, workers, others, trial, GRIDS)
    assert places(client) == []


def test_a_worker_needs_room_for_the_network_that_is_timed(trial):
    cost = StepCost.of_step(50)
    memory = {"tcp://a:1": WorkerMemory(10**9), "tcp://b:1": WorkerMemory(10**9)}
    check_room_for_trial(cost, trial, GRIDS, memory)
    memory["tcp://b:1"] = WorkerMemory(1000)
    with pytest.raises(NoRoomError, match="tcp://b:1 has 1,000") as failed:
        check_room_for_trial(cost, trial, GRIDS, memory)
    (left_out,) = failed.value.left_out
    assert (left_out.worker, left_out.bytes_free) == ("tcp://b:1", 1000)


def test_this_process_needs_room_for_compiled_code_unless_it_has_loaded_some(
    trial, monkeypatch
):
    cost = StepCost.of_step(50)
    loading = replace(trial, runs_compiled=True)
    monkeypatch.setattr(
        remote_dataset, "available_memory", lambda: compiled.LOADED_BYTES
    )
    monkeypatch.setattr(compiled, "_compiled", {})
    with pytest.raises(NoRoomError, match="this process has 0") as failed:
        check_room_for_trial(cost, loading, GRIDS, {})
    assert failed.value.left_out == ()
    monkeypatch.setattr(compiled, "_compiled", {compiled.adam: None})
    check_room_for_trial(cost, loading, GRIDS, {})


def test_a_worker_needs_room_for_the_parameters_that_are_updated(trial):
    """They are more than those of the network whose products are timed."""
    units = 64, 300, 300, 10
    wide = replace(trial, updated=Network(dense_layers(units, "relu"), "softmax"))
    # With their gradient and moments.
    n_bytes = 4 * 8 * count_parameters(units)
    cost, memory = StepCost.of_step(50), {"tcp://a:1": WorkerMemory(n_bytes)}
    check_room_for_trial(cost, trial, GRIDS, memory)
    with pytest.raises(NoRoomError, match="tcp://a:1 has"):
        check_room_for_trial(cost, wide, GRIDS, memory)


def test_a_worker_needs_room_for_the_rows_of_a_shard(trial, monkeypatch):
    """Of a shard more rows are timed, since it computes less of each."""
    monkeypatch.setattr(trial_module, "MAX_FLOP", 1e7)
    trial = replace(trial, n_rows=10**6)
    n_rows = trial.rows_timed(Grid(3))
    assert n_rows > 2 * trial.rows_timed(Grid(1))
    # As drawn, and as taken for a step.
    n_bytes = 2 * n_rows * trial.network.layer_units[0] * trial.dtype.itemsize
    cost = StepCost.of_step(trial.n_rows, itemsize=trial.dtype.itemsize)
    memory = {"tcp://a:1": WorkerMemory(n_bytes)}
    check_room_for_trial(cost, trial, [Grid(1), Grid(1, 3)], memory)
    with pytest.raises(NoRoomError, match="tcp://a:1 has"):
        check_room_for_trial(cost, trial, GRIDS, memory)
