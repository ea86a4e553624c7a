"""Which worker holds which neurons."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

from skdistmlp.estimators import DistributedMLPClassifier, DistributedMLPRegressor
from skdistmlp.parallel.split import NetworkSplit, NeuronRange
from skdistmlp.plotting.axes import (
    COLOURS,
    GREY,
    LEAST_LISTED,
    MOST_LEGEND,
    MOST_WIDTH,
    axes_to_draw_on,
    legend_in_columns,
)
from skdistmlp.plotting.validation import check_network

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST_DRAWN = 3
"""Room for a part that is abbreviated: the first neuron, dots, the last."""

MANY_SHARDS = 8
"""With more shards than that, one neuron stands for a part that is abbreviated."""

MOST_LISTED = 16
"""Shards that the legend lists; of more, the first ones and the last."""

MARKERS = "os^DvPX*"
"""Shapes, since colours are used again after seven shards."""

SMALLEST, LARGEST = 2.5, 8.4
"""Width of a neuron in points, as there is room."""

SIZES_HEIGHT = 32
"""Room for the sizes of the layers, in points."""

LEAST_LETTERS = 11
"""Letters of a worker's name that the legend shows at any rate."""

NARROWER = (
    *((2, "medium", 0), (2, "small", 0), (1, "medium", 0), (1, "small", 0)),
    *((1, "small", 90), (1, "xx-small", 90)),
)
"""Lines, size and angle of what is written below a layer, as there is room."""

GAP = 0.9
"""Room between the neurons of two workers, in distances of neurons."""


@dataclass(frozen=True)
class _Neuron:
    """A place in the picture; `number` is None for the dots between neurons."""

    shard: int | None
    number: int | None
    y: float


class PartitionDisplay:
    """A network as neurons and links, in the colours of the workers that hold them.

    A hidden neuron and the weights that lead to it are on one worker. The weights
    that lead to the outputs are on the worker of the hidden neuron where they begin.
    Inputs are on every worker; outputs are sums over all. Past seven workers colours
    come again, on neurons of another shape. Make one with `from_estimator`.

    Parameters
    ----------
    split : NetworkSplit
        Layers, and which shard holds which neurons.
    workers : sequence of str
        What to call the shards' workers in the legend.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Where it is drawn.
    figure_ : matplotlib Figure
        Its figure.
    neurons_ : list of matplotlib PathCollection
        The neurons of each shard.
    links_ : matplotlib LineCollection
        The weights.
    """

    def __init__(self, *, split: NetworkSplit, workers: Sequence[str]) -> None:
        self.split = split
        self.workers = workers

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        max_neurons: int = 12,
        ax: "Axes | None" = None,
    ) -> Self:
        """Draw the network of a fitted estimator.

        Parameters
        ----------
        estimator : DistributedMLPClassifier or DistributedMLPRegressor
            Fitted.
        max_neurons : int, default=12
            How many of a layer to draw, about; of a larger layer each worker's first
            and last are, and of more than 8 workers one each.
        ax : matplotlib Axes, optional
            Where to draw; axes of a new figure without.

        Returns
        -------
        PartitionDisplay
            The display.

        Raises
        ------
        TypeError
            If it is no such estimator, but a pipeline or a search with one, say.
        NotFittedError
            If the estimator was not fitted.
        ValueError
            If `max_neurons` is less than 3.
        """
        check_network(estimator, (DistributedMLPClassifier, DistributedMLPRegressor))
        plan = estimator.plan_
        display = cls(split=plan.split, workers=plan.workers or ["this process"])
        return display.plot(ax=ax, max_neurons=max_neurons)

    def plot(self, ax: "Axes | None" = None, *, max_neurons: int = 12) -> Self:
        """Draw the network.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; axes of a new figure without.
        max_neurons : int, default=12
            How many of a layer to draw, about.

        Returns
        -------
        PartitionDisplay
            This display.

        Raises
        ------
        ValueError
            If `max_neurons` is less than 3, or there are more or fewer workers than
            shards.
        """
        from matplotlib.collections import LineCollection

        if len(self.workers) != self.split.n_shards:
            raise ValueError(
                f"{self.split.n_shards} shards need as many workers, but got "
                f"{len(self.workers)}"
            )
        if max_neurons < LEAST_DRAWN:
            raise ValueError(f"max_neurons={max_neurons} has to be at least 3")
        ax = axes_to_draw_on(ax)
        layers = list(self._layers(max_neurons))
        ax.set_axis_off()
        distance = self._make_room(ax, layers)
        lines, colours = [], []
        for x, (left, right) in enumerate(pairwise(layers)):
            for start in left:
                for stop in right:
                    if start.number is None or stop.number is None:
                        continue
                    shard = stop.shard if stop.shard is not None else start.shard
                    lines.append([(x, start.y), (x + 1, stop.y)])
                    colours.append(_colour(0 if shard is None else shard))
        fine = 12 / max(1, len(lines)) ** 0.5
        self.links_ = ax.add_collection(
            LineCollection(
                lines,
                colors=colours,
                linewidths=min(1.2, fine),
                alpha=min(0.5, fine),
                zorder=1,
            )
        )
        size = max(SMALLEST, min(LARGEST, 0.8 * distance))
        self.neurons_ = [
            self._scatter(ax, layers, rank, size) for rank in range(self.split.n_shards)
        ]
        self._scatter(ax, layers, None, size)
        self._write(ax, layers, distance)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _layers(self, max_neurons: int) -> Iterator[list[_Neuron]]:
        """Yield what is drawn of each layer, from inputs to outputs."""
        units = self.split.layer_units
        yield _column([(None, NeuronRange(0, units[0]))], max_neurons)
        for ranges in self.split.ranges:
            yield _column(list(enumerate(ranges)), max_neurons)
        yield _column([(None, NeuronRange(0, units[-1]))], max_neurons)

    def _make_room(self, ax: "Axes", layers: Sequence[Sequence[_Neuron]]) -> float:
        """Set the limits, with the legend above the network; sizes go below.

        Return the distance of two neurons in points.
        """
        points = 72 / ax.figure.dpi
        height = points * ax.get_window_extent().height
        legend_height = points * self._list(ax).get_window_extent().height
        ys = [neuron.y for neurons in layers for neuron in neurons]
        lowest, highest = min(ys) - 0.7, max(ys) + 0.7
        free = max(height - legend_height - SIZES_HEIGHT, height / 4)
        distance = free / (highest - lowest)
        ax.set_xlim(-0.5, len(layers) - 0.5)
        lowest -= SIZES_HEIGHT / distance
        ax.set_ylim(lowest, highest + legend_height / distance)
        return distance

    def _list(self, ax: "Axes") -> Any:
        """Draw the legend, with as many shards and letters as have room; return it."""
        n_listed, n_letters = MOST_LISTED, max(map(len, self.workers))
        room = ax.get_window_extent()
        while True:
            listed = self._listed(n_listed, n_letters)
            legend = legend_in_columns(ax, listed, most_columns=4, loc="upper center")
            width, height = legend.get_window_extent().size
            if height > MOST_LEGEND * room.height and n_listed > LEAST_LISTED:
                n_listed //= 2
            elif width > MOST_WIDTH * room.width and n_letters > LEAST_LETTERS:
                n_letters -= 1
            else:
                return legend

    def _listed(self, n_listed: int, n_letters: int) -> list[Any]:
        """Return what the legend shows, of many shards the first ones and the last.

        The names of workers have so many letters at most.
        """
        from matplotlib.lines import Line2D

        n_shards = self.split.n_shards
        ranks = list(range(n_shards))
        if n_shards > n_listed:
            ranks[n_listed - 1 : -1] = []
        handles = [
            Line2D(
                *([], []),
                linestyle="none",
                marker=_marker(rank),
                color=GREY if rank is None else _colour(rank),
                label=self._label(rank, n_letters),
            )
            for rank in (*ranks, None)
        ]
        if n_left_out := n_shards - len(ranks):
            label = f"… {n_left_out} more shards"
            handles.insert(-2, Line2D([], [], linestyle="none", label=label))
        return handles

    def _label(self, rank: int | None, n_letters: int | None = None) -> str:
        if rank is None:
            return "inputs: on all; outputs: sums"
        name = self.workers[rank]
        if n_letters is not None and len(name) > n_letters:
            # Its end has the port, which may be all that differs.
            end = n_letters // 2
            name = f"{name[: n_letters - end - 1]}…{name[-end:]}"
        # Two dollars would be a formula.
        return f"shard {rank}: {name}".replace("$", r"\$")

    def _scatter(
        self,
        ax: "Axes",
        layers: Sequence[Sequence[_Neuron]],
        rank: int | None,
        size: float,
    ) -> Any:
        """Draw the neurons of a shard; None for those of nobody in particular."""
        places = [
            (x, neuron.y)
            for x, neurons in enumerate(layers)
            for neuron in neurons
            if neuron.number is not None and neuron.shard == rank
        ]
        return ax.scatter(
            [x for x, _ in places],
            [y for _, y in places],
            s=size**2,
            color=GREY if rank is None else _colour(rank),
            marker=_marker(rank),
            edgecolors="white",
            linewidths=0.1 * size,
            label=self._label(rank),
            zorder=2,
        )

    def _write(
        self, ax: "Axes", layers: Sequence[Sequence[_Neuron]], distance: float
    ) -> None:
        """Write the sizes of the layers, and dots for what is left out."""
        bottom = min(neuron.y for neurons in layers for neuron in neurons) - 0.9
        sizes = []
        names = ["inputs", *("hidden" for _ in self.split.ranges), "outputs"]
        for x, (neurons, name) in enumerate(zip(layers, names, strict=True)):
            for neuron in neurons:
                if neuron.number is None:
                    dots = ax.text(x, neuron.y, "⋮", ha="center", va="center")
                    dots.set_fontsize(min(12, 1.2 * distance))
            size = f"{self.split.layer_units[x]:,}\n{name}"
            sizes.append(ax.text(x, bottom, size, ha="center", va="top"))
        _make_narrow(ax, sizes)


def _make_narrow(ax: "Axes", sizes: Sequence[Any]) -> None:
    """Write the sizes of layers smaller, without names, or upright, if need be."""
    room = ax.get_window_extent().width / len(sizes)
    for n_lines, fontsize, rotation in NARROWER:
        for text in sizes:
            text.set_text("\n".join(text.get_text().split("\n")[:n_lines]))
            text.set(fontsize=fontsize, rotation=rotation)
        if max(text.get_window_extent().width for text in sizes) <= room:
            break


def _colour(rank: int) -> str:
    return COLOURS[rank % len(COLOURS)]


def _marker(rank: int | None) -> str:
    return MARKERS[0 if rank is None else rank // len(COLOURS) % len(MARKERS)]


def _column(
    parts: Sequence[tuple[int | None, NeuronRange]], max_neurons: int
) -> list[_Neuron]:
    """Return what is drawn of a layer that consists of these parts, centred."""
    total = sum(len(part) for _, part in parts)
    many = len(parts) > MANY_SHARDS
    drawn: list[_Neuron] = []
    y = 0.0
    for shard, part in parts:
        if not len(part):
            continue
        room = round(max_neurons * len(part) / total)
        for number in _abbreviated(part, max(room, 1 if many else LEAST_DRAWN)):
            drawn.append(_Neuron(shard, number, -y))
            y += 1
        y += GAP / 3 if many else GAP
    middle = (drawn[0].y + drawn[-1].y) / 2
    return [_Neuron(n.shard, n.number, n.y - middle) for n in drawn]


def _abbreviated(part: NeuronRange, room: int) -> list[int | None]:
    """Return the neurons to draw: all, or the first ones, dots, and the last."""
    if len(part) <= room:
        return list(range(part.start, part.stop))
    if room < LEAST_DRAWN:
        return [part.start]
    return [*range(part.start, part.start + room - 2), None, part.stop - 1]
