"""Which worker holds which neurons."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

from sklearn.utils.validation import check_is_fitted

from skdistmlp.parallel.split import NetworkSplit, NeuronRange
from skdistmlp.plotting.axes import COLOURS, GREY, axes_to_draw_on

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LEAST_DRAWN = 3
"""Neurons drawn of a part that is abbreviated: the first, dots, the last."""

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
    Inputs are on every worker; outputs are sums over all. Make one with
    `from_estimator`.

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
            and last are.
        ax : matplotlib Axes, optional
            Where to draw; axes of a new figure without.

        Returns
        -------
        PartitionDisplay
            The display.

        Raises
        ------
        NotFittedError
            If the estimator was not fitted.
        """
        check_is_fitted(estimator)
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
            If `max_neurons` is less than 3.
        """
        from matplotlib.collections import LineCollection

        if max_neurons < LEAST_DRAWN:
            raise ValueError(f"max_neurons={max_neurons} has to be at least 3")
        ax = axes_to_draw_on(ax)
        layers = list(self._layers(max_neurons))
        lines, colours = [], []
        for x, (left, right) in enumerate(pairwise(layers)):
            for start in left:
                for stop in right:
                    if start.number is None or stop.number is None:
                        continue
                    shard = stop.shard if stop.shard is not None else start.shard
                    lines.append([(x, start.y), (x + 1, stop.y)])
                    colours.append(self._colour(0 if shard is None else shard))
        width = min(1.2, 12 / max(1, len(lines)) ** 0.5)
        self.links_ = ax.add_collection(
            LineCollection(lines, colors=colours, linewidths=width, alpha=0.5, zorder=1)
        )
        self.neurons_ = [
            self._scatter(ax, layers, rank) for rank in range(self.split.n_shards)
        ]
        self._scatter(ax, layers, None)
        self._write(ax, layers)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    def _layers(self, max_neurons: int) -> Iterator[list[_Neuron]]:
        """Yield what is drawn of each layer, from inputs to outputs."""
        units = self.split.layer_units
        yield _column([(None, NeuronRange(0, units[0]))], max_neurons)
        for ranges in self.split.ranges:
            yield _column(list(enumerate(ranges)), max_neurons)
        yield _column([(None, NeuronRange(0, units[-1]))], max_neurons)

    def _scatter(
        self, ax: "Axes", layers: Sequence[Sequence[_Neuron]], rank: int | None
    ) -> Any:
        """Draw the neurons of a shard; None for those of nobody in particular."""
        places = [
            (x, neuron.y)
            for x, neurons in enumerate(layers)
            for neuron in neurons
            if neuron.number is not None and neuron.shard == rank
        ]
        label = "inputs: on every worker; outputs: summed"
        if rank is not None:
            label = f"shard {rank}: {self.workers[rank]}"
        return ax.scatter(
            [x for x, _ in places],
            [y for _, y in places],
            s=70,
            color=GREY if rank is None else self._colour(rank),
            edgecolors="white",
            linewidths=0.8,
            label=label,
            zorder=2,
        )

    def _write(self, ax: "Axes", layers: Sequence[Sequence[_Neuron]]) -> None:
        """Write the sizes of the layers, dots for what is left out, and the legend."""
        bottom = min(neuron.y for neurons in layers for neuron in neurons) - 1.2
        names = ["inputs", *("hidden" for _ in self.split.ranges), "outputs"]
        for x, (neurons, name) in enumerate(zip(layers, names, strict=True)):
            for neuron in neurons:
                if neuron.number is None:
                    ax.text(x, neuron.y, "⋮", ha="center", va="center", fontsize=12)
            ax.text(
                x,
                bottom,
                f"{self.split.layer_units[x]:,}\n{name}",
                ha="center",
                va="top",
            )
        ax.set_axis_off()
        ax.set_xlim(-0.5, len(layers) - 0.5)
        ax.set_ylim(bottom - 1.6, None)
        ax.legend(
            loc="lower center",
            bbox_to_anchor=(0.5, 1.0),
            frameon=False,
            fontsize="small",
        )

    def _colour(self, rank: int) -> str:
        return COLOURS[rank % len(COLOURS)]


def _column(
    parts: Sequence[tuple[int | None, NeuronRange]], max_neurons: int
) -> list[_Neuron]:
    """Return what is drawn of a layer that consists of these parts, centred."""
    total = sum(len(part) for _, part in parts)
    drawn: list[_Neuron] = []
    y = 0.0
    for shard, part in parts:
        if not len(part):
            continue
        room = max(LEAST_DRAWN, round(max_neurons * len(part) / total))
        for number in _abbreviated(part, room):
            drawn.append(_Neuron(shard, number, -y))
            y += 1
        y += GAP
    middle = (drawn[0].y + drawn[-1].y) / 2
    return [_Neuron(n.shard, n.number, n.y - middle) for n in drawn]


def _abbreviated(part: NeuronRange, room: int) -> list[int | None]:
    """Return the neurons to draw: all, or the first ones, dots, and the last."""
    if len(part) <= room:
        return list(range(part.start, part.stop))
    return [*range(part.start, part.start + room - 2), None, part.stop - 1]
