"""Training on all rows at once, by scipy's L-BFGS."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from scipy.optimize import OptimizeResult, minimize
from sklearn.utils import gen_batches

from skdistmlp.nn.types import FloatArray
from skdistmlp.parallel.ops import OpenNetwork
from skdistmlp.training.step import backpropagate

Value = TypeVar("Value")

BLOCK_BYTES = 64 * 2**20
"""Bytes of the activations and deltas of the rows that are computed at a time.
Each block writes the gradient of every parameter once: few large ones are best."""


@dataclass(frozen=True)
class LbfgsOptions:
    """What scipy needs of the estimator's parameters.

    Attributes
    ----------
    max_iter : int
        Maximum number of iterations.
    max_fun : int
        Maximum number of evaluations of loss and gradient.
    tol : float
        Ends when no entry of the gradient is larger.
    """

    max_iter: int
    max_fun: int
    tol: float


def blocks_of(n_rows: int, layer_units: Sequence[int], itemsize: int) -> list[slice]:
    """Cut rows into blocks whose activations and deltas take `BLOCK_BYTES` at most.

    Parameters
    ----------
    n_rows : int
        Number of rows.
    layer_units : sequence of int
        Features, neurons of each hidden layer, outputs.
    itemsize : int
        Bytes of a number.

    Returns
    -------
    list of slice
        Blocks of the same length but for the last; of one row at least.
    """
    bytes_per_row = 2 * sum(layer_units[1:]) * itemsize
    return list(gen_batches(n_rows, max(1, BLOCK_BYTES // bytes_per_row)))


def minimise(
    network: OpenNetwork[Value], options: LbfgsOptions, blocks: Sequence[slice]
) -> OptimizeResult | None:
    """Minimise the loss of all rows, from the parameters that the network has.

    Parameters
    ----------
    network : OpenNetwork
        Computes loss and gradient, in the dtype of its parameters; L-BFGS itself
        runs in float64. At each evaluation all parameters go to the shards, and the
        gradient of all of them comes back.
    options : LbfgsOptions
        When to end.
    blocks : sequence of slice
        The rows, cut into the blocks that are computed one after the other.

    Returns
    -------
    OptimizeResult or None
        What SciPy found. None on shards that do not lead: L-BFGS runs in one
        place, and the others evaluate what it asks for.

    Notes
    -----
    ``BaseMultilayerPerceptron._fit_lbfgs``, which evaluates all rows at once.
    """
    objective = network.objective
    every = slice(blocks[0].start, blocks[-1].stop)

    def loss_and_gradient() -> tuple[float, FloatArray]:
        for rows in blocks:
            backpropagate(network.ops, rows, every)
            objective.add_gradient(rows, every)
        return objective.loss_and_gradient(every)

    def evaluate(x: FloatArray) -> tuple[float, FloatArray]:
        objective.set_parameters(x)
        return loss_and_gradient()

    # A collective: every shard takes part, though only the leader needs the result.
    start = objective.parameters()
    if network.leader.is_here:
        result = minimize(
            evaluate,
            start,
            method="L-BFGS-B",
            jac=True,
            options={
                "maxfun": options.max_fun,
                "maxiter": options.max_iter,
                "gtol": options.tol,
            },
        )
        objective.set_parameters(None)
        return result
    while objective.set_parameters(None):
        loss_and_gradient()
    return None
