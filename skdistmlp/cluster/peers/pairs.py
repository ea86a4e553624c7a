"""Which workers exchange with which, to find out whose links are slow."""

import math
import random
from collections.abc import Sequence

from skdistmlp.planning.calibration import equal_links

PAIR_ROUNDS = 15
"""Rounds of the tournament: of up to 16 workers, each meets all others."""

MIN_PAIR_ROUNDS = 3
"""Rounds that are played however long they take. After them, a single slow link has
made none of the others seem slow."""


class PairRounds:
    """Rounds in which workers exchange in pairs, and what these say of their links.

    Both ends of a pair see that one of them is slow, but only the slow one sees it in
    all of its pairs: each link counts as fast as the fastest exchange over it. The
    rounds are those of a tournament. In between, workers that have not yet met any of
    those with the fastest links do so: the partners that they had may all be slow.

    Processes that note the same seconds find the same pairs.

    Parameters
    ----------
    n_places : int
        How many workers there are, at least three.

    Attributes
    ----------
    link_s : list of float
        Seconds of an exchange of each worker with the best of its partners so far;
        infinite before it had any.
    n_played : int
        Number of rounds so far.
    """

    def __init__(self, n_places: int) -> None:
        self.link_s = [math.inf] * n_places
        self.n_played = 0
        self._met: list[set[int]] = [set() for _ in range(n_places)]
        self._n_of_tournament = 0
        # The same for all. Neighbours are often machines of one kind, and so is every
        # second worker: in the order of the addresses, those with fast links might not
        # meet each other.
        self._order = list(range(n_places))
        random.Random(0).shuffle(self._order)

    def next_partners(self) -> list[int]:
        """Return the partners of the next round.

        Returns
        -------
        list of int
            The partner of each worker, or the worker itself if it has none. Empty if
            there is no other round.
        """
        if self.n_played >= MIN_PAIR_ROUNDS and (pairs := self._with_the_fastest()):
            partners = list(range(len(self.link_s)))
            for one, other in pairs:
                partners[one], partners[other] = other, one
            return partners
        n_places = len(self.link_s)
        if self._n_of_tournament == min(PAIR_ROUNDS, _n_rounds(n_places)):
            return []
        partners = list(self._order)
        for at, partner in enumerate(tournament_round(self._n_of_tournament, n_places)):
            partners[self._order[at]] = self._order[partner]
        self._n_of_tournament += 1
        return partners

    def note(self, partners: Sequence[int], seconds: Sequence[float]) -> None:
        """Note what the exchanges of a round took.

        Parameters
        ----------
        partners : sequence of int
            What `next_partners` returned.
        seconds : sequence of float
            Seconds that the exchange of each worker took; infinite without a partner.
        """
        self.n_played += 1
        for place, (partner, took_s) in enumerate(zip(partners, seconds, strict=True)):
            self._met[place].add(partner)
            self.link_s[place] = min(self.link_s[place], took_s)

    def _with_the_fastest(self) -> list[tuple[int, int]]:
        """Return pairs of workers that seem slow with some that are the fastest.

        Of those that have met none of these.
        """
        fastest, *slower = equal_links(self.link_s)
        strangers = [
            place
            for group in slower
            for place in group
            if self._met[place].isdisjoint(fastest)
        ]
        return list(zip(strangers, fastest, strict=False))


def tournament_round(number: int, n_places: int) -> list[int]:
    """Return the partners of a round of a tournament.

    In as many rounds as there are others (or one more for an odd number, in each of
    which one has no partner) each meets everyone.

    Parameters
    ----------
    number : int
        Which round.
    n_places : int
        How many there are, at least three.

    Returns
    -------
    list of int
        The partner of each, or itself if it has none.
    """
    # The last one does not go round in the circle. There may be nobody in its place.
    last = _n_rounds(n_places)
    partners = [(number - place) % last for place in range(last)]
    # Of an odd number, half of each is another.
    alone = number * (last + 1) // 2 % last
    if last < n_places:
        partners[alone] = last
        partners.append(alone)
    return partners


def _n_rounds(n_places: int) -> int:
    """Return the number of rounds in which each meets everyone: an odd number."""
    return n_places - 1 + n_places % 2
