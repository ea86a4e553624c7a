"""Time candidates against each other, and show what came of it."""

import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

Row = dict[str, Any]


def interleaved(
    candidates: Mapping[str, Callable[[], object]], repeats: int
) -> dict[str, list[float]]:
    """Time candidates in turn, so that a machine's moods meet all of them.

    Parameters
    ----------
    candidates : mapping of str to callable
        What to time.
    repeats : int
        Timed calls of each, after one that is not counted.

    Returns
    -------
    dict of str to list of float
        Seconds of every call.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for repeat in range(repeats + 1):
        for name, candidate in candidates.items():
            start = time.perf_counter()
            candidate()
            if repeat > 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def median_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """Return the median of the ratios of calls that followed each other."""
    return median(n / d for n, d in zip(numerator, denominator, strict=True))


def table(rows: Sequence[Row]) -> str:
    """Lay out rows with the same keys as a Markdown table."""
    header = list(rows[0])
    cells = [[_shown(row[name]) for name in header] for row in rows]
    widths = [
        max(len(name), *(len(line[i]) for line in cells))
        for i, name in enumerate(header)
    ]
    lines = [header, ["-" * width for width in widths], *cells]
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |"
        for line in lines
    )


def write_json(path: Path, results: Mapping[str, Any]) -> None:
    """Write results and what they were measured on."""
    machine = {
        "platform": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "blas": threadpool_info(),
    }
    path.write_text(json.dumps({"machine": machine, **results}, indent=2) + "\n")


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
