"""Curves, scores and legends of `LossCurveDisplay`."""

import numpy as np
import pytest
from matplotlib import pyplot as plt
from sklearn.exceptions import NotFittedError
from sklearn.neural_network import MLPClassifier

from skdistmlp import DistributedMLPClassifier
from skdistmlp.plotting import LossCurveDisplay
from skdistmlp.plotting.axes import COLOURS
from tests.marks import only_quick
from tests.plotting.pictures import assert_hides_nothing, assert_readable, in_pixels

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize("estimator", [DistributedMLPClassifier, MLPClassifier])
def test_loss_is_plotted_by_epoch(data, estimator):
    clf = estimator((9,), max_iter=5, random_state=0).fit(*data)
    display = LossCurveDisplay.from_estimator(clf, curve_kwargs={"linewidth": 3})
    np.testing.assert_array_equal(display.line_.get_xdata(), [1, 2, 3, 4, 5])
    np.testing.assert_array_equal(display.line_.get_ydata(), clf.loss_curve_)
    assert display.line_.get_linewidth() == 3
    assert display.validation_line_ is None
    assert display.ax_.get_legend() is None
    assert_readable(display.figure_)


def test_validation_scores_have_their_own_axes(data):
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
    assert texts == [
        "digits, loss",
        "digits, validation loss",
        "digits, validation score",
    ]
    np.testing.assert_array_equal(
        display.validation_loss_line_.get_ydata(), clf.validation_loss_curve_
    )
    assert display.validation_loss_line_.axes is ax
    assert display.validation_loss_line_.get_color() == display.line_.get_color()
    assert_readable(display.figure_)


def test_several_fits_share_axes():
    _, (ax, other) = plt.subplots(1, 2, sharex=True, layout="constrained")
    for n_epochs, name in ((3, "slow"), (1, "fast")):
        curve = [1.0, 0.5, 0.2][:n_epochs]
        display = LossCurveDisplay(loss_curve=curve, validation_scores=curve, name=name)
        display.plot(ax=ax)
    assert set(display.figure_.axes) == {ax, other, display.validation_ax_}
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        *("slow, loss", "fast, loss"),
        *("slow, validation score", "fast, validation score"),
    ]
    colours = [line.get_color() for line in ax.lines]
    assert colours == list(COLOURS[:2])
    assert [line.get_color() for line in display.validation_ax_.lines] == colours
    assert display.validation_line_.get_linestyle() == "--"
    # A line through a single point is invisible without a marker.
    assert [line.get_marker() for line in ax.lines] == ["None", "o"]
    assert_readable(display.figure_)


@pytest.mark.parametrize("size", [(3.2, 2.4), (6.4, 4.8)], ids=str)
@pytest.mark.parametrize("scores", [False, True])
def test_legend_covers_no_curve(scores, size):
    _, ax = plt.subplots(figsize=size, layout="constrained")
    epochs = np.arange(1, 40)
    for rate in (0.1, 0.5, 0.9):
        curve = np.exp(-rate * epochs / 5)
        display = LossCurveDisplay(
            loss_curve=curve, validation_scores=1 - curve if scores else None
        ).plot(ax, name=f"rate {rate}")
    ax.set_yscale("log")  # afterwards, as in the gallery
    assert_readable(display.figure_)
    twin = display.validation_ax_
    lines = [*ax.lines, *(twin.lines if twin else ())]
    assert len(lines) == (6 if scores else 3)
    assert_hides_nothing(ax.get_legend(), *map(in_pixels, lines))


@pytest.mark.parametrize("n_fits", only_quick(0, cases=[9, 40]))
@pytest.mark.parametrize("size", [(4, 3), (6.4, 4.8)], ids=str)
@pytest.mark.parametrize("layout", ["constrained", None])
def test_legend_of_many_fits_leaves_room_for_the_curves(layout, size, n_fits):
    _, ax = plt.subplots(figsize=size, layout=layout)
    curve = np.linspace(1, 0, 5)
    for i in range(n_fits):
        display = LossCurveDisplay(loss_curve=curve + i, validation_scores=curve - i)
        display.plot(ax, name=f"rate {i}")
    display.figure_.canvas.draw()
    assert ax.bbox.height > 0.35 * display.figure_.bbox.height
    legend = ax.get_legend()
    assert legend.get_window_extent().height < 0.6 * display.figure_.bbox.height
    first, *_, last, scores = (text.get_text() for text in legend.get_texts())
    assert (first, last) == ("rate 0, loss", f"rate {n_fits - 1}, loss")
    assert scores == "validation score"
    if n_fits == 40:
        listed = [text.get_text() for text in legend.get_texts()]
        assert listed[-3] == f"… {n_fits - (len(listed) - 2)} more"


def test_legend_is_inside_the_axes_without_a_layout_engine():
    _, ax = plt.subplots()
    display = LossCurveDisplay(loss_curve=[3, 2, 1], name="a").plot(ax)
    assert_readable(display.figure_)
    legend = ax.get_legend().get_window_extent()
    assert all(ax.bbox.contains(*corner) for corner in legend.corners())


def test_estimators_without_a_loss_curve_are_refused(data):
    with pytest.raises(NotFittedError):
        LossCurveDisplay.from_estimator(DistributedMLPClassifier())
    clf = DistributedMLPClassifier((9,), solver="lbfgs", max_iter=2).fit(*data)
    with pytest.raises(ValueError, match="solver='lbfgs' keeps no loss curve"):
        LossCurveDisplay.from_estimator(clf)


@pytest.mark.parametrize(
    ("curves", "message"),
    [
        ({"loss_curve": []}, "^loss_curve is empty: there is nothing to draw$"),
        (
            {"loss_curve": [3, 2, 1], "validation_scores": [0.1, 0.2]},
            r"^loss_curve \(3\) and validation_scores \(2\) must have the same length",
        ),
    ],
    ids=str,
)
def test_invalid_curves_are_refused(curves, message):
    _, ax = plt.subplots()
    with pytest.raises(ValueError, match=message):
        LossCurveDisplay(**curves).plot(ax)
    assert not ax.has_data()


@pytest.mark.parametrize("stops_early", [(True, False), (False, True)], ids=str)
def test_scores_of_only_some_epochs_are_drawn_at_these(data, stops_early):
    clf = DistributedMLPClassifier((9,), max_iter=2, warm_start=True)
    for early_stopping in stops_early:
        clf.set_params(early_stopping=early_stopping).fit(*data)
    assert (len(clf.loss_curve_), len(clf.validation_scores_)) == (4, 2)
    display = LossCurveDisplay.from_estimator(clf)
    assert display.line_.get_ydata().tolist() == clf.loss_curve_
    epochs = [1, 2] if stops_early[0] else [3, 4]
    assert list(display.validation_line_.get_xdata()) == epochs
    assert list(display.validation_line_.get_ydata()) == clf.validation_scores_
    assert list(display.validation_loss_line_.get_xdata()) == epochs


@pytest.mark.parametrize("validated", [{2}, {1, 3, 4}], ids=str)
def test_calls_without_rows_for_validation_leave_gaps(data, validated):
    X, y = data
    clf = DistributedMLPClassifier((9,))
    for epoch in range(1, 6):
        rows = {"X_val": X[:30], "y_val": y[:30]} if epoch in validated else {}
        clf.partial_fit(X, y, classes=np.unique(y), **rows)
    display = LossCurveDisplay.from_estimator(clf)
    losses = [clf.validation_loss_curve_[epoch - 1] for epoch in sorted(validated)]
    for line, drawn in (
        (display.validation_loss_line_, losses),
        (display.validation_line_, clf.validation_scores_),
    ):
        assert list(line.get_xdata()) == sorted(validated)
        assert list(line.get_ydata()) == drawn
        assert (line.get_marker() == "None") == (len(validated) > 1)


def test_scores_whose_epochs_are_unknown_are_left_out(data):
    clf = MLPClassifier((9,), max_iter=3, early_stopping=True).fit(*data)
    del clf.validation_scores_[0]
    assert LossCurveDisplay.from_estimator(clf).validation_line_ is None
