"""Rows in this process that change while a fit runs."""

import threading
from itertools import count

import numpy as np
import pytest
from scipy.sparse import csr_array

from skdistmlp import ClusterError
from skdistmlp.cluster.recovery import unchanged
from skdistmlp.cluster.recovery.unchanged import UnchangedRows
from skdistmlp.parallel.class_codes import ClassCodes
from skdistmlp.parallel.data import Dataset
from tests.cluster.support import WITHIN_S, bounded


def dataset(sparse=False, codes=False):
    X, y = np.arange(12.0).reshape(6, 2), np.arange(6)[:, np.newaxis] % 2 == [0, 1]
    return Dataset(
        csr_array(X) if sparse else X,
        ClassCodes.of(y) if codes else y,
        np.ones(6),
    )


@pytest.mark.parametrize("sparse", [False, True])
def test_rows_that_nobody_changes_may_be_placed_again(sparse):
    rows = UnchangedRows(dataset(sparse))
    for _ in range(2):
        rows.look_again()
        rows.check()


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({}, lambda rows: rows.X),
        ({}, lambda rows: rows.y),
        ({}, lambda rows: rows.sample_weight[:1]),
        ({"sparse": True}, lambda rows: rows.X.data),
        ({"codes": True}, lambda rows: rows.y.codes),
    ],
)
def test_rows_that_change_may_not(options, changed):
    rows = dataset(**options)
    same = UnchangedRows(rows)
    same.look_again()
    same.check()
    array = changed(rows)
    array[:] = array[::-1].copy() if len(array) > 1 else 2 * array
    same.look_again()
    with pytest.raises(ClusterError, match="have changed since fit was called"):
        same.check()


def test_rows_are_looked_at_in_a_thread(monkeypatch):
    """An interrupt need not wait for it, nor anything else that a fit waits for."""
    threads, numbers, gate = [], count(), threading.Event()

    def digest(*arrays):
        threads.append(threading.current_thread().name)
        assert gate.wait(WITHIN_S)
        return b"%d" % next(numbers)

    monkeypatch.setattr(unchanged, "array_digest", digest)
    rows = UnchangedRows(dataset())
    rows.look_again()
    gate.set()
    assert bounded(rows.have_changed)
    assert [name.partition("_")[0] for name in threads] == 2 * [unchanged.THREAD_NAME]
    assert rows.digest_s >= 0


def test_what_was_placed_is_not_hidden_by_a_later_look():
    rows = dataset()
    before = rows.X.copy()
    same = UnchangedRows(rows)
    same.check()
    rows.X[0, 0] += 1
    same.note_placed()
    with pytest.raises(ClusterError):
        same.check_placed()
    rows.X[:] = before
    same.look_again()
    same.check()
    with pytest.raises(ClusterError, match="have changed since fit was called"):
        same.check_placed()
    # Nor is it what was only looked at: a fit that stays where it is.
    same.note_placed()
    same.check_placed()
    rows.X[0, 0] += 1
    same.look_again()
    assert same.have_changed()
    same.check_placed()


def test_a_state_is_offered_once_it_is_known_which_rows_it_is_of(monkeypatch):
    rows, gate, offered = dataset(), threading.Event(), []
    same = UnchangedRows(rows)
    same.check()
    array_digest = unchanged.array_digest

    def digest(*arrays):
        assert gate.wait(WITHIN_S)
        return array_digest(*arrays)

    monkeypatch.setattr(unchanged, "array_digest", digest)
    offer = same.checked(lambda state, _: offered.append(state))
    offer("first run", None)
    same.note_placed()
    offer("early", None)
    assert offered == ["first run"]
    gate.set()
    same.check_placed()
    offer("checked", None)
    assert offered == ["first run", "checked"]
    rows.X[0, 0] += 1
    same.note_placed()
    with pytest.raises(ClusterError):
        same.check_placed()
    for checked in (offer, same.checked(None)):
        with pytest.raises(ClusterError, match="have changed since fit was called"):
            checked("of other rows", None)
    assert offered == ["first run", "checked"]
