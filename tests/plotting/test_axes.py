"""Lines, axes and legends that the displays share."""

import sys

import pytest
from matplotlib import pyplot as plt

from skdistmlp.plotting import (
    CrossoverDisplay,
    LossCurveDisplay,
    WorkerCountDisplay,
)
from skdistmlp.plotting.axes import draw_legend_above
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
