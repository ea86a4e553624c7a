"""What every shard group must do, whichever engine it belongs to.

`check_shard_group` drives a group through epochs, predictions and the best
weights, and compares it with `PlainNetwork`, a network of whole arrays that is
put together from scikit-learn's own functions and optimisers.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.neural_network._base import ACTIVATIONS, DERIVATIVES, LOSS_FUNCTIONS
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer

from skdistmlp.nn.optimizers import Adam, Sgd, init
from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.group import ShardGroup
from skdistmlp.parallel.shard import Network, ShardState
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.training.step import predict_blocks, training_step

GroupFactory = Callable[
    [Network, ShardState, Dataset, int], AbstractContextManager[ShardGroup[Any]]
]
"""From a network, the state of all of it, the rows, and the most rows of a step
or block. `collect` of the group that it gives must return the state of the
whole network. The state is the group's own, to be changed in place."""


STEADY_ADAM = Adam(epsilon=1e-4)
"""Adam divides a gradient by its own size: one that is nothing but rounding errors
becomes a step of full length unless epsilon is far above them."""


@dataclass(frozen=True)
class Problem:
    """A network, where its training begins, and the rows to train on."""

    network: Network
    initial: ShardState
    dataset: Dataset

    def start(self) -> ShardState:
        """Return a copy of the state at the beginning, free to be written to."""
        return deepcopy(self.initial)


def make_problem(
    split: NetworkSplit,
    activation: str = "relu",
    output: str = "softmax",
    rule: Sgd | Adam = STEADY_ADAM,
    *,
    alpha: float = 0.1,
    weighted: bool = False,
    dtype: type = np.float64,
    n_rows: int = 20,
    seed: int = 0,
) -> Problem:
    """Draw weights, features, targets and, if wanted, sample weights."""
    rng = np.random.default_rng(seed)
    n_features, n_outputs = split.layer_units[0], split.layer_units[-1]
    parameters = rng.uniform(-1, 1, split.n_parameters).astype(dtype)
    X = rng.normal(size=(n_rows, n_features)).astype(dtype)
    if output == "softmax":
        y = np.eye(n_outputs, dtype=bool)[rng.integers(n_outputs, size=n_rows)]
    else:
        y = rng.random((n_rows, n_outputs)) < 0.5
    weight = rng.uniform(0.1, 3, n_rows).astype(dtype) if weighted else None
    state = ShardState(parameters, init(rule, parameters))
    return Problem(
        Network(split, activation, output, alpha), state, Dataset(X, y, weight)
    )


class PlainNetwork:
    """The same training without shards, flat arrays, blocks or buffers."""

    def __init__(self, problem: Problem) -> None:
        self._network = problem.network
        self._dataset = problem.dataset
        layers = problem.network.split.whole().views(problem.initial.parameters.copy())
        self._coefs, self._intercepts = layers
        self._optimizer = _sklearn_optimizer(
            problem.initial.optimizer.rule, self._coefs + self._intercepts
        )

    @property
    def parameters(self) -> np.ndarray:
        """All coefficients, then all intercepts."""
        return np.concatenate([a.ravel() for a in self._coefs + self._intercepts])

    def activations(self, X: np.ndarray) -> list[np.ndarray]:
        """Return the features, the values of every hidden layer, the outputs."""
        network = self._network
        values = [X]
        names = [network.activation] * (len(self._coefs) - 1) + [network.output]
        for name, coef, intercept in zip(
            names, self._coefs, self._intercepts, strict=True
        ):
            z = values[-1] @ coef + intercept
            ACTIVATIONS[name](z)
            values.append(z)
        return values

    def outputs(self, rows: Any) -> np.ndarray:
        """Return predictions for `rows`."""
        return self.activations(self._dataset.X[rows])[-1]

    def step(self, rows: Any, learning_rate: float) -> float:
        """Take a step; return the loss before it times the number of rows."""
        data, network = self._dataset, self._network
        y = data.y[rows]
        weight = np.ones(len(y))
        if data.sample_weight is not None:
            weight = data.sample_weight[rows]
        values = self.activations(data.X[rows])
        name = {"softmax": "log_loss", "logistic": "binary_log_loss"}[network.output]
        loss = LOSS_FUNCTIONS[name](y, values[-1], weight)
        norm = sum(np.sum(coef**2) for coef in self._coefs)
        loss += network.alpha / 2 * norm / weight.sum()

        delta = (values[-1] - y) * weight[:, np.newaxis] / weight.sum()
        coef_gradients, intercept_gradients = [], []
        for value, coef in zip(values[-2::-1], self._coefs[::-1], strict=True):
            penalty = network.alpha / weight.sum() * coef
            coef_gradients.insert(0, value.T @ delta + penalty)
            intercept_gradients.insert(0, delta.sum(axis=0))
            delta = delta @ coef.T
            DERIVATIVES[network.activation](value, delta)

        if isinstance(self._optimizer, AdamOptimizer):
            self._optimizer.learning_rate_init = learning_rate
        else:
            self._optimizer.learning_rate = learning_rate
        self._optimizer.update_params(
            self._coefs + self._intercepts, coef_gradients + intercept_gradients
        )
        return loss * len(y)


def _sklearn_optimizer(
    rule: Sgd | Adam, parameters: list[np.ndarray]
) -> SGDOptimizer | AdamOptimizer:
    if isinstance(rule, Sgd):
        return SGDOptimizer(parameters, momentum=rule.momentum, nesterov=rule.nesterov)
    return AdamOptimizer(
        parameters, beta_1=rule.beta_1, beta_2=rule.beta_2, epsilon=rule.epsilon
    )


Batches = Sequence[tuple[Any, float]]
"""Rows and the learning rate of each step."""


def epochs_of(n_rows: int) -> tuple[Batches, Batches, Batches]:
    """Cut `n_rows` into three different epochs whose last mini-batches are smaller.

    The last is cut into ranges, the others into indices.
    """
    rng = np.random.default_rng(0)
    bounds = list(pairwise([*range(0, n_rows, max(1, n_rows // 3)), n_rows]))
    first, second = rng.permutation(n_rows), rng.permutation(n_rows)
    return (
        [(first[slice(*b)], 0.01) for b in bounds],
        [(second[slice(*b)], 0.01 / (i + 2)) for i, b in enumerate(bounds)],
        [(slice(*b), 0.02) for b in bounds],
    )


def train_epoch(group: ShardGroup[Any], batches: Batches) -> float:
    """Take the steps of one epoch; return its summed loss."""
    for rows, learning_rate in batches:
        training_step(group, rows, learning_rate)
    return group.epoch_loss()


def check_shard_group(make_group: GroupFactory, problem: Problem) -> list[np.ndarray]:
    """Assert the contract of `ShardGroup` on a problem with a few rows.

    Shards among peers each run this in step, with a group whose `collect` joins
    what all hold. What is returned must have the same bits on all of them.

    Parameters
    ----------
    make_group : callable
        Gives a context manager around the group; see `GroupFactory`.
    problem : Problem
        See `make_problem`.

    Returns
    -------
    list of ndarray
        Every loss and every prediction.
    """
    return [
        *_check_training(make_group, problem),
        *_check_going_on(make_group, problem),
        *_check_best(make_group, problem),
        *_check_predicting_only(make_group, problem),
    ]


def _group(make_group: GroupFactory, problem: Problem, state: ShardState) -> Any:
    data = problem.dataset
    return make_group(problem.network, state, data, len(data.X))


def _blocks(problem: Problem) -> list[Any]:
    """Blocks of different lengths, as early stopping and predict forward them."""
    n_rows = len(problem.dataset.X)
    return [
        np.array([n_rows - 1, 0, 0]),
        slice(0, n_rows // 2),
        slice(n_rows // 2, n_rows),
        *np.arange(n_rows)[:6, np.newaxis],
    ]


def _assert_close(problem: Problem, found: Any, expected: Any) -> None:
    if problem.initial.parameters.dtype == np.float32:
        assert_allclose(found, expected, rtol=2e-5, atol=2e-5)
    else:
        assert_allclose(found, expected, rtol=1e-10, atol=1e-10)


def _predictions(
    group: ShardGroup[Any], problem: Problem, plain: PlainNetwork
) -> np.ndarray:
    blocks = _blocks(problem)
    found = predict_blocks(group, blocks)
    expected = np.concatenate([plain.outputs(rows) for rows in blocks])
    assert found.dtype == problem.initial.parameters.dtype
    _assert_close(problem, found, expected)
    return found


def _collected(group: ShardGroup[Any], problem: Problem) -> ShardState:
    """Return a copy of the state, which the group may go on changing."""
    state = deepcopy(group.collect())
    assert state.parameters.shape == problem.initial.parameters.shape
    assert state.parameters.dtype == problem.initial.parameters.dtype
    return state


def _check_training(make_group: GroupFactory, problem: Problem) -> list[np.ndarray]:
    """Steps, losses of each epoch alone, predictions between epochs."""
    plain = PlainNetwork(problem)
    seen = []
    with _group(make_group, problem, problem.start()) as group:
        assert group.layers == range(len(problem.network.split.layer_units) - 1)
        n_steps = 0
        for batches in epochs_of(len(problem.dataset.X)):
            loss = train_epoch(group, batches)
            assert type(loss) is float
            expected = sum(plain.step(*batch) for batch in batches)
            _assert_close(problem, loss, expected)
            assert group.epoch_loss() == 0.0, "no step was taken since the last call"
            seen += [np.array(loss), _predictions(group, problem, plain)]
            n_steps += len(batches)
        state = _collected(group, problem)
    _assert_close(problem, state.parameters, plain.parameters)
    assert state.optimizer is not None
    assert state.optimizer.n_steps == n_steps
    assert state.optimizer.rule == problem.initial.optimizer.rule
    return seen


def _check_going_on(make_group: GroupFactory, problem: Problem) -> list[np.ndarray]:
    """A state that was collected goes on, moments included, in another group."""
    plain = PlainNetwork(problem)
    seen, state = [], problem.start()
    for batches in epochs_of(len(problem.dataset.X)):
        with _group(make_group, problem, state) as group:
            loss = train_epoch(group, batches)
            state = _collected(group, problem)
        _assert_close(problem, loss, sum(plain.step(*batch) for batch in batches))
        _assert_close(problem, state.parameters, plain.parameters)
        seen.append(np.array(loss))
    return seen


def _check_best(make_group: GroupFactory, problem: Problem) -> list[np.ndarray]:
    """The last weights kept come back; training does not change them meanwhile."""
    first, second, third = epochs_of(len(problem.dataset.X))
    plain = PlainNetwork(problem)
    with _group(make_group, problem, problem.start()) as group:
        group.restore_best()
        _assert_close(problem, _collected(group, problem).parameters, plain.parameters)
        group.keep_best()
        train_epoch(group, first)
        assert group.agree(0.25) == 0.25
        kept = _collected(group, problem).parameters
        assert not np.array_equal(kept, problem.initial.parameters)
        group.keep_best()
        seen = [np.array(train_epoch(group, second))]
        assert not np.array_equal(_collected(group, problem).parameters, kept)
        for _ in range(2):
            group.restore_best()
            assert_array_equal(_collected(group, problem).parameters, kept)
            seen.append(np.array(train_epoch(group, third)))
        group.restore_best()
        for rows, rate in first:
            plain.step(rows, rate)
        seen.append(_predictions(group, problem, plain))
    return seen


def _check_predicting_only(
    make_group: GroupFactory, problem: Problem
) -> list[np.ndarray]:
    """Without targets and moments there is still predicting, from untouched weights."""
    bare = replace(problem, dataset=Dataset(problem.dataset.X))
    with _group(make_group, bare, ShardState(problem.start().parameters)) as group:
        seen = _predictions(group, problem, PlainNetwork(problem))
        state = _collected(group, problem)
    assert state.optimizer is None
    assert_array_equal(state.parameters, problem.initial.parameters)
    return [seen]
