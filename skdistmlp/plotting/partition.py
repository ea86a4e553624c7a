"""Which worker holds which neurons."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

from skdistmlp.estimators import DistributedMLPClassifier, DistributedMLPRegressor
from skdistmlp.exceptions import counted
from skdistmlp.parallel.split import NetworkSplit, NeuronRange
from skdistmlp.plotting.axes import (
    MAX_LEGEND_HEIGHT,
    MAX_LEGEND_WIDTH,
    MIN_LISTED,
    axes_or_new,
    draw_legend_in_columns,
)
from skdistmlp.plotting.neurons import (
    MIN_ABBREVIATED,
    Neuron,
    colour,
    has_links,
    marker,
    pale,
    place_neurons,
)
from skdistmlp.plotting.validation import fitted_network

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_LISTED = 16
"""Most shards that the legend lists; of more, the first ones and the last."""

MIN_NEURON_WIDTH, MAX_NEURON_WIDTH = 2.5, 8.4
"""Limits of the width of a neuron, in points."""

LAYER_LABEL_HEIGHT = 32
"""Height of the labels below the layers, in points."""

MAX_BEHIND = 3
"""Most replicas that are drawn behind the first one."""

SHIFT_X, SHIFT_Y = 0.06, 0.4
"""How far each of them is to the right of the one before it, in distances between
layers, and how far above it, in distances between neurons."""


MIN_NAME_LENGTH = 11
"""Characters of a worker's name that the legend always shows."""

LABEL_STYLES = (
    *((2, "medium", 0), (2, "small", 0), (1, "medium", 0), (1, "small", 0)),
    *((1, "small", 90), (1, "xx-small", 90)),
)
"""Lines, font size and angle of the labels below layers, from widest to narrowest."""


class PartitionDisplay:
    """Neurons and links of a network, in the colours of the workers that hold them.

    A hidden neuron and the coefficients that lead to it are on one worker. The
    coefficients that lead to the outputs are on the worker of the hidden neuron where
    they start.
    Inputs are on every worker; outputs are sums over all workers. After seven workers
    the colours start over, with another shape. Replicas of the network stand behind the
    first, pale: each of their shards holds the same on another worker, which the legend
    names too. Of many, the first ones are drawn. Of more than eight shards, only the
    first and the last have links. Create it with `from_estimator`.

    Parameters
    ----------
    split : NetworkSplit
        Layers of the network, and the neurons of each shard.
    workers : sequence of str
        Name of each worker in the legend: those of the shards of the first replica,
        then of the others.
    n_replicas : int, default=1
        Number of replicas.

    Attributes
    ----------
    ax_ : matplotlib Axes
        Axes with the network.
    figure_ : matplotlib Figure
        Figure of these axes.
    neurons_ : list of matplotlib PathCollection
        Neurons of each shard, in the first replica.
    replicas_ : list of list of matplotlib PathCollection
        The same, in each of the replicas that are drawn behind it.
    links_ : matplotlib LineCollection
        Coefficients.
    """

    def __init__(
        self, *, split: NetworkSplit, workers: Sequence[str], n_replicas: int = 1
    ) -> None:
        self.split = split
        self.workers = workers
        self.n_replicas = n_replicas

    @classmethod
    def from_estimator(
        cls,
        estimator: Any,
        *,
        max_neurons: int = 12,
        ax: "Axes | None" = None,
    ) -> Self:
        """Plot the network of a fitted estimator.

        Parameters
        ----------
        estimator : DistributedMLPClassifier or DistributedMLPRegressor
            A fitted network, a pipeline that ends in one, or a search over one of
            these.
        max_neurons : int, default=12
            Approximate number of neurons to draw per layer. Of a larger layer, each
            worker's first and last neurons are drawn, or one per worker if there are
            more than 8.
        ax : matplotlib Axes, optional
            Axes to plot on; by default, those of a new figure.

        Returns
        -------
        PartitionDisplay
            The display.

        Raises
        ------
        TypeError
            If there is no such network.
        NotFittedError
            If the network is not fitted.
        ValueError
            If `max_neurons` is less than 3, or a search kept no best estimator.
        """
        network = fitted_network(
            estimator, (DistributedMLPClassifier, DistributedMLPRegressor)
        )
        plan = network.plan_
        workers = plan.workers or ["this process"]
        display = cls(split=plan.split, workers=workers, n_replicas=plan.n_replicas)
        return display.plot(ax=ax, max_neurons=max_neurons)

    def plot(self, ax: "Axes | None" = None, *, max_neurons: int = 12) -> Self:
        """Plot the network.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Axes to plot on; by default, those of a new figure.
        max_neurons : int, default=12
            Approximate number of neurons to draw per layer.

        Returns
        -------
        PartitionDisplay
            This display.

        Raises
        ------
        ValueError
            If `max_neurons` is less than 3, or there is not one worker per shard and
            replica.
        """
        from matplotlib.collections import LineCollection

        n_workers = self.split.n_shards * self.n_replicas
        if len(self.workers) != n_workers:
            per = "shard" if self.n_replicas == 1 else "shard and replica"
            raise ValueError(
                f"expected the names of {counted(n_workers, 'worker')}, one per {per}, "
                f"got {len(self.workers)}"
            )
        if max_neurons < MIN_ABBREVIATED:
            raise ValueError(f"max_neurons={max_neurons} must be at least 3")
        ax = axes_or_new(ax)
        layers = list(self._neurons_by_layer(max_neurons))
        ax.set_axis_off()
        distance = self._make_room(ax, layers)
        lines, colours = [], []
        for x, (left, right) in enumerate(pairwise(layers)):
            for start in left:
                for stop in right:
                    if start.number is None or stop.number is None:
                        continue
                    shard = stop.shard if stop.shard is not None else start.shard
                    if has_links(shard or 0, self.split.n_shards):
                        lines.append([(x, start.y), (x + 1, stop.y)])
                        colours.append(colour(shard or 0))
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
        size = max(MIN_NEURON_WIDTH, min(MAX_NEURON_WIDTH, 0.8 * distance))
        self.replicas_ = [
            self._scatter_all(ax, layers, size, behind)
            for behind in range(self._n_behind, 0, -1)
        ][::-1]
        self.neurons_ = self._scatter_all(ax, layers, size)
        self._label_layers(ax, layers, distance)
        self.ax_, self.figure_ = ax, ax.figure
        return self

    @property
    def _n_behind(self) -> int:
        """Number of replicas to draw behind the first."""
        return min(self.n_replicas - 1, MAX_BEHIND)

    def _neurons_by_layer(self, max_neurons: int) -> Iterator[list[Neuron]]:
        """Yield the neurons to draw of each layer, from inputs to outputs."""
        units = self.split.layer_units
        yield place_neurons([(None, NeuronRange(0, units[0]))], max_neurons)
        for ranges in self.split.ranges:
            yield place_neurons(list(enumerate(ranges)), max_neurons)
        yield place_neurons([(None, NeuronRange(0, units[-1]))], max_neurons)

    def _make_room(self, ax: "Axes", layers: Sequence[Sequence[Neuron]]) -> float:
        """Set the limits so that the legend fits above the network and labels below.

        Return the distance between two neurons in points.
        """
        points = 72 / ax.figure.dpi
        height = points * ax.get_window_extent().height
        legend_height = points * self._draw_legend(ax).get_window_extent().height
        ys = [neuron.y for neurons in layers for neuron in neurons]
        lowest, highest = min(ys) - 0.7, max(ys) + 0.7 + self._n_behind * SHIFT_Y
        free = max(height - legend_height - LAYER_LABEL_HEIGHT, height / 4)
        distance = free / (highest - lowest)
        ax.set_xlim(-0.5, len(layers) - 0.5 + self._n_behind * SHIFT_X)
        lowest -= LAYER_LABEL_HEIGHT / distance
        ax.set_ylim(lowest, highest + legend_height / distance)
        return distance

    def _draw_legend(self, ax: "Axes") -> Any:
        """Draw a legend with as many shards and characters as fit; return it."""
        n_listed, n_characters = MAX_LISTED, max(map(len, self.workers))
        ax_width, ax_height = ax.get_window_extent().size
        while True:
            entries = self._legend_entries(n_listed, n_characters)
            legend = draw_legend_in_columns(
                ax, entries, max_columns=4, loc="upper center"
            )
            width, height = legend.get_window_extent().size
            is_too_high = height > MAX_LEGEND_HEIGHT * ax_height
            is_too_wide = width > MAX_LEGEND_WIDTH * ax_width
            if is_too_high and n_listed > MIN_LISTED:
                n_listed //= 2
            elif is_too_wide and n_characters > MIN_NAME_LENGTH:
                n_characters -= 1
            else:
                return legend

    def _legend_entries(self, n_listed: int, n_characters: int) -> list[Any]:
        """Return the entries of the legend: of many shards, the first and the last.

        Names of workers are abbreviated to `n_characters`.
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
                marker=marker(rank),
                color=colour(rank),
                label=self._label(rank, n_characters),
            )
            for rank in (*ranks, None)
        ]
        if n_left_out := n_shards - len(ranks):
            label = f"… {counted(n_left_out, 'more shard')}"
            handles.insert(-2, Line2D([], [], linestyle="none", label=label))
        if self.n_replicas > 1:
            handles.append(
                Line2D(
                    *([], []),
                    linestyle="none",
                    marker=marker(None),
                    color=pale(None),
                    label=f"behind: {self._behind()}, the same for other rows",
                )
            )
        return handles

    def _behind(self) -> str:
        """Name the replicas that stand behind the first."""
        last = self.n_replicas - 1
        if last == 1:
            return "replica 1"
        drawn = f" ({self._n_behind} drawn)" if last > self._n_behind else ""
        return f"replicas 1-{last}{drawn}"

    def _label(self, rank: int | None, n_characters: int | None = None) -> str:
        if rank is None:
            return "inputs: all workers; outputs: sums"
        names = list(self.workers[rank :: self.split.n_shards])
        if len(names) > 2:
            # Of the first replica and the last.
            names[1:-1] = ["…"]
        if n_characters is not None:
            names = [_shortened(name, n_characters) for name in names]
        # matplotlib would set what is between two dollars as a formula.
        return f"shard {rank}: {', '.join(names)}".replace("$", r"\$")

    def _scatter_all(
        self,
        ax: "Axes",
        layers: Sequence[Sequence[Neuron]],
        size: float,
        behind: int = 0,
    ) -> list[Any]:
        """Draw the neurons of a replica; return those of its shards."""
        self._scatter(ax, layers, None, size, behind)
        shards = range(self.split.n_shards)
        return [self._scatter(ax, layers, shard, size, behind) for shard in shards]

    def _scatter(
        self,
        ax: "Axes",
        layers: Sequence[Sequence[Neuron]],
        rank: int | None,
        size: float,
        behind: int,
    ) -> Any:
        """Draw the neurons of a shard; with None, the inputs and outputs."""
        places = [
            (x + behind * SHIFT_X, neuron.y + behind * SHIFT_Y)
            for x, neurons in enumerate(layers)
            for neuron in neurons
            if neuron.number is not None and neuron.shard == rank
        ]
        return ax.scatter(
            [x for x, _ in places],
            [y for _, y in places],
            s=size**2,
            color=pale(rank) if behind else colour(rank),
            marker=marker(rank),
            edgecolors="white",
            linewidths=0.1 * size,
            label=None if behind else self._label(rank),
            # All in front of the links, which would hide them.
            zorder=2 - behind / (1 + MAX_BEHIND),
        )

    def _label_layers(
        self, ax: "Axes", layers: Sequence[Sequence[Neuron]], distance: float
    ) -> None:
        """Label the layers with their sizes, and draw dots for neurons left out."""
        bottom = min(neuron.y for neurons in layers for neuron in neurons) - 0.9
        labels = []
        names = ["inputs", *("hidden" for _ in self.split.ranges), "outputs"]
        for x, (neurons, name) in enumerate(zip(layers, names, strict=True)):
            for neuron in neurons:
                if neuron.number is None:
                    dots = ax.text(x, neuron.y, "⋮", ha="center", va="center")
                    dots.set_fontsize(min(12, 1.2 * distance))
            label = f"{self.split.layer_units[x]:,}\n{name}"
            labels.append(ax.text(x, bottom, label, ha="center", va="top"))
        _shrink_labels(ax, labels)


def _shortened(name: str, n_characters: int) -> str:
    if len(name) <= n_characters:
        return name
    # The end is the port, which may be the only difference between names.
    end = n_characters // 2
    return f"{name[: n_characters - end - 1]}…{name[-end:]}"


def _shrink_labels(ax: "Axes", labels: Sequence[Any]) -> None:
    """Make the labels narrower until they fit: smaller, without names, or upright."""
    max_width = ax.get_window_extent().width / len(labels)
    for n_lines, fontsize, rotation in LABEL_STYLES:
        for label in labels:
            label.set_text("\n".join(label.get_text().split("\n")[:n_lines]))
            label.set(fontsize=fontsize, rotation=rotation)
        if max(label.get_window_extent().width for label in labels) <= max_width:
            break
