"""What workers time: exchanges of growing size, while there is time."""

import threading
import time
from collections import Counter
from itertools import accumulate, count
from types import SimpleNamespace

import pytest

from skdistmlp.cluster.peers import probe
from skdistmlp.parallel.unconnected import Unconnected
from skdistmlp.wire.packet import HEADER_BYTES
from tests.cluster.support import WITHIN_S, bounded
from tests.thread_communicator import run_in_threads
from tests.wire.test_communicator import connected, run


def timed(n_ranks):
    return run_in_threads(n_ranks, probe._time_exchanges)


@pytest.mark.parametrize("n_ranks", [2, 3])
def test_all_measure_the_same_sizes(n_ranks):
    found = timed(n_ranks)
    assert len({tuple(times.sizes) for times in found}) == 1
    sizes, seconds, _ = found[0]
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
        sizes, seconds, _ = probe._time_exchanges(communicator)
        assert len(sizes) >= 2
        assert sizes == sorted(set(sizes))
        assert len(seconds) == len(sizes)


def test_a_slow_link_is_measured_with_small_sizes_only(monkeypatch):
    monkeypatch.setattr(probe, "LINK_S", 0.0)
    for times in timed(2):
        assert len(times.sizes) == probe.MIN_SIZES


@pytest.mark.parametrize(
    ("mbit_per_s", "expected"), [(10_000, [4, 4, 4, 4, 4]), (100, [4, 4, 2])]
)
def test_exchanges_that_take_long_are_repeated_less(monkeypatch, mbit_per_s, expected):
    repeated = []

    def exchange_s(_, width, times):
        repeated.append(times)
        n_bytes = width * probe.ROWS * probe.FLOAT_BYTES
        return 1e-4 + 8e-6 * n_bytes / mbit_per_s

    # Nothing takes time but what is expected to.
    monkeypatch.setattr(probe.time, "perf_counter", lambda: 0.0)
    monkeypatch.setattr(probe, "_exchange_s", exchange_s)
    sizes, seconds, _ = probe._time_exchanges(Unconnected(2))
    assert repeated == expected
    assert len(sizes) == len(seconds) == len(expected)


@pytest.mark.parametrize(
    ("each_s", "found_s"), [([9.0, 1.0, 4.0, 2.0], 1.0), ([9.0, 4.0], 2.0)]
)
def test_a_first_exchange_and_one_that_is_held_up_do_not_count(
    monkeypatch, each_s, found_s
):
    """Of a gather and a scatter, half is the mean."""
    clock = accumulate(seconds for s in each_s for seconds in (0.0, s))
    monkeypatch.setattr(probe.time, "perf_counter", lambda: next(clock))
    assert probe._exchange_s(Unconnected(2), 8, len(each_s)) == found_s


def test_one_worker_has_nobody_to_exchange_with():
    assert timed(1) == [([], [], None)]
    assert run(connected(1), probe._time_links) == [[([], [], None)]]


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
    def throttle(communicator):
        for link in communicator._connections.links.values():
            send = link.send

            def send_slowly(views, send=send):
                time.sleep(0.03)
                return send(views)

            link.send = send_slowly

    communicators = connected(n_ranks)
    throttle(communicators[1])
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
