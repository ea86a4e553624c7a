"""What workers time: exchanges of growing size, while there is time."""

import threading
from itertools import accumulate
from types import SimpleNamespace

import pytest

from skdistmlp.cluster.peers import probe
from skdistmlp.parallel.unconnected import Unconnected
from tests.cluster.support import WITHIN_S, bounded
from tests.thread_communicator import run_in_threads


def timed(n_ranks):
    return run_in_threads(n_ranks, probe._time_exchanges)


@pytest.mark.parametrize("n_ranks", [2, 3])
def test_all_measure_the_same_sizes(n_ranks):
    found = timed(n_ranks)
    assert len({tuple(sizes) for sizes, _ in found}) == 1
    sizes, seconds = found[0]
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
        sizes, seconds = probe._time_exchanges(communicator)
        assert len(sizes) >= 2
        assert sizes == sorted(set(sizes))
        assert len(seconds) == len(sizes)


def test_a_slow_link_is_measured_with_small_sizes_only(monkeypatch):
    monkeypatch.setattr(probe, "LINK_S", 0.0)
    for sizes, _ in timed(2):
        assert len(sizes) == probe.MIN_SIZES


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
    sizes, seconds = probe._time_exchanges(Unconnected(2))
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
    assert timed(1) == [([], [])]


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
