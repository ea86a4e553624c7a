"""Measure how much faster distributed training is, by the size of the network."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from statistics import median

from skdistmlp.crossover.timing import EstimatorFactory, median_ratio, time_fit
from skdistmlp.crossover.workloads import Workload
from skdistmlp.parallel.split import count_parameters

MAX_ATTEMPTS = 3
"""Measurements of a network until its speed-up is possible."""

SPEEDUP_PER_THREAD = 1.5
"""Speed-up that a worker's thread can bring at most: a shard that fits into a cache
computes faster than the whole network, and workers may be faster than this process."""


@dataclass(frozen=True)
class Measurement:
    """What was measured of one network; its fields are the columns of the tables.

    Attributes
    ----------
    network : str
        Features and hidden layers, such as "64-(128)".
    batch_size : int
        Rows per mini-batch.
    n_parameters : int
        Size of the network.
    baseline_step_ms : float
        Milliseconds per step without distributing, median.
    distributed_step_ms : float
        Milliseconds per step of distributed training, median.
    speedup : float
        Median of the ratios of the two, pair by pair.
    extra_fit_ms : float
        Milliseconds that a distributed fit takes longer, however many steps it has.
    expected_speedup : float or None
        What ``engine="auto"`` expected, if it was asked and could say it.
    """

    network: str
    batch_size: int
    n_parameters: int
    baseline_step_ms: float
    distributed_step_ms: float
    speedup: float
    extra_fit_ms: float
    expected_speedup: float | None = None


def measure_growing_networks(
    baseline: EstimatorFactory,
    distributed: EstimatorFactory,
    workloads: Iterable[Workload],
    repeats: int,
    max_speedup: float = math.inf,
    expect: Callable[[Workload], float | None] | None = None,
) -> Iterator[Measurement]:
    """Time networks of growing size, in turn on the baseline and distributed.

    Parameters
    ----------
    baseline, distributed : callable
        From parameters to an estimator: where to train without distributing the
        network, and with.
    workloads : iterable of Workload
        Networks in ascending order of size.
    repeats : int
        Number of timed repeats per network.
    max_speedup : float
        A network whose speed-up exceeds this is measured again, at most `MAX_ATTEMPTS`
        times in all: something else kept the machine from training the baseline.
    expect : callable, optional
        Called with each network before it is measured, for the speed-up that is
        expected; None if nothing is.

    Yields
    ------
    Measurement
        One per network.
    """
    for workload in workloads:
        expected = None if expect is None else expect(workload)
        for _ in range(MAX_ATTEMPTS):
            measured = _measure(baseline, distributed, workload, repeats)
            if measured.speedup <= max_speedup:
                break
        yield replace(measured, expected_speedup=expected)


def _measure(
    baseline: EstimatorFactory,
    distributed: EstimatorFactory,
    workload: Workload,
    repeats: int,
) -> Measurement:
    # In turns, so that whatever else the machine does affects both.
    pairs = [
        (time_fit(workload, baseline), time_fit(workload, distributed))
        for _ in range(repeats)
    ]
    baseline_times, distributed_times = zip(*pairs, strict=True)
    baseline_steps_s = [time.step_s for time in baseline_times]
    distributed_steps_s = [time.step_s for time in distributed_times]
    baseline_fixed_s = median(time.fixed_s for time in baseline_times)
    distributed_fixed_s = median(time.fixed_s for time in distributed_times)
    return Measurement(
        network=workload.name,
        batch_size=workload.batch_size,
        n_parameters=count_parameters(workload.layer_units),
        baseline_step_ms=1e3 * median(baseline_steps_s),
        distributed_step_ms=1e3 * median(distributed_steps_s),
        speedup=median_ratio(baseline_steps_s, distributed_steps_s),
        extra_fit_ms=1e3 * (distributed_fixed_s - baseline_fixed_s),
    )
