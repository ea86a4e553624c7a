"""Training on all rows at once, by scipy's L-BFGS."""

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from scipy.optimize import OptimizeResult
from sklearn.utils import gen_batches

from skdistmlp.nn.types import FloatArray
from skdistmlp.parallel.ops import OpenNetwork
from skdistmlp.training.scipy_lbfgs import (
    Evaluation,
    Iterate,
    LbfgsOptions,
    Search,
    run_scipy,
    search_in_thread,
)
from skdistmlp.training.step import announce, backpropagate

Value = TypeVar("Value")

BLOCK_BYTES = 64 * 2**20
"""Bytes of the activations and deltas of the rows that are computed at a time.
Each block writes the gradient of every parameter once: few large ones are best."""


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
    objective, loss_and_gradient = network.objective, evaluation_of(network, blocks)

    def evaluate(x: FloatArray) -> Evaluation:
        objective.set_parameters(x)
        return loss_and_gradient()

    # A collective: every shard takes part, though only the leader needs the result.
    start = objective.parameters()
    if network.leader.is_here:
        result = run_scipy(evaluate, start, options)
        objective.set_parameters(None)
        return result
    while objective.set_parameters(None):
        loss_and_gradient()
    return None


def evaluation_of(
    network: OpenNetwork[Value], blocks: Sequence[slice]
) -> Callable[[], Evaluation]:
    """Return a function that computes loss and gradient where the parameters are."""
    objective = network.objective
    every = slice(blocks[0].start, blocks[-1].stop)

    def loss_and_gradient() -> Evaluation:
        for rows in announce(network.ops, blocks):
            backpropagate(network.ops, rows, every)
            objective.add_gradient(rows, every)
        return objective.loss_and_gradient(every)

    return loss_and_gradient


class IterativeMinimisation(Generic[Value]):
    """What `minimise` does, with a return after each iteration.

    SciPy makes no pause, so it runs in a thread on the leader. That thread computes
    nothing of the network, and waits while the caller does something else.

    Parameters
    ----------
    network, options, blocks
        As for `minimise`.

    Attributes
    ----------
    iterate : Iterate or None
        Where the last iteration ended. None before the first, and on shards that do
        not lead.
    result : OptimizeResult or None
        What `minimise` returns, once `advance` has returned False.
    """

    def __init__(
        self,
        network: OpenNetwork[Value],
        options: LbfgsOptions,
        blocks: Sequence[slice],
    ) -> None:
        self._network = network
        self._loss_and_gradient = evaluation_of(network, blocks)
        self._search: Search | None = None
        # Where SciPy wants to know the loss next, on the leader.
        self._x: FloatArray | None = None
        self.iterate: Iterate | None = None
        self.result: OptimizeResult | None = None
        # A collective: every shard takes part, though only the leader needs the result.
        start = network.objective.parameters()
        if network.leader.is_here:
            self._search = search_in_thread(start, options)
            self._x = next(self._search).x

    def advance(self) -> bool:
        """Go to the end of an iteration after which another one begins.

        Whether the last iteration was the last turns out when SciPy asks for no more,
        so an iteration is reported when the first evaluation of the next is due. The
        shards still have the parameters of its end then.

        Returns
        -------
        bool
            Whether there is such an iteration; False at the end. The same on every
            shard.
        """
        while self._network.objective.set_parameters(self._x):
            evaluation, ended = self._loss_and_gradient(), None
            if self._search is not None:
                ended = self._answer(self._search, evaluation)
            if self._network.leader.decides(ended is not None):
                self.iterate = ended
                return True
        return False

    def _answer(self, search: Search, evaluation: Evaluation) -> Iterate | None:
        """Tell SciPy what it asked for; return the iteration that it has ended."""
        try:
            request = search.send(evaluation)
        except StopIteration as stop:
            self._x, self.result = None, stop.value
            return None
        self._x = request.x
        return request.ended

    def close(self) -> None:
        """End SciPy's thread, wherever it is."""
        if self._search is not None:
            self._search.close()
