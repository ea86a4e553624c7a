"""What a forecast says, and how it is kept."""

import pickle

from skdistmlp.planning.forecast import Forecast, ForecastRow, best_per_number

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


def test_machines_are_measured_again_when_a_forecast_misses():
    forecast = Forecast((SHARDS, HERE))
    assert not forecast.misses
    assert not forecast.after(0.012 * 1.49, 10_000).misses
    assert forecast.after(0.012 * 1.51, 10_000).misses
    assert forecast.after(0.012 / 1.51, 10_000).misses


def test_a_few_steps_are_no_miss_unless_they_took_long_or_should_have():
    forecast = Forecast((SHARDS, HERE))
    assert not forecast.after(0.019, 100).misses
    assert forecast.after(0.021, 100).misses
    assert not forecast.after(0.001, 160).misses
    assert forecast.after(0.001, 170).misses


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


def test_rows_of_later_versions_are_read():
    state = Forecast((SHARDS, HERE)).__getstate__()
    later = state | {"rows": [(*row, "more") for row in state["rows"]]}
    assert Forecast.of_state(later) == Forecast((SHARDS, HERE))


def test_the_fastest_of_each_number_of_workers_is_found():
    assert best_per_number([REPLICAS, HERE, SHARDS]) == [HERE, SHARDS]
