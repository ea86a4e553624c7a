"""Time candidates against each other."""

import time
from collections.abc import Callable, Mapping


def time_in_turns(
    candidates: Mapping[str, Callable[[], object]], repeats: int
) -> dict[str, list[float]]:
    """Time candidates in turn, so that whatever else the machine does affects all.

    Parameters
    ----------
    candidates : mapping of str to callable
        Calls to time, by name.
    repeats : int
        Timed calls of each, after one that does not count.

    Returns
    -------
    dict of str to list of float
        Seconds of each call.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for repeat in range(repeats + 1):
        for name, candidate in candidates.items():
            start = time.perf_counter()
            candidate()
            if repeat > 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds
