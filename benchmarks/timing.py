"""Time candidates against each other, and say how far that has come."""

import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TypeVar

T = TypeVar("T")

STARTED_AT = time.monotonic()
"""When this process imported the benchmarks."""


def with_progress(
    title: str, measured: Collection[T], name: Callable[[T], str]
) -> Iterator[T]:
    """Yield each thing to measure, after a line on stderr that names it.

    Tables go to stdout, so the lines are not among them.

    Parameters
    ----------
    title : str
        Of the benchmark.
    measured : collection
        Such as workloads.
    name : callable
        What to call one of them.
    """
    for number, one in enumerate(measured, 1):
        elapsed_s = time.monotonic() - STARTED_AT
        print(
            f"{elapsed_s:5.0f} s  {title}: {name(one)}, {number} of {len(measured)}",
            file=sys.stderr,
            flush=True,
        )
        yield one


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
