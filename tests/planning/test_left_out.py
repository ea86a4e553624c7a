"""Which workers a plan leaves out, and how it says so."""

import pytest

from skdistmlp.parallel.grid import Grid
from skdistmlp.planning.left_out import (
    LeftOut,
    left_out_lines,
    slow_links,
    slow_workers,
)
from skdistmlp.planning.machines import Link, Speed
from skdistmlp.planning.memory import WorkerMemory
from skdistmlp.planning.rates import REFERENCE

WORKERS = A, B, C = "tcp://a:1", "tcp://b:1", "tcp://c:1"


def speeds(*slowness):
    return [Speed(REFERENCE, {Grid(1): times}) for times in slowness]


def links(*mbit_per_s):
    return [Link.of_rate(1e6 * rate, REFERENCE) for rate in mbit_per_s]


def test_workers_that_are_slower_than_those_of_a_plan_are_left_out():
    assert slow_workers([A], WORKERS, speeds(1.0, 2.0, 1.0)) == [
        LeftOut(B, "worker", 2.0)
    ]
    # Others are only not needed.
    assert slow_workers([A, B], WORKERS, speeds(1.0, 3.0, 3.0)) == []
    # In this process, none of them trains.
    assert slow_workers([], WORKERS, speeds(1.0, 2.0, 1.0)) == []


def test_workers_with_slower_links_than_those_of_a_plan_are_left_out():
    fast, slow = links(10_000, 100)
    (left_out,) = slow_links(fast, WORKERS, [fast, slow, fast])
    assert (left_out.worker, left_out.why) == (B, "link")
    assert left_out.times == pytest.approx(slow.slowness / fast.slowness)
    assert slow_links(slow, WORKERS, [fast, slow, fast]) == []
    # A worker alone exchanges nothing.
    assert slow_links(None, WORKERS, [fast, slow, fast]) == []


def test_workers_that_need_more_memory_than_they_have_are_left_out():
    memory = {A: WorkerMemory(1000, taken=400), B: WorkerMemory(1000, taken=401)}
    assert LeftOut.short_of_memory(dict.fromkeys(WORKERS, 600), memory) == [
        LeftOut(B, "memory", bytes_needed=600, bytes_free=599)
    ]


def test_each_reason_is_a_line():
    assert left_out_lines([]) == []
    slow, far = LeftOut(A, "worker", 3.04), LeftOut(B, "link", 20.0)
    assert left_out_lines([far, slow]) == [
        "tcp://a:1 is left out, 3.0 times as slow as the others",
        "tcp://b:1 is left out: its link is 20.0 times as slow as the others",
    ]
    assert left_out_lines([far, LeftOut(C, "link", 8.0)]) == [
        "tcp://b:1, tcp://c:1 are left out: their links are 8.0 to 20.0 times as slow "
        "as the others"
    ]
    short = LeftOut(A, "memory", bytes_needed=1000, bytes_free=0)
    shorter = LeftOut(C, "memory", bytes_needed=2000, bytes_free=1500)
    assert left_out_lines([slow, short]) == [
        "tcp://a:1 is left out, 3.0 times as slow as the others",
        "tcp://a:1 is left out: it has 0 bytes of memory free, of 1,000 that are "
        "needed",
    ]
    assert left_out_lines([short, shorter]) == [
        "tcp://a:1, tcp://c:1 are left out: they have 0 to 1,500 bytes of memory free, "
        "of 2,000 that are needed"
    ]
