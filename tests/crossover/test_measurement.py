"""Measurements of networks of growing size."""

import pytest

from skdistmlp.crossover.measurement import measure_growing_networks
from skdistmlp.crossover.timing import FitTime
from skdistmlp.crossover.workloads import Workload

TINY = Workload(4, (3,), n_steps=10, n_epochs=2, batch_size=5)


def test_networks_are_timed_in_turn_and_medians_count(monkeypatch):
    calls = []
    times = iter([(4, 1), (2, 11), (6, 2), (1, 15), (9, 3), (9, 13)])

    def fake_time_fit(workload, make_estimator):
        calls.append(make_estimator)
        return FitTime(*next(times))

    monkeypatch.setattr("skdistmlp.crossover.measurement.time_fit", fake_time_fit)
    (measured,) = measure_growing_networks(
        "baseline", "distributed", [TINY], 3, expect=lambda workload: workload.n_steps
    )
    assert measured.expected_speedup == 10
    assert calls == ["baseline", "distributed"] * 3
    assert measured.network == "4-(3)"
    assert measured.n_parameters == 4 * 3 + 3 + 3 * 10 + 10
    assert (measured.baseline_step_ms, measured.distributed_step_ms) == (6000, 2000)
    assert measured.speedup == 2
    assert measured.extra_fit_ms == 11_000


@pytest.mark.parametrize(
    ("baseline_s", "speedup"), [([30, 4], 2), ([30, 20, 18], 9)], ids=["once", "always"]
)
def test_a_network_with_an_impossible_speedup_is_measured_again(
    monkeypatch, baseline_s, speedup
):
    """A bounded number of times: the last figure is passed on."""
    seconds = iter(baseline_s)

    def fake_time_fit(workload, make_estimator):
        return FitTime(next(seconds) if make_estimator == "baseline" else 2, 0)

    monkeypatch.setattr("skdistmlp.crossover.measurement.time_fit", fake_time_fit)
    (measured,) = measure_growing_networks(
        "baseline", "distributed", [TINY], 1, max_speedup=3
    )
    assert measured.speedup == speedup
    assert next(seconds, None) is None
