"""Update rules: the hyperparameters of an optimiser, and its arithmetic on one block.

To add one, write an `UpdateRule` and enter it in `UPDATE_RULES`, which is the only
place that maps names of solvers to them. `skdistmlp.nn.optimizers` walks over the
parameters and keeps what a rule remembers.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Protocol, Self

import numpy as np

from skdistmlp.nn import compiled
from skdistmlp.nn.types import FloatArray


class Block(NamedTuple):
    """Some of the parameters, and what belongs to them.

    Attributes
    ----------
    parameters : ndarray of shape (n_parameters,)
        Overwritten with their next values.
    gradient : ndarray of shape (n_parameters,)
        Of the loss without the penalty; only read.
    moments : tuple of ndarray of shape (n_parameters,)
        What the rule remembers; overwritten.
    scratch : tuple of two ndarray of shape (n_parameters,)
        May be overwritten.
    n_coefs : int
        Number of parameters, from the start, that are coefficients, not intercepts.
    penalty : float
        ``penalty * w`` is added to the gradient of coefficients: an L2 penalty.
    scale : float
        What the gradient with the penalty is multiplied by.
    """

    parameters: FloatArray
    gradient: FloatArray
    moments: tuple[FloatArray, ...]
    scratch: tuple[FloatArray, FloatArray]
    n_coefs: int = 0
    penalty: float = 0.0
    scale: float = 1.0

    def total_gradient(self) -> FloatArray:
        """Return the gradient with all that happens to it, if need be in `scratch`."""
        total = self.gradient
        if self.penalty and self.n_coefs:
            out, n_coefs = self.scratch[0], self.n_coefs
            np.multiply(self.parameters[:n_coefs], self.penalty, out=out[:n_coefs])
            out[n_coefs:] = 0
            total = np.add(total, out, out=out)
        if self.scale != 1:
            total = np.multiply(total, self.scale, out=self.scratch[0])
        return total

    def run(
        self, kernel: compiled.Kernel, *numbers: float, decays: bool = False
    ) -> None:
        """Take the step by compiled code, which does all in one pass.

        `decays` says that coefficients are treated otherwise than intercepts even
        without a penalty.
        """
        numbers = (self.penalty, self.scale, *numbers)
        kernel(
            self.parameters,
            self.gradient,
            *self.moments,
            self.n_coefs if self.penalty or decays else 0,
            *np.array(numbers, self.parameters.dtype),
        )


class UpdateRule(Protocol):
    """An optimiser's hyperparameters and its arithmetic on one block.

    Attributes
    ----------
    n_moments : int
        Number of arrays, each shaped like the parameters, that it keeps.
    has_schedule : bool
        Whether scikit-learn's schedules of the learning rate apply to it.
    """

    n_moments: ClassVar[int]
    has_schedule: ClassVar[bool]

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Self:
        """Build the rule from an estimator's parameters, by their names."""

    def update_block(self, block: Block, learning_rate: float, n_steps: int) -> None:
        """Take step number `n_steps` (from 1) on one block, in place."""


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

    def update_block(self, block: Block, learning_rate: float, n_steps: int) -> None:
        """Take one step in place; see `UpdateRule`."""
        (velocity,) = block.moments
        room = block.scratch[1]
        descent = np.multiply(block.total_gradient(), learning_rate, out=room)
        velocity *= self.momentum
        velocity -= descent
        parameters = block.parameters
        if self.nesterov:
            parameters -= descent
            parameters += np.multiply(velocity, self.momentum, out=room)
        else:
            parameters += velocity


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

    def update_block(self, block: Block, learning_rate: float, n_steps: int) -> None:
        """Take one step in place; see `UpdateRule`."""
        bias_correction = (1 - self.beta_2**n_steps) ** 0.5 / (1 - self.beta_1**n_steps)
        root_scale = (1 - self.beta_2) ** 0.5
        step = learning_rate * bias_correction * (1 - self.beta_1) / root_scale
        epsilon = self.epsilon / root_scale
        decay = self._decay(learning_rate)
        kernel = compiled.compiled(compiled.adam, block.parameters.size)
        if kernel is not None:
            numbers = decay, self.beta_1, self.beta_2, epsilon, step
            block.run(kernel, *numbers, decays=decay != 1)
            return
        (first, second), parameters = block.moments, block.parameters
        gradient, room = block.total_gradient(), block.scratch[1]
        if decay != 1:
            parameters[: block.n_coefs] *= decay
        first *= self.beta_1
        first += gradient
        second *= self.beta_2
        second += np.multiply(gradient, gradient, out=room)
        np.sqrt(second, out=room)
        room += epsilon
        np.divide(first, room, out=room)
        room *= step
        parameters -= room

    def _decay(self, learning_rate: float) -> float:
        """Return what coefficients are multiplied by before the step."""
        return 1.0


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019, algorithm 2).

    Coefficients shrink by ``learning_rate * weight_decay`` of themselves in each step;
    intercepts do not. As in torch's ``AdamW``, the learning rate is that of the step.
    """

    weight_decay: float = 0.01

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Self:
        """Build the rule from Adam's parameters and ``weight_decay``."""
        names = "beta_1", "beta_2", "epsilon", "weight_decay"
        return cls(*(float(params[name]) for name in names))

    def _decay(self, learning_rate: float) -> float:
        """Return what coefficients are multiplied by before the step."""
        return 1 - learning_rate * self.weight_decay


@dataclass(frozen=True)
class RMSprop:
    """RMSprop (Tieleman and Hinton, 2012): Adam's second moment, and no first.

    ``v <- rho v + (1 - rho) g^2``, then
    ``w <- w - learning_rate g / (sqrt(v) + epsilon)``; the moment is kept divided by
    ``1 - rho``, as in `Adam`.

    Notes
    -----
    torch's ``RMSprop`` with its default momentum of zero.
    """

    rho: float = 0.99
    epsilon: float = 1e-8
    n_moments: ClassVar[int] = 1
    has_schedule: ClassVar[bool] = False

    @classmethod
    def from_params(cls, params: Mapping[str, Any]) -> Self:
        """Build the rule from ``rho`` and ``epsilon``."""
        return cls(float(params["rho"]), float(params["epsilon"]))

    def update_block(self, block: Block, learning_rate: float, n_steps: int) -> None:
        """Take one step in place; see `UpdateRule`."""
        root_scale = (1 - self.rho) ** 0.5
        epsilon, step = self.epsilon / root_scale, learning_rate / root_scale
        kernel = compiled.compiled(compiled.rmsprop, block.parameters.size)
        if kernel is not None:
            block.run(kernel, self.rho, epsilon, step)
            return
        (second,), parameters = block.moments, block.parameters
        gradient, room = block.total_gradient(), block.scratch[1]
        second *= self.rho
        second += np.multiply(gradient, gradient, out=room)
        np.sqrt(second, out=room)
        room += epsilon
        np.divide(gradient, room, out=room)
        room *= step
        parameters -= room


MOMENTUM_DECAY = 0.004
"""How soon the momentum of `NAdam` rises from half of ``beta_1`` to all of it."""


@dataclass(frozen=True)
class NAdam(Adam):
    """Adam with Nesterov's momentum (Dozat, 2016), which rises with the steps.

    ``mu_t = beta_1 (1 - 0.96^(0.004 t) / 2)`` and, with m and v as in Adam,
    ``w <- w - learning_rate ((1 - mu_t) g / (1 - prod mu_1..t)
    + mu_t+1 m / (1 - prod mu_1..t+1)) / (sqrt(v / (1 - beta_2^t)) + epsilon)``. The
    moments are kept as in `Adam`.

    Notes
    -----
    torch's ``NAdam`` with its default ``momentum_decay``.
    """

    def update_block(self, block: Block, learning_rate: float, n_steps: int) -> None:
        """Take one step in place; see `UpdateRule`."""
        root_scale = ((1 - self.beta_2) / (1 - self.beta_2**n_steps)) ** 0.5
        epsilon = self.epsilon / root_scale
        product = self._product(n_steps)
        momentum, following = self._momentum(n_steps), self._momentum(n_steps + 1)
        rate = learning_rate / root_scale
        of_gradient = rate * (1 - momentum) / (1 - product)
        of_first = rate * following * (1 - self.beta_1) / (1 - product * following)
        kernel = compiled.compiled(compiled.nadam, block.parameters.size)
        if kernel is not None:
            betas = self.beta_1, self.beta_2
            block.run(kernel, *betas, epsilon, of_gradient, of_first)
            return
        (first, second), parameters = block.moments, block.parameters
        gradient, room = block.total_gradient(), block.scratch[1]
        first *= self.beta_1
        first += gradient
        second *= self.beta_2
        second += np.multiply(gradient, gradient, out=room)
        # The gradient is no longer needed: its room is free for the direction.
        direction = np.multiply(gradient, of_gradient, out=block.scratch[0])
        np.multiply(first, of_first, out=room)
        direction += room
        np.sqrt(second, out=room)
        room += epsilon
        np.divide(direction, room, out=room)
        parameters -= room

    def _momentum(self, step: int) -> float:
        return float(self.beta_1 * (1 - 0.5 * 0.96 ** (step * MOMENTUM_DECAY)))

    def _product(self, n_steps: int) -> float:
        """Return the product of the momenta of all steps so far.

        Once it is too small to change one minus itself, the rest does not matter: with
        the default ``beta_1`` after some 50 steps.
        """
        product = 1.0
        for step in range(1, n_steps + 1):
            product *= self._momentum(step)
            if product < np.finfo(np.float64).eps / 4:
                return 0.0
        return product


UPDATE_RULES: Mapping[str, type[UpdateRule]] = MappingProxyType(
    {"sgd": Sgd, "adam": Adam, "adamw": AdamW, "rmsprop": RMSprop, "nadam": NAdam}
)
"""Update rules by the names of the solvers, scikit-learn's where it has them. A solver
that is not here, "lbfgs", does not train in epochs of mini-batches."""
