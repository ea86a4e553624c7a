import math
import pickle

import numpy as np
import pytest

from skdistmlp.training.schedules import (
    END,
    START,
    STEP_SCHEDULES,
    LearningRateSchedule,
    cosine,
    one_cycle,
)


def rates(name, n_steps, **options):
    schedule = LearningRateSchedule(name, 0.5, n_steps=n_steps, **options)
    return [schedule.at_step(0.5, step) for step in range(n_steps)]


@pytest.mark.parametrize("name", ["constant", "invscaling", "adaptive"])
def test_schedules_of_epochs_leave_the_rate_of_a_step(name):
    assert rates(name, 5) == [0.5] * 5


def test_a_cosine_falls_from_all_to_almost_nothing():
    factors = np.array([cosine(step, 100) for step in range(100)])
    assert factors[0] == 1
    assert factors[50] == pytest.approx(0.5)
    assert factors[99] == pytest.approx(0, abs=1e-3)
    assert (np.diff(factors) < 0).all()


@pytest.mark.parametrize("n_steps", [10, 100, 1000])
def test_one_cycle_rises_in_the_first_third_and_falls_to_the_end(n_steps):
    factors = np.array([one_cycle(step, n_steps) for step in range(n_steps)])
    peak = round(0.3 * n_steps) - 1
    assert factors[0] == pytest.approx(START)
    assert factors[peak] == pytest.approx(1)
    assert factors[-1] == pytest.approx(END)
    assert (np.diff(factors[: peak + 1]) > 0).all()
    assert (np.diff(factors[peak:]) < 0).all()


@pytest.mark.parametrize("name", sorted(STEP_SCHEDULES))
@pytest.mark.parametrize("n_steps", range(1, 12))
def test_a_few_steps_have_rates_too(name, n_steps):
    assert all(0 < rate <= 0.5 for rate in rates(name, n_steps))


def test_a_callable_is_given_the_fraction_that_is_done():
    seen = []

    def factor(fraction):
        seen.append(fraction)
        return 1 - fraction

    assert rates("callable", 4, factor=factor) == [0.5, 0.375, 0.25, 0.125]
    assert seen == [0, 0.25, 0.5, 0.75]


@pytest.mark.parametrize("value", [-0.1, math.nan, math.inf, None, "a", [1.0]])
def test_a_callable_that_returns_no_factor_is_refused(value):
    with pytest.raises(ValueError, match="expected a factor on learning_rate_init"):
        rates("callable", 1, factor=lambda _: value)


@pytest.mark.parametrize("name", ["constant", "cosine", "one_cycle"])
def test_any_rate_is_warmed_up(name):
    plain, warm = rates(name, 20), rates(name, 20, warmup_steps=4)
    factors = np.divide(warm, plain)
    np.testing.assert_allclose(factors[:4], [0.25, 0.5, 0.75, 1])
    assert (factors[4:] == 1).all()


def test_a_schedule_is_a_value():
    schedule = LearningRateSchedule("cosine", 0.1, n_steps=7, warmup_steps=2)
    assert pickle.loads(pickle.dumps(schedule)) == schedule
