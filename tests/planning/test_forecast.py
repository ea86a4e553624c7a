"""What a forecast says, and how it is kept."""

import pickle

import pytest

from skdistmlp.planning.forecast import Forecast, ForecastRow, best_per_number
from skdistmlp.planning.left_out import LeftOut

HERE = ForecastRow("local", 0, 1, 0.02, 2.0, 200.0, 0, 0)
SHARDS = ForecastRow("peers", 2, 1, 0.012, 1.2, 120.0, 5, 7)
REPLICAS = ForecastRow("peers", 2, 2, 0.03, 3.0, 300.0, 5, 7)


def test_it_says_what_was_expected_and_what_came_next():
    forecast = Forecast((SHARDS, REPLICAS, HERE), 1e-4, 9.5e8)
    assert str(forecast).splitlines() == [
        "expected: 12 ms per step, 1.2 s per epoch, 120 s per fit",
        "next best: this process, 20 ms per step, 200 s per fit",
        "the link between workers: latency 0.1 ms, 0.95 Gbit/s",
    ]
    after = forecast.after(0.0131, 100)
    assert str(after).splitlines()[0].endswith("; it took 13.1 ms per step")
    assert forecast.step_s is None


@pytest.mark.parametrize(
    ("step_s", "missed_s"),
    [
        (0.012 * 1.49, 0.0),
        (0.012 / 1.49, 0.0),
        (0.02, 2.0),
        # They should have taken that.
        (0.001, 1.2),
    ],
)
def test_steps_that_take_far_more_or_less_than_expected_miss(step_s, missed_s):
    forecast = Forecast((SHARDS, HERE))
    assert forecast.missed_s == 0.0
    assert forecast.after(step_s, 100).missed_s == pytest.approx(missed_s)


def test_a_single_plan_has_no_next():
    expected = "expected: 20 ms per step, 2 s per epoch, 200 s per fit"
    assert str(Forecast((HERE,))) == expected


def test_the_next_best_is_so_by_the_time_of_the_fit():
    """Its steps may be faster: to begin on workers takes a while."""
    short = HERE._replace(fit_s=1234.5), SHARDS._replace(fit_s=1300.0)
    expected, next_best = str(Forecast(short)).splitlines()
    assert expected.endswith(", 1,234 s per fit")
    assert next_best == "next best: peers on 2 (1 x 2), 12 ms per step, 1,300 s per fit"


def test_plans_have_names():
    assert HERE.name == "this process"
    assert SHARDS.name == "peers on 2 (1 x 2)"
    assert REPLICAS.name == "peers on 2 (2 x 1)"
    assert SHARDS._replace(n_workers=1).name == "peers on 1"


def test_it_is_kept_as_plain_data():
    forecast = Forecast((SHARDS, HERE), 1e-4, 9.5e8, 0.5)
    assert pickle.loads(pickle.dumps(forecast)) == forecast
    assert Forecast.of_state(forecast.__getstate__()) == forecast
    assert type(forecast.__getstate__()["rows"][0]) is tuple


def test_it_names_the_workers_that_are_left_out():
    """A printed plan says so first, not here."""
    left_out = (LeftOut("tcp://a:1", "worker", 3.0), LeftOut("tcp://b:1", "link", 20.0))
    forecast = Forecast((SHARDS, HERE), left_out=left_out)
    assert str(forecast).splitlines() == [
        *forecast.lines(),
        "tcp://a:1 is left out, 3.0 times as slow as the others",
        "tcp://b:1 is left out: its link is 20.0 times as slow as the others",
    ]
    state = forecast.__getstate__()
    assert type(state["left_out"][0]) is tuple
    assert Forecast.of_state(state) == forecast
    # Earlier versions did not.
    del state["left_out"]
    assert Forecast.of_state(state).left_out == ()


def test_rows_of_later_versions_are_read():
    state = Forecast((SHARDS, HERE)).__getstate__()
    later = state | {"rows": [(*row, "more") for row in state["rows"]]}
    assert Forecast.of_state(later) == Forecast((SHARDS, HERE))


def test_workers_left_out_by_later_versions_are_read():
    found = Forecast((SHARDS,), left_out=(LeftOut("tcp://worker:1", "link", 3.0),))
    state = found.__getstate__()
    later = state | {"left_out": [(*each, "more") for each in state["left_out"]]}
    assert Forecast.of_state(later) == found


def test_the_fastest_of_each_number_of_workers_is_found():
    assert best_per_number([REPLICAS, HERE, SHARDS]) == [HERE, SHARDS]
