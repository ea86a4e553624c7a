"""Lines, axes and legends that the displays share."""

import sys

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_rgb

from skdistmlp.planning.forecast import Forecast
from skdistmlp.plotting import (
    CrossoverDisplay,
    ForecastDisplay,
    LossCurveDisplay,
    WorkerCountDisplay,
)
from skdistmlp.plotting.axes import COLOURS, draw_legend_above
from tests.planning.test_forecast import HERE, SHARDS
from tests.plotting.pictures import assert_readable


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "display",
    [
        WorkerCountDisplay(n_workers=[1, 2, 4], fit_times=[900, 30, 1]),
        CrossoverDisplay(n_parameters=[1, 2, 4], speedups=[900, 30, 1]),
    ],
    ids=lambda display: type(display).__name__,
)
def test_axes_can_be_logarithmic(display, when):
    _, ax = plt.subplots(layout="constrained")
    if when == "before":
        ax.set(xscale="log", yscale="log")
    display.plot(ax)
    if when == "after":
        assert ax.get_ylim()[0] == 0
        ax.set_yscale("log")
    low, high = ax.get_ylim()
    assert 0.1 < low < 1
    assert 900 < high < 9000
    if when == "before" and isinstance(display, WorkerCountDisplay):
        ax.figure.canvas.draw()
        ticks = [tick.get_text() for tick in ax.get_xticklabels()]
        assert ticks == ["1", "2", "4"]
    assert_readable(display.figure_)


def look_of(display, line):
    """What tells a curve from the others of its axes."""
    displayed = line(display)
    return displayed.get_color(), displayed.get_marker()


@pytest.mark.parametrize(
    ("display", "line"),
    [
        (
            WorkerCountDisplay(n_workers=[1, 2], fit_times=[2, 1]),
            lambda display: display.errorbar_.lines[0],
        ),
        (
            CrossoverDisplay(n_parameters=[1, 2], speedups=[2, 1]),
            lambda display: display.line_,
        ),
        (
            ForecastDisplay(
                forecast=Forecast((HERE, SHARDS)).after(0.013, 100), n_workers=2
            ),
            lambda display: display.line_,
        ),
        (LossCurveDisplay(loss_curve=[2, 1]), lambda display: display.line_),
        (LossCurveDisplay(loss_curve=[2]), lambda display: display.line_),
    ],
    ids=lambda value: type(value).__name__,
)
def test_many_curves_can_be_told_apart(display, line):
    _, ax = plt.subplots()
    looks = [look_of(display.plot(ax), line) for _ in range(20)]
    assert len({*looks}) == 20


def luminance(colour):
    """Relative luminance, as the Web Content Accessibility Guidelines 2 define it."""
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in to_rgb(colour)
    ]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


@pytest.mark.parametrize("colour", COLOURS)
def test_colours_can_be_seen_on_white(colour):
    """Yellow has a contrast of 1.3."""
    assert 1.05 / (luminance(colour) + 0.05) > 2


@pytest.mark.parametrize("n_epochs", [1, 2, 5])
def test_ticks_of_epochs_are_whole_numbers(n_epochs):
    display = LossCurveDisplay(loss_curve=[1.0] * n_epochs).plot()
    display.figure_.canvas.draw()
    low, high = display.ax_.get_xlim()
    ticks = [tick for tick in display.ax_.get_xticks() if low <= tick <= high]
    assert ticks == list(range(1, n_epochs + 1))


@pytest.mark.parametrize(
    "display",
    [
        WorkerCountDisplay(n_workers=[1, 2], fit_times=[2, 1]),
        CrossoverDisplay(n_parameters=[1, 2], speedups=[2, 1]),
        LossCurveDisplay(loss_curve=[2, 1]),
    ],
    ids=lambda display: type(display).__name__,
)
def test_curve_kwargs_accept_matplotlib_aliases(display):
    display.plot(curve_kwargs={"c": "k", "lw": 3})
    line = display.ax_.lines[0]
    assert line.get_color() == "k"
    assert line.get_linewidth() == 3


class AxesOfMatplotlib39:
    """Axes whose `get_figure` takes no arguments: matplotlib 3.10 added `root`."""

    def __init__(self, ax):
        self.ax = ax

    def __getattr__(self, name):
        return getattr(self.ax, name)

    def get_figure(self):
        return self.ax.figure


@pytest.mark.parametrize("layout", ["constrained", None])
@pytest.mark.parametrize("parts", [1, 2], ids=["figure", "subfigures"])
def test_legend_is_above_the_axes_if_a_layout_makes_room(parts, layout):
    figure = plt.figure(layout=layout)
    part = figure if parts == 1 else figure.subfigures(1, parts)[1]
    ax = part.subplots()
    (line,) = ax.plot([1, 2], [1, 2], label="a line")
    draw_legend_above(AxesOfMatplotlib39(ax), [line])
    figure.canvas.draw()
    bottom = ax.get_legend().get_window_extent().y0
    assert (bottom >= ax.bbox.y1) == (layout is not None)


def test_missing_matplotlib_is_an_error_that_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    display = CrossoverDisplay(n_parameters=[1, 2], speedups=[1, 2])
    with pytest.raises(ImportError, match="pip install matplotlib"):
        display.plot()
