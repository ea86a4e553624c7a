"""What the displays share."""

import sys

import pytest
from matplotlib import pyplot as plt

from skdistmlp.plotting import CrossoverDisplay, WorkerCountDisplay
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


def test_without_matplotlib_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    display = CrossoverDisplay(n_parameters=[1, 2], times_faster=[1, 2])
    with pytest.raises(ImportError, match=r"pip install \"skdistmlp\[plots\]\""):
        display.plot()
