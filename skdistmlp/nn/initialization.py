"""The initial parameters of a layer."""

import numpy as np

from skdistmlp.nn.layers import LayerSpec
from skdistmlp.nn.types import FloatArray

BLOCK_DRAWS = 2**13
"""Numbers drawn at a time, whatever the size of the layer: 64 KiB of float64. Dask's
workers give larger ones back to the system at once, and 1.9 million draws then took
16 ms instead of 9."""


def glorot_uniform(
    layer: LayerSpec,
    random_state: np.random.RandomState,
    *,
    rows: slice,
    columns: slice,
    neurons: slice,
    coef_out: FloatArray,
    intercept_out: FloatArray,
) -> None:
    """Draw a layer's parameters from U(-b, b), b = g sqrt(6 / (fan_in + fan_out)).

    Parameters
    ----------
    layer : LayerSpec
        Says the number of parameters, and the gain g.
    random_state : RandomState
        Advanced by ``fan_in * fan_out + fan_out`` draws, whatever is kept.
    rows, columns : slice
        The coefficients to keep.
    neurons : slice
        The intercepts to keep.
    coef_out : ndarray of shape (n_rows, n_columns)
        Overwritten. Draws are made in float64 and cast.
    intercept_out : ndarray of shape (n_neurons,)
        Overwritten, from the same distribution.

    Notes
    -----
    Glorot and Bengio (2010), equation 16, with the draws in the order of
    scikit-learn's ``BaseMultilayerPerceptron._init_coef``.
    """
    fan_in, fan_out = layer.fan_in, layer.fan_out
    bound = np.sqrt(6 * layer.gain**2 / (fan_in + fan_out))
    block = max(1, BLOCK_DRAWS // fan_out)
    for start in range(0, fan_in, block):
        stop = min(start + block, fan_in)
        drawn = random_state.uniform(-bound, bound, (stop - start, fan_out))
        first, last = max(start, rows.start), min(stop, rows.stop)
        if first < last:
            kept = drawn[first - start : last - start, columns]
            coef_out[first - rows.start : last - rows.start] = kept
    intercept_out[...] = random_state.uniform(-bound, bound, fan_out)[neurons]
