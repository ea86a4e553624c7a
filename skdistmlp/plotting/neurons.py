"""Which neurons of a split network to draw, where, and what they look like."""

from collections.abc import Sequence
from dataclasses import dataclass

from skdistmlp.parallel.split import NeuronRange
from skdistmlp.plotting.axes import GREY, colour_of, marker_of

MIN_ABBREVIATED = 3
"""Places that an abbreviated range takes: the first neuron, dots and the last."""

MANY_SHARDS = 8
"""With more shards than this, a single neuron stands for an abbreviated range, and only
the links of the first shard and the last are drawn: all of them would be a haze."""

PALE = 0.35
"""How much of their colour neurons of the replicas behind the first have."""

GAP = 0.9
"""Gap between the neurons of two workers, in distances between neurons."""


@dataclass(frozen=True)
class Neuron:
    """A neuron in the plot; `number` is None for the dots between neurons."""

    shard: int | None
    number: int | None
    y: float


def colour(rank: int | None) -> str:
    """Return the colour of a shard; None stands for inputs and outputs."""
    return GREY if rank is None else colour_of(rank)


def pale(rank: int | None) -> str:
    """Return the colour of a shard's neurons in the replicas behind the first."""
    channels = [int(colour(rank)[at : at + 2], 16) for at in (1, 3, 5)]
    return "#" + "".join(f"{255 - round(PALE * (255 - c)):02x}" for c in channels)


def marker(rank: int | None) -> str:
    """Return the shape of a shard's neurons; None stands for inputs and outputs."""
    return marker_of(0 if rank is None else rank)


def has_links(rank: int, n_shards: int) -> bool:
    """Return whether the links of a shard are drawn."""
    return n_shards <= MANY_SHARDS or rank in (0, n_shards - 1)


def place_neurons(
    parts: Sequence[tuple[int | None, NeuronRange]], max_neurons: int
) -> list[Neuron]:
    """Return the neurons to draw of a layer, given its ranges by shard, centred."""
    n_neurons = sum(len(part) for _, part in parts)
    has_many_shards = len(parts) > MANY_SHARDS
    neurons: list[Neuron] = []
    y = 0.0
    for shard, part in parts:
        if not len(part):
            continue
        share = round(max_neurons * len(part) / n_neurons)
        n_places = max(share, 1 if has_many_shards else MIN_ABBREVIATED)
        for number in abbreviate(part, n_places):
            neurons.append(Neuron(shard, number, -y))
            y += 1
        y += GAP / 3 if has_many_shards else GAP
    middle = (neurons[0].y + neurons[-1].y) / 2
    return [Neuron(n.shard, n.number, n.y - middle) for n in neurons]


def abbreviate(part: NeuronRange, n_places: int) -> list[int | None]:
    """Return the neurons to draw: all, or the first ones, dots and the last."""
    if len(part) <= n_places:
        return list(range(part.start, part.stop))
    if n_places < MIN_ABBREVIATED:
        return [part.start]
    return [*range(part.start, part.start + n_places - 2), None, part.stop - 1]
