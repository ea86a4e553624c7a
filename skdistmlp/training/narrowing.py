"""Networks like a large one, of which less is timed."""

import math
from bisect import bisect_right
from dataclasses import replace
from itertools import pairwise

from skdistmlp.nn.layers import Network
from skdistmlp.parallel.split import count_parameters

MIN_WIDTH = 64
"""Neurons that a layer keeps, if it has as many: products of narrower ones are slower,
and each shard needs some."""


def narrowed(
    network: Network,
    max_parameters: int,
    nnz_per_row: float | None,
    *,
    narrows_outputs: bool,
) -> Network:
    """Return a network whose widest layers are narrowed to a number of parameters.

    It has more only where layers would be narrower than `MIN_WIDTH`, or have fewer
    features than a row stores.

    Parameters
    ----------
    network : Network
        The network.
    max_parameters : int
        The number of parameters.
    nnz_per_row : float or None
        Stored numbers per row of sparse features; None if they are dense.
    narrows_outputs : bool
        Whether the output layer is narrowed too. Otherwise the others are, to no less
        than `MIN_WIDTH`.
    """
    units = network.layer_units
    least = [0] * len(units)
    least[0] = math.ceil(nnz_per_row or 0)
    if not narrows_outputs:
        least[-1] = units[-1]

    def with_widths(most: int) -> tuple[int, ...]:
        pairs = zip(units, least, strict=True)
        return tuple(min(n, max(most, few)) for n, few in pairs)

    def n_parameters(most: int) -> int:
        return count_parameters(with_widths(most))

    widths = range(1, max(units) + 1)
    most = bisect_right(widths, max_parameters, key=n_parameters)
    narrower = pairwise(with_widths(max(MIN_WIDTH, most)))
    layers = (
        replace(layer, fan_in=fan_in, fan_out=fan_out)
        for layer, (fan_in, fan_out) in zip(network.layers, narrower, strict=True)
    )
    return replace(network, layers=tuple(layers))
