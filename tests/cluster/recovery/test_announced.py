"""Lines and epochs that the user hears of once, whatever is trained twice."""

from skdistmlp.cluster.recovery.announced import Announced
from skdistmlp.training.progress import LbfgsProgress


def test_each_line_is_printed_once():
    announced, printed = Announced(), []
    for number in (0, 1, 2, 1, 2, 3):
        announced.line(number, f"line {number}", printed.append)
    assert printed == ["line 0", "line 1", "line 2", "line 3"]


def test_each_epoch_is_reported_once_and_its_stop_is_kept():
    announced, reported = Announced(), []

    def end(n_iter, stops=False):
        def report():
            reported.append(n_iter)
            return stops

        return announced.epoch(n_iter, report)

    assert [end(1), end(2), end(3, stops=True)] == [False, False, True]
    # Trained again.
    assert [end(2), end(3)] == [False, True]
    assert reported == [1, 2, 3]
    # Resumed from there, it takes no further step.
    assert announced.stops_at(after(3))
    assert not announced.stops_at(after(2))
    assert not announced.stops_at(None)


def test_lines_before_an_epoch_are_counted():
    announced = Announced()
    for n_iter in (1, 2):
        announced.line(n_iter - 1, "a line", lambda _: None)
        announced.note_epoch(after(n_iter))
    announced.note_epoch(after(3), 7)
    announced.note_epoch(None)
    numbers = [announced.n_lines_before(after(n_iter)) for n_iter in (0, 1, 2, 3, 4)]
    # The last one came before this fit.
    assert numbers == [0, 1, 2, 7, 0]
    assert announced.n_lines_before(None) == 0


def after(n_iter):
    return LbfgsProgress(n_iter, 0.5)


def test_an_epoch_whose_report_failed_is_reported_again():
    announced, reported = Announced(), []

    def fails():
        raise OSError("lost")

    try:
        announced.epoch(1, fails)
    except OSError:
        assert not announced.epoch(1, lambda: bool(reported.append(1)))
    assert reported == [1]
