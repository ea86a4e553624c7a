"""What one core does on one thread, and what a step of a process takes by that."""

import math
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass

FLOAT32_BYTES = 4
"""Of the numbers whose rates are given; twice as large ones take twice as long."""


@dataclass(frozen=True)
class Rates:
    """What one core does on one thread, and what reaching another process costs.

    Attributes
    ----------
    flop_per_s : mapping of int to float
        Operations of float32 products, by the least of their three dimensions.
    optimizer_bytes_per_s : float
        Memory traffic of a step of an optimiser, which reads and writes each of its
        arrays.
    layer_s : float
        Seconds of a step that are spent per layer, whatever its size.
    message_s : float
        Seconds of the processor to send one message and to receive one.
    exchanged_bytes_per_s : float
        Bytes that the processor sends, and receives as many, in long messages: they are
        copied to the kernel and back, put in order and added up.
    round_trip_s : float
        Seconds of a byte to another process of the same machine and of the answer.
    """

    flop_per_s: Mapping[int, float]
    optimizer_bytes_per_s: float
    layer_s: float
    message_s: float
    exchanged_bytes_per_s: float
    round_trip_s: float

    def product_s(self, *shape: float, itemsize: int = FLOAT32_BYTES) -> float:
        """Return the seconds of a product with these three dimensions."""
        if not all(shape):
            return 0.0
        widths, rates = list(self.flop_per_s), list(self.flop_per_s.values())
        least = min(shape)
        at = bisect_left(widths, least)
        if at == len(widths):
            rate = rates[-1]
        elif widths[at] == least or at == 0:
            rate = rates[at]
        else:
            # Between two of them, along a line in logarithms.
            part = math.log(least / widths[at - 1]) / math.log(
                widths[at] / widths[at - 1]
            )
            rate = rates[at - 1] ** (1 - part) * rates[at] ** part
        return 2.0 * math.prod(shape) / rate * itemsize / FLOAT32_BYTES

    def update_s(self, n_bytes: float) -> float:
        """Return the seconds of a step of an optimiser with this memory traffic."""
        return n_bytes / self.optimizer_bytes_per_s


REFERENCE = Rates(
    flop_per_s={
        1: 2e9,
        4: 16e9,
        16: 34e9,
        64: 60e9,
        256: 76e9,
        1024: 79e9,
    },
    optimizer_bytes_per_s=2e10,
    layer_s=5e-5,
    message_s=2.5e-5,
    exchanged_bytes_per_s=1.5e9,
    round_trip_s=4e-5,
)
"""Of a core of 2026 (``python -m benchmarks scaling``). They say what a fit takes that
is too short to measure anything, and how what was measured changes in between."""

TASK_S = 8e-3
"""Seconds that the scheduler takes for each task of "futures" that waits for another
(``python -m benchmarks futures``)."""

DASK_BYTE_S = 4e-9
"""Seconds that Dask takes to send a byte to a worker, besides those on the link, and
that the worker takes to make an array of it (``python -m benchmarks futures``)."""

SCIPY_PARAMETER_S = 1e-7
"""Seconds per parameter that SciPy's L-BFGS takes between two evaluations, on one
thread: in fits of networks with 80,000 to 1.9 million parameters it took 0.088 to 0.099
µs (``python -m benchmarks optimizer``)."""
