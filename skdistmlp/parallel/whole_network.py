"""A whole network with its parameters: from rows to outputs, in any process."""

from dataclasses import dataclass
from typing import Any

from scipy.sparse import issparse

from skdistmlp.nn.layers import Network
from skdistmlp.nn.types import Features, FloatArray, aligned
from skdistmlp.parallel.shard import predict_whole
from skdistmlp.parallel.split import Parameters

PREDICT_BLOCK_ROWS = 2000
"""Rows forwarded at a time by predict."""

SPARSE_PREDICT_BLOCK_ROWS = 20_000
"""The same for sparse features, whose rows are copied to cut them out."""


@dataclass(frozen=True)
class WholeNetwork:
    """A network and all its parameters.

    Attributes
    ----------
    network : Network
        The network.
    parameters : Parameters
        All its layers.
    """

    network: Network
    parameters: Parameters

    def __setstate__(self, state: dict[str, Any]) -> None:
        coefs, intercepts = state["parameters"]
        parameters = Parameters([aligned(coef) for coef in coefs], intercepts)
        self.__dict__.update(state, parameters=parameters)

    def __call__(self, X: Features) -> FloatArray:
        """Return the outputs, shape (n_samples, n_outputs)."""
        return predict_in_blocks(self.network, self.parameters, X)


def predict_in_blocks(
    network: Network, parameters: Parameters, X: Features
) -> FloatArray:
    """Return the outputs for all rows, shape (n_samples, n_outputs), computed here."""
    block = SPARSE_PREDICT_BLOCK_ROWS if issparse(X) else PREDICT_BLOCK_ROWS
    return predict_whole(network, parameters, X, block)
