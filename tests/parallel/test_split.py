import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from skdistmlp.parallel.split import (
    NetworkSplit,
    NeuronRange,
    flatten,
    join_shards,
    split_neurons,
    take_shard,
)
from tests.strategies import layer_units, shares, splits


def ids(split):
    """Number every parameter of a network by its place in the flat array."""
    return np.arange(split.n_parameters, dtype=float)


def network_of(dtype=np.float64):
    """Return a small network's views and the flat array they lie in."""
    split = NetworkSplit.even((3, 4, 4, 4, 2), 1)
    flat = ids(split).astype(dtype)
    return split.unsplit_layout().views(flat), flat


@given(st.integers(0, 10_000), shares)
def test_ranges_tile_a_layer_exactly_once(n_neurons, shares):
    ranges = split_neurons(n_neurons, shares)
    assert len(ranges) == len(shares)
    neurons = [n for r in ranges for n in range(r.start, r.stop)]
    assert neurons == list(range(n_neurons))
    total = sum(shares)
    for share, held in zip(shares, ranges, strict=True):
        assert abs(len(held) - n_neurons * share / total) <= 1.001


@given(st.integers(0, 10_000), st.integers(1, 64), st.floats(1e-3, 1e3))
def test_equal_shares_differ_by_at_most_one_neuron(n_neurons, n_shards, share):
    sizes = [len(held) for held in split_neurons(n_neurons, [share] * n_shards)]
    assert sum(sizes) == n_neurons
    assert max(sizes) - min(sizes) <= 1


def test_shares_are_proportions():
    assert split_neurons(10, [3, 1, 1]) == (
        NeuronRange(0, 6),
        NeuronRange(6, 8),
        NeuronRange(8, 10),
    )


@given(layer_units, st.integers(1, 12))
def test_an_even_split_leaves_out_shards_that_would_hold_nothing(units, n_shards):
    split = NetworkSplit.even(units, n_shards)
    assert split.n_shards == min(n_shards, max(units[1:-1], default=1))
    for rank in range(split.n_shards):
        assert split.layout(rank).n_coefs > 0


def test_a_narrow_layer_does_not_limit_the_number_of_shards():
    split = NetworkSplit.even((8, 64, 2, 64, 3), 8)
    assert split.n_shards == 8
    assert sorted(len(held) for held in split.ranges[1]) == [0] * 6 + [1] * 2


def test_a_network_without_hidden_layers_is_one_shard():
    split = NetworkSplit.by_shares((5, 3), [1, 1, 1])
    assert (split.n_shards, split.ranges) == (1, ())
    assert_array_equal(take_shard(split, 0, ids(split)), ids(split))


@given(splits)
def test_parameter_counts_match_the_arrays(split):
    shapes = list(zip(split.layer_units[:-1], split.layer_units[1:], strict=True))
    assert split.layers == range(len(shapes))
    assert split.output_layer == len(shapes) - 1
    assert split.n_coefs == sum(np.zeros(shape).size for shape in shapes)
    assert split.n_parameters == split.n_coefs + sum(out for _, out in shapes)
    layouts = [split.layout(rank) for rank in range(split.n_shards)]
    assert sum(layout.n_coefs for layout in layouts) == split.n_coefs
    assert sum(layout.n_parameters for layout in layouts) == split.n_parameters
    coefs, intercepts = split.unsplit_layout().views(ids(split))
    assert [coef.shape for coef in coefs] == shapes
    assert [intercept.shape for intercept in intercepts] == [(n,) for _, n in shapes]


def test_the_size_of_a_shard_counts_its_neurons_and_its_intercepts_of_the_output():
    # The first has the intercepts of the output layer.
    split = NetworkSplit.even((4, 6, 5, 2), 3)
    assert [split.layout(rank).size for rank in range(3)] == [
        (2, 2, 2),
        (2, 1, 0),
        (2, 2, 0),
    ]
    assert NetworkSplit.even((4, 2), 1).layout(0).size == (2,)


@given(splits)
def test_every_parameter_belongs_to_exactly_one_shard(split):
    whole = ids(split)
    parts = [take_shard(split, rank, whole) for rank in range(split.n_shards)]
    assert_array_equal(np.sort(np.concatenate(parts)), whole)


@given(splits)
def test_hidden_layers_are_split_by_columns_and_the_output_layer_by_rows(split):
    whole = split.unsplit_layout().views(ids(split))
    for rank in range(split.n_shards):
        layout = split.layout(rank)
        own = layout.views(take_shard(split, rank, ids(split)))
        held = [ranges[rank].columns for ranges in split.ranges]
        for layer, columns in enumerate(held):
            assert_array_equal(own.coefs[layer], whole.coefs[layer][:, columns])
            assert_array_equal(own.intercepts[layer], whole.intercepts[layer][columns])
        rows = held[-1] if held else slice(None)
        assert_array_equal(own.coefs[-1], whole.coefs[-1][rows])
        intercept = whole.intercepts[-1] if rank == 0 else []
        assert_array_equal(own.intercepts[-1], intercept)


@given(splits)
def test_coefficients_precede_intercepts_and_views_share_the_array(split):
    """The optimiser penalises a shard's first `n_coefs` parameters."""
    for rank in range(split.n_shards):
        layout = split.layout(rank)
        flat = np.zeros(layout.n_parameters)
        coefs, intercepts = layout.views(flat)
        for coef in coefs:
            coef += 1
        for intercept in intercepts:
            intercept += 2
        n_intercepts = layout.n_parameters - layout.n_coefs
        assert_array_equal(flat, [1] * layout.n_coefs + [2] * n_intercepts)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(max_examples=50)
@given(split=splits)
def test_joining_shards_restores_the_network(split, dtype):
    whole = ids(split).astype(dtype)
    parts = [take_shard(split, rank, whole) for rank in range(split.n_shards)]
    for part in parts:
        assert not np.shares_memory(part, whole)
    joined = join_shards(split, parts)
    assert joined.dtype == dtype
    assert_array_equal(joined, whole)


def unchanged(parameters):
    pass


def replaced(parameters):
    parameters.coefs[1] = parameters.coefs[1].copy()


def reordered(parameters):
    parameters.coefs[1], parameters.coefs[2] = parameters.coefs[2], parameters.coefs[1]


def transposed(parameters):
    parameters.coefs[1] = parameters.coefs[1].T


def repeated(parameters):
    parameters.intercepts[1] = parameters.intercepts[0]


def reversed_in_place(parameters):
    parameters.intercepts[-1] = parameters.intercepts[-1][::-1]


def one_cast(parameters):
    parameters.intercepts[0] = parameters.intercepts[0].astype(np.float32)


@pytest.mark.parametrize(
    "change",
    [
        unchanged,
        replaced,
        reordered,
        transposed,
        repeated,
        reversed_in_place,
        one_cast,
    ],
)
def test_flatten_copies_arrays_that_were_replaced(change):
    parameters, flat = network_of()
    change(parameters)
    expected = [array.ravel() for array in (*parameters.coefs, *parameters.intercepts)]
    result = flatten(parameters, np.dtype(np.float64))
    assert not np.shares_memory(result, flat)
    assert result.flags.writeable
    assert result.dtype == np.float64
    assert_array_equal(result, np.concatenate(expected))


def test_flatten_casts_into_a_copy():
    parameters, flat = network_of()
    result = flatten(parameters, np.dtype(np.float32))
    assert result.dtype == np.float32
    assert_array_equal(result, flat)
