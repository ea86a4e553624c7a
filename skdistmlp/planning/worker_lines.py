"""What a printed plan says about its workers: each of a few, a summary of many."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from skdistmlp.exceptions import counted
from skdistmlp.parallel.split import NeuronRange

if TYPE_CHECKING:
    from skdistmlp.planning.plan import Plan

MAX_LISTED = 8
"""Workers of which each has a line of its own; more are summed up, and so are more
replicas than this."""

MAX_NAMED = 4
"""Addresses that a line of a summary has; of more, the first ones and the last."""


def worker_lines(plan: Plan) -> list[str]:
    """Return the lines of a printed plan that say what the workers hold."""
    if plan.split_by == "rows":
        if len(plan.workers) <= MAX_LISTED:
            return [f"the whole network on {worker}" for worker in plan.workers]
        n_workers = counted(len(plan.workers), "worker")
        return [f"the whole network on each of {n_workers}: {named(plan.workers)}"]
    if len(plan.workers) <= MAX_LISTED:
        return [_line(plan, rank) for rank in range(len(plan.workers))]
    if plan.n_shards == 1:
        n_replicas = counted(plan.n_replicas, "replica")
        where = [f"the whole network in each of {n_replicas}: {named(plan.workers)}"]
    else:
        where = [f"each shard: {_sizes(plan)}", *_replica_lines(plan)]
    bytes_held = ", bytes_held" if plan.bytes_held else ""
    whole = f"the attributes split, workers{bytes_held} of this plan have every worker"
    return [*_bytes_lines(plan), *where, whole]


def _line(plan: Plan, rank: int) -> str:
    """Say where one process is and what it holds."""
    held = f"{plan.bytes_held[rank]:,} bytes, " if plan.bytes_held else ""
    holdings = _holdings(plan, plan.grid.shard(rank))
    return f"{plan.grid.title(rank)} on {plan.workers[rank]}: {held}{holdings}"


def _holdings(plan: Plan, shard: int) -> str:
    """Say which neurons a shard holds, layer by layer."""
    return _by_layer(plan, lambda what, ranges: _numbers(what, ranges[shard]))


def _sizes(plan: Plan) -> str:
    """Say how many neurons a shard holds, layer by layer."""
    return _by_layer(plan, _number_each)


def _by_layer(plan: Plan, said: Callable[[str, Sequence[NeuronRange]], str]) -> str:
    """Say something of the ranges of each layer: the output's are of its inputs."""
    split = plan.split
    if not split.ranges:
        return "the whole network"
    parts = [
        f"layer {layer}: {said('neurons', ranges)}"
        for layer, ranges in enumerate(split.ranges)
    ]
    inputs = said("inputs", split.ranges[-1])
    parts.append(f"layer {split.output_layer} (output): {inputs}")
    return ", ".join(parts)


def _numbers(what: str, numbers: NeuronRange) -> str:
    return f"{what} {numbers.start}-{numbers.stop - 1}" if numbers else f"no {what}"


def _number_each(what: str, ranges: Sequence[NeuronRange]) -> str:
    least, most = min(map(len, ranges)), max(map(len, ranges))
    n_each = f"{least:,}" if least == most else f"{least:,}-{most:,}"
    return f"{n_each} of {ranges[-1].stop:,} {what}"


def _bytes_lines(plan: Plan) -> list[str]:
    """Say how many bytes the workers hold: the least and the most, and where."""
    held = plan.bytes_held
    if not held:
        return []
    together = f"{sum(held):,} together"
    if min(held) == max(held):
        return [f"{len(held)} workers hold {held[0]:,} bytes each, {together}"]
    ends = [
        f"{what}: {n_bytes:,} bytes, {_where(plan, held.index(n_bytes))}"
        for what, n_bytes in (("least", min(held)), ("most", max(held)))
    ]
    between = f"{min(held):,} to {max(held):,} bytes"
    return [f"{len(held)} workers hold {between} each, {together}", *ends]


def _where(plan: Plan, rank: int) -> str:
    return f"{plan.grid.title(rank)} on {plan.workers[rank]}"


def _replica_lines(plan: Plan) -> list[str]:
    """Say on which workers the shards of each replica are."""
    lines = []
    for replica in range(plan.n_replicas):
        ranks = plan.grid.along("neurons", replica * plan.n_shards)
        shards = counted(len(ranks), "shard")
        name = f"replica {replica}: {shards}" if plan.n_replicas > 1 else shards
        lines.append(f"{name} on {named([plan.workers[rank] for rank in ranks])}")
    if len(lines) > MAX_LISTED:
        # The first ones and the last.
        n_left_out = len(lines) - (MAX_LISTED - 1)
        lines[MAX_LISTED - 2 : -1] = [f"… {counted(n_left_out, 'more replica')}"]
    return lines


def named(workers: Sequence[str]) -> str:
    """Name the first workers and the last one."""
    names = list(workers)
    if len(names) > MAX_NAMED:
        names[MAX_NAMED - 1 : -1] = ["…"]
    return ", ".join(names)
