"""Measurements that were never measured."""

from skdistmlp.crossover.measurement import Measurement


def measurements(speedups):
    """Return measurements at 100, 1,000, 10,000, ... parameters."""
    return [
        Measurement(
            network=f"64-({i})",
            batch_size=200,
            n_parameters=100 * 10**i,
            baseline_step_ms=speedup,
            distributed_step_ms=1.0,
            speedup=speedup,
            extra_fit_ms=87.6,
        )
        for i, speedup in enumerate(speedups)
    ]
