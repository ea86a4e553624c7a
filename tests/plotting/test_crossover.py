"""What `CrossoverDisplay` draws."""

import numpy as np
import pytest
from matplotlib import pyplot as plt

from skdistmlp.crossover.measurement import parameter_threshold
from skdistmlp.crossover.rule import crossover_size
from skdistmlp.plotting import CrossoverDisplay
from tests.plotting.pictures import assert_can_be_drawn, in_pixels


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
    # From 1/2 to 1 it is a seventh of the way to 4.
    assert display.crossing == pytest.approx(10 ** (3 + 1 / 7))
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


@pytest.mark.parametrize("size", [(2.5, 2), (3, 2), (6.4, 4.8)], ids=str)
@pytest.mark.parametrize(
    ("sizes", "ticks"),
    [
        ([600, 1000, 2000], ["600", "1,000", "2,000"]),
        ([110_000, 120_000, 900_000], ["110,000", "120,000", "900,000"]),
        ([100, 1000, 10_000, 1_000_000], None),
    ],
    ids=str,
)
def test_sizes_can_be_read(sizes, ticks, size):
    _, axes = plt.subplots(1, 2, figsize=(2 * size[0], size[1]), layout="constrained")
    for ax in axes:
        gains = np.linspace(0.5, 0.9, len(sizes))
        CrossoverDisplay.from_measurements(sizes, gains, np.ones(len(sizes)), ax=ax)
    assert_can_be_drawn(ax.figure)
    assert not any(label.get_text() for label in ax.get_xticklabels(minor=True))
    written = {label.get_text() for label in ax.get_xticklabels()}
    if ticks is None:
        assert "$\\mathdefault{10^{2}}$" in written
    else:
        assert f"{sizes[0]:,}" in written
        assert written <= set(ticks)
        assert len(written) >= min(2, len(ticks))


def test_the_line_at_1_is_drawn_once_whatever_else_is_there():
    _, ax = plt.subplots()
    ax.plot([100, 10_000], [3, 4])
    display = CrossoverDisplay(n_parameters=[100, 10_000], times_faster=[0.5, 1.5])
    for _ in range(2):
        display.plot(ax)
        at_1 = [line for line in ax.lines if list(line.get_ydata()) == [1, 1]]
        assert len(at_1) == 1


@pytest.mark.parametrize(
    ("gains", "size"),
    [
        ([0.5, 1.1, 0.5, 1.5], 4 * 2**0.5),  # a dip on the way up counts against
        ([1.1, 0.5, 1.5, 2.0], 2 * 2**0.5),
        ([0.9, 1.0, 1.2, 1.5], 2),
        ([1.0, 1.2, 1.5, 2.0], 1),
        ([1.1, 1.2, 1.5, 2.0], 1),
        ([0.5, 1.1, 1.2, 1.0], None),
        ([0.5, 0.6, 0.7, 0.8], None),
    ],
    ids=str,
)
def test_the_size_from_which_on_every_gain_is_above_1(gains, size):
    sizes = [1, 2, 4, 8]
    assert crossover_size(sizes, gains) == (size and pytest.approx(size))
    display = CrossoverDisplay.from_measurements(sizes, gains, [1] * 4)
    assert display.crossing == crossover_size(sizes, gains)
    assert (display.crossing_line_ is None) == (size is None)
    assert_can_be_drawn(display.figure_)


def test_the_line_drawn_is_1_at_the_crossing():
    display = CrossoverDisplay.from_measurements([100, 1000], [1, 3], [2, 1])
    x, y = in_pixels(display.line_).T
    at, one = display.ax_.transData.transform((display.crossing, 1))
    assert np.interp(at, x, y) == pytest.approx(one)


@pytest.mark.parametrize(
    ("gains", "threshold"),
    [([1.1, 0.9, 1.2, 1.5], 2600), ([2.0, 1.2, 1.5, 1.1], 1000)],
    ids=str,
)
def test_the_display_and_the_command_agree(gains, threshold):
    sizes = [1000, 2000, 4000, 8000]
    rows = [
        {"parameters": size, "times faster": gain}
        for size, gain in zip(sizes, gains, strict=True)
    ]
    display = CrossoverDisplay.from_measurements(sizes, gains, [1] * 4)
    assert parameter_threshold(rows) == threshold
    assert threshold / 1.1 < display.crossing <= threshold
