"""The weights that training begins with."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from skdistmlp.nn.initialization import glorot_uniform
from skdistmlp.nn.types import FloatArray
from skdistmlp.parallel.split import NetworkSplit


def draw_parameters(
    layer_units: Sequence[int],
    activation: str,
    random_state: np.random.RandomState,
    dtype: np.dtype[np.floating],
) -> FloatArray:
    """Draw the weights of all layers, in scikit-learn's order.

    Parameters
    ----------
    layer_units : sequence of int
        Features, neurons of each hidden layer, outputs.
    activation : str
        Name of the hidden activation.
    random_state : RandomState
        Advanced by as many draws as there are parameters.
    dtype : dtype
        float32 or float64.

    Returns
    -------
    ndarray of shape (n_parameters,)
        The network's flat array, in the layout of one shard.
    """
    split = NetworkSplit.even(layer_units, 1)
    flat = np.empty(split.n_parameters, dtype)
    coefs, intercepts = split.whole().views(flat)
    for layer, (fan_in, fan_out) in enumerate(pairwise(layer_units)):
        coefs[layer][...], intercepts[layer][...] = glorot_uniform(
            fan_in, fan_out, activation, random_state, dtype
        )
    return flat
