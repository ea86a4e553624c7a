"""Lines, thresholds and labels of `CrossoverDisplay`."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt

from skdistmlp.crossover.rule import crossover_size, parameter_threshold
from skdistmlp.plotting import CrossoverDisplay
from tests.plotting.pictures import assert_readable, in_pixels


def test_several_measurements_share_axes():
    _, ax = plt.subplots()
    first = CrossoverDisplay(
        n_parameters=[100, 10_000],
        speedups=[0.5, 1.5],
        parameter_threshold=3000,
        name="ours",
    ).plot(ax)
    second = CrossoverDisplay(n_parameters=[100, 10_000], speedups=[0.1, 0.9])
    second.plot(ax, name="theirs")
    np.testing.assert_array_equal(first.line_.get_ydata(), [0.5, 1.5])
    assert first.threshold_line_.get_xdata()[0] == 3000
    assert [text.get_text() for text in ax.texts] == ["3,000"]
    assert second.threshold_line_ is None
    assert first.line_.get_color() != second.line_.get_color()
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["ours", "theirs"]
    # The one drawn later may be the faster one.
    CrossoverDisplay(n_parameters=[100, 10_000], speedups=[2, 5]).plot(ax)
    assert ax.get_ylim()[0] == 0
    assert ax.get_ylim()[1] > 5
    assert_readable(first.figure_)


def test_the_page_on_engines_names_the_size_in_the_picture_of_the_gallery():
    root = Path(__file__).parents[2]
    found = json.loads((root / "examples" / "plot_crossover.json").read_text())
    display = CrossoverDisplay.from_measurements(
        found["n_parameters"], found["one"], found["two"]
    )
    named = f"whole fits from {display.parameter_threshold:,.0f} on"
    assert named in (root / "docs" / "engines.md").read_text()


def test_threshold_is_computed_from_measurements():
    sizes, baseline, distributed = [100, 1_000, 10_000], [1, 2, 40], [10, 4, 10]
    display = CrossoverDisplay.from_measurements(
        sizes, baseline, distributed, name="ours"
    )
    assert display.line_.get_ydata().tolist() == [0.1, 0.5, 4.0]
    # 1 is a seventh of the way from 1/2 to 4.
    assert display.parameter_threshold == pytest.approx(10 ** (3 + 1 / 7))
    assert display.threshold_line_.get_xdata()[0] == display.parameter_threshold
    assert_readable(display.figure_)
    # The median of the ratios, not the ratio of the medians.
    repeats = CrossoverDisplay.from_measurements(
        [7], [[1, 2, 30]], [[1, 8, 10]], curve_kwargs={"marker": "s"}
    )
    assert repeats.speedups == [1.0]
    assert repeats.parameter_threshold is None
    assert repeats.line_.get_marker() == "s"


@pytest.mark.parametrize(
    ("measured", "message"),
    [
        (([1, 2], [1, 2], [1, 2, 3]), r"got shapes \(2,\) and \(3,\)"),
        (([1, 2, 3], [1, 2], [1, 2]), "an entry for each of 3 networks"),
        (([1, 2], [0, 1], [1, 2]), "distributed_times must be positive numbers"),
        (([1, 2], [1, 2], [1, np.nan]), "distributed_times must be positive numbers"),
        (([2, 1], [1, 2], [1, 2]), r"in ascending order, got \[2\.0, 1\.0\]"),
        (([0, 1], [1, 2], [1, 2]), "n_parameters must be positive"),
        (([1, np.inf], [1, 2], [1, 2]), "n_parameters must be positive"),
        (([], [], []), "there is nothing to draw"),
        (([1], [[]], [[]]), "there is nothing to draw"),
    ],
)
def test_invalid_measurements_are_refused(measured, message):
    with pytest.raises(ValueError, match=message):
        CrossoverDisplay.from_measurements(*measured)


@pytest.mark.parametrize("speedups", [[], [1]], ids=str)
def test_each_size_needs_a_speedup(speedups):
    sizes = [1, 2] if speedups else []
    display = CrossoverDisplay(n_parameters=sizes, speedups=speedups)
    with pytest.raises(ValueError, match=r"n_parameters .* must have the same length"):
        display.plot()


@pytest.mark.parametrize("thresholds", [(3000, 3100, 9900), (110, 9000, 9500)], ids=str)
@pytest.mark.parametrize("size", [(3, 2), (6.4, 4.8)], ids=str)
def test_labels_of_close_thresholds_do_not_overlap(thresholds, size):
    _, ax = plt.subplots(figsize=size, layout="constrained")
    for i, at in enumerate(thresholds):
        display = CrossoverDisplay(
            n_parameters=[100, 10_000], speedups=[0.5, 1.5 + i], parameter_threshold=at
        ).plot(ax)
    assert [text.get_text() for text in ax.texts] == [f"{at:,}" for at in thresholds]
    assert_readable(display.figure_)
    # Next to these axes there may be others.
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
def test_sizes_are_labelled_readably(sizes, ticks, size):
    _, axes = plt.subplots(1, 2, figsize=(2 * size[0], size[1]), layout="constrained")
    for ax in axes:
        speedups = np.linspace(0.5, 0.9, len(sizes))
        CrossoverDisplay.from_measurements(sizes, speedups, np.ones(len(sizes)), ax=ax)
    assert_readable(ax.figure)
    assert not any(label.get_text() for label in ax.get_xticklabels(minor=True))
    written = {label.get_text() for label in ax.get_xticklabels()}
    if ticks is None:
        # matplotlib chooses every power or, in older versions, every other one.
        assert written & {rf"$\mathdefault{{10^{{{power}}}}}$" for power in (2, 3)}
    else:
        assert f"{sizes[0]:,}" in written
        assert written <= set(ticks)
        assert len(written) >= min(2, len(ticks))


def test_break_even_line_is_drawn_once():
    _, ax = plt.subplots()
    ax.plot([100, 10_000], [3, 4])
    display = CrossoverDisplay(n_parameters=[100, 10_000], speedups=[0.5, 1.5])
    for _ in range(2):
        display.plot(ax)
        at_1 = [line for line in ax.lines if list(line.get_ydata()) == [1, 1]]
        assert len(at_1) == 1


@pytest.mark.parametrize(
    ("speedups", "size"),
    [
        ([0.5, 1.1, 0.5, 1.5], 4 * 2**0.5),  # a dip on the way up counts
        ([1.1, 0.5, 1.5, 2.0], 2 * 2**0.5),
        ([0.9, 1.0, 1.2, 1.5], 2),
        ([1.0, 1.2, 1.5, 2.0], 1),
        ([1.1, 1.2, 1.5, 2.0], 1),
        ([0.5, 1.1, 1.2, 1.0], None),
        ([0.5, 0.6, 0.7, 0.8], None),
    ],
    ids=str,
)
def test_threshold_is_where_all_larger_sizes_are_faster(speedups, size):
    sizes = [1, 2, 4, 8]
    assert crossover_size(sizes, speedups) == (size and pytest.approx(size))
    display = CrossoverDisplay.from_measurements(sizes, speedups, [1] * 4)
    assert display.parameter_threshold == crossover_size(sizes, speedups)
    assert (display.threshold_line_ is None) == (size is None)
    assert_readable(display.figure_)


def test_line_is_at_1_at_the_threshold():
    display = CrossoverDisplay.from_measurements([100, 1000], [1, 3], [2, 1])
    x, y = in_pixels(display.line_).T
    at, one = display.ax_.transData.transform((display.parameter_threshold, 1))
    assert np.interp(at, x, y) == pytest.approx(one)


@pytest.mark.parametrize(
    ("speedups", "threshold"),
    [([1.1, 0.9, 1.2, 1.5], 2600), ([2.0, 1.2, 1.5, 1.1], 1000)],
    ids=str,
)
def test_display_and_command_agree(speedups, threshold):
    sizes = [1000, 2000, 4000, 8000]
    display = CrossoverDisplay.from_measurements(sizes, speedups, [1] * 4)
    assert parameter_threshold(sizes, speedups) == threshold
    assert threshold / 1.1 < display.parameter_threshold <= threshold
