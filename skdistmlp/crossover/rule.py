"""The rule that turns measured speed-ups into a crossover size."""

import math
from collections.abc import Sequence


def crossover_size(
    n_parameters: Sequence[float], speedups: Sequence[float]
) -> float | None:
    """Return the size above which every measured speed-up exceeds 1.

    Between two sizes the speed-up is interpolated linearly over the logarithm of the
    size, so the result is where the line that `CrossoverDisplay` draws last rises
    through 1.

    Parameters
    ----------
    n_parameters : sequence of float
        Sizes of the measured networks, positive and in ascending order.
    speedups : sequence of float, of the same length
        Time of the baseline divided by the time of distributed training.

    Returns
    -------
    float or None
        The smallest measured size if all speed-ups exceed 1; None if the last does not.
    """
    if speedups[-1] <= 1:
        return None
    not_faster = [i for i, speedup in enumerate(speedups) if speedup <= 1]
    if not not_faster:
        return n_parameters[0]
    last = not_faster[-1]
    fraction = (1 - speedups[last]) / (speedups[last + 1] - speedups[last])
    smaller, larger = n_parameters[last], n_parameters[last + 1]
    return smaller * (larger / smaller) ** fraction


def parameter_threshold(
    n_parameters: Sequence[int], speedups: Sequence[float]
) -> int | None:
    """Return the crossover size as an estimator's `parameter_threshold`.

    Parameters
    ----------
    n_parameters, speedups : sequence
        As `crossover_size` takes them.

    Returns
    -------
    int or None
        The crossover size, rounded up to two digits unless it is a measured size.
    """
    size = crossover_size(n_parameters, speedups)
    if size is None or size in n_parameters:
        return None if size is None else int(size)
    unit = 10 ** max(0, math.floor(math.log10(size)) - 1)
    return math.ceil(size / unit) * unit
