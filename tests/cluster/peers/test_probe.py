"""What workers time: exchanges of growing size, while there is time."""

import socket
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from itertools import accumulate, combinations, count
from queue import SimpleQueue
from types import SimpleNamespace

import pytest

from skdistmlp.cluster.peers import probe
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.unconnected import Unconnected
from skdistmlp.wire.packet import HEADER_BYTES
from skdistmlp.wire.transfers import Link
from tests.cluster.support import WITHIN_S, bounded
from tests.thread_communicator import run_in_threads
from tests.wire.test_communicator import connected, run


def timed(n_ranks):
    return run_in_threads(n_ranks, probe._time_exchanges)


@pytest.mark.parametrize("n_ranks", [2, 3])
def test_all_measure_the_same_sizes(n_ranks):
    found = timed(n_ranks)
    assert len({tuple(sizes) for sizes, *_ in found}) == 1
    sizes, seconds, is_far, _ = found[0]
    assert not is_far
    assert sizes == sorted(sizes)
    assert len(sizes) == len(seconds)
    # Whole numbers for each other worker, in each row.
    assert all(
        size % (probe.ROWS * probe.FLOAT_BYTES * (n_ranks - 1)) == 0 for size in sizes
    )


def test_many_workers_measure_every_size_once(monkeypatch):
    """With so many that one number for each exceeds the smallest sizes."""
    monkeypatch.setattr(probe, "_exchange_s", lambda _, width, __: 1e-6 * width)
    for n_ranks in (2, 127, 251, 1024):
        communicator = Unconnected(n_ranks)
        sizes, seconds, *_ = probe._time_exchanges(communicator)
        assert len(sizes) >= 2
        assert sizes == sorted(set(sizes))
        assert len(seconds) == len(sizes)


def test_a_slow_link_is_measured_with_small_sizes_only(monkeypatch):
    monkeypatch.setattr(probe, "LINK_S", 0.0)
    for sizes, *_ in timed(2):
        assert len(sizes) == probe.MIN_SIZES


@pytest.mark.parametrize(
    ("mbit_per_s", "latency_s", "expected"),
    [
        (10_000, 1e-4, [4, 4, 4, 4, 4]),
        (1_000, 1e-4, [4, 4, 4, 3]),
        (100, 1e-4, [4, 4, 2]),
        (10, 1e-4, [4, 4, 1]),
        (1_000, 5e-3, [2, 2, 2]),
        # Of a few bytes, the one by which this is decided counts.
        (1_000, 25e-3, [2]),
    ],
)
def test_exchanges_that_take_long_are_repeated_less(
    monkeypatch, mbit_per_s, latency_s, expected
):
    repeated = []

    def exchange_s(_, width, times):
        repeated.append(times)
        n_bytes = width * probe.ROWS * probe.FLOAT_BYTES
        return latency_s + 8e-6 * n_bytes / mbit_per_s

    # Nothing takes time but what is expected to.
    monkeypatch.setattr(probe.time, "perf_counter", lambda: 0.0)
    monkeypatch.setattr(probe, "_exchange_s", exchange_s)
    sizes, seconds, is_far, _ = probe._time_exchanges(Unconnected(2))
    assert repeated == [2, *expected]
    assert len(sizes) == len(seconds) == len(expected) + is_far
    assert is_far is (latency_s > 0.01)


@pytest.mark.parametrize("first_s", [(1e-4, 1.0, 1.0), (6e-3, 1.0, 0.5), (1.0,) * 3])
def test_all_decide_the_same_whatever_each_has_measured(monkeypatch, first_s):
    """Or one would wait for exchanges that the others have left out."""
    exchange_s, repeated = probe._exchange_s, ([], [], [])

    def of_rank(communicator, width, times):
        repeated[communicator.rank].append(times)
        exchange_s(communicator, width, times)
        # Of a few bytes it includes the wait for whoever was there last.
        return first_s[communicator.rank] if width == 1 else 1e-3 * communicator.rank

    monkeypatch.setattr(probe, "_exchange_s", of_rank)
    first, *others = timed(3)
    assert repeated[0] == repeated[1] == repeated[2]
    assert all(
        (each.sizes, each.is_far) == (first.sizes, first.is_far) for each in others
    )
    assert first.is_far is (min(first_s) == 1.0)


def slow_down(communicator, seconds):
    """Make whatever is sent take longer."""
    for link in communicator._connections.links.values():
        send = link.send

        def send_slowly(views, send=send):
            time.sleep(seconds)
            return send(views)

        link.send = send_slowly


def carry_late(source, target, seconds):
    """Carry bytes from one socket to another, all of them late, until it is closed."""
    on_the_way = SimpleQueue()

    def deliver():
        with target, suppress(OSError):
            while data := on_the_way.get():
                due, data = data
                time.sleep(max(0.0, due - time.monotonic()))
                target.sendall(data)

    thread = threading.Thread(target=deliver, daemon=True)
    thread.start()
    with source, suppress(OSError):
        while data := source.recv(2**20):
            on_the_way.put((time.monotonic() + seconds, data))
    on_the_way.put(None)
    thread.join()


@contextmanager
def far_from_others(communicators, ranks, seconds):
    """Put some at such a distance of all others."""
    threads = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def ends():
            mine = socket.create_connection(listener.getsockname())
            return mine, listener.accept()[0]

        for one, other in combinations(range(len(communicators)), 2):
            if {one, other} & {*ranks}:
                (here, near), (there, far) = ends(), ends()
                for rank, peer, end in ((one, other, here), (other, one, there)):
                    links = communicators[rank]._connections.links
                    links[peer].socket.close()
                    links[peer] = Link(end, f"shard {peer}")
                threads += [
                    threading.Thread(target=carry_late, args=(*way, seconds))
                    for way in ((near, far.dup()), (far, near.dup()))
                ]
        for thread in threads:
            thread.start()
        yield
    for thread in threads:
        thread.join(WITHIN_S)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("n_ranks", "far", "n_most"), [(2, [0], 9), (3, [0], 15), (4, [0, 1, 2, 3], 15)]
)
def test_over_a_long_distance_every_wait_counts(n_ranks, far, n_most):
    """Of 25 ms each, those of a measurement are to take less than half a second."""
    communicators, ranks, n_waits = connected(n_ranks), range(n_ranks), Counter()
    trial, near = SimpleNamespace(steps_seconds=lambda *args: args), {*ranks} - {*far}

    def measured(communicator):
        begin = communicator._connections.begin

        def begin_and_count(operation, label, sent, received, **options):
            if {communicator.rank, *sent, *received} & {*far}:
                n_waits[communicator.rank] += 1
            return begin(operation, label, sent, received, **options)

        communicator._connections.begin = begin_and_count
        found, grids = probe._time_links(communicator), [Grid(1)]
        # Nor do they wait for each other between steps.
        assert probe._time_steps(communicator, found[0], trial, grids) == (grids,)
        return found

    with far_from_others(communicators, far, 0.02):
        found = run(communicators, measured)
    assert max(n_waits.values()) <= n_most
    for rank, (of_all, *of_near) in enumerate(found):
        assert of_all.is_far
        assert len(of_all.sizes) == 2
        assert 0.02 <= min(of_all.seconds) <= max(of_all.seconds) < 0.1
        assert len(of_near) == (len(near) > 1 and rank in near)
        assert not any(times.is_far for times in of_near)


def test_near_workers_wait_for_each_other_after_each_step():
    """What that takes is not of the step."""
    trial = SimpleNamespace(
        steps_seconds=lambda _, goes_on, waits_s: (goes_on, waits_s)
    )

    def steps(communicator):
        times = probe.ExchangeTimes([0.0, 1.0], [1e-3, 1.0])
        goes_on, waits_s = probe._time_steps(communicator, times, trial, [Grid(1)])
        assert waits_s == 1e-3
        return goes_on(communicator.rank == 0), goes_on(False)

    assert run(connected(2), steps) == [(True, False)] * 2


@pytest.mark.parametrize(
    ("each_s", "found_s"),
    [([9.0, 1.0, 4.0, 2.0], 1.0), ([9.0, 4.0, 6.0], 2.0), ([9.0, 4.0], 2.0)],
)
def test_a_first_exchange_and_one_that_is_held_up_do_not_count(
    monkeypatch, each_s, found_s
):
    """Of a gather and a scatter, half is the mean."""
    clock = accumulate(seconds for s in each_s for seconds in (0.0, s))
    monkeypatch.setattr(probe.time, "perf_counter", lambda: next(clock))
    assert probe._exchange_s(Unconnected(2), 8, len(each_s)) == found_s


def test_one_worker_has_nobody_to_exchange_with():
    assert timed(1) == [([], [], False, None)]
    assert run(connected(1), probe._time_links) == [[([], [], False, None)]]


@pytest.mark.parametrize(
    ("link_ms", "n_tables"),
    [
        ([1.0, 1.5, 1.9], [1, 1, 1]),
        ([1.0, 50.0, 1.0], [2, 1, 2]),
        ([50.0, 1.0, 1.0, 10.0], [1, 3, 3, 2]),
        # Of more kinds, the fastest count as one.
        ([1.0, 1.0, 500.0, 50.0, 10.0, 10.0], [3, 3, 1, 2, 3, 3]),
        # Alone, it would have nobody.
        ([1.0, 50.0, 50.0], [1, 1, 1]),
        ([1.0, 50.0], [1, 1]),
        # Noise of a busy machine.
        ([0.1, 0.1, 0.5], [1, 1, 1]),
    ],
)
def test_exchanges_are_timed_again_without_the_slowest_links(
    monkeypatch, link_ms, n_tables
):
    took_part = []

    def time_exchanges(group):
        took_part.append(group.n_ranks)
        return probe.ExchangeTimes([0.0, 1.0], [0.0, 1.0])

    def link_seconds(_, members, *__):
        return [1e-3 * link_ms[member] for member in members]

    monkeypatch.setattr(probe, "_time_exchanges", time_exchanges)
    monkeypatch.setattr(probe, "measure_busy_share", lambda *_: None)
    monkeypatch.setattr(probe, "_link_seconds", link_seconds)
    found = run(connected(len(link_ms)), probe._time_links)
    assert list(map(len, found)) == n_tables
    each = (sum(n > k for n in n_tables) for k in range(max(n_tables)))
    assert sorted(took_part) == sorted(n for n in each for _ in range(n))


def test_a_third_kind_of_links_is_looked_for_only_while_there_is_time(monkeypatch):
    link_s = [0.05, 1e-3, 1e-3, 0.01]

    def time_exchanges(_):
        return probe.ExchangeTimes([0.0, 1.0], [0.0, 1.0])

    def link_seconds(_, members, *__):
        return [link_s[member] for member in members]

    monkeypatch.setattr(probe, "_time_exchanges", time_exchanges)
    monkeypatch.setattr(probe, "_link_seconds", link_seconds)
    monkeypatch.setattr(probe, "LINKS_S", 0.0)
    found = run(connected(4), probe._time_links)
    assert list(map(len, found)) == [1, 2, 2, 2]


@pytest.mark.parametrize("n_ranks", [3, 4])
def test_both_ends_of_a_slow_link_see_it_but_only_one_in_all_pairs(n_ranks):
    communicators = connected(n_ranks)
    slow_down(communicators[1], 0.03)
    times = probe.ExchangeTimes([0.0, 4e6], [0.0, 1e-3])
    members = range(n_ranks)

    def link_seconds(communicator):
        group = communicator.among(members)
        return probe._link_seconds(communicator, members, group, times)

    found = run(communicators, link_seconds)
    assert all(each == found[0] for each in found)
    assert found[0][1] > 0.025
    assert all(found[0][rank] < 0.025 for rank in members if rank != 1)


@pytest.mark.parametrize("seconds", [1e-3, 1.0], ids=["twice", "once"])
def test_a_worker_that_begins_late_does_not_seem_fast(seconds):
    """It finds what was sent meanwhile, but the others have waited for it."""

    def late(communicator):
        among = communicator.among

        def some(ranks):
            exchanges = among(ranks)
            gather = exchanges.all_gather

            def all_gather(part, *others):
                whole = gather(part, *others)
                if part.size <= 1 + probe.N_PAIR_EXCHANGES:
                    # Before each exchange that is timed.
                    time.sleep(0.03)
                return whole

            exchanges.all_gather = all_gather
            return exchanges

        communicator.among = some

    communicators = connected(3)
    late(communicators[1])
    times = probe.ExchangeTimes([0.0, 1e5], [0.0, seconds])

    def link_seconds(communicator):
        group = communicator.among(range(3))
        return probe._link_seconds(communicator, range(3), group, times)

    first, second, last = run(communicators, link_seconds)[0]
    assert first < 0.025 < second
    assert last < 0.025


@pytest.mark.parametrize(
    ("round_s", "n_rounds"), [(0.0, 15), (0.012, 8), (0.03, 3), (1.0, 3)]
)
def test_no_round_of_pairs_is_begun_that_would_end_late(monkeypatch, round_s, n_rounds):
    """If one of the pairs takes long, all stop after the same round."""
    times, played = probe.ExchangeTimes([0.0, 1e5], [0.0, 1.0]), []

    def link_seconds(communicator):
        step_s = round_s / 2 if communicator.rank == 5 else 0.0
        clocks[threading.get_ident()] = count(communicator.rank, step_s)
        group = communicator.among(range(16))
        return probe._link_seconds(communicator, range(16), group, times)

    def pair_seconds(*_):
        played.append(threading.get_ident())
        next(clocks[played[-1]])
        return [1e-3]

    clocks = {}

    def perf_counter():
        return next(clocks[threading.get_ident()])

    monkeypatch.setattr(probe, "time", SimpleNamespace(perf_counter=perf_counter))
    monkeypatch.setattr(probe, "_pair_seconds", pair_seconds)
    found = run(connected(16), link_seconds)
    assert all(each == found[0] for each in found)
    assert Counter(Counter(played).values()) == {n_rounds: 16}


def test_a_pair_whose_exchanges_are_long_has_one(monkeypatch):
    def exchanged(seconds):
        sizes = []

        def pair_seconds(_, own, whole, n_exchanges):
            sizes.append((own.nbytes, whole.nbytes, n_exchanges))
            return [1e-3] * n_exchanges

        monkeypatch.setattr(probe, "_pair_seconds", pair_seconds)

        def link_seconds(communicator):
            group = communicator.among(range(3))
            times = probe.ExchangeTimes([0.0, 1e4, 1e5], [0.0, seconds, seconds])
            return probe._link_seconds(communicator, range(3), group, times)

        run(connected(3), link_seconds)
        return {*sizes}

    assert exchanged(0.014) == {(16_000, 32_000, 2)}
    assert exchanged(0.016) == {(16_000, 32_000, 1)}


@pytest.mark.parametrize(
    ("largest", "seconds", "n_bytes"),
    [
        (4e6, 8e-4, 512_000),
        (4e6, 0.02, 512_000),
        (4e6, 0.05, 128_000),
        (127_680.0, 3e-3, 128_000),
        # Nothing is known of larger ones.
        (16_000.0, 3e-3, 16_000),
        (128_000.0, 1e-2, 16_000),
    ],
)
def test_pairs_send_what_slow_links_carry_in_a_moment(largest, seconds, n_bytes):
    sent = []

    def link_seconds(communicator):
        group, times = communicator.among(range(3)), ([0.0, largest], [0.0, seconds])
        for link in communicator._connections.links.values():
            send = link.send

            def counting(views, send=send):
                sent.append(sum(view.nbytes for view in views))
                return send(views)

            link.send = counting
        found = probe.ExchangeTimes(*times)
        return probe._link_seconds(communicator, range(3), group, found)

    run(connected(3), link_seconds)
    assert max(sent) == n_bytes + HEADER_BYTES


def test_what_is_loaded_ahead_keeps_no_worker_from_answering():
    """It is called on the event loop, also of workers on which other fits train."""
    gate, loaded = threading.Event(), threading.Event()

    def load_kernels():
        gate.wait(WITHIN_S)
        loaded.set()

    try:
        bounded(probe.prepare, SimpleNamespace(load_kernels=load_kernels))
        assert not loaded.is_set()
    finally:
        gate.set()
    assert loaded.wait(WITHIN_S)
