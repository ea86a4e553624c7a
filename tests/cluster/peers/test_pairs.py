"""Which workers exchange in pairs, and whose links turn out to be slow by that."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skdistmlp.cluster.peers.pairs import (
    MIN_PAIR_ROUNDS,
    PAIR_ROUNDS,
    PairRounds,
    tournament_round,
)
from skdistmlp.planning.calibration import equal_links

FAST_S, SLOW_S = 1e-3, 1e-2


def play(links, n_rounds=math.inf):
    """Play rounds among workers with such links; return them, and what they found.

    Both ends of a pair see the slower one of their links.
    """
    rounds = PairRounds(len(links))
    while rounds.n_played < n_rounds and (partners := rounds.next_partners()):
        assert all(partners[partner] == place for place, partner in enumerate(partners))
        seconds = [
            max(links[place], links[partner]) if partner != place else math.inf
            for place, partner in enumerate(partners)
        ]
        rounds.note(partners, seconds)
    return rounds


def links_of(n_places, fast):
    """Return links of which some are fast."""
    return [FAST_S if place in fast else SLOW_S for place in range(n_places)]


@pytest.mark.parametrize("n_places", [3, 4, 5, 6, 7, 8, 12, 16, 33, 100])
def test_in_a_tournament_everyone_meets_everyone(n_places):
    last = n_places - 1 + n_places % 2
    every = [tournament_round(number, n_places) for number in range(last)]
    for place in range(n_places):
        met = [partners[place] for partners in every]
        assert len({*met}) == len(met)
        assert {*met} | {place} == set(range(n_places))
    for partners in every:
        # Of an odd number, one has no partner.
        alone = [place for place, partner in enumerate(partners) if partner == place]
        assert len(alone) == n_places % 2


@given(st.lists(st.sampled_from([FAST_S, SLOW_S, 1.0]), min_size=3, max_size=16))
def test_up_to_16_workers_all_links_are_found(links):
    found = play(links).link_s
    for place, link_s in enumerate(links):
        others = links[:place] + links[place + 1 :]
        # With the best partner that there is.
        assert found[place] == max(link_s, min(others))


@pytest.mark.parametrize(("n_places", "fast"), [(16, {0, 2, 4, 6}), (8, {0, 2})])
def test_a_few_fast_links_among_many_slow_ones_are_found(n_places, fast):
    links = links_of(n_places, fast)
    assert play(links).link_s == links


@pytest.mark.parametrize("n_places", range(3, 40))
def test_one_slow_link_makes_no_other_seem_slow_in_the_fewest_rounds(n_places):
    for slow in range(n_places):
        links = links_of(n_places, {*range(n_places)} - {slow})
        assert play(links, MIN_PAIR_ROUNDS).link_s == links


@pytest.mark.parametrize("n_fast", [12, 50, 88])
@pytest.mark.parametrize("step", [1, 3, 7])
def test_who_has_had_slow_partners_only_meets_a_fast_one(n_fast, step):
    fast = {step * number % 100 for number in range(n_fast)}
    links = links_of(100, fast)
    assert play(links).link_s == links


def test_what_remains_is_that_no_fast_ones_may_have_met():
    """Then all seem equally slow, and there is no reason to look further."""
    rounds, met = PairRounds(100), {0}
    while partners := rounds.next_partners():
        met.add(partners[0])
        rounds.note(partners, [SLOW_S] * 100)
    apart = next(place for place in range(100) if place not in met)
    found = play(links_of(100, {0, apart}))
    assert {*found.link_s} == {SLOW_S}
    assert found.n_played == PAIR_ROUNDS


@pytest.mark.parametrize(
    ("n_places", "n_rounds"), [(3, 3), (4, 3), (5, 5), (16, 15), (1000, PAIR_ROUNDS)]
)
def test_equal_links_take_the_rounds_of_the_tournament_only(n_places, n_rounds):
    assert play([FAST_S] * n_places).n_played == n_rounds


def test_each_stranger_meets_one_of_the_fastest_only():
    """All of them together, as many at a time as there are fast ones."""
    links = links_of(1000, set(range(500)))
    rounds = play(links)
    assert rounds.link_s == links
    assert rounds.n_played <= PAIR_ROUNDS + 2


@given(st.lists(st.floats(1e-4, 1.0), min_size=3, max_size=60))
def test_nobody_seems_slow_for_having_met_none_of_the_fastest(links):
    """Whoever these turn out to be in the end."""
    found = play(links).link_s
    fastest, *_ = equal_links(found)
    fastest_s = max(found[place] for place in fastest)
    for own_s, found_s in zip(links, found, strict=True):
        assert own_s <= found_s <= max(own_s, fastest_s)
