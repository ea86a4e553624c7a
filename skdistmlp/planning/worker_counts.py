"""How many workers plans are considered for: some are slow, others lack memory."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

EACH_UP_TO = 8
"""Numbers of workers that are all considered; of larger ones, a few."""

GROUPS_LEFT_OUT = 4
"""Numbers of workers that leave slow ones out, at most: before the widest gaps."""

ROUNDS_FOR_ROOM = 8
"""Times that workers without room are left out, at most. Two are enough but where
memory is short and differs widely."""


def group_with_room(
    workers: Sequence[int], with_room: Callable[[int], Sequence[int]]
) -> Sequence[int]:
    """Return the workers that have room for their part if just they share.

    With fewer workers, each has a larger part, for which fewer have room.

    Parameters
    ----------
    workers : sequence of int
        All workers, by their place among them.
    with_room : callable
        Takes a number of workers; returns those of all workers that have room for the
        part that each would have if so many shared.

    Returns
    -------
    sequence of int
        Empty if none has room.
    """
    for _ in range(ROUNDS_FOR_ROOM):
        fewer = with_room(len(workers)) if workers else workers
        if len(fewer) == len(workers):
            break
        workers = fewer
    return workers


def worker_counts(
    slowness: Sequence[float], n_replicas: int | None = None, least: int = 1
) -> list[int]:
    """Return the numbers of workers to consider, in ascending order.

    All small ones; powers of two; all workers, and all that are no slower than some of
    them, so that the slow ones can be left out. These may be primes, which make no grid
    but a line: so a number just below each is considered as well that has many
    divisors. Of a thousand workers, these are at most 26 numbers.

    Parameters
    ----------
    slowness : sequence of float
        Seconds that each worker takes for the same, in ascending order.
    n_replicas : int, optional
        Number of replicas that was asked for: all numbers are multiples of it, and
        powers of two those of shards.
    least : int
        The fewest workers to take, if there are as many.
    """
    step = n_replicas or 1
    most = len(slowness) // step
    least = max(1, math.ceil(min(least, len(slowness)) / step))
    found = {*range(1, EACH_UP_TO // step + 1)}
    found |= {2**power for power in range(most.bit_length())}
    last = {end // step for end in (*_ends(slowness), len(slowness)) if end >= step}
    found |= last
    if n_replicas is None:
        found |= {_with_divisors(count) for count in last}
    return [step * count for count in sorted(found) if least <= count <= most]


def _ends(slowness: Sequence[float]) -> list[int]:
    """Return how many workers are faster than the next one, where gaps are widest."""
    ratios = {
        count: slower / faster
        for count, (faster, slower) in enumerate(pairwise(slowness), start=1)
        if slower > faster
    }
    return sorted(ratios, key=ratios.__getitem__, reverse=True)[:GROUPS_LEFT_OUT]


def _with_divisors(count: int) -> int:
    """Return the greatest number up to this one with a power of two near its root."""
    root = math.isqrt(count)
    return count - count % 2 ** (root.bit_length() - 1)
