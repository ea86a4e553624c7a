"""What the cores can do at best: in matrix products, and in memory traffic."""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from distributed import Client

from skdistmlp.crossover.workloads import Workload
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.cost import StepCost, flop

MEASURED_S = 0.3
"""Seconds for which each operation is timed, with all cores busy."""

BYTES_PER_PARAMETER = 28
"""Memory traffic of Adam per float32 parameter: it reads the parameter, its gradient
and two moments, and writes all but the gradient."""

ARRAY_BYTES = 64 * 2**20
"""Size of an array that fits in no cache."""


class PeakRates(NamedTuple):
    """What one core achieves while the others are as busy.

    Attributes
    ----------
    flop_per_s : float
        Operations of float32 matrix products.
    bytes_per_s : float
        Bytes read and written by an addition in place.
    """

    flop_per_s: float
    bytes_per_s: float

    def min_step_s(self, workload: Workload) -> float:
        """Return a lower bound of the seconds per step with Adam on one core."""
        split = NetworkSplit.even(workload.layer_units, 1)
        work = StepCost.of_step(workload.batch_size)
        n_bytes = BYTES_PER_PARAMETER * split.n_parameters
        return flop(split, work) / self.flop_per_s + n_bytes / self.bytes_per_s


def measure_peak_rates(client: Client) -> PeakRates:
    """Measure all workers at the same time; return their mean."""
    futures = [
        client.submit(_measure, workers=[worker], pure=False)
        for worker in client.nthreads()
    ]
    columns = zip(*client.gather(futures), strict=True)
    return PeakRates(*(sum(column) / len(futures) for column in columns))


def _measure() -> tuple[float, float]:
    random = np.random.default_rng(0)
    a, b = random.random((2, 1024, 1024), dtype=np.float32)
    out = np.empty_like(a)
    product_s = _fastest_s(lambda: np.matmul(a, b, out=out))
    summand, total = np.ones((2, ARRAY_BYTES // 4), dtype=np.float32)
    addition_s = _fastest_s(lambda: np.add(total, summand, out=total))
    return 2 * 1024**3 / product_s, 3 * ARRAY_BYTES / addition_s


def _fastest_s(call: Callable[[], object]) -> float:
    """Return the seconds of the fastest of many calls."""
    fastest_s, end = float("inf"), time.perf_counter() + MEASURED_S
    while (start := time.perf_counter()) < end:
        call()
        fastest_s = min(fastest_s, time.perf_counter() - start)
    return fastest_s
