"""From how many parameters on a network that is shared trains faster."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from skdistmlp.crossover.rule import crossover_size
from skdistmlp.crossover.timing import Row, median_ratio
from skdistmlp.crossover.workloads import Workload, step_and_rest
from skdistmlp.parallel.split import count_parameters

MORE_A_FIT = "more a fit, ms"
"""The column of what a fit takes more beside its steps, if it shares the network."""


def growing(
    candidates: Mapping[str, Callable[..., Any]],
    workloads: Sequence[Workload],
    repeats: int,
) -> Iterator[Row]:
    """Time two candidates, in turn, on networks that grow.

    Parameters
    ----------
    candidates : mapping of str to callable
        Who does not share the network, then who does: functions from parameters to
        an estimator, by name.
    workloads : sequence of Workload
        Networks in the order of their sizes.
    repeats : int
        How often to time each.

    Yields
    ------
    dict
        A row a network.
    """
    alone, shared = candidates
    for workload in workloads:
        taken: dict[str, list[float]] = {name: [] for name in candidates}
        rest: dict[str, list[float]] = {name: [] for name in candidates}
        for _ in range(repeats):
            for name, make in candidates.items():
                step_s, rest_s = step_and_rest(workload, make)
                taken[name].append(step_s)
                rest[name].append(rest_s)
        yield {
            "network": workload.name,
            "batch": workload.batch_size,
            "parameters": count_parameters(workload.layer_units),
            **{f"{name}, ms": 1e3 * median(taken[name]) for name in candidates},
            "times faster": median_ratio(taken[alone], taken[shared]),
            MORE_A_FIT: 1e3 * (median(rest[shared]) - median(rest[alone])),
        }


def parameter_threshold(rows: Sequence[Row]) -> int | None:
    """Return from how many parameters on networks should be shared.

    Parameters
    ----------
    rows : sequence of dict
        What was measured, by rising size; of each row "parameters" and "times faster"
        count.

    Returns
    -------
    int or None
        What `crossover_size` returns, rounded up to two digits unless it is a size
        that was measured.
    """
    sizes = [row["parameters"] for row in rows]
    found = crossover_size(sizes, [row["times faster"] for row in rows])
    if found is None or found in sizes:
        return None if found is None else int(found)
    digits = 10 ** max(0, math.floor(math.log10(found)) - 1)
    return math.ceil(found / digits) * digits


def where_faster(rows: Sequence[Row]) -> str:
    """Say from how many parameters on sharing is faster.

    Parameters
    ----------
    rows : sequence of dict
        As `parameter_threshold` takes them.

    Returns
    -------
    str
        The end of a sentence that begins with "it is faster".
    """
    threshold = parameter_threshold(rows)
    if threshold is None:
        return f"not up to {rows[-1]['parameters']:,} parameters"
    if all(row["times faster"] > 1 for row in rows):
        return f"from the smallest measured on ({threshold:,} parameters)"
    return f"from about {threshold:,} parameters on"


def advice(rows: Sequence[Row], n_workers: int) -> str:
    """Say what to do after a measurement on a cluster.

    Parameters
    ----------
    rows : sequence of dict
        As `growing` yields them.
    n_workers : int
        Workers that shared the networks.

    Returns
    -------
    str
        A line or two.
    """
    threshold = parameter_threshold(rows)
    if threshold is None:
        return (
            f"{n_workers} workers were not faster than this process, up to "
            f"{rows[-1]['parameters']:,} parameters. Train here, or try larger batches."
        )
    more_ms = max(0.0, median(row[MORE_A_FIT] for row in rows))
    return (
        f"{n_workers} workers are faster {where_faster(rows)}: "
        f"use parameter_threshold={threshold}\n"
        f"A fit takes about {more_ms:.0f} ms more on them, however many steps it has; "
        f"if yours are as short as that, use a higher threshold."
    )
