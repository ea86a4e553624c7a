"""Which neurons belong to which shard, and what each shard's flat arrays hold."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

import numpy as np

from skdistmlp.nn.types import FloatArray
from skdistmlp.public import public


@dataclass(frozen=True, order=True)
class NeuronRange:
    """The neurons ``start`` to ``stop - 1`` of one layer."""

    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def columns(self) -> slice:
        """Where these neurons stand in an array with one column a neuron."""
        return slice(self.start, self.stop)


def split_neurons(n_neurons: int, shares: Sequence[float]) -> tuple[NeuronRange, ...]:
    """Cut a layer into contiguous ranges, in proportion to `shares`.

    Parameters
    ----------
    n_neurons : int
        Size of the layer.
    shares : sequence of float
        One positive number a shard. Equal shares give sizes that differ by
        at most one.

    Returns
    -------
    tuple of NeuronRange
        One range a shard, which tile the layer exactly once. Some are empty
        when there are more shards than neurons.
    """
    total = sum(shares)
    bounds = [0, *(round(n_neurons * part / total) for part in accumulate(shares))]
    return tuple(NeuronRange(start, stop) for start, stop in pairwise(bounds))


def consecutive_ranges(sizes: Sequence[int]) -> tuple[NeuronRange, ...]:
    """Return ranges of these sizes, each of which begins where the last one ended."""
    stops = list(accumulate(sizes))
    return tuple(
        NeuronRange(stop - size, stop) for stop, size in zip(stops, sizes, strict=True)
    )


def count_parameters(layer_units: Sequence[int]) -> int:
    """Return the number of coefficients and intercepts between these layers."""
    return sum((fan_in + 1) * fan_out for fan_in, fan_out in pairwise(layer_units))


def layer_units_of(coefs: Sequence[FloatArray]) -> tuple[int, ...]:
    """Return features, neurons of each hidden layer and outputs of these layers."""
    return (coefs[0].shape[0], *(coef.shape[1] for coef in coefs))


@public
@dataclass(frozen=True)
class NetworkSplit:
    """A network's layers, and which of its neurons each shard holds.

    Hidden layers are column-parallel: shard p owns the columns ``ranges[i][p]``
    of ``coefs_[i]`` and these entries of ``intercepts_[i]``. The output layer
    is row-parallel: shard p owns the rows of the last coefficients that meet
    its own neurons of the last hidden layer; shard 0 owns the intercept.

    Parameters
    ----------
    layer_units : tuple of int
        Features, neurons of each hidden layer, outputs.
    ranges : tuple of tuple of NeuronRange
        ``ranges[i][p]``: the neurons ``start`` to ``stop - 1`` of hidden layer i, on
        shard p. Empty for a network without hidden layers, which is one shard.

    See Also
    --------
    Plan : A split, and the workers that hold the shards.

    Examples
    --------
    >>> from skdistmlp import NetworkSplit
    >>> split = NetworkSplit.even((64, 100, 10), 2)
    >>> split.n_shards, split.n_parameters
    (2, 7510)
    >>> split.ranges[0][1]
    NeuronRange(start=50, stop=100)
    """

    layer_units: tuple[int, ...]
    ranges: tuple[tuple[NeuronRange, ...], ...]

    @classmethod
    def even(cls, layer_units: Sequence[int], n_shards: int) -> "NetworkSplit":
        """Split every hidden layer evenly, as far as its neurons go.

        Parameters
        ----------
        layer_units : sequence of int
            Features, neurons of each hidden layer, outputs.
        n_shards : int
            Number of shards. More than the widest hidden layer has neurons would
            hold nothing, and are left out.

        Returns
        -------
        NetworkSplit
            The split.
        """
        hidden = layer_units[1:-1]
        useful = min(n_shards, max(hidden, default=1))
        return cls.by_shares(layer_units, [1.0] * useful)

    @classmethod
    def by_shares(
        cls, layer_units: Sequence[int], shares: Sequence[float]
    ) -> "NetworkSplit":
        """Split every hidden layer in proportion to `shares`.

        Parameters
        ----------
        layer_units : sequence of int
            Features, neurons of each hidden layer, outputs.
        shares : sequence of float
            One positive number per shard.

        Returns
        -------
        NetworkSplit
            The split.
        """
        hidden = layer_units[1:-1]
        # Layers of one width are split alike.
        ranges = {units: split_neurons(units, shares) for units in {*hidden}}
        return cls(tuple(layer_units), tuple(ranges[units] for units in hidden))

    @property
    def n_shards(self) -> int:
        """Number of shards."""
        return len(self.ranges[0]) if self.ranges else 1

    @property
    def layers(self) -> range:
        """Numbers of the layers of parameters, as ``coefs_`` counts them."""
        return range(len(self.layer_units) - 1)

    @property
    def output_layer(self) -> int:
        """Number of the last layer of parameters."""
        return len(self.layer_units) - 2

    @property
    def n_coefs(self) -> int:
        """Number of coefficients in all layers."""
        return sum(fan_in * fan_out for fan_in, fan_out in pairwise(self.layer_units))

    @property
    def n_parameters(self) -> int:
        """Number of coefficients and intercepts in all layers."""
        return count_parameters(self.layer_units)

    def layout(self, rank: int) -> "ShardLayout":
        """Return which parameters one shard holds, and where.

        Parameters
        ----------
        rank : int
            Number of the shard, from 0.

        Returns
        -------
        ShardLayout
            Its rows and columns of every layer, and their places in flat arrays.
        """
        return self._layouts[rank]

    def unsplit_layout(self) -> "ShardLayout":
        """Return the layout of the same network on one shard.

        Returns
        -------
        ShardLayout
            The places of all parameters in flat arrays.
        """
        return self._whole

    def __getstate__(self) -> dict[str, Any]:
        """Return plain data, without the layouts, which refer back to the split."""
        bounds = [[(part.start, part.stop) for part in layer] for layer in self.ranges]
        return {"layer_units": self.layer_units, "bounds": bounds}

    def __setstate__(self, state: dict[str, Any]) -> None:
        ranges = tuple(
            tuple(NeuronRange(start, stop) for start, stop in layer)
            for layer in state["bounds"]
        )
        # The attributes cannot be assigned: the split is frozen.
        vars(self).update(layer_units=tuple(state["layer_units"]), ranges=ranges)

    @cached_property
    def _layouts(self) -> "tuple[ShardLayout, ...]":
        return tuple(ShardLayout(self, rank) for rank in range(self.n_shards))

    @cached_property
    def _whole(self) -> "ShardLayout":
        if self.n_shards == 1:
            return self.layout(0)
        return NetworkSplit.even(self.layer_units, 1).layout(0)


class Parameters(NamedTuple):
    """Views of the layers in a flat array of parameters."""

    coefs: list[FloatArray]
    intercepts: list[FloatArray]

    @property
    def nbytes(self) -> int:
        """Bytes of all layers."""
        return sum(array.nbytes for array in (*self.coefs, *self.intercepts))


@dataclass(frozen=True)
class ShardLayout:
    """What one shard's flat arrays hold: its coefficients, then its intercepts.

    Parameters, gradients and moments share the layout. All layers follow each
    other in order; a coefficient matrix is stored row by row.
    """

    split: NetworkSplit
    rank: int

    def rows(self, layer: int) -> slice:
        """Rows of the whole ``coefs_[layer]`` that this shard owns."""
        if layer == self.split.output_layer and self.split.ranges:
            return self.split.ranges[-1][self.rank].columns
        return slice(0, self.split.layer_units[layer])

    def columns(self, layer: int) -> slice:
        """Columns of the whole ``coefs_[layer]`` that this shard owns."""
        if layer == self.split.output_layer:
            return slice(0, self.split.layer_units[-1])
        return self.split.ranges[layer][self.rank].columns

    def neurons(self, layer: int) -> slice:
        """Entries of the whole ``intercepts_[layer]`` that this shard owns."""
        if layer == self.split.output_layer and self.rank != 0:
            return slice(0, 0)
        return self.columns(layer)

    @cached_property
    def _places(self) -> tuple[list[tuple[int, int, int]], list[tuple[int, int]]]:
        """Offset and shape of every coefficient matrix and every intercept."""
        offset = 0
        coefs, intercepts = [], []
        for layer in self.split.layers:
            fan_in, fan_out = _length(self.rows(layer)), _length(self.columns(layer))
            coefs.append((offset, fan_in, fan_out))
            offset += fan_in * fan_out
        for layer in self.split.layers:
            fan_out = _length(self.neurons(layer))
            intercepts.append((offset, fan_out))
            offset += fan_out
        return coefs, intercepts

    @cached_property
    def size(self) -> tuple[int, ...]:
        """Neurons of each hidden layer, and of intercepts of the output layer.

        Shards of the same size compute, hold and send equally much.
        """
        n_outputs = _length(self.neurons(self.split.output_layer))
        return *(len(ranges[self.rank]) for ranges in self.split.ranges), n_outputs

    @property
    def n_coefs(self) -> int:
        """Number of coefficients, which stand before the intercepts."""
        return self._places[1][0][0]

    @property
    def n_parameters(self) -> int:
        """Length of the flat arrays."""
        offset, size = self._places[1][-1]
        return offset + size

    def views(self, flat: FloatArray) -> Parameters:
        """Return the layers of `flat`, shape (n_parameters,), without a copy."""
        coefs, intercepts = self._places
        return Parameters(
            [
                flat[offset : offset + fan_in * fan_out].reshape(fan_in, fan_out)
                for offset, fan_in, fan_out in coefs
            ],
            [flat[offset : offset + size] for offset, size in intercepts],
        )

    def owned_views(
        self, whole: Parameters, own: Parameters
    ) -> Iterator[tuple[FloatArray, FloatArray]]:
        """Pair each of this shard's arrays with its place in the whole network."""
        for layer in self.split.layers:
            rows, columns = self.rows(layer), self.columns(layer)
            yield whole.coefs[layer][rows, columns], own.coefs[layer]
            yield whole.intercepts[layer][self.neurons(layer)], own.intercepts[layer]


def take_shard(
    split: NetworkSplit, rank: int, whole: FloatArray, out: FloatArray | None = None
) -> FloatArray:
    """Copy shard `rank`'s part of a flat array of the whole network, to `out`."""
    layout = split.layout(rank)
    own = np.empty(layout.n_parameters, whole.dtype) if out is None else out
    if split.n_shards == 1:
        np.copyto(own, whole)
        return own
    for there, here in layout.owned_views(
        split.unsplit_layout().views(whole), layout.views(own)
    ):
        here[...] = there
    return own


def join_shards(split: NetworkSplit, shards: Sequence[FloatArray]) -> FloatArray:
    """Return the flat array of the whole network; the inverse of `take_shard`."""
    if split.n_shards == 1:
        return shards[0].copy()
    whole_layout = split.unsplit_layout()
    whole = np.empty(whole_layout.n_parameters, shards[0].dtype)
    for rank, own in enumerate(shards):
        layout = split.layout(rank)
        for there, here in layout.owned_views(
            whole_layout.views(whole), layout.views(own)
        ):
            there[...] = here
    return whole


def flatten(parameters: Parameters, dtype: np.dtype[np.floating]) -> FloatArray:
    """Return the layers as one new flat array, in the layout of one shard."""
    arrays = [*parameters.coefs, *parameters.intercepts]
    return np.concatenate([array.ravel() for array in arrays]).astype(dtype, copy=False)


def _length(part: slice) -> int:
    return int(part.stop - part.start)
