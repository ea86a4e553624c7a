"""Predict what a step or a prediction costs: arithmetic, bytes and tasks."""

from dataclasses import dataclass
from typing import Any, Literal

from skdistmlp.parallel.data import BaseDataset
from skdistmlp.parallel.split import (
    NetworkSplit,
    ShardLayout,
)
from skdistmlp.training.job import EpochTraining, LbfgsTraining, TrainingJob

FLOP_PER_CHAINED_TASK = 1.8e9
"""Floating point operations that cost as much time as one task in a chain of
Dask tasks: what sharing must save before `engine="auto"` takes "futures". The
larger of two figures measured where two one-thread workers overtake one thread:
1.1e9 for 784-(4096), 1.7e9 for 784-(2048, 2048) (``python -m benchmarks
futures``)."""


WHOLE_ARRAYS = 3
"""Arrays of the whole network on each shard in an evaluation: the parameters, and the
gradient as it is gathered and as it is joined."""


SCIPY_VECTORS = 27
"""Vectors of float64 that SciPy's L-BFGS-B keeps: 25 to work in (ten pairs and five),
the point and its gradient."""


@dataclass(frozen=True)
class StepCost:
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
    nnz_per_row : float or None
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
    nnz_per_row: float | None = None
    arrays_of_parameters: int = 4
    buffer_rows: int = 0
    data_bytes: int = 0


def bytes_held(layout: ShardLayout, work: StepCost) -> int:
    """Return the bytes that a shard among peers holds while it trains.

    Parameters, gradient and moments; the data; and for each layer the
    activations and deltas of a step, with what they are gathered from. "lbfgs" has
    arrays of the whole network too.
    """
    split = layout.split
    n_shards = split.n_shards
    rows_held = split.layer_units[0] if work.nnz_per_row is None else 0
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


def bytes_exchanged(split: NetworkSplit, work: StepCost) -> int:
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


def chained_tasks(split: NetworkSplit, work: StepCost) -> int:
    """Return how many tasks wait for each other, one by one.

    Forward through every layer; then the sum of the outputs or, in training,
    backward through all layers but the first, and the update.
    """
    n_layers = len(split.layers)
    return n_layers + 1 if work.kind == "prediction" else 2 * n_layers


def flop(split: NetworkSplit, work: StepCost) -> float:
    """Return the floating point operations of the matrix products."""
    n_features, n_first = split.layer_units[:2]
    first = 2.0 * work.n_rows * n_features * n_first
    others = 2.0 * work.n_rows * split.n_coefs - first
    if work.nnz_per_row is not None:
        first *= work.nnz_per_row / n_features
    if work.kind == "prediction":
        return first + others
    return 2 * first + 3 * others


def bytes_sent(split: NetworkSplit, work: StepCost) -> int:
    """Return the bytes that a prediction sends: weights once, rows to every shard."""
    values = numbers_per_row(split, work) * split.n_shards
    return (split.n_parameters + work.n_rows * values) * work.itemsize


def bytes_sent_by_rows(split: NetworkSplit, work: StepCost, n_workers: int) -> int:
    """Return the bytes that a prediction sends: weights to every worker, rows once."""
    values = numbers_per_row(split, work)
    return (split.n_parameters * n_workers + work.n_rows * values) * work.itemsize


def numbers_per_row(split: NetworkSplit, work: StepCost) -> int:
    """Return the numbers that a row is sent as; with one stored goes its column."""
    if work.nnz_per_row is None:
        return split.layer_units[0]
    return round(2 * work.nnz_per_row)


def cost_of_training(job: TrainingJob, dataset: BaseDataset) -> StepCost:
    """Return what a step of a job does, or an evaluation of "lbfgs".

    Parameters
    ----------
    job : TrainingJob
        The job, on however many shards.
    dataset : BaseDataset
        All rows, prepared.
    """
    n_moments = 0 if job.rule is None else job.rule.n_moments
    common: dict[str, Any] = {
        "itemsize": job.dtype.itemsize,
        "nnz_per_row": dataset.nnz_per_row,
        "arrays_of_parameters": 2 + n_moments + job.method.n_spare_arrays,
        "buffer_rows": job.max_rows(dataset),
        "data_bytes": dataset.nbytes,
    }
    if isinstance(job.method, LbfgsTraining):
        blocks = job.method.blocks(dataset, job.network, job.dtype.itemsize)
        return StepCost("evaluation", dataset.n_rows, len(blocks), **common)
    assert isinstance(job.method, EpochTraining)
    return StepCost("step", job.method.options.batch_size, **common)
