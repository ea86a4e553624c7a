"""Actions that together take at most a share of the time."""

from itertools import pairwise

import pytest

from skdistmlp.training.pace import Pace
from tests.training.clock import Clock


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def times_of(a_pace, clock, until, action_s):
    """Return when the action is taken, of seconds that pass one by one.

    `action_s` says how long one takes that begins at a time.
    """
    times = []
    while clock.now < until:
        if a_pace.is_due:
            times.append(clock.now)
            with a_pace.timed():
                clock.now += action_s(clock.now)
        clock.now += 1
    return times


@pytest.mark.parametrize("first_after_s", [0, 10, 49, 70])
def test_all_actions_together_take_their_share(clock, first_after_s):
    def action_s(now):
        # It varies.
        return 1 + now % 3

    a_pace = Pace(0.02, first_after_s=first_after_s)
    times = times_of(a_pace, clock, 5000, action_s)
    assert times[0] == first_after_s
    assert len(times) > 20
    took, last = 0, 0
    for number, begun in enumerate(times):
        took += action_s(begun)
        if number > 0:
            # Expected to take as long as the one before.
            assert took - action_s(begun) + last <= 0.02 * begun + 1e-9
        last = action_s(begun)


def test_an_early_action_is_made_up_for_before_the_next(clock):
    times = times_of(Pace(0.02, first_after_s=10), clock, 1000, lambda _: 1)
    # Two of them are 2% of 100 s.
    assert times[:2] == [10, 100]
    gaps = [after - before for before, after in pairwise(times[1:])]
    assert all(gap == 51 for gap in gaps)


def test_a_cheap_action_after_a_long_one_waits_for_both(clock):
    times = times_of(Pace(0.1), clock, 400, lambda now: 1 if now else 10)
    assert times[:3] == [0, 200, 211]


def test_time_that_has_passed_counts(clock):
    assert times_of(Pace(0.5, passed_s=3), clock, 4, lambda _: 1) == [0, 3]
    clock.now = 0
    a_pace = Pace(0.1, first_after_s=20, passed_s=15)
    assert times_of(a_pace, clock, 10, lambda _: 0)[0] == 5


def test_a_pause_is_kept_at_least(clock):
    a_pace = Pace(0.02, pause_s=60)
    assert times_of(a_pace, clock, 200, lambda _: 0) == [60, 120, 180]


def test_a_share_of_nothing_is_never_due(clock):
    a_pace = Pace(0.0)
    assert times_of(a_pace, clock, 1000, lambda _: 0) == []
    with a_pace.timed():
        clock.now += 1
    assert not a_pace.is_due


def test_an_action_that_fails_is_still_due(clock):
    a_pace = Pace(0.02)
    with pytest.raises(OSError, match="lost"), a_pace.timed():
        raise OSError("lost")
    assert a_pace.is_due
