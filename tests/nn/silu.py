"""SiLU, an activation that needs its input to go backward: the package has none yet."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
from scipy.special import expit

from skdistmlp.nn import layers
from skdistmlp.nn.activations import ACTIVATIONS, Activation, _row_blocks


def _silu(z: np.ndarray, out: np.ndarray) -> np.ndarray:
    for rows in _row_blocks(z):
        np.multiply(z[rows], expit(z[rows]), out=out[rows])
    return z


def _silu_backward(z: np.ndarray, delta: np.ndarray) -> None:
    for rows in _row_blocks(z):
        slope = expit(z[rows])
        np.subtract(1, slope, out=slope)
        slope *= z[rows]
        slope += 1
        delta[rows] *= slope
        del slope
        delta[rows] *= expit(z[rows])


SILU = Activation(_silu, _silu_backward, glorot_factor=6.0, keeps_input=True)


@contextmanager
def silu_known() -> Iterator[None]:
    """Let layers have the activation "silu" in this process."""
    with patch.object(layers, "ACTIVATIONS", {**ACTIVATIONS, "silu": SILU}):
        yield
