"""The report's way and ours
=========================

Shares a network as the report does, and as skdistmlp does, and draws the report's
charts.

The report's root machine sends its children, for each sample and layer, the inputs
and parameters of every neuron in packets of JSON, and gathers their outputs. That
way is written here from its description, as a reference. Both ways are measured in
one run on the same cores, shared and not: the milliseconds of a sample by the number
of parameters, and by the number of machines, which are processes here. One machine
shares nothing: it is the report's root alone, or one worker of ours.
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
from skdistmlp.crossover.clusters import interrupts_left_to_parent, one_thread_workers
from skdistmlp.crossover.files import check_picture
from skdistmlp.crossover.measurement import where_faster
from skdistmlp.crossover.workloads import Workload, step_and_rest
from skdistmlp.parallel.split import count_parameters
from skdistmlp.plotting.axes import COLOURS, legend_above

RESULT, SIGMOID = 0, 1
"""Types of operations: results, else the neuron's activation function."""

N_FEATURES, N_CLASSES = 16, 10

BATCH = 200
"""Rows of a mini-batch of ours; the report trains sample by sample."""

TURNS = 3
"""Measurements of each, of which the median counts."""

Layer = list[list[float]]
"""The parameters of a layer's neurons: of each, one an input, and the intercept."""


# The report's way.


def neuron(inputs: Sequence[float], parameters: Sequence[float]) -> float:
    """Return the output of one neuron, the operation that is distributed."""
    z = parameters[-1] + sum(w * x for w, x in zip(parameters, inputs, strict=False))
    return 1 / (1 + math.exp(-z))


def child(address: tuple[str, int]) -> None:
    """Answer packets of operations with packets of results, until nobody asks."""
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
    """The machine that trains, with children that compute its neurons or without."""

    def __init__(self, children: Sequence[TextIO] = ()) -> None:
        self._children = children

    def outputs(self, layer: Layer, inputs: list[float]) -> list[float]:
        """Return the outputs of a layer; groups of its neurons go to the children."""
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
        """Train with one sample: only the forward pass is distributed."""
        given = [x]
        for layer in layers:
            given.append(self.outputs(layer, given[-1]))
        errors = [a - (i == y) for i, a in enumerate(given[-1])]
        for layer, inputs in zip(reversed(layers), reversed(given[:-1]), strict=True):
            below = [0.0] * len(inputs)
            for parameters, error in zip(layer, errors, strict=True):
                for i, value in enumerate(inputs):
                    below[i] += parameters[i] * error
                    parameters[i] -= 0.1 * error * value
                parameters[-1] -= 0.1 * error
            errors = [b * a * (1 - a) for b, a in zip(below, inputs, strict=True)]


@contextmanager
def root_of(n_children: int) -> Iterator[Root]:
    """Start children, give their root, and end them."""
    start = get_context("spawn").Process
    with ExitStack() as opened:
        listener = opened.enter_context(socket.create_server(("127.0.0.1", 0)))
        listener.settimeout(60)
        with interrupts_left_to_parent():
            for _ in range(n_children):
                process = start(target=child, args=(listener.getsockname(),))
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
    """Return the seconds of a sample, the report's way."""
    draw = random.Random(0)
    units = (N_FEATURES, width, N_CLASSES)
    layers = [
        [[draw.uniform(-0.5, 0.5) for _ in range(n + 1)] for _ in range(m)]
        for n, m in itertools.pairwise(units)
    ]
    taken = []
    for _ in range(n_samples):
        x = [draw.random() for _ in range(N_FEATURES)]
        start = time.perf_counter()
        root.train(layers, x, draw.randrange(N_CLASSES))
        taken.append(time.perf_counter() - start)
    return median(taken)


# Ours.


def our_sample_s(width: int, **engine: object) -> float:
    """Return the seconds of a sample, our way."""
    n_steps = max(5, min(200, 20_000 // width))
    workload = Workload(N_FEATURES, (width,), n_steps, n_epochs=5, batch_size=BATCH)
    step_s, _ = step_and_rest(workload, partial(DistributedMLPClassifier, **engine))
    return step_s / BATCH


def shared(client: Client, n_workers: int) -> dict[str, object]:
    """Return the parameters of an estimator that shares its network."""
    return {
        "client": client,
        "engine": "peers",
        "n_workers": n_workers,
        "parameter_threshold": 0,
    }


# Both.


def in_turns(measures: dict[str, Callable[[], float]]) -> dict[str, float]:
    """Measure in turns, so that a machine's moods meet all; return the medians."""
    turns = [[measure() for measure in measures.values()] for _ in range(TURNS)]
    return dict(zip(measures, map(median, zip(*turns, strict=True)), strict=True))


def by_parameters(
    client: Client, widths: Sequence[int], n_samples: int
) -> list[dict[str, float]]:
    """Measure networks that grow, on one machine and on two."""
    rows = []
    alone = Root()
    with root_of(2) as root:
        for width in widths:
            measures = {
                "report, one": partial(report_sample_s, alone, width, n_samples),
                "report, two": partial(report_sample_s, root, width, n_samples),
                "ours, one": partial(our_sample_s, width, **shared(client, 1)),
                "ours, two": partial(our_sample_s, width, **shared(client, 2)),
            }
            size = count_parameters((N_FEATURES, width, N_CLASSES))
            rows.append({"parameters": size, **in_turns(measures)})
    return rows


def by_machines(
    client: Client, counts: Sequence[int], width: int, n_samples: int
) -> list[dict[str, float]]:
    """Measure one network on one machine, which shares nothing, and on more."""
    rows = []
    for count in counts:
        with root_of(count if count > 1 else 0) as root:
            measures = {
                "report": partial(report_sample_s, root, width, n_samples),
                "ours": partial(our_sample_s, width, **shared(client, count)),
            }
            rows.append({"machines": count, **in_turns(measures)})
    return rows


def crossover(rows: list[dict[str, float]], way: str) -> str:
    """Say from how many parameters on two machines are faster than one."""
    gains = [
        {
            "parameters": row["parameters"],
            "times faster": row[f"{way}, one"] / row[f"{way}, two"],
        }
        for row in rows
    ]
    return where_faster(gains)


def draw(
    path: Path, sizes: list[dict[str, float]], machines: list[dict[str, float]]
) -> None:
    """Draw the report's two charts, each with both ways."""
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
    left.set(xlabel="parameters", ylabel="ms a sample")
    counts = [int(row["machines"]) for row in machines]
    right.set(xlabel="machines", ylabel="ms a sample")
    right.set_xticks(counts, ["1, not shared", *map(str, counts[1:])])
    for axes in (left, right):
        legend_above(axes, axes.lines, most_columns=2)
    figure.savefig(path, dpi=120)


def measure_and_draw(asked: argparse.Namespace) -> None:
    """Measure, print and draw."""
    widths = [2**i for i in range(1, asked.max_width.bit_length())]
    with one_thread_workers(asked.machines) as client:
        sizes = by_parameters(client, widths, asked.samples)
        counts = range(1, asked.machines + 1)
        machines = by_machines(client, counts, widths[-1], asked.samples)
    for rows in (sizes, machines):
        print("  ".join(f"{name:>12}" for name in rows[0]), " (ms a sample)")
        for row in rows:
            first, *seconds = row.values()
            print(f"{first:>12}", *(f"{1e3 * s:12.4f}" for s in seconds), sep="  ")
    for way in ("report", "ours"):
        print(f"two machines are faster, {way}: {crossover(sizes, way)}")
    draw(asked.png, sizes, machines)
    print(f"drawn to {asked.png}")


def main() -> None:
    """Check what is asked for, then measure and draw it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--max-width",
        type=int,
        default=8192,
        help="neurons of the largest hidden layer (default: 8192)",
    )
    parser.add_argument(
        "--machines", type=int, default=3, help="up to so many (default: 3)"
    )
    parser.add_argument(
        "--samples",
        type=int,
        default=20,
        help="to time of the report's way (default: 20)",
    )
    parser.add_argument(
        "--png",
        type=Path,
        default=Path("report_crossover.png"),
        help="file to draw to (default: report_crossover.png)",
    )
    asked = parser.parse_args()
    for name, least in [("max_width", 4), ("machines", 2), ("samples", 1)]:
        if (given := getattr(asked, name)) < least:
            option = name.replace("_", "-")
            parser.error(f"--{option} must be {least} or more, but is {given}")
    try:
        check_picture(asked.png)
    except ValueError as error:
        parser.error(str(error))
    try:
        measure_and_draw(asked)
    except KeyboardInterrupt:
        parser.exit(130, "interrupted\n")


if __name__ == "__main__":
    main()
