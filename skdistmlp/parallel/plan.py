"""Which engine trains or predicts, where, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from skdistmlp.exceptions import ClusterError
from skdistmlp.parallel.split import (
    NetworkSplit,
    NeuronRange,
    ShardLayout,
    count_parameters,
)

FLOP_PER_CHAINED_TASK = 1.8e9
"""Floating point operations that cost as much time as one task in a chain of
Dask tasks: what sharing must save before `engine="auto"` takes "futures". The
larger of two figures measured where two one-thread workers overtake one thread:
1.1e9 for 784-(4096), 1.7e9 for 784-(2048, 2048) (``python -m skdistmlp.bench
futures``)."""

WHOLE_ARRAYS = 3
"""Arrays of the whole network on each shard in an evaluation: the parameters, and the
gradient as it is gathered and as it is joined."""

SCIPY_VECTORS = 27
"""Vectors of float64 that SciPy's L-BFGS-B keeps: 25 to work in (ten pairs and five),
the point and its gradient."""


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
    arrays_of_parameters : int
        Parameters, gradient, moments of the optimiser, and the best weights where
        training stops early.
    buffer_rows : int
        Rows that buffers have room for; 0 for those of a block.
    data_bytes : int
        Bytes of all features, targets and weights.
    """

    kind: Literal["step", "evaluation", "prediction"]
    n_rows: int
    n_blocks: int = 1
    itemsize: int = 8
    values_per_row: float | None = None
    arrays_of_parameters: int = 4
    buffer_rows: int = 0
    data_bytes: int = 0


@dataclass(frozen=True)
class Plan:
    """Which engine runs, and which neurons each worker holds.

    Parameters
    ----------
    engine : {"local", "futures", "peers", "rows"}
        What runs; "rows" is a prediction in which each worker has the whole network
        and gets some of the rows.
    split : NetworkSplit
        Layers, and the neurons of each shard.
    workers : tuple of str
        Address of the worker that holds shard 0, shard 1, and so on; empty
        when the network stays in this process.
    reason : str
        Why this engine was chosen.
    bytes_held : tuple of int
        Bytes that each worker holds while "peers" trains; else empty.
    bytes_exchanged : int
        Bytes that the shards send each other in a step of "peers".
    """

    engine: str
    split: NetworkSplit
    workers: tuple[str, ...]
    reason: str
    bytes_held: tuple[int, ...] = ()
    bytes_exchanged: int = 0

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
        if self.bytes_held:
            lines.append(f"a step exchanges {self.bytes_exchanged:,} bytes")
        if self.engine == "rows":
            return "\n".join([*lines, *(f"all of it on {w}" for w in self.workers)])
        for rank, worker in enumerate(self.workers):
            held = f"{self.bytes_held[rank]:,} bytes, " if self.bytes_held else ""
            lines.append(f"shard {rank} on {worker}: {held}{self._holdings(rank)}")
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
    engine : {"auto", "local", "futures", "peers"}
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
    threads: Sequence[int] | None = None,
) -> Plan:
    """Choose the engine to train a network that a cluster may share.

    Parameters
    ----------
    layer_units : sequence of int
        Features, neurons of each hidden layer, outputs.
    engine : {"auto", "futures", "peers"}
        What was asked for.
    workers : sequence of str
        Addresses of the workers to share it.
    work : Work
        What is to be shared.
    threads : sequence of int, optional
        How many each worker has: it holds neurons in proportion. By default all have
        as many.

    Returns
    -------
    Plan
        "peers" unless "futures" is asked for.
    """
    split = NetworkSplit.even(layer_units, len(workers))
    used = tuple(workers[: split.n_shards])
    if threads is not None:
        split = NetworkSplit.by_shares(layer_units, threads[: split.n_shards])
    if engine == "futures":
        return Plan("futures", split, used, "engine='futures' was asked for")
    reason = "engine='peers' was asked for"
    if engine == "auto":
        reason = (
            f"{split.n_parameters:,} parameters reach the threshold, and there are "
            f"workers"
        )
    return Plan(
        "peers",
        split,
        used,
        reason,
        tuple(bytes_held(split.shard(rank), work) for rank in range(len(used))),
        bytes_exchanged(split, work),
    )


def check_memory(plan: Plan, limits: Mapping[str, int]) -> None:
    """Refuse a plan that does not fit.

    Parameters
    ----------
    plan : Plan
        Of training.
    limits : mapping of str to int
        Bytes that a worker may use, by its address; one that is missing has no
        limit.

    Raises
    ------
    ClusterError
        If a worker would hold more than it may.
    """
    for rank, (worker, held) in enumerate(
        zip(plan.workers, plan.bytes_held, strict=True)
    ):
        if held > limits.get(worker, held):
            raise ClusterError(
                f"shard {rank} would hold {held:,} bytes on worker {worker}, whose "
                f"memory_limit is {limits[worker]:,} bytes. Use workers with more "
                f"memory, more workers, fewer rows or float32 features."
            )


def bytes_held(layout: ShardLayout, work: Work) -> int:
    """Return the bytes that a shard among peers holds while it trains.

    Parameters, gradient and moments; the data; and for each layer the
    activations and deltas of a step, with what they are gathered from. "lbfgs" has
    arrays of the whole network too.
    """
    split = layout.split
    n_shards = split.n_shards
    rows_held = split.layer_units[0] if work.values_per_row is None else 0
    for layer in split.layers:
        own = layout.columns(layer).stop - layout.columns(layer).start
        whole = split.layer_units[layer]
        # Its own activations and deltas; if there are others, what it is sent
        # of them, both ways.
        rows_held += 2 * own
        if n_shards > 1 and layer == split.output_layer:
            rows_held += n_shards * own
        elif n_shards > 1 and layer > 0:
            rows_held += 4 * whole
    buffers = rows_held * (work.buffer_rows or work.n_rows // work.n_blocks)
    n_numbers = work.arrays_of_parameters * layout.n_parameters + buffers
    n_bytes = n_numbers * work.itemsize + work.data_bytes
    if work.kind == "evaluation":
        if n_shards > 1:
            n_bytes += WHOLE_ARRAYS * split.n_parameters * work.itemsize
        if layout.rank == 0:
            n_bytes += SCIPY_VECTORS * split.n_parameters * 8
    return n_bytes


def bytes_exchanged(split: NetworkSplit, work: Work) -> int:
    """Return the bytes that all shards together send in a step, or an evaluation.

    Each hidden layer but the first gathers activations and scatters deltas: of
    every neuron, a copy to each other shard. The output layer sums logits.
    """
    others = split.n_shards - 1
    hidden = 2 * sum(split.layer_units[1:-2])
    logits = split.n_shards * split.layer_units[-1]
    n_numbers = (hidden + logits) * work.n_rows * others
    if work.kind == "evaluation":
        n_numbers += 2 * split.n_parameters * others
    return n_numbers * work.itemsize


def chained_tasks(split: NetworkSplit, work: Work) -> int:
    """Return how many tasks wait for each other, one by one.

    Forward through every layer; then the sum of the outputs or, in training,
    backward through all layers but the first, and the update.
    """
    n_layers = len(split.layers)
    return n_layers + 1 if work.kind == "prediction" else 2 * n_layers


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
