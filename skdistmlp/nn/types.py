"""Types that every room uses."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, csr_matrix

FloatArray: TypeAlias = NDArray[np.floating[Any]]
"""An array of float32 or float64, the dtype of the network."""

Features: TypeAlias = FloatArray | csr_array | csr_matrix
"""What layer 0 is given, shape (n_samples, n_features): dense, or compressed rows."""

Rows: TypeAlias = slice | NDArray[np.intp]
"""Rows of a training set: a range, or indices in the order wanted."""


def aligned(array: FloatArray) -> FloatArray:
    """Return `array`, or a copy whose numbers lie where the processor wants them.

    Arrays that came through Dask often do not, and are copied whole at every
    product or ``np.take``.
    """
    return np.require(array, requirements="A")


def rows_at(rows: Rows, part: slice) -> Rows:
    """Return some of `rows`; `part` has a start and a stop."""
    if isinstance(rows, slice):
        step = rows.step or 1
        start, stop = (rows.start + step * bound for bound in (part.start, part.stop))
        return slice(start, stop, rows.step)
    return rows[part]
