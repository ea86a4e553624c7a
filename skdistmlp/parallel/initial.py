"""The weights that training begins with."""

from itertools import pairwise

import numpy as np

from skdistmlp.nn.initialization import glorot_uniform
from skdistmlp.nn.types import FloatArray
from skdistmlp.parallel.split import ShardLayout


def draw_parameters(
    layout: ShardLayout,
    activation: str,
    random_state: np.random.RandomState,
    dtype: np.dtype[np.floating],
) -> FloatArray:
    """Draw the weights of a whole network, and keep those of one shard.

    Every shard draws alike, in scikit-learn's order: the start does not depend
    on how the network is split, and nothing has to be sent.

    Parameters
    ----------
    layout : ShardLayout
        The shard; that of a network on one shard keeps everything.
    activation : str
        Name of the hidden activation.
    random_state : RandomState
        Advanced by as many draws as the whole network has parameters.
    dtype : dtype
        float32 or float64.

    Returns
    -------
    ndarray of shape (n_parameters,)
        The shard's flat array.
    """
    flat = np.empty(layout.n_parameters, dtype)
    coefs, intercepts = layout.views(flat)
    for layer, (fan_in, fan_out) in enumerate(pairwise(layout.split.layer_units)):
        glorot_uniform(
            fan_in,
            fan_out,
            activation,
            random_state,
            rows=layout.rows(layer),
            columns=layout.columns(layer),
            neurons=layout.neurons(layer),
            coef_out=coefs[layer],
            intercept_out=intercepts[layer],
        )
    return flat
