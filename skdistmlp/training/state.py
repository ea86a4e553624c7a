"""Everything that training changes, as one value."""

from copy import deepcopy
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import OptimizeResult

from skdistmlp.nn.types import FloatArray
from skdistmlp.parallel.shard import ShardState


@dataclass(frozen=True)
class TrainingState:
    """Everything that training changes, between two epochs.

    An epoch is a function from state to state. A snapshot may be pickled, and training
    continued from it in another process, on another engine or on another number of
    shards: with the same bits on the same plan, equal to rounding on another.

    Training does not copy arrays: those of `network`, and `random_state`, are updated
    in place, so only the latest state is valid while it runs (see `copy`).

    Attributes
    ----------
    network : ShardState
        Parameters, optimiser and best parameters: of the whole network, or of one
        shard while that shard trains. None where the parameters have yet to be drawn;
        while "futures" trains, what fetches it.
    random_state : RandomState
        Draws the initial parameters, then the seed of dropout if there is any, then
        the held-out rows, then the shuffles; but for dropout as in scikit-learn.
    progress : Progress, LbfgsProgress or None
        How far training has come; None for "lbfgs" before the end of an iteration, and
        on shards that do not lead.
    row_order : ndarray of int, shape (n_training_rows,), or None
        Indices of the rows to train on, in the order of the last epoch: shuffles
        accumulate. None before the first epoch, and for "lbfgs".
    held_out : ndarray of int, shape (n_held_out_rows,), or None
        Indices of the rows held out for early stopping.
    outcome : Outcome, OptimizeResult or None
        Why training ended, or what SciPy's L-BFGS found on the leader; None while
        training continues.
    iterate : ndarray of float64, shape (n_parameters,), or None
        At a pause of "lbfgs", the parameters of the whole network, on the leader: in
        SciPy's precision, which may be more than that of `network`. What SciPy knows
        besides cannot be taken out of it, so training from here begins L-BFGS again.
    """

    network: Any
    random_state: np.random.RandomState = field(repr=False)
    progress: Any = None
    row_order: NDArray[np.intp] | None = field(default=None, repr=False)
    held_out: NDArray[np.intp] | None = field(default=None, repr=False)
    outcome: Any = None
    iterate: FloatArray | None = field(default=None, repr=False)

    def copy(self) -> "TrainingState":
        """Return the same state in arrays that training does not write to.

        The row indices need no copy: each shuffle makes a new array.
        """
        return replace(
            self,
            network=self.network.copy(),
            random_state=deepcopy(self.random_state),
            iterate=None if self.iterate is None else self.iterate.copy(),
        )

    def without_arrays(self) -> "TrainingState":
        """Return how far training has come, without what it needs to go on."""
        return replace(self, network=None, row_order=None, held_out=None, iterate=None)

    def as_if_ended(self) -> "TrainingState":
        """Return what training ends with: the best parameters, or what L-BFGS found."""
        if isinstance(self.outcome, OptimizeResult):
            return replace(self, network=ShardState(self.outcome.x))
        if self.iterate is not None:
            return replace(self, network=ShardState(self.iterate), iterate=None)
        best = self.network.best
        if best is None:
            return self
        return replace(self, network=replace(self.network, parameters=best))
