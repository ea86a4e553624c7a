"""Optimisers: a frozen rule, and a state that is a value shaped like the parameters.

``init`` makes the state, ``update`` takes one step. Parameters, gradients and
moments are flat arrays; ``update`` walks over them in blocks that stay in the
processor's cache and writes in place, so a caller who has to keep the old
values passes copies. Slicing the flat arrays and updating commute.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from skdistmlp.nn import compiled
from skdistmlp.nn.types import FloatArray
from skdistmlp.nn.update_rules import Block, UpdateRule

BLOCK_BYTES = 256 * 1024
"""Bytes of each array that an update works on at a time. Of 16, 32, 64, 128,
256 and 512 KiB, 256 was the fastest with one thread on 5.8 M parameters: 8.4 ms,
against 16.6 at 16 KiB (``python -m benchmarks optimizer``)."""

LANES = 256
"""Partial sums of a squared norm: many, so that processors can add several at a time in
an order that NumPy and compiled code share, and so that each has few terms."""


@dataclass(frozen=True)
class OptimizerState:
    """A rule, its moments and the number of its steps so far.

    Attributes
    ----------
    rule : UpdateRule
        The hyperparameters that the state began with; they apply as long as
        training continues, as in scikit-learn's ``partial_fit``.
    moments : tuple of ndarray of shape (n_parameters,)
        Velocities, or first and second moments, as `rule` keeps them.
    n_steps : int
        Steps taken.
    ema_decay : float or None
        With it, an exponential moving average of the parameters is kept.
    average : ndarray of shape (n_parameters,), or None
        That average: ``average <- ema_decay average + (1 - ema_decay) w`` after every
        step but the first, which copies.
    """

    rule: UpdateRule
    moments: tuple[FloatArray, ...] = field(repr=False)
    n_steps: int = 0
    ema_decay: float | None = None
    average: FloatArray | None = field(default=None, repr=False)

    @property
    def arrays(self) -> tuple[FloatArray, ...]:
        """The moments, and the average if there is one."""
        return self.moments if self.average is None else (*self.moments, self.average)

    def with_arrays(self, arrays: Sequence[FloatArray]) -> "OptimizerState":
        """Return the same state with others in place of `arrays`, in their order."""
        if self.average is None:
            return replace(self, moments=tuple(arrays))
        *moments, average = arrays
        return replace(self, moments=tuple(moments), average=average)


def init(
    rule: UpdateRule, parameters: FloatArray, ema_decay: float | None = None
) -> OptimizerState:
    """Return the state of `rule` before its first step on `parameters`."""
    moments = tuple(np.zeros_like(parameters) for _ in range(rule.n_moments))
    average = None if ema_decay is None else parameters.copy()
    return OptimizerState(rule, moments, 0, ema_decay, average)


def update(
    state: OptimizerState,
    parameters: FloatArray,
    gradient: FloatArray,
    learning_rate: float,
    *,
    n_coefs: int = 0,
    penalty: float = 0.0,
    scale: float = 1.0,
    scratch: FloatArray | None = None,
) -> tuple[OptimizerState, float]:
    """Take one step.

    Parameters
    ----------
    state : OptimizerState
        Its arrays are overwritten.
    parameters : ndarray of shape (n_parameters,)
        Overwritten with the next values.
    gradient : ndarray of shape (n_parameters,)
        Only read: writing to it too would cost memory bandwidth.
    learning_rate : float
        The rate of this step, before Adam's bias correction.
    n_coefs : int
        Number of parameters, from the start, that are coefficients, not intercepts:
        they carry the L2 penalty, and weight decay.
    penalty : float
        ``penalty * w`` is added to the gradient of coefficients.
    scale : float
        What the gradient, with the penalty's, is multiplied by.
    scratch : ndarray of shape (2, block_size(parameters)), optional
        Room for temporaries, which saves an allocation per step.

    Returns
    -------
    state : OptimizerState
        With the same arrays and one more step.
    squared_norm : float
        The sum of squares of the coefficients before the step; 0.0 without a penalty.
    """
    n_steps = state.n_steps + 1
    if scratch is None:
        scratch = new_scratch(parameters)
    squared_norm = 0.0
    for part in _blocks(parameters):
        w = parameters[part]
        n_here = max(0, min(part.stop, n_coefs) - part.start)
        if penalty:
            squared_norm += float(np.dot(w[:n_here], w[:n_here]))
        block = Block(
            w,
            gradient[part],
            tuple(moment[part] for moment in state.moments),
            (scratch[0, : w.size], scratch[1, : w.size]),
            n_here,
            penalty if n_here else 0.0,
            scale,
        )
        state.rule.update_block(block, learning_rate, n_steps)
        if state.average is not None:
            assert state.ema_decay is not None
            _add_to_average(
                state.average[part], w, state.ema_decay, n_steps, block.scratch[0]
            )
    return replace(state, n_steps=n_steps), squared_norm


def _add_to_average(
    average: FloatArray, w: FloatArray, decay: float, n_steps: int, room: FloatArray
) -> None:
    if n_steps == 1:
        np.copyto(average, w)
        return
    np.subtract(w, average, out=room)
    room *= 1 - decay
    average += room


def squared_gradient_norm(
    parameters: FloatArray,
    gradient: FloatArray,
    n_coefs: int,
    penalty: float,
    scratch: FloatArray | None = None,
) -> float:
    """Return the sum of squares of a gradient, with that of an L2 penalty.

    Parameters
    ----------
    parameters, gradient : ndarray of shape (n_parameters,)
        Only read; the gradient is that of the loss without the penalty.
    n_coefs, penalty, scratch
        See `update`.
    """
    if scratch is None:
        scratch = new_scratch(parameters)
    total = 0.0
    kernel = compiled.compiled(compiled.squares, parameters.size)
    lanes = np.empty(LANES, parameters.dtype)
    for part in _blocks(parameters):
        w = parameters[part]
        n_here = max(0, min(part.stop, n_coefs) - part.start)
        rooms = scratch[0, : w.size], scratch[1, : w.size]
        block = Block(w, gradient[part], (), rooms, n_here, penalty)
        if kernel is not None:
            n_penalized = n_here if penalty else 0
            kernel(w, block.gradient, n_penalized, w.dtype.type(penalty), lanes)
        else:
            values = block.total_gradient()
            _sum_by_lane(np.multiply(values, values, out=rooms[1]), lanes)
        total += float(lanes.sum(dtype=np.float64))
    return total


def _sum_by_lane(values: FloatArray, lanes: FloatArray) -> None:
    """Write to lane i the sum of ``values[i], values[i + LANES], ...``, in order."""
    n_rows = values.size // LANES
    # Along the first axis NumPy adds row after row, and not pairwise.
    np.add.reduce(values[: n_rows * LANES].reshape(n_rows, LANES), axis=0, out=lanes)
    rest = values[n_rows * LANES :]
    lanes[: rest.size] += rest


def clipping_scale(squared_norm: float, max_norm: float) -> float:
    """Return what to multiply a gradient by, so that its norm is at most `max_norm`.

    As torch's ``clip_grad_norm_``: ``min(1, max_norm / (norm + 1e-6))``.
    """
    return min(1.0, max_norm / (squared_norm**0.5 + 1e-6))


def new_scratch(parameters: FloatArray) -> FloatArray:
    """Return room for the temporaries of an update."""
    return np.empty((2, block_size(parameters)), parameters.dtype)


def block_size(parameters: FloatArray) -> int:
    """Return the number of parameters that `update` works on at a time."""
    return max(1, min(parameters.size, BLOCK_BYTES // parameters.itemsize))


def _blocks(parameters: FloatArray) -> Iterator[slice]:
    block = block_size(parameters)
    for start in range(0, parameters.size, block):
        yield slice(start, min(start + block, parameters.size))
