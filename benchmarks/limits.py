"""What the cores can do: the peak of matrix products, and of memory."""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from distributed import Client

from skdistmlp.crossover.workloads import Workload
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.cost import StepCost, flop

MEASURED_S = 0.3
"""Seconds for which each is measured: both cores are busy meanwhile."""

BYTES_A_PARAMETER = 28
"""What Adam reads and writes of a float32 parameter: parameter, gradient and two
moments are read, all but the gradient written."""

ADDED_BYTES = 64 * 2**20
"""Size of an array that no cache holds."""


class Limits(NamedTuple):
    """What one core can do while the others are as busy.

    Attributes
    ----------
    flop_per_s : float
        Of float32 matrix products, at best.
    bytes_per_s : float
        Read and written by an addition in place, at best.
    """

    flop_per_s: float
    bytes_per_s: float

    def step_s(self, workload: Workload) -> float:
        """Return the least seconds of a step with Adam on one core."""
        split = NetworkSplit.even(workload.layer_units, 1)
        work = StepCost.of_step(workload.batch_size)
        moved = BYTES_A_PARAMETER * split.n_parameters
        return flop(split, work) / self.flop_per_s + moved / self.bytes_per_s


def measured_limits(client: Client) -> Limits:
    """Measure all workers at once; return the mean of them."""
    futures = [
        client.submit(_measure, workers=[worker], pure=False)
        for worker in client.nthreads()
    ]
    columns = zip(*client.gather(futures), strict=True)
    return Limits(*(sum(column) / len(futures) for column in columns))


def _measure() -> tuple[float, float]:
    random = np.random.default_rng(0)
    a, b = random.random((2, 1024, 1024), dtype=np.float32)
    out = np.empty_like(a)
    product_s = _best(lambda: np.matmul(a, b, out=out))
    summand, total = np.ones((2, ADDED_BYTES // 4), dtype=np.float32)
    addition_s = _best(lambda: np.add(total, summand, out=total))
    return 2 * 1024**3 / product_s, 3 * ADDED_BYTES / addition_s


def _best(call: Callable[[], object]) -> float:
    """Return the seconds of the quickest of many calls."""
    best, end = float("inf"), time.perf_counter() + MEASURED_S
    while (start := time.perf_counter()) < end:
        call()
        best = min(best, time.perf_counter() - start)
    return best
