"""Initial weights."""

import numpy as np

from skdistmlp.nn.activations import ACTIVATIONS
from skdistmlp.nn.types import FloatArray


def glorot_uniform(
    fan_in: int,
    fan_out: int,
    activation: str,
    random_state: np.random.RandomState,
    dtype: np.dtype[np.floating],
) -> tuple[FloatArray, FloatArray]:
    """Draw the weights of one layer from U(-b, b), b = sqrt(f / (fan_in + fan_out)).

    Parameters
    ----------
    fan_in, fan_out : int
        Numbers of neurons before and after the weights.
    activation : str
        Name of the hidden activation, which sets the factor f.
    random_state : RandomState
        Advanced by ``fan_in * fan_out + fan_out`` draws.
    dtype : dtype
        float32 or float64. Draws are made in float64 and cast.

    Returns
    -------
    coef : ndarray of shape (fan_in, fan_out)
        Weights.
    intercept : ndarray of shape (fan_out,)
        Intercepts, from the same distribution.

    Notes
    -----
    Glorot and Bengio (2010), equation 16, with the draws in the order of
    scikit-learn's ``BaseMultilayerPerceptron._init_coef``.
    """
    bound = np.sqrt(ACTIVATIONS[activation].glorot_factor / (fan_in + fan_out))
    coef = random_state.uniform(-bound, bound, (fan_in, fan_out))
    intercept = random_state.uniform(-bound, bound, fan_out)
    return coef.astype(dtype, copy=False), intercept.astype(dtype, copy=False)
