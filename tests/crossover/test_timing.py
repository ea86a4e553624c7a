"""Times of fits, and of the steps in them."""

from types import SimpleNamespace

import pytest

from skdistmlp.crossover import timing
from skdistmlp.crossover.timing import median_ratio, time_fit
from skdistmlp.crossover.workloads import Workload
from skdistmlp.exceptions import SkdistmlpError

TINY = Workload(4, (3,), n_steps=10, n_epochs=2, batch_size=5)


def test_ratios_pair_measurements_that_followed_each_other():
    assert median_ratio([2.0, 30.0, 4.0], [1.0, 10.0, 1.0]) == 3.0


@pytest.fixture
def fake_fits(monkeypatch):
    """Make fits take 1 s and 1 ms per step; return the clock and the epochs of each."""
    epochs = []
    clock = SimpleNamespace(now=0.0, step_s=1e-3, perf_counter=lambda: clock.now)

    def fit(estimator, X, y):
        epochs.append(estimator["max_iter"])
        clock.now += 1 + estimator["max_iter"] * len(X) / 5 * clock.step_s

    monkeypatch.setattr(timing, "time", clock)
    monkeypatch.setattr(timing, "fit_uninterrupted", fit)
    return clock, epochs


def test_fits_are_made_long_enough_for_their_difference(fake_fits):
    _, epochs = fake_fits
    step_s, fixed_s = time_fit(TINY, dict)
    assert (step_s, fixed_s) == (pytest.approx(1e-3), pytest.approx(1))
    assert epochs == [1, 3, 1, 31]


@pytest.mark.parametrize("step_s", [0, -1e-6])
def test_steps_lost_in_noise_are_an_error(fake_fits, step_s):
    clock, epochs = fake_fits
    clock.step_s = step_s
    message = r"cannot time [\d,]+ epochs? of 4-\(3\): lost in the noise"
    with pytest.raises(SkdistmlpError, match=message):
        time_fit(TINY, dict)
    assert len(epochs) == 2 * timing.MAX_ATTEMPTS
