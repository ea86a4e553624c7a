"""Say what a measured crossover means."""

import math
from collections.abc import Sequence
from statistics import median

from skdistmlp.crossover.measurement import MAX_ATTEMPTS, Measurement
from skdistmlp.crossover.rule import parameter_threshold


def describe_crossover(n_parameters: Sequence[int], speedups: Sequence[float]) -> str:
    """Say at which sizes distributed training is faster.

    Parameters
    ----------
    n_parameters, speedups : sequence
        As `crossover_size` takes them.

    Returns
    -------
    str
        The end of a sentence that begins with "it is faster".
    """
    threshold = parameter_threshold(n_parameters, speedups)
    if threshold is None:
        return f"nowhere up to {n_parameters[-1]:,} parameters"
    if all(speedup > 1 for speedup in speedups):
        return f"at every size measured, {threshold:,} parameters and more"
    return f"from about {threshold:,} parameters up"


def impossible(
    measurements: Sequence[Measurement], max_speedup: float
) -> list[Measurement]:
    """Return the measurements that say nothing: their speed-ups are too high."""
    return [each for each in measurements if each.speedup > max_speedup]


def describe_errors(measurements: Sequence[Measurement]) -> str:
    """Say how far off expected speed-ups were; nothing if none was expected."""
    errors = [
        abs(each.expected_speedup / each.speedup - 1)
        for each in measurements
        if each.expected_speedup is not None
    ]
    if not errors:
        return ""
    return (
        f"engine='auto' expected these speed-ups with errors of {median(errors):.0%} "
        f"(median) and {max(errors):.0%} (maximum)."
    )


def advise(
    measurements: Sequence[Measurement],
    n_workers: int,
    max_speedup: float = math.inf,
) -> str:
    """Say what to do after a measurement on a cluster.

    Parameters
    ----------
    measurements : sequence of Measurement
        In ascending order of size.
    n_workers : int
        Number of workers that trained the distributed networks.
    max_speedup : float
        What they can reach at most.

    Returns
    -------
    str
        One or two lines.
    """
    if wrong := impossible(measurements, max_speedup):
        named = ", ".join(f"{each.speedup:.1f} for {each.network}" for each in wrong)
        return (
            f"Speed-ups above {max_speedup:g} are impossible on these "
            f"{n_workers} workers, but {named} was measured, {MAX_ATTEMPTS} times in a "
            f"row: this machine is too busy to measure. No parameter_threshold is "
            f"recommended; measure again when it is idle."
        )
    n_parameters = [measured.n_parameters for measured in measurements]
    speedups = [measured.speedup for measured in measurements]
    threshold = parameter_threshold(n_parameters, speedups)
    if threshold is None:
        return (
            f"{n_workers} workers are not faster than this process at the largest size "
            f"measured ({n_parameters[-1]:,} parameters): train locally, or try larger "
            f"batches."
        )
    extra_ms = max(0.0, median(measured.extra_fit_ms for measured in measurements))
    return (
        f"{n_workers} workers are faster {describe_crossover(n_parameters, speedups)}: "
        f"use parameter_threshold={threshold}\n"
        f"A fit on them takes about {extra_ms:.0f} ms longer, however many steps it "
        f"has; if your fits are that short, use a higher threshold."
    )
