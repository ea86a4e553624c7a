"""Lines and points of `ForecastDisplay`."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt

from skdistmlp import DistributedMLPClassifier
from skdistmlp.planning.forecast import Forecast
from skdistmlp.planning.left_out import LeftOut
from skdistmlp.plotting import ForecastDisplay
from tests.planning.test_forecast import HERE, REPLICAS, SHARDS
from tests.plotting.pictures import assert_readable

EXAMPLE = Path(__file__).parents[2] / "examples" / "plot_forecast.py"


def test_the_fastest_plan_of_each_number_of_workers_is_a_point():
    display = ForecastDisplay.from_forecast(Forecast((SHARDS, REPLICAS, HERE)))
    np.testing.assert_array_equal(display.line_.get_xdata(), [0, 2])
    np.testing.assert_allclose(display.line_.get_ydata(), [20, 12])
    assert display.measured_ is None
    labels = [label.get_text() for label in display.ax_.get_xticklabels()]
    assert labels == ["0", "2"]
    assert display.ax_.get_ylim()[0] == 0
    assert_readable(display.figure_)


def test_what_a_step_took_is_beside_what_was_expected():
    forecast = Forecast((SHARDS, HERE)).after(0.013, 100)
    display = ForecastDisplay.from_forecast(forecast, n_workers=2, name="784-(1024)")
    assert display.measured_.get_xdata() == [2]
    np.testing.assert_allclose(display.measured_.get_ydata(), [13])
    texts = [text.get_text() for text in display.ax_.get_legend().get_texts()]
    assert texts == ["784-(1024), expected", "784-(1024), measured"]
    assert_readable(display.figure_)


def test_many_workers_have_a_logarithmic_axis():
    numbers = [0, 1, 2, 4, 8, 16, 64]
    rows = tuple(SHARDS._replace(n_workers=n, fit_s=1.0 + n) for n in numbers)
    display = ForecastDisplay.from_forecast(Forecast(rows))
    assert display.ax_.get_xscale() == "symlog"
    labels = [label.get_text() for label in display.ax_.get_xticklabels()]
    assert labels == [str(n) for n in numbers]
    assert_readable(display.figure_)


def test_workers_that_are_left_out_are_named_below_the_axis():
    left_out = (LeftOut("tcp://192.0.2.117:40001", "link", 50.0),)
    display = ForecastDisplay.from_forecast(Forecast((SHARDS, HERE), left_out=left_out))
    assert display.ax_.get_xlabel().splitlines() == [
        "Number of workers (0: this process)",
        "tcp://192.0.2.117:40001 is left out: its link is 50.0 times as slow as",
        "the others",
    ]
    assert_readable(display.figure_)


def test_several_forecasts_share_axes():
    _, ax = plt.subplots(layout="constrained")
    forecast = Forecast((SHARDS, HERE)).after(0.013, 100)
    first = ForecastDisplay.from_forecast(forecast, n_workers=2, ax=ax, name="a")
    second = ForecastDisplay.from_forecast(forecast, ax=ax, name="b")
    assert first.line_.get_color() != second.line_.get_color()
    assert first.measured_.get_color() == first.line_.get_color()


def test_a_plan_without_a_forecast_has_nothing_to_draw():
    plan = DistributedMLPClassifier((5,)).plan_fit(np.eye(4), [0, 1, 0, 1])
    with pytest.raises(ValueError, match=r"the plan has no forecast: .* are fewer"):
        ForecastDisplay.from_plan(plan)


def test_the_example_labels_what_was_expected_and_measured_of_each_plan(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)
    names = runpy.run_path(str(EXAMPLE))
    figure = plt.gcf()
    (ax,) = figure.axes
    assert ax.get_xscale() == "log"
    plans = [row.name for row in names["forecast"].rows]
    assert [label.get_text() for label in ax.get_yticklabels()] == plans
    expected, measured = ax.lines
    assert (expected.get_label(), measured.get_label()) == ("expected", "measured")
    np.testing.assert_allclose(
        expected.get_xdata(), [1e3 * row.step_s for row in names["forecast"].rows]
    )
    np.testing.assert_array_equal(
        measured.get_xdata(),
        [measured["step_ms"] for measured in names["results"]["measured"]],
    )
    assert_readable(figure)
