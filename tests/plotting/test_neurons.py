"""Which neurons are drawn, and their looks."""

import pytest
from matplotlib.colors import to_rgb

from skdistmlp.parallel.split import NeuronRange, split_neurons
from skdistmlp.plotting.axes import COLOURS, GREY
from skdistmlp.plotting.neurons import colour, has_links, marker, pale, place_neurons


def test_shards_differ_in_colour_or_shape():
    looks = {(colour(rank), marker(rank)) for rank in range(40)}
    assert len(looks) == 40
    assert colour(len(COLOURS)) == colour(0)
    assert (colour(None), marker(None)) == (GREY, marker(0))


def test_of_many_shards_two_have_links():
    assert all(has_links(rank, 8) for rank in range(8))
    assert [rank for rank in range(40) if has_links(rank, 40)] == [0, 39]


@pytest.mark.parametrize("rank", [None, 0, 5])
def test_pale_colours_are_between_theirs_and_white(rank):
    for faded, full in zip(to_rgb(pale(rank)), to_rgb(colour(rank)), strict=True):
        assert full < faded < 1 or full == faded == 1


def test_small_layers_are_drawn_whole_and_large_ones_abbreviated():
    parts = list(enumerate(split_neurons(4, [1, 1])))
    drawn = place_neurons(parts, 12)
    assert [(n.shard, n.number) for n in drawn] == [(0, 0), (0, 1), (1, 2), (1, 3)]
    # There is a gap between shards, and they are centred.
    ys = [n.y for n in drawn]
    assert ys[0] - ys[1] < ys[1] - ys[2]
    assert ys[0] == pytest.approx(-ys[-1])
    drawn = place_neurons(list(enumerate(split_neurons(1000, [1, 1]))), 8)
    numbers = [n.number for n in drawn]
    assert numbers == [0, 1, None, 499, 500, 501, None, 999]
    assert place_neurons([(None, NeuronRange(0, 1))], 3)[0].y == 0
