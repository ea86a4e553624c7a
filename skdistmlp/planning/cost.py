"""Count what a step, an evaluation or a prediction costs: arithmetic, bytes, tasks."""

import math
from dataclasses import dataclass
from typing import Any, Self

from skdistmlp.nn.layers import Network
from skdistmlp.parallel.data import BaseDataset
from skdistmlp.parallel.overlap import n_gathers
from skdistmlp.parallel.rows import COPIES, RowHolding
from skdistmlp.parallel.split import (
    NetworkSplit,
    ShardLayout,
)
from skdistmlp.training.hold_out import BLOCK_ROWS, HoldOut
from skdistmlp.training.job import EpochTraining, TrainingJob

WHOLE_ARRAYS = 3
"""Arrays of the whole network on each shard in an evaluation: the parameters, and the
gradient while it is gathered and after it is joined."""


SCIPY_VECTORS = 27
"""Vectors of float64 that SciPy's L-BFGS-B keeps: 25 to work in (ten pairs and five),
the point and its gradient."""

ORDER_BYTES = 3 * 8
"""Bytes per row of the data set for the order of its rows: itself, and what shuffling
makes of it in one copy and another."""

BLOCKS_AHEAD = 4
"""Blocks of rows in flight in "futures" when it submits another, while it predicts or
evaluates."""

BLOCKS_HELD = BLOCKS_AHEAD + 2
"""Blocks of rows whose results a worker then holds, at most: with the one that is
submitted, and one that has ended but is not released there yet."""


@dataclass(frozen=True)
class StepCost:
    """The sizes that decide what one pass over some rows costs.

    Use the constructors `of_step`, `of_evaluation` and `of_prediction`.

    Attributes
    ----------
    n_rows : int
        Rows of a mini-batch, or all rows that are evaluated or predicted.
    itemsize : int
        Bytes per number.
    nnz_per_row : float or None
        Stored numbers per row of sparse features; None if they are dense.
    arrays_of_parameters : int
        Arrays as long as a shard's parameters: themselves, the gradient, the moments
        of the optimiser, and the best parameters with early stopping.
    arrays_divided : int
        Those of them that replicas divide among each other: the optimiser's.
    keeps_average : bool
        Whether one of them is a moving average of the parameters.
    clips_gradient : bool
        Whether a step needs the norm of the whole gradient.
    arrays_replaced : int
        Those of them that a step replaces: parameters and moments. An engine whose
        steps write to new arrays holds them twice.
    buffer_rows : int or None
        Rows that buffers have room for; None for `n_rows`.
    validation_rows : int
        Held-out rows that are on their way through the network at the same time, where
        an engine forwards several blocks at once.
    data_bytes : int
        Bytes of all features, targets and weights.
    feature_bytes : int
        Those of them that are features, which workers may divide among each other.
    piece_bytes : int
        Bytes of the largest piece in which features reach a file.
    n_ordered_rows : int
        Rows of the data set, if each worker keeps and shuffles their order.
    in_ordered_blocks : bool
        Whether rows that stay together in blocks are in the same mini-batches, so that
        one replica would compute such a batch alone.
    rows_by_chance : bool
        Whether the rows of a mini-batch are in random order, so that replicas have
        unequal numbers of them. Neighbours are dealt out evenly.
    needs_all_features : bool
        Whether each worker needs all of them nevertheless.
    goes_backward : bool
        Whether deltas flow back too: in training.
    moves_parameters : bool
        Whether all parameters are sent and the whole gradient is gathered each
        time: in "lbfgs", whose optimiser runs in one place. Otherwise parameters
        stay on their shards for many steps.
    layers_kept : frozenset of int
        Layers that keep their pre-activations as well as their activations.
    layers_dropped : frozenset of int
        Layers that some of the input is dropped of, which takes a mask and a copy.
    """

    n_rows: int
    itemsize: int = 8
    nnz_per_row: float | None = None
    arrays_of_parameters: int = 4
    arrays_divided: int = 2
    keeps_average: bool = False
    clips_gradient: bool = False
    arrays_replaced: int = 3
    buffer_rows: int | None = None
    validation_rows: int = 0
    data_bytes: int = 0
    feature_bytes: int = 0
    piece_bytes: int = 0
    n_ordered_rows: int = 0
    in_ordered_blocks: bool = False
    rows_by_chance: bool = True
    needs_all_features: bool = False
    goes_backward: bool = True
    moves_parameters: bool = False
    layers_kept: frozenset[int] = frozenset()
    layers_dropped: frozenset[int] = frozenset()

    @classmethod
    def of_step(cls, n_rows: int, **sizes: Any) -> Self:
        """Return the cost of a training step on a mini-batch of `n_rows`."""
        return cls(n_rows, **sizes)

    @classmethod
    def of_evaluation(cls, n_rows: int, **sizes: Any) -> Self:
        """Return the cost of one loss and gradient over all rows, for "lbfgs"."""
        return cls(n_rows, **sizes, moves_parameters=True)

    @classmethod
    def of_prediction(cls, n_rows: int, **sizes: Any) -> Self:
        """Return the cost of predicting `n_rows`."""
        return cls(n_rows, **sizes, goes_backward=False)


def cost_of_training(job: TrainingJob, dataset: BaseDataset) -> StepCost:
    """Return the cost of a step of a job, or of an evaluation of "lbfgs".

    Parameters
    ----------
    job : TrainingJob
        The job, on however many shards.
    dataset : BaseDataset
        All rows, prepared.
    """
    n_moments = job.n_moments
    sizes = {
        "itemsize": job.dtype.itemsize,
        "nnz_per_row": dataset.nnz_per_row,
        "arrays_of_parameters": 2 + n_moments + job.method.n_spare_arrays,
        "arrays_divided": n_moments,
        "keeps_average": job.ema_decay is not None,
        "clips_gradient": job.network.max_grad_norm is not None,
        "arrays_replaced": 1 + n_moments,
        "buffer_rows": job.max_rows(dataset),
        "data_bytes": dataset.nbytes,
        "feature_bytes": dataset.features_nbytes,
        "piece_bytes": dataset.piece_bytes,
        "in_ordered_blocks": dataset.is_in_blocks and not job.method.mixes_rows,
        "needs_all_features": job.method.needs_all_features,
        **_extra_buffers(job.network),
    }
    if isinstance(job.method, EpochTraining):
        hold_out = job.method.hold_out
        # A random share is held out of rows that are shuffled for it.
        sizes["rows_by_chance"] = job.method.mixes_rows or isinstance(hold_out, HoldOut)
        if hold_out is not None:
            at_once = BLOCKS_HELD * BLOCK_ROWS
            sizes["validation_rows"] = min(hold_out.n_rows(dataset), at_once)
        sizes["n_ordered_rows"] = dataset.n_rows
        return StepCost.of_step(job.method.options.batch_size, **sizes)
    return StepCost.of_evaluation(dataset.n_rows, **sizes)


def _extra_buffers(network: Network) -> dict[str, frozenset[int]]:
    """Return what activations and dropout need more than others."""
    kept, dropped = set(), set()
    for number, layer in enumerate(network.layers):
        if layer.nonlinearity.keeps_input:
            kept.add(number)
        if layer.dropout:
            dropped.add(number)
    return {"layers_kept": frozenset(kept), "layers_dropped": frozenset(dropped)}


def features_held(
    cost: StepCost, n_shards: int, n_replicas: int, rows: RowHolding
) -> int:
    """Return the bytes of the features that each process of a grid has at most."""
    if rows.form == "all":
        return cost.feature_bytes
    of_replica = cost.feature_bytes * rows.largest_share(n_replicas)
    return math.ceil(of_replica / (n_shards if rows.form == "once" else 1))


def bytes_held(
    layout: ShardLayout,
    cost: StepCost,
    n_replicas: int = 1,
    replica: int = 0,
    rows: RowHolding = COPIES,
) -> int:
    """Return the bytes that one process among peers holds in memory while it trains.

    Parameters, gradient and moments; the data; and for each layer the
    activations and deltas of a step, with what they are gathered from. "lbfgs" has
    arrays of the whole network too. Replicas have a share of the rows and of the
    moments each, and room for the gradients of the others.

    Parameters
    ----------
    layout : ShardLayout
        The shard.
    cost : StepCost
        What a step costs.
    n_replicas, replica : int
        Number of replicas, and which of them.
    rows : RowHolding
        Which features it has.
    """
    split = layout.split
    n_shards = split.n_shards
    n_rows = cost.n_rows if cost.buffer_rows is None else cost.buffer_rows
    n_rows = math.ceil(n_rows * rows.share(replica, n_replicas))
    # Numbers per row in all buffers together.
    row_length = split.layer_units[0] if cost.nnz_per_row is None else 0
    if rows.form == "once" and n_shards > 1:
        # What is gathered, before it is put in order.
        row_length += numbers_per_row(split, cost)
    for layer in split.layers:
        own = _n_own(layout, layer)
        whole = split.layer_units[layer]
        # Its own activations and deltas; if there are others, what it is sent
        # of them, both ways.
        row_length += 2 * own
        row_length += own if layer in cost.layers_kept else 0
        row_length += 2 * _n_dropped(layout, layer, cost)
        if n_shards > 1 and layer == split.output_layer:
            row_length += n_shards * own
        elif n_shards > 1 and layer > 0:
            row_length += 4 * whole
            # Of a large input, what is multiplied while the rest is on its way.
            n_bytes = whole * n_rows * cost.itemsize
            row_length += own if n_gathers(n_shards, n_bytes) > 1 else 0
    n_arrays = cost.arrays_of_parameters
    if n_replicas > 1:
        n_arrays -= cost.arrays_divided
        # A part each of what the others send, of its sum, and of the moments; all of an
        # average, to predict with; outputs of all rows, before and after they are put
        # in order.
        in_parts = n_replicas + cost.arrays_divided
        n_numbers = in_parts * math.ceil(layout.n_parameters / n_replicas)
        n_numbers += cost.keeps_average * layout.n_parameters
        n_numbers += 2 * split.layer_units[-1] * (cost.buffer_rows or cost.n_rows)
    else:
        n_numbers = 0
    n_numbers += n_arrays * layout.n_parameters + row_length * n_rows
    n_bytes = n_numbers * cost.itemsize + cost.data_bytes - cost.feature_bytes
    n_bytes += ORDER_BYTES * cost.n_ordered_rows
    if rows.on_disk:
        # As it comes, and as it is converted.
        n_bytes += 2 * cost.piece_bytes
    else:
        n_bytes += features_held(cost, n_shards, n_replicas, rows)
    if cost.moves_parameters:
        if n_shards > 1:
            n_bytes += WHOLE_ARRAYS * split.n_parameters * cost.itemsize
        elif n_replicas > 1:
            # The parameters that they are sent.
            n_bytes += split.n_parameters * cost.itemsize
        if layout.rank == 0 and replica == 0:
            n_bytes += SCIPY_VECTORS * split.n_parameters * 8
    return n_bytes


def bytes_held_by_peers(
    split: NetworkSplit, cost: StepCost, n_replicas: int, rows: RowHolding
) -> tuple[int, ...]:
    """Return the bytes that each process of a grid holds, by rank; see `bytes_held`."""
    layouts = [split.layout(shard) for shard in range(split.n_shards)]
    # Of a thousand processes few differ: replicas in their share of the rows, or by
    # being the first, and their shards in size.
    of_replicas: dict[object, list[int]] = {}
    held: list[int] = []
    for replica in range(n_replicas):
        kind = replica == 0, rows.shares[replica] if rows.shares else 1
        if kind not in of_replicas:
            of_sizes = {
                layout.size: bytes_held(layout, cost, n_replicas, replica, rows)
                for layout in {layout.size: layout for layout in layouts}.values()
            }
            of_replicas[kind] = [of_sizes[layout.size] for layout in layouts]
        held += of_replicas[kind]
    return tuple(held)


def bytes_held_by_tasks(layout: ShardLayout, cost: StepCost) -> int:
    """Return the most bytes that a shard's worker holds while "futures" trains.

    All the time: parameters, moments, best parameters and the data. In a step also
    the gradient, the new parameters and moments, and the results of the step's tasks
    that the update needs: those of its own shard, and those that it was sent. An
    evaluation of "lbfgs", and early stopping, have several blocks of rows under way.
    """
    split = layout.split
    n_shards = split.n_shards
    # Numbers per row: of results on their way forward and back, and of what a task
    # makes of them for itself: the whole input of a layer, and its own deltas.
    forward, backward, copied = n_shards * split.layer_units[-1], 0, 0
    for layer in split.layers:
        fan_in, whole_input = split.layer_units[layer], 0
        if layer == 0:
            whole_input = fan_in if cost.nnz_per_row is None else 0
        elif layer == split.output_layer:
            forward += _n_own(layout, layer - 1)
            backward += _n_own(layout, layer - 1)
        else:
            forward += fan_in
            backward += n_shards * fan_in
            whole_input = fan_in if n_shards > 1 else 0
        if layer in cost.layers_dropped:
            # What is not dropped is a copy, of all parts of the input.
            whole_input += _n_input(layout, layer) if layer else whole_input
        copied = max(copied, whole_input + _n_own(layout, layer))
    block_rows = n_rows = cost.n_rows
    if cost.moves_parameters and cost.buffer_rows is not None:
        block_rows = cost.buffer_rows
        n_rows = min(n_rows, BLOCKS_HELD * block_rows)
    # The gradient is there for a step only.
    lasting = (cost.arrays_of_parameters - 1) * layout.n_parameters
    training = (1 + cost.arrays_replaced) * layout.n_parameters
    training += (forward + backward) * n_rows + copied * block_rows
    validating = forward * cost.validation_rows
    return (lasting + max(training, validating)) * cost.itemsize + cost.data_bytes


def bytes_here_by_tasks(split: NetworkSplit, cost: StepCost) -> int:
    """Return the bytes that the driver holds while "futures" trains.

    Besides the data: the parameters, which are collected at the end; in "lbfgs", whose
    optimiser runs there, also the whole gradient and what SciPy keeps.
    """
    if not cost.moves_parameters:
        return split.n_parameters * cost.itemsize
    return split.n_parameters * (WHOLE_ARRAYS * cost.itemsize + SCIPY_VECTORS * 8)


def _n_dropped(layout: ShardLayout, layer: int, cost: StepCost) -> int:
    """Return the number of columns that a shard has masks of, for a layer's input."""
    if layer not in cost.layers_dropped:
        return 0
    if layer == 0:
        # Of sparse features no mask is made.
        return layout.split.layer_units[0] if cost.nnz_per_row is None else 0
    return _n_own(layout, layer - 1)


def _n_input(layout: ShardLayout, layer: int) -> int:
    """Return the number of columns that a task is given as a layer's input."""
    if layer == layout.split.output_layer:
        return _n_own(layout, layer - 1)
    return layout.split.layer_units[layer]


def _n_own(layout: ShardLayout, layer: int) -> int:
    """Return the number of a shard's neurons in a layer; all in the output layer."""
    columns = layout.columns(layer)
    return int(columns.stop - columns.start)


def chained_tasks(split: NetworkSplit, cost: StepCost) -> int:
    """Return the number of Dask tasks in "futures" that wait for each other.

    Forward through every layer; then the sum of the outputs or, in training,
    backward through all layers but the first, and the update; where that needs the
    norm of the whole gradient, the gradient and its norm before it.

    An evaluation of "lbfgs" does so for each block of rows, with the sum of gradients
    in place of the update, and has a last task for the loss. Blocks in flight keep each
    other waiting: with next to nothing to compute, each takes as long as a step.
    """
    n_layers = len(split.layers)
    if not cost.goes_backward:
        return n_layers + 1
    if cost.moves_parameters:
        n_blocks = math.ceil(cost.n_rows / (cost.buffer_rows or cost.n_rows))
        return 2 * n_layers * n_blocks + 1
    return 2 * n_layers + 2 * cost.clips_gradient


def flop(split: NetworkSplit, cost: StepCost) -> float:
    """Return the floating point operations of the matrix products."""
    n_features, n_first = split.layer_units[:2]
    first = 2.0 * cost.n_rows * n_features * n_first
    others = 2.0 * cost.n_rows * split.n_coefs - first
    if cost.nnz_per_row is not None:
        first *= cost.nnz_per_row / n_features
    if not cost.goes_backward:
        return first + others
    return 2 * first + 3 * others


def bytes_sent_by_neurons(split: NetworkSplit, cost: StepCost) -> int:
    """Return the bytes that a prediction sends: parameters once, rows to all.

    Each worker gets the others' activations too, but for those of the last hidden
    layer, and sends what the outputs are summed from.
    """
    values = numbers_per_row(split, cost) * split.n_shards
    values += sum(split.layer_units[1:-2]) * (split.n_shards - 1)
    values += split.layer_units[-1] * split.n_shards
    return (split.n_parameters + cost.n_rows * values) * cost.itemsize


def bytes_sent_by_rows(split: NetworkSplit, cost: StepCost, n_workers: int) -> int:
    """Return the bytes that a prediction sends: parameters to all, rows once."""
    values = numbers_per_row(split, cost)
    return (split.n_parameters * n_workers + cost.n_rows * values) * cost.itemsize


def numbers_per_row(split: NetworkSplit, cost: StepCost) -> int:
    """Return the numbers that a row is sent as; a stored one comes with its column."""
    if cost.nnz_per_row is None:
        return split.layer_units[0]
    return round(2 * cost.nnz_per_row)
