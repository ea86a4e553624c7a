"""What the displays share."""

import sys

import pytest
from matplotlib import pyplot as plt

from skdistmlp.plotting import (
    CrossoverDisplay,
    LossCurveDisplay,
    WorkerCountDisplay,
)
from skdistmlp.plotting.axes import legend_above
from tests.plotting.pictures import assert_can_be_drawn


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "display",
    [
        WorkerCountDisplay(n_workers=[1, 2, 4], fit_s=[900, 30, 1]),
        CrossoverDisplay(n_parameters=[1, 2, 4], times_faster=[900, 30, 1]),
    ],
    ids=lambda display: type(display).__name__,
)
def test_the_axes_may_be_logarithmic(display, when):
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
    assert_can_be_drawn(display.figure_)


@pytest.mark.parametrize(
    "display",
    [
        WorkerCountDisplay(n_workers=[1, 2], fit_s=[2, 1]),
        CrossoverDisplay(n_parameters=[1, 2], times_faster=[2, 1]),
        LossCurveDisplay(loss_curve=[2, 1]),
    ],
    ids=lambda display: type(display).__name__,
)
def test_options_may_have_the_short_names_of_matplotlib(display):
    display.plot(c="k", lw=3)
    line = display.ax_.lines[0]
    assert line.get_color() == "k"
    assert line.get_linewidth() == 3


class AxesOfMatplotlib39:
    """Axes whose `get_figure` takes no arguments: `root` came with 3.10."""

    def __init__(self, ax):
        self.ax = ax

    def __getattr__(self, name):
        return getattr(self.ax, name)

    def get_figure(self):
        return self.ax.figure


@pytest.mark.parametrize("layout", ["constrained", None])
@pytest.mark.parametrize("parts", [1, 2], ids=["figure", "subfigures"])
def test_a_legend_is_above_where_a_layout_makes_room(parts, layout):
    figure = plt.figure(layout=layout)
    part = figure if parts == 1 else figure.subfigures(1, parts)[1]
    ax = part.subplots()
    (line,) = ax.plot([1, 2], [1, 2], label="a line")
    legend_above(AxesOfMatplotlib39(ax), [line])
    figure.canvas.draw()
    bottom = ax.get_legend().get_window_extent().y0
    assert (bottom >= ax.bbox.y1) == (layout is not None)


def test_without_matplotlib_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    display = CrossoverDisplay(n_parameters=[1, 2], times_faster=[1, 2])
    with pytest.raises(ImportError, match=r"pip install \"skdistmlp\[plots\]\""):
        display.plot()
