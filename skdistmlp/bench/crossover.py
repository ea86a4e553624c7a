"""From how many parameters on a network that is shared trains faster."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from skdistmlp.bench.timing import Row, crossing, median_ratio
from skdistmlp.bench.workloads import Workload, step_and_rest
from skdistmlp.parallel.split import count_parameters


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
        for _ in range(repeats):
            for name, make in candidates.items():
                taken[name].append(step_and_rest(workload, make)[0])
        yield {
            "network": workload.name,
            "batch": workload.batch_size,
            "parameters": count_parameters(workload.layer_units),
            **{f"{name}, ms": 1e3 * median(taken[name]) for name in candidates},
            "times faster": median_ratio(taken[alone], taken[shared]),
        }


def crossover(rows: Sequence[Row]) -> float:
    """Return from how many parameters on it pays; NaN if it never does, or always."""
    return crossing(
        [row["parameters"] for row in rows], [row["times faster"] for row in rows]
    )
