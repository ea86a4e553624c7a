"""The report's way and ours
=========================

Distributes a network as the report does, and as skdistmlp does, and plots the report's
charts.

The report's root machine sends its children the inputs and parameters of every neuron,
for each sample and layer, in packets of JSON, and gathers their outputs. This script
implements that from the report's description, as a reference. It measures both ways in
one run on the same cores, distributed and not: the milliseconds per sample by the
number of parameters, and by the number of machines, which are processes here. One
machine is the report's root alone, or one worker of ours.
"""

import argparse
import itertools
import json
import math
import random
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import TextIO

from distributed import Client

from skdistmlp import DistributedMLPClassifier
from skdistmlp.crossover.advice import describe_crossover
from skdistmlp.crossover.local_workers import (
    shield_children_from_interrupts,
    single_threaded_workers,
)
from skdistmlp.crossover.output import check_plot_file
from skdistmlp.crossover.timing import time_fit
from skdistmlp.crossover.workloads import Workload
from skdistmlp.parallel.split import count_parameters
from skdistmlp.plotting.axes import COLOURS, draw_legend_above

RESULT, SIGMOID = 0, 1
"""Types of operations: results, or the activation function of a neuron."""

N_FEATURES, N_CLASSES = 16, 10

BATCH = 200
"""Rows per mini-batch of ours; the report trains sample by sample."""

REPEATS = 3
"""Number of measurements, of which the median counts."""

Layer = list[list[float]]
"""Parameters of a layer, neuron by neuron: one per input, then the intercept."""


# The report's way.


def neuron(inputs: Sequence[float], parameters: Sequence[float]) -> float:
    """Return the output of one neuron, the operation to distribute."""
    z = parameters[-1] + sum(w * x for w, x in zip(parameters, inputs, strict=False))
    return 1 / (1 + math.exp(-z))


def run_child(address: tuple[str, int]) -> None:
    """Answer packets of operations with packets of results until the root leaves."""
    with socket.create_connection(address) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        packets = connection.makefile("rw")
        for line in packets:
            packet = json.loads(line)
            results = [
                {"type": RESULT, "outputs": [neuron(op["inputs"], op["parameters"])]}
                for op in packet["operations"]
            ]
            answer = {"group": packet["group"], "operations": results}
            packets.write(json.dumps(answer) + "\n")
            packets.flush()


class Root:
    """The machine that trains, with or without children that compute its neurons."""

    def __init__(self, children: Sequence[TextIO] = ()) -> None:
        self._children = children

    def outputs(self, layer: Layer, inputs: list[float]) -> list[float]:
        """Return the outputs of a layer, computed by the children if there are any."""
        if not self._children:
            return [neuron(inputs, parameters) for parameters in layer]
        share = math.ceil(len(layer) / len(self._children))
        for group, packets in enumerate(self._children):
            operations = [
                {"type": SIGMOID, "inputs": inputs, "parameters": parameters}
                for parameters in layer[group * share : (group + 1) * share]
            ]
            packets.write(json.dumps({"group": group, "operations": operations}) + "\n")
            packets.flush()
        outputs: dict[int, list[float]] = {}
        for packets in self._children:
            answer = json.loads(packets.readline())
            outputs[answer["group"]] = [
                op["outputs"][0] for op in answer["operations"] if op["type"] == RESULT
            ]
        return [value for group in sorted(outputs) for value in outputs[group]]

    def train(self, layers: list[Layer], x: list[float], y: int) -> None:
        """Train with one sample; only the forward pass is distributed."""
        activations = [x]
        for layer in layers:
            activations.append(self.outputs(layer, activations[-1]))
        *layer_inputs, outputs = activations
        errors = [a - (i == y) for i, a in enumerate(outputs)]
        for layer, inputs in zip(reversed(layers), reversed(layer_inputs), strict=True):
            below = [0.0] * len(inputs)
            for parameters, error in zip(layer, errors, strict=True):
                for i, value in enumerate(inputs):
                    below[i] += parameters[i] * error
                    parameters[i] -= 0.1 * error * value
                parameters[-1] -= 0.1 * error
            errors = [b * a * (1 - a) for b, a in zip(below, inputs, strict=True)]


@contextmanager
def start_root(n_children: int) -> Iterator[Root]:
    """Start children and yield their root; end the children afterwards."""
    start = get_context("spawn").Process
    with ExitStack() as opened:
        listener = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.settimeout(60)
        with shield_children_from_interrupts():
            for _ in range(n_children):
                process = start(target=run_child, args=(listener.getsockname(),))
                process.start()
                opened.callback(process.join)
                opened.callback(process.terminate)
        children = []
        for _ in range(n_children):
            connection = opened.enter_context(listener.accept()[0])
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            children.append(opened.enter_context(connection.makefile("rw")))
        yield Root(children)


def report_sample_s(root: Root, width: int, n_samples: int) -> float:
    """Return the seconds per sample, the report's way."""
    draw = random.Random(0)
    units = (N_FEATURES, width, N_CLASSES)
    layers = [
        [[draw.uniform(-0.5, 0.5) for _ in range(n + 1)] for _ in range(m)]
        for n, m in itertools.pairwise(units)
    ]
    seconds = []
    for _ in range(n_samples):
        x = [draw.random() for _ in range(N_FEATURES)]
        start = time.perf_counter()
        root.train(layers, x, draw.randrange(N_CLASSES))
        seconds.append(time.perf_counter() - start)
    return median(seconds)


# Ours.


def our_sample_s(client: Client, n_workers: int, width: int) -> float:
    """Return the seconds per sample, our way."""
    n_steps = max(5, min(200, 20_000 // width))
    workload = Workload(N_FEATURES, (width,), n_steps, n_epochs=5, batch_size=BATCH)
    make_estimator = partial(
        DistributedMLPClassifier,
        client=client,
        engine="peers",
        n_workers=n_workers,
    )
    return time_fit(workload, make_estimator).step_s / BATCH


# Both.


def measure_in_turns(candidates: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Measure in turns, so that other work affects all; return the medians."""
    turns = [[measure() for measure in candidates.values()] for _ in range(REPEATS)]
    return dict(zip(candidates, map(median, zip(*turns, strict=True)), strict=True))


def measure_by_parameters(
    client: Client, widths: Sequence[int], n_samples: int
) -> list[dict[str, float]]:
    """Measure networks of growing size on one machine and on two."""
    rows = []
    single_root = Root()
    with start_root(2) as root:
        for width in widths:
            candidates = {
                "report, one": partial(report_sample_s, single_root, width, n_samples),
                "report, two": partial(report_sample_s, root, width, n_samples),
                "ours, one": partial(our_sample_s, client, 1, width),
                "ours, two": partial(our_sample_s, client, 2, width),
            }
            size = count_parameters((N_FEATURES, width, N_CLASSES))
            rows.append({"parameters": size, **measure_in_turns(candidates)})
    return rows


def measure_by_machines(
    client: Client, counts: Sequence[int], width: int, n_samples: int
) -> list[dict[str, float]]:
    """Measure one network on one machine, not distributed, and on more."""
    rows = []
    for count in counts:
        with start_root(count if count > 1 else 0) as root:
            candidates = {
                "report": partial(report_sample_s, root, width, n_samples),
                "ours": partial(our_sample_s, client, count, width),
            }
            rows.append({"machines": count, **measure_in_turns(candidates)})
    return rows


def crossover(rows: list[dict[str, float]], way: str) -> str:
    """Say from how many parameters on two machines are faster than one."""
    return describe_crossover(
        [int(row["parameters"]) for row in rows],
        [row[f"{way}, one"] / row[f"{way}, two"] for row in rows],
    )


def plot(
    path: Path, sizes: list[dict[str, float]], machines: list[dict[str, float]]
) -> None:
    """Plot the report's two charts, each with both ways."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for way, colour in (("report", COLOURS[1]), ("ours", COLOURS[0])):
        for count, style in (("one", "--"), ("two", "-")):
            left.loglog(
                [row["parameters"] for row in sizes],
                [1e3 * row[f"{way}, {count}"] for row in sizes],
                style,
                color=colour,
                marker="o",
                label=f"{way}, {count} machine{'s' if count == 'two' else ''}",
            )
        right.semilogy(
            [row["machines"] for row in machines],
            [1e3 * row[way] for row in machines],
            color=colour,
            marker="o",
            label=way,
        )
    left.set(xlabel="parameters", ylabel="ms per sample")
    counts = [int(row["machines"]) for row in machines]
    right.set(xlabel="machines", ylabel="ms per sample")
    right.set_xticks(counts, ["1 alone", *map(str, counts[1:])])
    for axes in (left, right):
        draw_legend_above(axes, axes.lines, max_columns=2)
    figure.savefig(path, dpi=120)


def measure_and_plot(arguments: argparse.Namespace) -> None:
    """Measure, print the results, and plot them."""
    widths = [2**i for i in range(1, arguments.max_width.bit_length())]
    with single_threaded_workers(arguments.machines) as client:
        sizes = measure_by_parameters(client, widths, arguments.samples)
        counts = range(1, arguments.machines + 1)
        machines = measure_by_machines(client, counts, widths[-1], arguments.samples)
    for rows in (sizes, machines):
        print("  ".join(f"{name:>12}" for name in rows[0]), " (ms per sample)")
        for row in rows:
            first, *seconds = row.values()
            print(f"{first:>12}", *(f"{1e3 * s:12.4f}" for s in seconds), sep="  ")
    for way in ("report", "ours"):
        print(f"two machines are faster, {way}: {crossover(sizes, way)}")
    plot(arguments.plot, sizes, machines)
    print(f"plot written to {arguments.plot}")


def main() -> None:
    """Check the arguments, then measure and plot."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--max-width",
        type=int,
        default=8192,
        help="width of the largest hidden layer (default: %(default)s)",
    )
    parser.add_argument(
        "--machines",
        type=int,
        default=3,
        help="largest number of machines (default: %(default)s)",
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=20,
        help="samples to time of the report's way (default: %(default)s)",
    )
    parser.add_argument(
        "--plot",
        type=Path,
        default=Path("report_crossover.png"),
        help="file to plot to (default: %(default)s)",
    )
    arguments = parser.parse_args()
    for name, minimum in [("max_width", 4), ("machines", 2), ("samples", 1)]:
        if (value := getattr(arguments, name)) < minimum:
            option = name.replace("_", "-")
            parser.error(f"--{option} must be at least {minimum}, got {value}")
    try:
        check_plot_file(arguments.plot)
    except ValueError as error:
        parser.error(str(error))
    try:
        measure_and_plot(arguments)
    except KeyboardInterrupt:
        parser.exit(130, "interrupted\n")


if __name__ == "__main__":
    main()
