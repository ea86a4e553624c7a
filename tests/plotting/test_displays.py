"""What the displays draw: their data and their artists."""

import sys
from itertools import chain, combinations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex, to_rgb
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skdistmlp import DistributedMLPClassifier
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.plotting import (
    CrossoverDisplay,
    LossCurveDisplay,
    PartitionDisplay,
    WorkerCountDisplay,
)
from skdistmlp.plotting.axes import COLOURS

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(autouse=True)
def figures_are_closed():
    mpl.use("agg")
    yield
    plt.close("all")


@pytest.fixture
def data(digits):
    X, y = digits
    return X[:200], y[:200]


def boxes(figure):
    """Yield the legends, and the texts that are drawn beside them, with their boxes."""
    for ax in figure.axes:
        yield from ((text.get_text(), text.get_window_extent()) for text in ax.texts)
        if (legend := ax.get_legend()) is not None:
            yield "legend", legend.get_window_extent()
        for axis in (ax.xaxis, ax.yaxis) if ax.axison else ():
            low, high = sorted(axis.get_view_interval())
            ticks = [t for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
            for label in (axis.label, *chain(*((t.label1, t.label2) for t in ticks))):
                if label.get_visible() and label.get_text():
                    yield label.get_text(), label.get_window_extent()


def is_seen(picture, points, colour):
    """Whether the picture has the colour at one of the points at least."""
    colour = 255 * np.array(to_rgb(colour))
    for x, y in points.astype(int):
        bottom, left = max(y - 2, 0), max(x - 2, 0)
        there = picture[::-1][bottom : y + 3, left : x + 3]
        if (np.abs(there - colour).max(axis=-1) < 30).any():
            return True
    return False


def assert_can_be_drawn(figure):
    """What was drawn is in the picture, and no text is cut off or hides another."""
    figure.canvas.draw()
    picture = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    for ax in figure.axes:
        for line in ax.lines:
            points = line.get_transform().transform(line.get_xydata())
            assert is_seen(picture, points, line.get_color())
        for dots in ax.collections:
            if isinstance(dots, PathCollection) and len(dots.get_offsets()):
                points = dots.get_offset_transform().transform(dots.get_offsets())
                assert is_seen(picture, points, dots.get_facecolor()[0])
    found = list(boxes(figure))
    for text, box in found:
        corners = box.padded(-1).corners()
        inside = [figure.bbox.contains(*corner) for corner in corners]
        assert all(inside), f"{text!r} is cut off"
    for (one, box), (other, other_box) in combinations(found, 2):
        assert not box.padded(-1).overlaps(other_box), f"{one!r} lies over {other!r}"


def assert_hides_nothing(legend, *points):
    """No point lies under it; all are in pixels."""
    box = legend.get_window_extent()
    assert not any(box.contains(*point) for point in np.concatenate(points))


def in_pixels(line):
    return line.axes.transData.transform(line.get_xydata())


@pytest.mark.parametrize("estimator", [DistributedMLPClassifier, MLPClassifier])
def test_the_loss_by_epoch(data, estimator):
    clf = estimator((9,), max_iter=5, random_state=0).fit(*data)
    display = LossCurveDisplay.from_estimator(clf, linewidth=3)
    np.testing.assert_array_equal(display.line_.get_xdata(), [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(display.line_.get_ydata(), clf.loss_curve_)
    assert display.line_.get_linewidth() == 3
    assert display.validation_line_ is None
    assert display.ax_.get_legend() is None
    assert_can_be_drawn(display.figure_)


def test_the_scores_of_rows_held_out_have_axes_of_their_own(data):
    clf = DistributedMLPClassifier(
        (9,), max_iter=5, early_stopping=True, random_state=0
    ).fit(*data)
    _, ax = plt.subplots()
    display = LossCurveDisplay.from_estimator(clf, ax=ax, name="digits")
    assert display.ax_ is ax
    assert display.validation_ax_ is not ax
    np.testing.assert_array_equal(
        display.validation_line_.get_ydata(), clf.validation_scores_
    )
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["digits, loss", "digits, score of rows held out"]
    assert_can_be_drawn(display.figure_)


def test_several_fits_on_the_same_axes():
    _, (ax, other) = plt.subplots(1, 2, sharex=True, layout="constrained")
    for n_epochs, name in ((3, "slow"), (1, "fast")):
        curve = [1.0, 0.5, 0.2][:n_epochs]
        display = LossCurveDisplay(loss_curve=curve, validation_scores=curve, name=name)
        display.plot(ax=ax)
    assert set(display.figure_.axes) == {ax, other, display.validation_ax_}
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        *("slow, loss", "fast, loss"),
        *("slow, score of rows held out", "fast, score of rows held out"),
    ]
    colours = [line.get_color() for line in ax.lines]
    assert colours == list(COLOURS[:2])
    assert [line.get_color() for line in display.validation_ax_.lines] == colours
    assert display.validation_line_.get_linestyle() == "--"
    # One epoch is a point, and a line of one point is nothing.
    assert [line.get_marker() for line in ax.lines] == ["None", "o"]
    assert_can_be_drawn(display.figure_)


@pytest.mark.parametrize("size", [(3.2, 2.4), (6.4, 4.8)], ids=str)
@pytest.mark.parametrize("scores", [False, True])
def test_a_legend_lies_over_no_curve(scores, size):
    _, ax = plt.subplots(figsize=size, layout="constrained")
    epochs = np.arange(1, 40)
    for rate in (0.1, 0.5, 0.9):
        curve = np.exp(-rate * epochs / 5)
        display = LossCurveDisplay(
            loss_curve=curve, validation_scores=1 - curve if scores else None
        ).plot(ax, name=f"rate {rate}")
    ax.set_yscale("log")  # afterwards, as in the gallery
    assert_can_be_drawn(display.figure_)
    twin = display.validation_ax_
    lines = [*ax.lines, *(twin.lines if twin else ())]
    assert len(lines) == (6 if scores else 3)
    assert_hides_nothing(ax.get_legend(), *map(in_pixels, lines))


def test_nothing_makes_room_without_a_layout():
    _, ax = plt.subplots()
    display = LossCurveDisplay(loss_curve=[3, 2, 1], name="a").plot(ax)
    assert_can_be_drawn(display.figure_)
    legend = ax.get_legend().get_window_extent()
    assert all(ax.bbox.contains(*corner) for corner in legend.corners())


def test_what_has_no_loss_curve(data):
    with pytest.raises(NotFittedError):
        LossCurveDisplay.from_estimator(DistributedMLPClassifier())
    clf = DistributedMLPClassifier((9,), solver="lbfgs", max_iter=2).fit(*data)
    with pytest.raises(ValueError, match="solver='lbfgs' keeps no loss curve"):
        LossCurveDisplay.from_estimator(clf)


def test_neurons_and_links_have_the_colour_of_their_worker():
    split = NetworkSplit.even((3, 4, 2), 2)
    display = PartitionDisplay(split=split, workers=["a", "b"]).plot()
    assert [len(neurons.get_offsets()) for neurons in display.neurons_] == [2, 2]
    for rank, neurons in enumerate(display.neurons_):
        assert to_hex(neurons.get_facecolor()[0]) == COLOURS[rank].lower()
    owner = {
        tuple(place): to_hex(neurons.get_facecolor()[0])
        for neurons in display.neurons_
        for place in neurons.get_offsets().tolist()
    }
    segments = display.links_.get_segments()
    assert len(segments) == 3 * 4 + 4 * 2
    for segment, colour in zip(segments, display.links_.get_colors(), strict=True):
        start, stop = (tuple(point) for point in segment.tolist())
        # The hidden neuron has it, at whichever end that is.
        hidden = stop if stop in owner else start
        assert to_hex(colour) == owner[hidden]
    assert_can_be_drawn(display.figure_)


@pytest.mark.parametrize("n_shards", [1, 3, 8])
@pytest.mark.parametrize("layer_units", [(784, 4096, 2, 10), (64, 100, 1), (5, 3)])
def test_large_layers_are_abbreviated(layer_units, n_shards):
    split = NetworkSplit.even(layer_units, n_shards)
    display = PartitionDisplay(split=split, workers=[f"w{i}" for i in range(8)])
    display.plot(max_neurons=12)
    n_drawn = sum(len(neurons.get_offsets()) for neurons in display.neurons_)
    assert n_drawn <= 3 * 8 * max(1, len(layer_units) - 2)
    texts = [text.get_text() for text in display.ax_.texts]
    assert sum(f"{units:,}" in " ".join(texts) for units in layer_units) == len(
        layer_units
    )
    assert ("⋮" in texts) == (max(layer_units) > 12)
    labels = display.ax_.get_legend_handles_labels()[1]
    assert len(labels) == split.n_shards + 1
    assert_can_be_drawn(display.figure_)


def test_the_network_of_an_estimator(data):
    clf = DistributedMLPClassifier((9,), max_iter=1).fit(*data)
    display = PartitionDisplay.from_estimator(clf)
    assert display.split.layer_units == (64, 9, 10)
    assert display.workers == ["this process"]
    with pytest.raises(NotFittedError):
        PartitionDisplay.from_estimator(DistributedMLPClassifier())
    with pytest.raises(ValueError, match="max_neurons=2 has to be at least 3"):
        display.plot(max_neurons=2)


@pytest.mark.parametrize("size", [(4, 3), (6.4, 4.8), (11, 8)], ids=str)
@pytest.mark.parametrize(("n_shards", "listed"), [(2, 2), (7, 7), (16, 16), (40, 16)])
def test_many_shards_can_be_told_apart(n_shards, listed, size):
    split = NetworkSplit.even((64, 100, 4096, 10), n_shards)
    workers = [f"tcp://192.168.17.{100 + i}:39217" for i in range(n_shards)]
    _, ax = plt.subplots(figsize=size, layout="constrained")
    display = PartitionDisplay(split=split, workers=workers).plot(ax)
    looks = {
        (to_hex(n.get_facecolor()[0]), n.get_paths()[0].vertices.tobytes())
        for n in display.neurons_
    }
    assert len(looks) == n_shards
    # As many as there is room for, the last one always.
    *shards, others = [text.get_text() for text in ax.get_legend().get_texts()]
    assert others == "inputs: on all; outputs: sums"
    assert shards[-1] == f"shard {n_shards - 1}: {workers[-1]}"
    n_listed = sum(text.startswith("shard") for text in shards)
    assert 2 <= n_listed <= listed
    if n_listed < n_shards:
        assert shards[-2] == f"… {n_shards - n_listed} more shards"
    if size[0] == 11:
        assert n_listed == listed
    assert_can_be_drawn(display.figure_)
    points = [ax.transData.transform(n.get_offsets()) for n in display.neurons_]
    assert_hides_nothing(ax.get_legend(), *points)


def results(**columns):
    columns.setdefault("mean_test_score", [0.9] * len(columns["mean_fit_time"]))
    search = GridSearchCV(DistributedMLPClassifier(), {})
    search.cv_results_ = {name: np.ma.array(c) for name, c in columns.items()}
    return search


def test_the_time_of_a_fit_by_the_number_of_workers():
    search = results(
        param_n_workers=[2, 1, 4, 2],
        param_alpha=[0, 0, 0, 1],
        mean_fit_time=[5.0, 10.0, 3.0, 7.0],
        std_fit_time=[0.1, 0.1, 0.1, 0.3],
    )
    display = WorkerCountDisplay.from_search(search)
    line, _, _ = display.errorbar_.lines
    np.testing.assert_array_equal(line.get_xdata(), [1, 2, 4])
    assert list(line.get_ydata()) == [10, 6, 3]
    ideal = display.ideal_line_
    np.testing.assert_allclose(ideal.get_ydata() * ideal.get_xdata(), 10)
    assert_can_be_drawn(display.figure_)


def test_several_searches_on_the_same_axes():
    _, ax = plt.subplots(layout="constrained")
    for fit_s, name in ((2.0, "small"), (50.0, "large")):
        search = results(
            param_n_workers=[1, 3], mean_fit_time=[fit_s, 1.0], std_fit_time=[0.5, 0.5]
        )
        display = WorkerCountDisplay.from_search(search, ax=ax, name=name)
        assert to_hex(display.ideal_line_.get_color()) == to_hex(
            display.errorbar_.lines[0].get_color()
        )
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["small", "large", "small, ideal", "large, ideal"]
    colours = [bars.lines[0].get_color() for bars in ax.containers]
    assert colours == list(COLOURS[:2])
    # The second is whole, though its times are longer.
    assert ax.get_ylim()[0] == 0
    assert ax.get_ylim()[1] > 50
    assert_can_be_drawn(display.figure_)


@pytest.mark.parametrize("size", [(3, 2), (6.4, 4.8)], ids=str)
@pytest.mark.parametrize(
    "counts", [[4], [1, 2, 3], range(1, 33), [1, 2, 4, 8, 16, 32]], ids=str
)
def test_numbers_of_workers_do_not_lie_over_each_other(counts, size):
    _, ax = plt.subplots(figsize=size, layout="constrained")
    display = WorkerCountDisplay(n_workers=counts, fit_s=[60 / n for n in counts])
    display.plot(ax)
    ticks = ax.get_xticks().tolist()
    assert ticks[0] == counts[0]
    assert set(ticks) <= set(counts)
    assert len(ticks) >= min(len(counts), 5)
    assert_can_be_drawn(display.figure_)


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


def test_fits_that_failed_are_left_out():
    columns = {
        "param_n_workers": [1, 2, 2],
        "mean_fit_time": [4.0, 2.0, 0.1],
        "std_fit_time": [0.0, 0.0, 0.0],
    }
    search = results(**columns, mean_test_score=[0.9, 0.9, np.nan])
    assert WorkerCountDisplay.from_search(search).fit_s == [4.0, 2.0]
    search = results(**columns, mean_test_score=[np.nan] * 3)
    with pytest.raises(ValueError, match="all fits of the search failed"):
        WorkerCountDisplay.from_search(search)


def test_all_workers_are_no_number():
    search = results(
        param_n_workers=[None, 1], mean_fit_time=[1.0, 2.0], std_fit_time=[0.0, 0.0]
    )
    with pytest.raises(ValueError, match="n_workers=None stands for all workers"):
        WorkerCountDisplay.from_search(search)


def test_which_parameter_counts_workers():
    search = results(
        param_a__n_workers=[1, 2],
        param_b__n_workers=[2, 1],
        mean_fit_time=[2.0, 1.0],
        std_fit_time=[0.0, 0.0],
    )
    with pytest.raises(ValueError, match="found 2: name it"):
        WorkerCountDisplay.from_search(search)
    with pytest.raises(ValueError, match="'n_workers' was not searched over"):
        WorkerCountDisplay.from_search(search, parameter="n_workers")
    display = WorkerCountDisplay.from_search(search, parameter="b__n_workers")
    assert display.fit_s == [1.0, 2.0]


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
    ],
)
def test_what_is_no_measurement(measured, message):
    with pytest.raises(ValueError, match=message):
        CrossoverDisplay.from_measurements(*measured)


NETWORK = DistributedMLPClassifier()
PIPELINE = make_pipeline(StandardScaler(), NETWORK)
EXPECTED = "expected a fitted DistributedMLPClassifier or DistributedMLPRegressor"


@pytest.mark.parametrize(
    ("draw", "given", "message"),
    [
        *(
            case
            for draw in (
                LossCurveDisplay.from_estimator,
                PartitionDisplay.from_estimator,
            )
            for case in (
                (draw, PIPELINE, r"class Pipeline: pass pipeline\[-1\]$"),
                (
                    draw,
                    GridSearchCV(NETWORK, {}),
                    r"class GridSearchCV: pass search\.best_estimator_$",
                ),
                (
                    draw,
                    GridSearchCV(PIPELINE, {}),
                    r"pass search\.best_estimator_\[-1\]$",
                ),
                (draw, LogisticRegression(), f"^{EXPECTED}.*class LogisticRegression$"),
                (draw, DistributedMLPClassifier, "got the class Distributed"),
                (draw, None, "class NoneType$"),
            )
        ),
        (PartitionDisplay.from_estimator, MLPClassifier(), "class MLPClassifier$"),
        (
            WorkerCountDisplay.from_search,
            NETWORK,
            "^expected a fitted search over n_workers, such as GridSearchCV, got an "
            "object of class DistributedMLPClassifier: pass the search itself",
        ),
        (
            WorkerCountDisplay.from_search,
            make_pipeline(StandardScaler(), GridSearchCV(NETWORK, {})),
            r"pass its last step, pipeline\[-1\]$",
        ),
        (WorkerCountDisplay.from_search, GridSearchCV, "got the class GridSearchCV"),
    ],
)
def test_an_error_says_what_was_given_and_what_to_pass(draw, given, message):
    with pytest.raises(TypeError, match=message):
        draw(given)


def test_a_network_is_found_where_the_error_says(data):
    pipeline = make_pipeline(StandardScaler(), DistributedMLPClassifier((9,)))
    search = GridSearchCV(pipeline, {"distributedmlpclassifier__max_iter": [2]}, cv=2)
    search.fit(*data)
    with pytest.raises(TypeError, match=r"pass (search\.best_estimator_\[-1\])$") as e:
        LossCurveDisplay.from_estimator(search)
    passed = eval(str(e.value).split("pass ")[1], {"search": search})
    assert len(LossCurveDisplay.from_estimator(passed).loss_curve) == 2


def test_a_search_that_was_not_fitted():
    with pytest.raises(NotFittedError, match="GridSearchCV"):
        WorkerCountDisplay.from_search(GridSearchCV(NETWORK, {}))


def test_without_matplotlib_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    display = CrossoverDisplay(n_parameters=[1, 2], times_faster=[1, 2])
    with pytest.raises(ImportError, match=r"pip install \"skdistmlp\[plots\]\""):
        display.plot()
