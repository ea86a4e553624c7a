"""Optimisers: a frozen rule, and a state that is a value shaped like the parameters.

``init`` makes the state, ``update`` takes one step. Parameters, gradients and
moments are flat arrays; ``update`` walks over them in blocks that stay in the
processor's cache and writes in place, so a caller who has to keep the old
values passes copies. Slicing the flat arrays and updating commute.

To add an optimiser, write an `UpdateRule` and enter it in `UPDATE_RULES`, which is
the only place that maps names of solvers to them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np

from skdistmlp.nn.compiled import Kernel, adam_kernel
from skdistmlp.nn.types import FloatArray

BLOCK_BYTES = 256 * 1024
"""Bytes of each array that an update works on at a time. Of 16, 32, 64, 128,
256 and 512 KiB, 256 was the fastest with one thread on 5.8 M parameters: 8.4 ms,
against 16.6 at 16 KiB (``python -m benchmarks optimizer``)."""


class BlockUpdate(Protocol):
    """The arithmetic of one step on one block of parameters."""

    def update_block(
        self,
        parameters: FloatArray,
        gradient: FloatArray,
        moments: tuple[FloatArray, ...],
        learning_rate: float,
        n_steps: int,
        scratch: FloatArray,
    ) -> None:
        """Take step number `n_steps` (from 1) on one block, in place.

        `parameters` and `moments` are overwritten with their next values.
        `scratch` has the same size and may be overwritten; it may hold the
        gradient, which is otherwise only read.
        """


class UpdateRule(BlockUpdate, Protocol):
    """An optimiser's hyperparameters and its arithmetic on one block.

    Attributes
    ----------
    n_moments : int
        Number of arrays, each shaped like the parameters, that it keeps.
    has_schedule : bool
        Whether its learning rate follows a schedule, as scikit-learn's parameter
        ``learning_rate`` has it; otherwise the rate is constant.
    """

    n_moments: ClassVar[int]
    has_schedule: ClassVar[bool]

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Self:
        """Build the rule from an estimator's parameters, by their names."""

    def with_l2(self, penalty: float, n_penalised: int) -> BlockUpdate:
        """Return the step with an L2 penalty: `L2` around it, or something better.

        The first `n_penalised` parameters of the block, the coefficients, carry it.
        """


@dataclass(frozen=True)
class Sgd:
    """Stochastic gradient descent with momentum.

    ``v <- momentum * v - learning_rate * g``, then ``w <- w + v``, or with
    Nesterov's momentum ``w <- w + momentum * v - learning_rate * g``.

    Notes
    -----
    ``SGDOptimizer`` in ``sklearn.neural_network._stochastic_optimizers``.
    """

    momentum: float = 0.9
    nesterov: bool = True
    n_moments: ClassVar[int] = 1
    has_schedule: ClassVar[bool] = True

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Self:
        """Build the rule from ``momentum`` and ``nesterovs_momentum``."""
        return cls(float(params["momentum"]), bool(params["nesterovs_momentum"]))

    def update_block(
        self,
        parameters: FloatArray,
        gradient: FloatArray,
        moments: tuple[FloatArray, ...],
        learning_rate: float,
        n_steps: int,
        scratch: FloatArray,
    ) -> None:
        """Take one step in place; see `UpdateRule`."""
        (velocity,) = moments
        descent = np.multiply(gradient, learning_rate, out=scratch)
        velocity *= self.momentum
        velocity -= descent
        if self.nesterov:
            parameters -= descent
            parameters += np.multiply(velocity, self.momentum, out=scratch)
        else:
            parameters += velocity

    def with_l2(self, penalty: float, n_penalised: int) -> BlockUpdate:
        """Return the step with an L2 penalty; see `UpdateRule`."""
        return L2(self, penalty, n_penalised)


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba, 2014, algorithm 1, in the order of its section 2).

    The moments are kept divided by ``1 - beta``, which saves two passes over
    memory: ``m' = beta_1 m' + g``, ``v' = beta_2 v' + g^2``. The step
    ``w <- w - learning_rate_t m / (sqrt(v) + epsilon)`` is then the same, with
    both constants rescaled.

    Notes
    -----
    ``AdamOptimizer`` in ``sklearn.neural_network._stochastic_optimizers``.
    """

    beta_1: float = 0.9
    beta_2: float = 0.999
    epsilon: float = 1e-8
    n_moments: ClassVar[int] = 2
    has_schedule: ClassVar[bool] = False

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Self:
        """Build the rule from ``beta_1``, ``beta_2`` and ``epsilon``."""
        return cls(*(float(params[name]) for name in ("beta_1", "beta_2", "epsilon")))

    def update_block(
        self,
        parameters: FloatArray,
        gradient: FloatArray,
        moments: tuple[FloatArray, ...],
        learning_rate: float,
        n_steps: int,
        scratch: FloatArray,
    ) -> None:
        """Take one step in place; see `UpdateRule`."""
        if (kernel := adam_kernel(parameters.size)) is not None:
            self.run_kernel(
                kernel, parameters, gradient, moments, learning_rate, n_steps
            )
            return
        first, second = moments
        epsilon, step = self._rescaled(learning_rate, n_steps)
        first *= self.beta_1
        first += gradient
        second *= self.beta_2
        second += np.multiply(gradient, gradient, out=scratch)
        np.sqrt(second, out=scratch)
        scratch += epsilon
        np.divide(first, scratch, out=scratch)
        scratch *= step
        parameters -= scratch

    def with_l2(self, penalty: float, n_penalised: int) -> BlockUpdate:
        """Return the step with an L2 penalty; see `UpdateRule`.

        Compiled code adds it on its way, which saves a pass over memory: a tenth to
        a quarter of the time. Not for a subclass, which may do more than that code.
        """
        kernel = adam_kernel(0) if type(self) is Adam else None
        if kernel is None:
            return L2(self, penalty, n_penalised)
        return _CompiledAdam(self, kernel, penalty, n_penalised)

    def run_kernel(
        self,
        kernel: Kernel,
        parameters: FloatArray,
        gradient: FloatArray,
        moments: tuple[FloatArray, ...],
        learning_rate: float,
        n_steps: int,
        n_penalised: int = 0,
        penalty: float = 0.0,
    ) -> None:
        """Take one step by compiled code, which can add an L2 penalty on its way."""
        factors = penalty, self.beta_1, self.beta_2
        numbers = (*factors, *self._rescaled(learning_rate, n_steps))
        kernel(
            parameters,
            gradient,
            *moments,
            n_penalised,
            *np.array(numbers, parameters.dtype),
        )

    def _rescaled(self, learning_rate: float, n_steps: int) -> tuple[float, float]:
        """Return epsilon and the length of the step, for moments as they are kept."""
        bias_correction = (1 - self.beta_2**n_steps) ** 0.5 / (1 - self.beta_1**n_steps)
        root_scale = (1 - self.beta_2) ** 0.5
        step = learning_rate * bias_correction * (1 - self.beta_1) / root_scale
        return self.epsilon / root_scale, step


class _CompiledAdam(NamedTuple):
    """Adam with an L2 penalty in one compiled pass."""

    rule: Adam
    kernel: Kernel
    penalty: float
    n_penalised: int

    def update_block(
        self,
        parameters: FloatArray,
        gradient: FloatArray,
        moments: tuple[FloatArray, ...],
        learning_rate: float,
        n_steps: int,
        scratch: FloatArray,
    ) -> None:
        """Take one step in place; see `UpdateRule`."""
        self.rule.run_kernel(
            self.kernel,
            parameters,
            gradient,
            moments,
            learning_rate,
            n_steps,
            self.n_penalised,
            self.penalty,
        )


class L2(NamedTuple):
    """An L2 penalty around an update rule, which sees nothing of it.

    Attributes
    ----------
    rule : UpdateRule
        What is given the gradient with the penalty's added.
    penalty : float
        ``penalty * w`` is added to the gradient.
    n_penalised : int
        Number of parameters, from the start of the block, that carry it.
    """

    rule: UpdateRule
    penalty: float
    n_penalised: int

    def update_block(
        self,
        parameters: FloatArray,
        gradient: FloatArray,
        moments: tuple[FloatArray, ...],
        learning_rate: float,
        n_steps: int,
        scratch: FloatArray,
    ) -> None:
        """Take one step in place; see `UpdateRule`."""
        n_penalised, penalty = self.n_penalised, self.penalty
        np.multiply(parameters[:n_penalised], penalty, out=scratch[:n_penalised])
        scratch[n_penalised:] = 0
        total = np.add(gradient, scratch, out=scratch)
        self.rule.update_block(
            parameters, total, moments, learning_rate, n_steps, scratch
        )


UPDATE_RULES: Mapping[str, type[UpdateRule]] = MappingProxyType(
    {"sgd": Sgd, "adam": Adam}
)
"""Update rules by scikit-learn's names of the solvers. A solver that is not here,
"lbfgs", does not train in epochs of mini-batches."""


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
    """

    rule: UpdateRule
    moments: tuple[FloatArray, ...] = field(repr=False)
    n_steps: int = 0


def init(rule: UpdateRule, parameters: FloatArray) -> OptimizerState:
    """Return the state of `rule` before its first step on `parameters`."""
    moments = tuple(np.zeros_like(parameters) for _ in range(rule.n_moments))
    return OptimizerState(rule, moments)


def update(
    state: OptimizerState,
    parameters: FloatArray,
    gradient: FloatArray,
    learning_rate: float,
    *,
    n_penalised: int = 0,
    penalty: float = 0.0,
    scratch: FloatArray | None = None,
) -> tuple[OptimizerState, float]:
    """Take one step.

    Parameters
    ----------
    state : OptimizerState
        Its moments are overwritten.
    parameters : ndarray of shape (n_parameters,)
        Overwritten with the next values.
    gradient : ndarray of shape (n_parameters,)
        Only read: writing to it too would cost memory bandwidth.
    learning_rate : float
        The rate of this step, before Adam's bias correction.
    n_penalised : int
        Number of parameters, from the start, that carry an L2 penalty: the
        coefficients, not the intercepts.
    penalty : float
        ``penalty * w`` is added to the gradient of the penalised ones.
    scratch : ndarray of shape (block_size(parameters),), optional
        Room for temporaries, which saves an allocation per step.

    Returns
    -------
    state : OptimizerState
        With the same moment arrays and one more step.
    squared_norm : float
        The sum of squares of the penalised parameters before the step; 0.0
        without a penalty.
    """
    n_steps = state.n_steps + 1
    block = block_size(parameters)
    if scratch is None:
        scratch = np.empty(block, parameters.dtype)
    squared_norm = 0.0
    for start in range(0, parameters.size, block):
        stop = min(start + block, parameters.size)
        w, g = parameters[start:stop], gradient[start:stop]
        room = scratch[: stop - start]
        n_here = max(0, min(stop, n_penalised) - start) if penalty else 0
        squared_norm += float(np.dot(w[:n_here], w[:n_here]))
        moments = tuple(m[start:stop] for m in state.moments)
        step = state.rule.with_l2(penalty, n_here) if n_here else state.rule
        step.update_block(w, g, moments, learning_rate, n_steps, room)
    return replace(state, n_steps=n_steps), squared_norm


def block_size(parameters: FloatArray) -> int:
    """Return the number of parameters that `update` works on at a time."""
    return max(1, min(parameters.size, BLOCK_BYTES // parameters.itemsize))
