"""Classes as numbers, and as the columns that losses are given."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skdistmlp.parallel.class_codes import ClassCodes
from skdistmlp.parallel.data import Dataset


def columns_of(codes, n_classes):
    return codes[:, np.newaxis] == np.arange(n_classes)


@pytest.mark.parametrize("n_classes", [1, 3, 256, 257, 70_000])
def test_columns_are_those_that_the_codes_were_made_of(n_classes):
    columns = columns_of(np.array([0, n_classes - 1, n_classes // 2, 0]), n_classes)
    made = ClassCodes.of(columns)
    assert made.shape == columns.shape
    assert made.nbytes == 4 * (1 if n_classes <= 256 else 2 if n_classes < 65537 else 4)
    made.columns(slice(0, 2))
    for codes in (made, pickle.loads(pickle.dumps(made))):
        for rows in (slice(0, 4), slice(1, 3), np.array([2, 2, 0]), np.array([], int)):
            found = codes.columns(rows)
            assert found.dtype == bool
            assert_array_equal(found, columns[rows])


def test_a_data_set_has_columns_for_the_rows_that_are_asked_for():
    columns = columns_of(np.array([2, 0, 1, 2]), 3)
    dataset = Dataset(np.zeros((4, 2)), ClassCodes.of(columns))
    assert (dataset.n_rows, dataset.nbytes) == (4, 4 * 2 * 8 + 4)
    assert_array_equal(dataset.targets(np.array([3, 1])), columns[[3, 1]])
    assert_array_equal(dataset.targets(slice(1, 3)), columns[1:3])
