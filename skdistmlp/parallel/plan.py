"""Which engine trains or predicts, where, and why."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from skdistmlp.parallel.split import NetworkSplit, NeuronRange, count_parameters

FLOP_PER_CHAINED_TASK = 1.8e9
"""Floating point operations that cost as much time as one task in a chain of
Dask tasks: what sharing must save before `engine="auto"` takes "futures". The
larger of two figures measured where two one-thread workers overtake one thread:
1.1e9 for 784-(4096), 1.75e9 for 784-(2048, 2048) (``python -m skdistmlp.bench
futures``)."""

FLOP_PER_BYTE_SENT = 500.0
"""Floating point operations that cost as much time as sending a byte from the
client to a worker: what a prediction must save to be worth sending weights and
rows for. Measured as 450 to 850 for most sizes, while the machine had other work
(``python -m skdistmlp.bench futures``)."""


@dataclass(frozen=True)
class Work:
    """What is done in one go, from the first layer on.

    Attributes
    ----------
    kind : {"step", "evaluation", "prediction"}
        A step or an evaluation of "lbfgs" goes backward too. Weights and rows
        are sent once for many steps; an evaluation sends weights and fetches a
        gradient, a prediction sends weights and rows.
    n_rows : int
        Rows of a mini-batch, or of all that is to be evaluated or predicted.
    n_blocks : int
        Blocks that the rows are cut into.
    itemsize : int
        Bytes of a number.
    values_per_row : float or None
        Stored numbers in a row of sparse features; None if they are dense.
    """

    kind: Literal["step", "evaluation", "prediction"]
    n_rows: int
    n_blocks: int = 1
    itemsize: int = 8
    values_per_row: float | None = None

    @property
    def name(self) -> str:
        """What to call it."""
        return {
            "step": "a step",
            "evaluation": "an evaluation",
            "prediction": "a prediction",
        }[self.kind]


@dataclass(frozen=True)
class Plan:
    """Which engine runs, and which neurons each worker holds.

    Attributes
    ----------
    engine : {"local", "futures"}
        What runs.
    split : NetworkSplit
        Layers, and the neurons of each shard.
    workers : tuple of str
        Address of the worker that holds shard 0, shard 1, and so on; empty
        when the network stays in this process.
    reason : str
        Why this engine was chosen.
    """

    engine: str
    split: NetworkSplit
    workers: tuple[str, ...]
    reason: str

    @property
    def n_shards(self) -> int:
        """Number of shards."""
        return self.split.n_shards

    def __str__(self) -> str:
        layer_units = "-".join(str(units) for units in self.split.layer_units)
        lines = [
            f"{self.engine}: {self.reason}",
            f"network {layer_units}, {self.split.n_parameters:,} parameters, "
            f"{self.n_shards} shard{'s' if self.n_shards > 1 else ''}",
        ]
        for rank, worker in enumerate(self.workers):
            lines.append(f"shard {rank} on {worker}: {self._holdings(rank)}")
        return "\n".join(lines)

    def _holdings(self, rank: int) -> str:
        """Say which neurons a shard holds, layer by layer."""
        if not self.split.ranges:
            return "all of it"
        parts = [
            f"layer {layer}: {_numbers('neurons', ranges[rank])}"
            for layer, ranges in enumerate(self.split.ranges)
        ]
        inputs = _numbers("inputs", self.split.ranges[-1][rank])
        parts.append(f"layer {self.split.output_layer} (output): {inputs}")
        return ", ".join(parts)


def _numbers(what: str, numbers: NeuronRange) -> str:
    return f"{what} {numbers.start}-{numbers.stop - 1}" if numbers else f"no {what}"


def local_plan(layer_units: Sequence[int], reason: str) -> Plan:
    """Return the plan of one shard in this process."""
    return Plan("local", NetworkSplit.even(layer_units, 1), (), reason)


def reason_to_stay_local(
    layer_units: Sequence[int], engine: str, parameter_threshold: int
) -> str | None:
    """Return why no cluster needs to be looked for, None if one does.

    Parameters
    ----------
    layer_units : sequence of int
        Features, neurons of each hidden layer, outputs.
    engine : {"auto", "local", "futures"}
        What was asked for.
    parameter_threshold : int
        Networks with fewer parameters stay in this process.
    """
    if engine == "local":
        return "engine='local' was asked for"
    n_parameters = count_parameters(layer_units)
    if n_parameters < parameter_threshold:
        return (
            f"{n_parameters:,} parameters are fewer than the threshold of "
            f"{parameter_threshold:,}"
        )
    return None


def cluster_plan(
    layer_units: Sequence[int],
    engine: str,
    workers: Sequence[str],
    work: Work,
) -> Plan:
    """Choose the engine for a network that a cluster may share.

    Parameters
    ----------
    layer_units : sequence of int
        Features, neurons of each hidden layer, outputs.
    engine : {"auto", "futures"}
        What was asked for.
    workers : sequence of str
        Addresses of the workers to share it.
    work : Work
        What is to be shared.

    Returns
    -------
    Plan
        "futures" if asked for, or if sharing the work saves more time than its
        chain of tasks costs; else "local".
    """
    split = NetworkSplit.even(layer_units, len(workers))
    plan = Plan("futures", split, tuple(workers[: split.n_shards]), "")
    n_tasks = chained_tasks(split, work)
    saved = flop(split, work) * (1 - 1 / split.n_shards)
    n_bytes = bytes_sent(split, work)
    cost = n_tasks * FLOP_PER_CHAINED_TASK + n_bytes * FLOP_PER_BYTE_SENT
    sending = f" and {n_bytes / 1e6:.3g} MB to send" if n_bytes else ""
    sums = (
        f"sharing {work.name} of {work.n_rows:,} rows among {split.n_shards} saves "
        f"{saved / 1e9:.3g} GFLOP, its {n_tasks} chained tasks{sending} cost as much "
        f"time as {cost / 1e9:.3g} GFLOP"
    )
    if engine == "futures":
        return replace(plan, reason="engine='futures' was asked for")
    if saved > cost:
        return replace(plan, reason=sums)
    return local_plan(layer_units, sums)


def reason_not_to_share(layer_units: Sequence[int], work: Work) -> str | None:
    """Return why no number of workers is worth asking, None if some may be.

    Sharing saves less than all of the work, and costs its tasks and what two
    workers are sent at least.
    """
    split = NetworkSplit.even(layer_units, 2)
    n_tasks = chained_tasks(split, work)
    cost = n_tasks * FLOP_PER_CHAINED_TASK + bytes_sent(split, work) * (
        FLOP_PER_BYTE_SENT
    )
    if flop(split, work) > cost:
        return None
    return (
        f"{work.name} of {work.n_rows:,} rows takes {flop(split, work) / 1e9:.3g} "
        f"GFLOP, less than the time of {cost / 1e9:.3g} GFLOP that sharing it costs"
    )


def chained_tasks(split: NetworkSplit, work: Work) -> int:
    """Return how many tasks wait for each other, one by one.

    Forward through every layer; then the sum of the outputs or, in training,
    backward through all layers but the first, and the update. The blocks of an
    evaluation add up their gradients one by one; sending and fetching take as
    long as a task each.
    """
    n_layers = len(split.layers)
    if work.kind == "prediction":
        return n_layers + 1
    if work.kind == "evaluation":
        return 2 * n_layers + work.n_blocks + 2
    return 2 * n_layers


def flop(split: NetworkSplit, work: Work) -> float:
    """Return the floating point operations of the matrix products."""
    n_features, n_first = split.layer_units[:2]
    first = 2.0 * work.n_rows * n_features * n_first
    others = 2.0 * work.n_rows * split.n_coefs - first
    if work.values_per_row is not None:
        first *= work.values_per_row / n_features
    if work.kind == "prediction":
        return first + others
    return 2 * first + 3 * others


def bytes_sent(split: NetworkSplit, work: Work) -> int:
    """Return the bytes that the client sends and fetches each time.

    For a prediction weights once, and rows to every shard; for an evaluation
    weights, and as much of a gradient.
    """
    if work.kind == "step":
        return 0
    if work.kind == "evaluation":
        return 2 * split.n_parameters * work.itemsize
    values = split.layer_units[0]
    if work.values_per_row is not None:
        # With each number goes its column.
        values = round(2 * work.values_per_row)
    return (split.n_parameters + work.n_rows * values * split.n_shards) * work.itemsize
