"""From what size on distributing a network pays."""

from collections.abc import Sequence


def crossover_size(sizes: Sequence[float], gains: Sequence[float]) -> float | None:
    """Return the size from which on sharing pays: every gain measured is above 1.

    It is where the last line up to such gains is 1, drawn over the logarithm of the
    size, as `CrossoverDisplay` does.

    Parameters
    ----------
    sizes : sequence of float
        What was measured, in ascending order, positive.
    gains : sequence of float, of the same length
        How many times faster sharing was.

    Returns
    -------
    float or None
        The smallest size measured if all gains are above 1; None if the last is not.
    """
    if gains[-1] <= 1:
        return None
    lost = [i for i, gain in enumerate(gains) if gain <= 1]
    if not lost:
        return sizes[0]
    last = lost[-1]
    way = (1 - gains[last]) / (gains[last + 1] - gains[last])
    return sizes[last] * (sizes[last + 1] / sizes[last]) ** way
