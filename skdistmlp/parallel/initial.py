"""The parameters that training begins with."""

from collections.abc import Sequence

import numpy as np

from skdistmlp.nn.initialization import glorot_uniform
from skdistmlp.nn.layers import LayerSpec
from skdistmlp.nn.types import FloatArray
from skdistmlp.parallel.split import ShardLayout


def draw_parameters(
    layout: ShardLayout,
    layers: Sequence[LayerSpec],
    random_state: np.random.RandomState,
    dtype: np.dtype[np.floating],
) -> FloatArray:
    """Draw the parameters of a whole network, and keep those of one shard.

    Every shard makes the same draws, in scikit-learn's order, so the start does not
    depend on how the network is split, and nothing has to be sent.

    Parameters
    ----------
    layout : ShardLayout
        The shard; that of a network on one shard keeps everything.
    layers : sequence of LayerSpec
        All layers of the network.
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
    for layer, spec in enumerate(layers):
        glorot_uniform(
            spec,
            random_state,
            rows=layout.rows(layer),
            columns=layout.columns(layer),
            neurons=layout.neurons(layer),
            coef_out=coefs[layer],
            intercept_out=intercepts[layer],
        )
    return flat
