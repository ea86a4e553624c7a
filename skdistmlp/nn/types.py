"""Types that every floor uses."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

FloatArray: TypeAlias = NDArray[np.floating[Any]]
"""An array of float32 or float64, the dtype of the network."""

Rows: TypeAlias = slice | NDArray[np.intp]
"""Rows of a training set: a range, or indices in the order wanted."""
