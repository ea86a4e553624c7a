"""Times, ideal lines and labels of `WorkerCountDisplay`."""

import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

from skdistmlp import DistributedMLPClassifier, FastestWithin
from skdistmlp.plotting import WorkerCountDisplay
from skdistmlp.plotting.axes import COLOURS
from tests.plotting.pictures import assert_readable


def fitted_search(**columns):
    columns.setdefault("mean_test_score", [0.9] * len(columns["mean_fit_time"]))
    search = GridSearchCV(DistributedMLPClassifier(), {})
    search.cv_results_ = {name: np.ma.array(c) for name, c in columns.items()}
    return search


def test_fit_times_are_plotted_by_number_of_workers():
    search = fitted_search(
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
    assert_readable(display.figure_)


def test_several_searches_share_axes():
    _, ax = plt.subplots(layout="constrained")
    for slowest, name in ((2.0, "small"), (50.0, "large")):
        search = fitted_search(
            param_n_workers=[1, 3],
            mean_fit_time=[slowest, 1.0],
            std_fit_time=[0.5, 0.5],
        )
        display = WorkerCountDisplay.from_search(search, ax=ax, name=name)
        assert to_hex(display.ideal_line_.get_color()) == to_hex(
            display.errorbar_.lines[0].get_color()
        )
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["small", "large", "small, ideal", "large, ideal"]
    colours = [bars.lines[0].get_color() for bars in ax.containers]
    assert colours == list(COLOURS[:2])
    # The second fits, although its times are longer.
    assert ax.get_ylim()[0] == 0
    assert ax.get_ylim()[1] > 50
    assert_readable(display.figure_)


@pytest.mark.parametrize("size", [(3, 2), (6.4, 4.8)], ids=str)
@pytest.mark.parametrize(
    "counts", [[4], [1, 2, 3], range(1, 33), [1, 2, 4, 8, 16, 32]], ids=str
)
def test_labels_of_numbers_of_workers_do_not_overlap(counts, size):
    _, ax = plt.subplots(figsize=size, layout="constrained")
    display = WorkerCountDisplay(n_workers=counts, fit_times=[60 / n for n in counts])
    display.plot(ax)
    ticks = ax.get_xticks().tolist()
    assert ticks[0] == counts[0]
    assert set(ticks) <= set(counts)
    assert len(ticks) >= min(len(counts), 5)
    assert_readable(display.figure_)


def test_failed_fits_are_left_out():
    columns = {
        "param_n_workers": [1, 2, 2],
        "mean_fit_time": [4.0, 2.0, 0.1],
        "std_fit_time": [0.0, 0.0, 0.0],
    }
    search = fitted_search(**columns, mean_test_score=[0.9, 0.9, np.nan])
    assert WorkerCountDisplay.from_search(search).fit_times == [4.0, 2.0]
    search = fitted_search(**columns, mean_test_score=[np.nan] * 3)
    with pytest.raises(ValueError, match="all fits with n_workers failed"):
        WorkerCountDisplay.from_search(search)


def test_halving_search_is_plotted_at_its_last_complete_iteration():
    columns = {
        "param_n_workers": [1, 2, 4, 1, 2, 4, 4],
        "n_resources": [50, 50, 50, 100, 100, 100, 200],
        "mean_fit_time": [4.0, 2.5, 2.0, 8.0, 5.0, 3.0, 6.0],
        "std_fit_time": [0.0] * 7,
    }
    display = WorkerCountDisplay.from_search(fitted_search(**columns))
    assert display.n_workers == [1, 2, 4]
    assert display.fit_times == [8.0, 5.0, 3.0]
    # If a number failed in the second iteration, the first one counts.
    scores = [0.9] * 7
    scores[4] = np.nan
    display = WorkerCountDisplay.from_search(
        fitted_search(**columns, mean_test_score=scores)
    )
    assert display.fit_times == [4.0, 2.5, 2.0]
    scores[2] = np.nan
    with pytest.raises(ValueError, match=r"measured all of n_workers=\[1, 2, 4\]"):
        WorkerCountDisplay.from_search(fitted_search(**columns, mean_test_score=scores))


@pytest.mark.filterwarnings(
    f"ignore::{ConvergenceWarning.__module__}.ConvergenceWarning"
)
# Which of two local fits is faster is chance.
@pytest.mark.filterwarnings("ignore:the mean fit times for different n_workers")
@pytest.mark.parametrize("refit", [FastestWithin(0.01, metric="accuracy"), False])
def test_search_with_several_metrics_over_several_grids(data, refit):
    search = GridSearchCV(
        DistributedMLPClassifier((4,), max_iter=1),
        [{"n_workers": [1, 2]}, {"alpha": [0.1]}],
        scoring=["accuracy", "neg_log_loss"],
        refit=refit,
        cv=2,
    ).fit(*data)
    # The second grid has no n_workers.
    assert WorkerCountDisplay.from_search(search).n_workers == [1, 2]


def test_fit_that_one_metric_could_not_score_counts():
    search = fitted_search(
        param_n_workers=[1, 2, 3],
        mean_fit_time=[3.0, 2.0, 1.0],
        std_fit_time=[0.0, 0.0, 0.0],
        mean_test_score=[0.9, np.nan, np.nan],
        mean_test_other=[0.9, 0.9, np.nan],
    )
    assert WorkerCountDisplay.from_search(search).n_workers == [1, 2]


def test_none_is_not_a_number_of_workers():
    search = fitted_search(
        param_n_workers=[None, 1], mean_fit_time=[1.0, 2.0], std_fit_time=[0.0, 0.0]
    )
    with pytest.raises(ValueError, match="n_workers=None stands for all workers"):
        WorkerCountDisplay.from_search(search)


def test_ambiguous_parameter_must_be_named():
    search = fitted_search(
        param_a__n_workers=[1, 2],
        param_b__n_workers=[2, 1],
        mean_fit_time=[2.0, 1.0],
        std_fit_time=[0.0, 0.0],
    )
    with pytest.raises(ValueError, match="found 2: choose one with param_name="):
        WorkerCountDisplay.from_search(search)
    with pytest.raises(ValueError, match="'n_workers' was not searched over"):
        WorkerCountDisplay.from_search(search, param_name="n_workers")
    display = WorkerCountDisplay.from_search(search, param_name="b__n_workers")
    assert display.fit_times == [1.0, 2.0]


def test_only_columns_of_parameters_count():
    search = fitted_search(
        param_n_workers=[1, 2],
        mean_test_param_n_workers=[0.5, 0.5],  # a metric may be called anything
        mean_fit_time=[2.0, 1.0],
        std_fit_time=[0.0, 0.0],
    )
    assert WorkerCountDisplay.from_search(search).n_workers == [1, 2]


def test_unordered_measurements_from_a_data_frame():
    table = pd.DataFrame({"n": [4, 1, 2], "s": [3.0, 8.0, 5.0]}, index=[7, 8, 9])
    display = WorkerCountDisplay(
        n_workers=table["n"], fit_times=table["s"], fit_times_std=table["s"] / 10
    ).plot()
    line, _, (bars,) = display.errorbar_.lines
    assert line.get_xydata().tolist() == [[1, 8], [2, 5], [4, 3]]
    heights = [np.ptp(ends[:, 1]) for ends in bars.get_segments()]
    np.testing.assert_allclose(heights, [1.6, 1.0, 0.6])
    ideal = display.ideal_line_
    np.testing.assert_allclose(ideal.get_ydata() * ideal.get_xdata(), 8)
    assert_readable(display.figure_)


@pytest.mark.parametrize("counts", [[0, 1], [-1, 1], [np.nan, 1], [1, np.inf]], ids=str)
def test_numbers_of_workers_must_be_positive(counts):
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match="n_workers must be positive numbers"):
        WorkerCountDisplay(n_workers=counts, fit_times=[2, 1]).plot(ax)
    assert not ax.has_data()


@pytest.mark.parametrize(
    ("kwargs", "drawn"),
    [
        ({}, (COLOURS[0], "o", "-")),
        ({"fmt": "s--"}, (COLOURS[0], "s", "--")),
        ({"fmt": "rD:"}, ("r", "D", ":")),
        ({"fmt": "C3-"}, ("C3", "None", "-")),
        ({"fmt": "x", "c": "k"}, ("k", "x", "None")),
    ],
    ids=str,
)
def test_format_string_replaces_the_defaults(kwargs, drawn):
    display = WorkerCountDisplay(n_workers=[1, 2], fit_times=[2, 1]).plot(
        curve_kwargs=kwargs
    )
    line = display.errorbar_.lines[0]
    colour, *rest = drawn
    assert to_hex(line.get_color()) == to_hex(colour)
    assert [line.get_marker(), line.get_linestyle()] == rest


@pytest.mark.parametrize(
    ("measured", "lengths"),
    [
        ({"n_workers": [], "fit_times": []}, r"n_workers \(0\) and fit_times \(0\)"),
        (
            {"n_workers": [1, 2], "fit_times": [1]},
            r"n_workers \(2\) and fit_times \(1\)",
        ),
        (
            {"n_workers": [1, 2], "fit_times": [2, 1], "fit_times_std": [0]},
            r"n_workers \(2\), fit_times \(2\) and fit_times_std \(1\)",
        ),
    ],
    ids=str,
)
def test_invalid_measurements_are_refused(measured, lengths):
    _, ax = plt.subplots()
    message = f"^{lengths} must have the same length, at least 1$"
    with pytest.raises(ValueError, match=message):
        WorkerCountDisplay(**measured).plot(ax)
    assert not ax.has_data()
