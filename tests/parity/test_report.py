"""The table of differences, printed and asserted on."""

import math
import pickle
from dataclasses import FrozenInstanceError, replace

import pytest

from skdistmlp import ParityReport, ParityRow

GOOD = ParityRow("local", 1, "scikit-learn", 2.6e-16, 0.0, 1.7e-16, 1e-6)
BAD = ParityRow("peers", 2, "scikit-learn", 3e-3, 1e-7, 2e-3, 1e-6)
LOST = ParityRow(
    "futures",
    3,
    "scikit-learn",
    math.inf,
    math.inf,
    math.inf,
    1e-6,
    error="WorkerLostError: worker tcp://w was lost while training",
)


def report(*rows, **fields):
    return ParityReport(rows, "float64", n_epochs=3, random_state=7, **fields)


@pytest.mark.parametrize("name", ["parameters", "loss_curve", "predictions"])
@pytest.mark.parametrize(
    ("value", "passes"), [(1e-6, True), (1.1e-6, False), (math.inf, False)]
)
def test_each_difference_has_to_be_within_the_tolerance(name, value, passes):
    assert replace(GOOD, **{name: value}).passed is passes


@pytest.mark.parametrize("name", ["parameters", "loss_curve", "predictions"])
def test_nan_does_not_pass(name):
    assert not replace(GOOD, **{name: math.nan}).passed


def test_a_plan_with_an_error_fails():
    assert not replace(GOOD, error="ValueError: no").passed


@pytest.mark.parametrize(
    ("rows", "passes"),
    [
        ([GOOD], True),
        ([GOOD, GOOD], True),
        ([GOOD, BAD], False),
        ([LOST, GOOD], False),
        # Nothing compared is nothing shown.
        ([], False),
    ],
)
def test_a_report_is_true_if_every_plan_passed(rows, passes):
    assert report(*rows).passed is passes
    assert bool(report(*rows)) is passes


def test_it_prints_as_a_table():
    assert str(report(GOOD, BAD, LOST)).splitlines() == [
        "3 epochs in float64, random_state=7",
        "engine   workers  compared with  parameters  loss curve  predictions"
        "  tolerance  passed",
        "local          1  scikit-learn      2.6e-16     0.0e+00      1.7e-16"
        "      1e-06  yes",
        "peers          2  scikit-learn      3.0e-03     1.0e-07      2.0e-03"
        "      1e-06  NO",
        "futures        3  scikit-learn            -           -            -"
        "      1e-06  NO",
        "futures on 3 workers: WorkerLostError: worker tcp://w was lost while training",
    ]


def test_the_table_has_replicas_where_there_are_some():
    lines = str(report(GOOD, replace(BAD, n_workers=4, n_replicas=2))).splitlines()
    assert lines[1].startswith("engine  workers  replicas  compared with  param")
    assert lines[2].startswith("local         1         1  scikit-learn   ")
    assert lines[3].startswith("peers         4         2  scikit-learn   ")


def test_it_names_what_scikit_learn_lacks_and_says_notes():
    lines = str(
        report(
            replace(GOOD, engine="peers", reference="local"),
            without_counterpart=("dropout=0.5", "X_val"),
            notes=("Something else.",),
        )
    ).splitlines()
    assert lines[-2:] == [
        "Compared with local, since scikit-learn has no counterpart of "
        "dropout=0.5, X_val",
        "Something else.",
    ]


def test_a_failed_report_raises_with_its_table():
    failed = report(GOOD, BAD, LOST)
    with pytest.raises(AssertionError, match="2 of 3 plans failed") as raised:
        failed.raise_if_failed()
    assert str(failed) in str(raised.value)
    with pytest.raises(AssertionError, match="1 of 1 plan failed"):
        report(BAD).raise_if_failed()


def test_a_report_that_passed_does_not_raise():
    report(GOOD).raise_if_failed()


def test_a_notebook_shows_what_print_does():
    texts = []

    class Printer:
        text = texts.append

    report(GOOD)._repr_pretty_(Printer, cycle=False)
    assert texts == [str(report(GOOD))]


def test_it_is_a_value():
    shown = report(GOOD, BAD)
    assert pickle.loads(pickle.dumps(shown)) == shown == report(GOOD, BAD)
    with pytest.raises(FrozenInstanceError):
        shown.rows = ()
