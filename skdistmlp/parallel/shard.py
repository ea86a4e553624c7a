"""What one shard computes in a step: pure functions with an optional ``out=``.

Given ``out=``, they write there and nowhere else; without it, into a new array.
Unless said otherwise they never write to their other arguments.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.sparse import issparse

from skdistmlp.nn.dropout import Dropout
from skdistmlp.nn.layers import Network
from skdistmlp.nn.optimizers import OptimizerState, block_size
from skdistmlp.nn.types import Features, FloatArray, Rows, aligned
from skdistmlp.parallel.data import BatchTotals, Dataset
from skdistmlp.parallel.grid import Grid, optimizer_parts
from skdistmlp.parallel.split import (
    NetworkSplit,
    Parameters,
    join_shards,
    take_shard,
)


@dataclass(frozen=True)
class ShardState:
    """Everything that training changes on one shard, or in the whole network.

    Attributes
    ----------
    parameters : ndarray of shape (n_parameters,)
        Coefficients, then intercepts (see `ShardLayout`).
    optimizer : OptimizerState or None
        Moments in the same layout; None if the network only predicts.
    best : ndarray of shape (n_parameters,), or None
        The parameters that scored best so far, with early stopping.
    penalty_sum : float
        The L2 penalties of the steps since the last end of an epoch, each
        times the number of its rows.
    dropout_seed : int or None
        Which values are dropped; None without dropout.
    """

    parameters: FloatArray = field(repr=False)
    optimizer: OptimizerState | None = None
    best: FloatArray | None = field(default=None, repr=False)
    penalty_sum: float = 0.0
    dropout_seed: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of all its arrays."""
        arrays = [self.parameters]
        if self.optimizer is not None:
            arrays += self.optimizer.arrays
        if self.best is not None:
            arrays.append(self.best)
        return sum(array.nbytes for array in arrays)

    def dropout(self, network: Network, layer: int) -> Dropout | None:
        """Return what the next step drops of the inputs of a layer, if anything."""
        rate = network.layers[layer].dropout
        if not rate:
            return None
        assert self.dropout_seed is not None
        assert self.optimizer is not None
        return Dropout(self.dropout_seed, self.optimizer.n_steps, layer, rate)

    @property
    def shown(self) -> FloatArray:
        """The parameters to predict with: their moving average, if one is kept."""
        if self.optimizer is None or self.optimizer.average is None:
            return self.parameters
        return self.optimizer.average

    def copy(self) -> "ShardState":
        """Return the same state in arrays that nobody else writes to."""
        optimizer = self.optimizer
        if optimizer is not None:
            optimizer = optimizer.with_arrays([a.copy() for a in optimizer.arrays])
        best = None if self.best is None else self.best.copy()
        return replace(
            self, parameters=self.parameters.copy(), optimizer=optimizer, best=best
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, parameters=aligned(state["parameters"]))


def take_state(
    split: NetworkSplit, whole: ShardState, rank: int, n_replicas: int = 1
) -> ShardState:
    """Return what one process of a grid has of the state of a network, as copies.

    That is a shard's parameters, and a replica's part of that shard's optimiser.
    """
    grid = Grid(split.n_shards, n_replicas)
    shard, replica = grid.shard(rank), grid.replica(rank)
    optimizer, best = whole.optimizer, whole.best
    if optimizer is not None:
        n_parameters = split.layout(shard).n_parameters
        part = optimizer_parts(n_parameters, n_replicas)[replica].columns
        optimizer = optimizer.with_arrays(
            [take_shard(split, shard, array)[part].copy() for array in optimizer.arrays]
        )
    if best is not None:
        best = take_shard(split, shard, best)
    return replace(
        whole,
        parameters=take_shard(split, shard, whole.parameters),
        optimizer=optimizer,
        best=best,
        penalty_sum=0.0,
    )


def split_state(
    split: NetworkSplit, whole: ShardState, n_replicas: int = 1
) -> list[ShardState]:
    """Return what each process of a grid has of the state of a whole network."""
    n_ranks = Grid(split.n_shards, n_replicas).n_ranks
    return [take_state(split, whole, rank, n_replicas) for rank in range(n_ranks)]


def join_states(split: NetworkSplit, parts: Sequence[ShardState]) -> ShardState:
    """Return the state of the whole network; the inverse of `split_state`."""
    n_shards, optimizer = split.n_shards, parts[0].optimizer
    if optimizer is not None:
        arrays_of = [part.optimizer.arrays for part in parts if part.optimizer]
        by_array = zip(*arrays_of, strict=True)
        optimizer = optimizer.with_arrays(
            [
                join_shards(
                    split,
                    # A shard's parts, from the first replica to the last.
                    [np.concatenate(arrays[n::n_shards]) for n in range(n_shards)],
                )
                for arrays in by_array
            ]
        )
    # Every replica has the same.
    parts = parts[:n_shards]
    best_of = [part.best for part in parts if part.best is not None]
    best = join_shards(split, best_of) if best_of else None
    parameters = join_shards(split, [part.parameters for part in parts])
    return replace(
        parts[0],
        parameters=parameters,
        optimizer=optimizer,
        best=best,
        penalty_sum=0.0,
    )


def affine(
    inputs: Features,
    coef: FloatArray,
    intercept: FloatArray,
    out: FloatArray | None = None,
) -> FloatArray:
    """Return ``inputs @ coef + intercept``.

    Parameters
    ----------
    inputs : ndarray or sparse rows of shape (n_rows, fan_in)
        Features, or activations of the layer before.
    coef : ndarray of shape (fan_in, fan_out)
        Coefficients.
    intercept : ndarray of shape (fan_out,) or (0,)
        Intercepts; none on a shard that owns none.
    out : ndarray of shape (n_rows, fan_out), optional
        Overwritten.
    """
    z = _product(inputs, coef, out)
    if intercept.size:
        z += intercept
    return z


def _product(
    left: Features, right: FloatArray, out: FloatArray | None = None
) -> FloatArray:
    """Return ``left @ right``; SciPy's sparse products cannot write into `out`."""
    if not issparse(left):
        return np.matmul(left, right, out=out)
    product: FloatArray = left @ right
    if out is None:
        return product
    np.copyto(out, product)
    return out


def output_delta(
    network: Network,
    prediction: FloatArray,
    dataset: Dataset,
    rows: Rows,
    batch: Rows,
    out: FloatArray | None = None,
) -> FloatArray:
    """Return d loss / d logits, each row's times its weight / sum of weights.

    Parameters
    ----------
    network : Network
        Knows the loss.
    prediction : ndarray of shape (n_rows, n_outputs)
        Outputs of the network for `rows`.
    dataset : Dataset
        Holds their targets and sample weights.
    rows : slice or ndarray of int
        The rows.
    batch : slice or ndarray of int
        The rows that the loss is averaged over: `rows`, or more.
    out : ndarray of shape (n_rows, n_outputs), optional
        Overwritten; it may be `prediction` itself.
    """
    weight = dataset.weights(rows)
    _, weight_sum = dataset.batch_totals(batch)
    delta = np.empty_like(prediction) if out is None else out
    network.output_head.delta(prediction, dataset.targets(rows), delta)
    if weight is not None:
        delta *= weight[:, np.newaxis]
    delta /= weight_sum
    return delta


def nonzero_totals(dataset: Dataset, batch: Rows) -> BatchTotals:
    """Return the divisors of the mean loss of a mini-batch.

    Raises
    ------
    ZeroDivisionError
        If its sample weights sum to zero.
    """
    totals = dataset.batch_totals(batch)
    if totals.weight_sum == 0:
        raise ZeroDivisionError("Weights sum to zero, can't be normalized")
    return totals


def batch_loss(
    network: Network,
    prediction: FloatArray,
    dataset: Dataset,
    rows: Rows,
    batch: Rows,
) -> float:
    """Return the share of `rows` in the mean loss of `batch`, times its number of rows.

    The penalty is not included (see `batch_penalty`).

    Raises
    ------
    ZeroDivisionError
        If the sample weights of `batch` sum to zero.
    """
    n_rows, weight_sum = nonzero_totals(dataset, batch)
    loss = network.output_head.loss(
        dataset.targets(rows), prediction, dataset.weights(rows)
    )
    return loss / weight_sum * n_rows


def batch_penalty(
    network: Network, squared_norm: float, n_rows: int, weight_sum: float
) -> float:
    """Return the L2 penalty of a mini-batch times its number of rows.

    The penalty is ``alpha / 2 * squared_norm / weight_sum``, as scikit-learn's.
    """
    return 0.5 * network.alpha * squared_norm / weight_sum * n_rows


def add_penalty(
    network: Network,
    n_coefs: int,
    parameters: FloatArray,
    gradient_sum: FloatArray,
    n_rows: int,
    weight_sum: float,
) -> float:
    """Add the gradient of the L2 penalty, in place; return the penalty.

    Parameters
    ----------
    network : Network
        Says how strong the penalty is.
    n_coefs : int
        Number of parameters, from the start, that carry it.
    parameters : ndarray of shape (n_parameters,)
        A shard's parameters.
    gradient_sum : ndarray of shape (n_parameters,)
        d loss / d parameters; overwritten.
    n_rows, weight_sum : int, float
        Number and weight of the rows that the loss is averaged over.

    Returns
    -------
    float
        The penalty times `n_rows`, as `batch_penalty`.
    """
    squared_norm = 0.0
    block = block_size(parameters)
    for start in range(0, n_coefs, block):
        part = slice(start, min(start + block, n_coefs))
        coefs = parameters[part]
        squared_norm += float(np.dot(coefs, coefs))
        gradient_sum[part] += network.alpha / weight_sum * coefs
    return batch_penalty(network, squared_norm, n_rows, weight_sum)


def gradient(
    inputs: Features,
    delta: FloatArray,
    coef_out: FloatArray,
    intercept_out: FloatArray,
) -> None:
    """Write d loss / d (coef, intercept) of one layer, without the penalty.

    Parameters
    ----------
    inputs : ndarray or sparse rows of shape (n_rows, fan_in)
        Inputs of the layer.
    delta : ndarray of shape (n_rows, fan_out)
        d loss / d pre-activation.
    coef_out : ndarray of shape (fan_in, fan_out)
        Overwritten with ``inputs.T @ delta``.
    intercept_out : ndarray of shape (fan_out,) or (0,)
        Overwritten with the column sums of `delta`, unless it is empty.
    """
    _product(inputs.T, delta, coef_out)
    if intercept_out.size:
        np.sum(delta, axis=0, out=intercept_out)


def propagate(
    delta: FloatArray, coef: FloatArray, out: FloatArray | None = None
) -> FloatArray:
    """Return ``delta @ coef.T``: d loss / d inputs of a layer, shape (n_rows, fan_in).

    In a column-parallel layer this is one shard's part of a sum.
    """
    return np.matmul(delta, coef.T, out=out)


def predict_whole(
    network: Network, parameters: Parameters, X: Features, rows_per_block: int
) -> FloatArray:
    """Return the outputs of an undivided network, shape (n_samples, n_outputs).

    Parameters
    ----------
    network : Network
        The network.
    parameters : Parameters
        All its layers.
    X : ndarray or sparse rows of shape (n_samples, n_features)
        Features, of any numeric dtype.
    rows_per_block : int
        Rows to forward at a time, which bounds the memory used.

    Returns
    -------
    ndarray of shape (n_samples, n_outputs)
        Predictions, in the dtype that `X` and the parameters combine to.
    """
    blocks = []
    # Once for no rows too, so that the result has the right shape.
    for start in range(0, max(1, X.shape[0]), rows_per_block):
        value = X
        if X.shape[0] > rows_per_block:
            value = X[start : start + rows_per_block]
        for layer, coef, intercept in zip(network.layers, *parameters, strict=True):
            value = layer.nonlinearity(affine(value, coef, intercept))
        network.activate_output(value)
        blocks.append(value)
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
