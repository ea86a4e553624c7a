"""Rows in this process that change while a fit runs."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from skdistmlp import ClusterError
from skdistmlp.cluster.run.unchanged import UnchangedRows
from skdistmlp.parallel.class_codes import ClassCodes
from skdistmlp.parallel.data import Dataset


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
    rows.check()
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
    unchanged = UnchangedRows(rows)
    unchanged.check()
    array = changed(rows)
    array[:] = array[::-1].copy() if len(array) > 1 else 2 * array
    with pytest.raises(ClusterError, match="have changed since fit was called"):
        unchanged.check()
