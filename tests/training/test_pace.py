"""Actions that take at most a share of the time."""

from itertools import pairwise

import pytest

from skdistmlp.training.pace import Pace
from tests.training.clock import Clock


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def times_of(a_pace, clock, until, action_s):
    """Return when the action is taken, of seconds that pass one by one."""
    times = []
    while clock.now < until:
        if a_pace.is_due:
            times.append(clock.now)
            with a_pace.timed():
                clock.now += action_s
        clock.now += 1
    return times


def test_an_action_takes_its_share_of_the_time(clock):
    times = times_of(Pace(0.02), clock, 1000, action_s=1)
    assert times[0] == 0
    gaps = [after - before for before, after in pairwise(times)]
    assert all(gap == 51 for gap in gaps)


def test_a_pause_is_kept_at_least(clock):
    assert times_of(Pace(0.02, pause_s=60), clock, 200, action_s=0) == [60, 120, 180]


def test_the_first_one_waits_for_what_it_is_expected_to_take(clock):
    assert times_of(Pace(0.1, expected_s=2), clock, 25, action_s=0)[0] == 20


def test_a_share_of_nothing_is_never_due(clock):
    assert times_of(Pace(0.0), clock, 1000, action_s=0) == []


def test_an_action_that_fails_is_still_due(clock):
    a_pace = Pace(0.02)
    with pytest.raises(OSError, match="lost"), a_pace.timed():
        raise OSError("lost")
    assert a_pace.is_due
