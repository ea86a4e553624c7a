"""What `CrossoverDisplay` draws."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from skdistmlp.plotting import CrossoverDisplay
from skdistmlp.plotting.crossover import crossing
from tests.plotting.pictures import assert_can_be_drawn


def test_several_measurements_of_a_crossover_on_the_same_axes():
    _, ax = plt.subplots()
    first = CrossoverDisplay(
        n_parameters=[100, 10_000], times_faster=[0.5, 1.5], crossing=3000, name="ours"
    ).plot(ax)
    second = CrossoverDisplay(n_parameters=[100, 10_000], times_faster=[0.1, 0.9])
    second.plot(ax, name="theirs")
    np.testing.assert_array_equal(first.line_.get_ydata(), [0.5, 1.5])
    assert first.crossing_line_.get_xdata()[0] == 3000
    assert [text.get_text() for text in ax.texts] == ["3,000"]
    assert second.crossing_line_ is None
    assert first.line_.get_color() != second.line_.get_color()
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["ours", "theirs"]
    # The one drawn later may be the faster one.
    CrossoverDisplay(n_parameters=[100, 10_000], times_faster=[2, 5]).plot(ax)
    assert ax.get_ylim()[0] == 0
    assert ax.get_ylim()[1] > 5
    assert_can_be_drawn(first.figure_)


def test_the_crossing_is_found_in_measurements():
    sizes, alone, shared = [100, 1_000, 10_000], [1, 2, 40], [10, 4, 10]
    display = CrossoverDisplay.from_measurements(sizes, alone, shared, name="ours")
    assert display.line_.get_ydata().tolist() == [0.1, 0.5, 4.0]
    # Half way between 1/2 and 4, by the logarithm, is a third of the way to 1.
    assert display.crossing == pytest.approx(10 ** (3 + 1 / 3))
    assert display.crossing_line_.get_xdata()[0] == display.crossing
    assert_can_be_drawn(display.figure_)
    # Ratios of calls that followed each other, not of the medians.
    repeats = CrossoverDisplay.from_measurements(
        [7], [[1, 2, 30]], [[1, 8, 10]], marker="s"
    )
    assert repeats.times_faster == [1.0]
    assert repeats.crossing is None
    assert repeats.line_.get_marker() == "s"


@pytest.mark.parametrize(
    ("measured", "message"),
    [
        (([1, 2], [1, 2], [1, 2, 3]), r"got shapes \(2,\) and \(3,\)"),
        (([1, 2, 3], [1, 2], [1, 2]), "for each of 3 networks"),
        (([1, 2], [0, 1], [1, 2]), "positive numbers"),
        (([1, 2], [1, 2], [1, np.nan]), "positive numbers"),
        (([2, 1], [1, 2], [1, 2]), "ascending"),
        (([0, 1], [1, 2], [1, 2]), "n_parameters have to be positive"),
        (([1, np.inf], [1, 2], [1, 2]), "n_parameters have to be positive"),
        (([], [], []), "there is nothing to draw"),
        (([1], [[]], [[]]), "there is nothing to draw"),
    ],
)
def test_what_is_no_measurement(measured, message):
    with pytest.raises(ValueError, match=message):
        CrossoverDisplay.from_measurements(*measured)


@pytest.mark.parametrize("times_faster", [[], [1]], ids=str)
def test_every_size_has_a_ratio(times_faster):
    sizes = [1, 2] if times_faster else []
    display = CrossoverDisplay(n_parameters=sizes, times_faster=times_faster)
    with pytest.raises(ValueError, match="expected as many n_parameters as times_fast"):
        display.plot()


@pytest.mark.parametrize("crossings", [(3000, 3100, 9900), (110, 9000, 9500)], ids=str)
@pytest.mark.parametrize("size", [(3, 2), (6.4, 4.8)], ids=str)
def test_crossings_close_together_can_be_read(crossings, size):
    _, ax = plt.subplots(figsize=size, layout="constrained")
    for i, at in enumerate(crossings):
        display = CrossoverDisplay(
            n_parameters=[100, 10_000], times_faster=[0.5, 1.5 + i], crossing=at
        ).plot(ax)
    assert [text.get_text() for text in ax.texts] == [f"{at:,}" for at in crossings]
    assert_can_be_drawn(display.figure_)
    # Beside the axes there may be others.
    assert max(text.get_window_extent().x1 for text in ax.texts) <= ax.bbox.x1


def test_the_line_at_1_is_drawn_once_whatever_else_is_there():
    _, ax = plt.subplots()
    ax.plot([100, 10_000], [3, 4])
    display = CrossoverDisplay(n_parameters=[100, 10_000], times_faster=[0.5, 1.5])
    for _ in range(2):
        display.plot(ax)
        at_1 = [line for line in ax.lines if list(line.get_ydata()) == [1, 1]]
        assert len(at_1) == 1


def test_a_dip_on_the_way_up_counts_against():
    assert crossing([1, 2, 4, 8], [0.5, 1.1, 0.5, 2.0]) == pytest.approx(4 * 2**0.5)
