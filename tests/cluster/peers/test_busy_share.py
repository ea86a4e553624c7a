"""How much of an exchange keeps the processor busy, by made-up and real ones."""

import time
from types import SimpleNamespace

import pytest

from skdistmlp.cluster.peers import busy_share
from skdistmlp.cluster.peers.busy_share import measure_busy_share
from skdistmlp.parallel.unconnected import Unconnected
from tests.thread_communicator import run_in_threads

SIZES, SECONDS = [64.0, 16_000.0, 1_000_000.0], [1e-4, 2e-4, 1e-2]


class MadeUpLink(Unconnected):
    """An exchange that takes a given time, for part of which the processor is busy.

    Time passes when something is computed or waited for, and no other does.
    """

    def __init__(
        self, busy: float, monkeypatch: pytest.MonkeyPatch, exchange_s: float = 4e-3
    ) -> None:
        super().__init__(2)
        self.exchange_s = exchange_s
        self.now, self.n_bytes, self.n_products, self._busy = 0.0, [], [], busy
        monkeypatch.setattr(
            busy_share, "time", SimpleNamespace(perf_counter=lambda: self.now)
        )
        monkeypatch.setattr(busy_share._Products, "compute", self._compute)

    def _compute(self, times, exchange=None):
        self.now += 1e-3 * times
        if exchange is not None:
            self.n_products.append(times)

    def begin_all_gather(self, part, ranges, label, out):
        self.n_bytes.append(part.nbytes)
        begun = self.now
        self.now += self.exchange_s * self._busy

        def finish():
            self.now = max(self.now, begun + self.exchange_s)
            return out

        return SimpleNamespace(advance=lambda: None, finish=finish)

    def all_gather(self, part, ranges, label, out):
        out[...] = part[0, 0]
        return out


@pytest.mark.parametrize("busy", [0.0, 0.25, 0.5, 1.0])
def test_what_both_take_together_tells_how_busy_the_processor_is(busy, monkeypatch):
    link = MadeUpLink(busy, monkeypatch)
    assert measure_busy_share(link, SIZES, SECONDS) == pytest.approx(busy)
    # Alone, then meanwhile, as many products as take as long as the exchange.
    assert link.n_products == [0, 4] * busy_share.N_REPEATS
    # 3 ms of 10 by the table.
    (n_bytes,) = set(link.n_bytes)
    assert n_bytes == pytest.approx(16_000 + 2.8 / 9.8 * 984_000, rel=1e-3)


def test_the_largest_size_is_taken_where_none_takes_long(monkeypatch):
    link = MadeUpLink(0.5, monkeypatch)
    # Smaller ones that were held up do not count.
    measure_busy_share(link, SIZES, [1e-4, 2e-3, 1e-3])
    assert set(link.n_bytes) == {1_000_000}


def test_an_exchange_that_is_too_short_tells_nothing(monkeypatch):
    link = MadeUpLink(0.5, monkeypatch, exchange_s=0.9e-3)
    assert measure_busy_share(link, SIZES, [1e-4, 2e-4, 1e-3]) is None


@pytest.mark.parametrize(
    ("each_ms", "share"),
    [([4, 20, 4], 0.5), ([4, 20, 20], None), ([20, 20, 20], None)],
)
def test_exchanges_that_are_held_up_do_not_count(monkeypatch, each_ms, share):
    """Too few products were computed in them to fill the time."""
    link = MadeUpLink(0.5, monkeypatch)
    exchange_s = iter(1e-3 * ms for ms in each_ms)
    begin = link.begin_all_gather

    def begin_all_gather(*arguments):
        if len(link.n_bytes) % 2 == 0:
            # The same alone and with products.
            link.exchange_s = next(exchange_s)
        return begin(*arguments)

    monkeypatch.setattr(link, "begin_all_gather", begin_all_gather)
    found = measure_busy_share(link, SIZES, SECONDS)
    assert found == (share if share is None else pytest.approx(share))


def test_a_far_link_is_not_timed(monkeypatch):
    link = MadeUpLink(0.5, monkeypatch)
    assert measure_busy_share(link, SIZES, [2.1e-3, 3e-3, 4e-3]) is None
    assert link.n_bytes == []


def test_nobody_to_exchange_with():
    assert run_in_threads(1, lambda c: measure_busy_share(c, [], [])) == [None]


@pytest.mark.parametrize("n_ranks", [2, 3])
def test_all_find_the_same(n_ranks, monkeypatch):
    """Though each has found other seconds, and begins later than the one before."""

    def measure(communicator):
        seconds = [s * (1 + communicator.rank) for s in SECONDS]
        time.sleep(1e-3 * communicator.rank)
        return measure_busy_share(communicator, SIZES, seconds)

    # Arrays of other threads are there at once.
    monkeypatch.setattr(busy_share, "MIN_S", 0.0)
    found = run_in_threads(n_ranks, measure)
    assert len(set(found)) == 1
    assert 0 <= found[0] <= 1


def test_the_first_decides_for_all():
    def measure(communicator):
        seconds = SECONDS if communicator.rank else [1.0, 1.0, 1.0]
        return measure_busy_share(communicator, SIZES, seconds)

    assert run_in_threads(2, measure) == [None, None]
