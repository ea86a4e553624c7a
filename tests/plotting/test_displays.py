"""What the displays draw: their data and their artists."""

import io
import sys

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from sklearn.exceptions import NotFittedError
from sklearn.neural_network import MLPClassifier
from sklearn.utils import Bunch

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


def assert_can_be_drawn(figure):
    """Nothing is cut off or missing when it is drawn; warnings are errors."""
    file = io.BytesIO()
    figure.savefig(file)
    assert file.getvalue().startswith(b"\x89PNG")


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
    _, (ax, other) = plt.subplots(1, 2, sharex=True)
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


def results(**columns):
    columns.setdefault("mean_test_score", [0.9] * len(columns["mean_fit_time"]))
    return Bunch(cv_results_={name: np.ma.array(c) for name, c in columns.items()})


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
    assert_can_be_drawn(first.figure_)


def test_without_matplotlib_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    display = CrossoverDisplay(n_parameters=[1, 2], times_faster=[1, 2])
    with pytest.raises(ImportError, match=r"pip install \"skdistmlp\[plots\]\""):
        display.plot()
