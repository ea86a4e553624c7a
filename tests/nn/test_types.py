"""Rows and arrays of the types that the package shares."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skdistmlp.nn.types import aligned, rows_at


def test_an_aligned_array_is_not_copied():
    array = np.arange(6.0)
    assert aligned(array) is array


def test_an_unaligned_array_is_copied_to_an_aligned_address():
    buffer = np.zeros(6 * 8 + 1, np.uint8)
    unaligned = buffer[1:].view(np.float64)
    unaligned[:] = range(6)
    assert not unaligned.flags.aligned
    found = aligned(unaligned)
    assert found.flags.aligned
    assert not np.shares_memory(found, unaligned)
    assert_array_equal(found, range(6))


@pytest.mark.parametrize(
    "rows", [slice(3, 9), np.array([5, 0, 0, 3, 8, 1])], ids=["slice", "indices"]
)
@pytest.mark.parametrize("part", [slice(0, 6), slice(2, 4), slice(3, 3)])
def test_a_part_of_rows_selects_the_same_rows_as_two_selections(rows, part):
    array = np.arange(20) * 10
    assert_array_equal(array[rows_at(rows, part)], array[rows][part])
