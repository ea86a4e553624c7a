"""Which engine trains or predicts, where, and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from skdistmlp.exceptions import ClusterError
from skdistmlp.parallel.split import (
    NetworkSplit,
    NeuronRange,
    count_parameters,
)
from skdistmlp.planning.cost import StepCost, bytes_exchanged, bytes_held


@dataclass(frozen=True)
class Plan:
    """Which engine runs, and which neurons each worker holds.

    Parameters
    ----------
    engine : {"local", "futures", "peers"}
        What runs.
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
    split_by : {"neurons", "rows"}
        With "rows", a prediction, each worker has the whole network and gets some of
        the rows.
    """

    engine: str
    split: NetworkSplit
    workers: tuple[str, ...]
    reason: str
    bytes_held: tuple[int, ...] = ()
    bytes_exchanged: int = 0
    split_by: Literal["neurons", "rows"] = "neurons"

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
        if self.split_by == "rows":
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
    work: StepCost,
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
    work : StepCost
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
        tuple(bytes_held(split.layout(rank), work) for rank in range(len(used))),
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
