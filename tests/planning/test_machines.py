"""How fast processes are: corrections between grids, and links."""

import math
from dataclasses import replace

import pytest

from skdistmlp.parallel.grid import Grid
from skdistmlp.planning.machines import (
    PAYLOAD,
    TYPICAL_BYTES,
    Link,
    Speed,
    reference_machines,
)
from skdistmlp.planning.rates import DASK_BYTE_S, REFERENCE, Rates

FREE = Rates({1: 1e9, 1024: 1e9}, math.inf, 0.0, 0.0, math.inf, 0.0)
"""Only products take time."""


def test_a_measured_grid_has_its_own_correction():
    speed = Speed(FREE, {Grid(1): 2.0, Grid(4): 4.0, Grid(1, 4): 1.0})
    assert speed.correction(Grid(1)) == 2.0
    assert speed.correction(Grid(4)) == 4.0
    assert speed.correction(Grid(1, 4)) == 1.0


def test_corrections_change_evenly_in_logarithms():
    speed = Speed(FREE, {Grid(1): 2.0, Grid(4): 8.0, Grid(1, 4): 0.5})
    assert speed.correction(Grid(2)) == pytest.approx(4.0)
    assert speed.correction(Grid(1, 2)) == pytest.approx(1.0)
    assert speed.correction(Grid(2, 2)) == pytest.approx(2.0)
    # Nothing is known of more, which are taken to be like the most.
    assert speed.correction(Grid(64)) == pytest.approx(8.0)
    assert speed.correction(Grid(64, 64)) == pytest.approx(2.0)


def test_without_measurement_there_is_nothing_to_correct():
    assert Speed(FREE).correction(Grid(3, 5)) == 1.0
    assert Speed(FREE, {Grid(1): 3.0}).correction(Grid(8)) == 3.0


def test_exchanges_follow_lines_between_the_sizes_that_were_measured():
    link = Link((0.0, 100.0, 1000.0), (1.0, 2.0, 4.0), 1)
    found = [link.exchange_s(size, 1, FREE) for size in (0, 50, 100, 550, 1000, 1900)]
    assert found == pytest.approx([1.0, 1.5, 2.0, 3.0, 4.0, 6.0])
    assert link.latency_s == 1.0
    assert link.bits_per_s == pytest.approx(8 * 900 / 2)


def test_a_small_exchange_that_was_held_up_does_not_make_large_ones_free():
    sizes = 64, 15_936, 128_000
    link = Link.of_timings(sizes, (0.2e-3, 30e-3, 20e-3), 1)
    byte_s = (20e-3 - 0.2e-3) / (128_000 - 64)
    assert link.bits_per_s == pytest.approx(8 / byte_s)
    assert link.latency_s == 0.2e-3
    for size in (15_936, 128_000, 10**6, 10**7):
        expected = 0.2e-3 + (size - 64) * byte_s
        assert link.exchange_s(size, 1, FREE) == pytest.approx(expected)
    # What was not held up stays as it was.
    plain = Link.of_timings(sizes, (0.2e-3, 3e-3, 20e-3), 1)
    assert plain == Link(sizes, (0.2e-3, 3e-3, 20e-3), 1)


@pytest.mark.parametrize(
    "milliseconds", [(5, 1, 3), (3, 2, 1), (1, 1, 1), (1, 3, 2, 2), (2, 1), (1, 1)]
)
def test_larger_exchanges_never_take_less(milliseconds):
    sizes = [0.0, 1e4, 1e5, 1e6][: len(milliseconds)]
    link = Link.of_timings(sizes, [1e-3 * ms for ms in milliseconds], 1)
    found = [link.exchange_s(size, 1, FREE) for size in (0, 1e3, 1e4, 5e4, 1e5, 1e6)]
    assert found == sorted(found)
    assert link.exchange_s(1e8, 1, FREE) > link.exchange_s(1e7, 1, FREE) > 0
    assert link.exchange_s(sizes[-1], 1, FREE) == pytest.approx(1e-3 * milliseconds[-1])


def test_more_messages_than_were_measured_take_longer():
    link = Link.of_rate(1e9, REFERENCE)
    one, three = (link.exchange_s(1000, n, REFERENCE) for n in (1, 3))
    assert three - one == pytest.approx(2 * REFERENCE.message_s)
    assert link.exchange_s(0, 0, REFERENCE) >= 0
    far = Link.of_rate(1e9, REFERENCE, latency_s=2e-3)
    assert far.latency_s == 2e-3
    assert far.bits_per_s == pytest.approx(link.bits_per_s)


@pytest.mark.parametrize("empty_s", [1e-5, 1e-4, 3e-4, 1e-3])
def test_an_exchange_of_few_workers_among_many_costs_something(empty_s):
    """Though 15 messages take less than the reference core says of them."""
    link = Link((960.0, 1e6), (empty_s, 1e-2), n_others=15)
    assert link.exchange_s(960, 15, REFERENCE) == empty_s
    pair_s = link.exchange_s(960, 1, REFERENCE)
    least_s = REFERENCE.round_trip_s / 2 + REFERENCE.message_s
    assert pair_s >= min(empty_s, least_s)
    assert pair_s <= empty_s


def test_a_link_of_a_rate_takes_as_long_as_its_bytes():
    link = Link.of_rate(1e9, FREE)
    assert link.exchange_s(10**6, 1, FREE) == pytest.approx(8e6 / (PAYLOAD * 1e9))
    assert link.bits_per_s == pytest.approx(PAYLOAD * 1e9)
    assert Link.of_rate(math.inf, FREE).bits_per_s == math.inf


def test_an_exchange_takes_as_long_as_on_the_slowest_link():
    fast, slow = (Link.of_rate(rate, REFERENCE) for rate in (1e10, 1e8))
    assert slow.slowness > 10 * fast.slowness
    assert slow.slowness == slow.exchange_s(TYPICAL_BYTES, 1, REFERENCE)
    machines = replace(reference_machines(3), links=(fast, slow, fast))
    assert machines.link_among([0, 2]) is fast
    assert machines.link_among([2, 1]) is slow
    some = machines.of([1, 0])
    assert some.links == (slow, fast)
    assert some.workers == machines.workers[:2]


def test_bytes_to_and_from_this_process_take_what_its_own_link_takes():
    machines = reference_machines(2, 1e9)
    like_theirs = 1e6 * (DASK_BYTE_S + 8 / machines.links[0].bits_per_s)
    assert machines.sent_s(1e6) == pytest.approx(like_theirs)
    slow = with_rates_here(machines, 1e6, 1e6)
    assert slow.sent_s(1e6) == pytest.approx(1e6 * DASK_BYTE_S + 8)
    local = with_rates_here(machines, math.inf, math.inf)
    assert local.sent_s(1e6) == pytest.approx(1e6 * DASK_BYTE_S)


def test_bytes_are_not_slowed_down_by_links_of_workers_that_take_no_part():
    fast, slow = (Link.of_rate(rate, REFERENCE) for rate in (1e10, 1e8))
    machines = replace(reference_machines(3), links=(fast, slow, fast))
    machines = with_rates_here(machines, 1e9, 1e7, 1e9)
    assert machines.sent_s(1e6, [2, 0]) == pytest.approx(1e6 * DASK_BYTE_S + 8e-3)
    for places in ([1], [0, 1], None):
        assert machines.sent_s(1e6, places) == pytest.approx(1e6 * DASK_BYTE_S + 0.8)


def with_rates_here(machines, *rates):
    """Return machines whose links to this process have these rates."""
    links = (
        replace(link, here_bits_per_s=rate)
        for link, rate in zip(machines.links, rates, strict=True)
    )
    return replace(machines, links=tuple(links))
