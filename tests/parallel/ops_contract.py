"""What every open network must do, whichever engine it belongs to.

`check_network` drives a network through epochs, predictions, the best parameters
and the evaluations of L-BFGS, and compares it with `PlainNetwork`, a network of
whole dense arrays that is put together from scikit-learn's own functions and
optimisers.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array, csr_matrix, issparse
from sklearn.neural_network._base import ACTIVATIONS, DERIVATIVES, LOSS_FUNCTIONS
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer

from skdistmlp.nn.layers import Network, dense_layers
from skdistmlp.nn.optimizers import init
from skdistmlp.nn.update_rules import Adam, Sgd
from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.ops import OpenNetwork
from skdistmlp.parallel.shard import ShardState
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.training.step import backpropagate, predict_blocks, training_step

NetworkFactory = Callable[
    [Network, NetworkSplit, ShardState, Dataset, int],
    AbstractContextManager[OpenNetwork[Any]],
]
"""From a network, its split, the state of all of it, the rows, and the most rows of a
step or block. `state.fetch` of the network that it gives must return the state of
the whole network. The state is the network's own, to be changed in place."""

LOSSES = {
    "softmax": "log_loss",
    "logistic": "binary_log_loss",
    "identity": "squared_error",
    "exp": "poisson",
}
"""scikit-learn's names of the losses, by those of the output activations."""

HEADS = [("softmax", 3)] + [
    (output, n_outputs)
    for output in ("logistic", "identity", "exp")
    for n_outputs in (1, 3)
]
"""Output activations and numbers of outputs to test with."""

STEADY_ADAM = Adam(epsilon=1e-4)
"""Adam divides a gradient by its own size: one that is nothing but rounding errors
becomes a step of full length unless epsilon is far above them."""


@dataclass(frozen=True)
class Problem:
    """A network, where its training begins, and the rows to train on."""

    network: Network
    split: NetworkSplit
    initial: ShardState
    dataset: Dataset

    def start(self) -> ShardState:
        """Return a copy of the state at the beginning, free to be written to."""
        return deepcopy(self.initial)


def make_problem(
    split: NetworkSplit,
    activation: str | Sequence[str] = "relu",
    output: str = "softmax",
    rule: Sgd | Adam = STEADY_ADAM,
    *,
    alpha: float = 0.1,
    weighted: bool = False,
    dtype: type = np.float64,
    n_rows: int = 20,
    sparse: type[csr_array | csr_matrix] | None = None,
    dropout: float | Sequence[float] = 0.0,
    seed: int = 0,
) -> Problem:
    """Draw parameters, features, targets and, if wanted, sample weights.

    About half of sparse features are zero, and those of row 0 all.
    """
    rng = np.random.default_rng(seed)
    n_features, n_outputs = split.layer_units[0], split.layer_units[-1]
    parameters = rng.uniform(-1, 1, split.n_parameters).astype(dtype)
    X = rng.normal(size=(n_rows, n_features)).astype(dtype)
    if output == "softmax":
        y = np.eye(n_outputs, dtype=bool)[rng.integers(n_outputs, size=n_rows)]
    elif output == "logistic":
        y = rng.random((n_rows, n_outputs)) < 0.5
    else:
        # Smaller parameters: such outputs know no bounds, and training could diverge.
        parameters *= dtype(0.4)
        y = rng.normal(size=(n_rows, n_outputs))
        if output == "exp":
            y = rng.poisson(1.5, (n_rows, n_outputs))
        y = y.astype(dtype)
    if sparse is not None:
        X[rng.random(X.shape) < 0.5] = 0
        X[0] = 0
        X = sparse(X)
    weight = rng.uniform(0.1, 3, n_rows).astype(dtype) if weighted else None
    state = ShardState(parameters, init(rule, parameters), dropout_seed=seed)
    layers = dense_layers(split.layer_units, activation, dropout)
    network = Network(layers, output, alpha)
    return Problem(network, split, state, Dataset(X, y, weight))


class PlainNetwork:
    """The same training without shards, flat arrays, blocks or buffers."""

    def __init__(self, problem: Problem) -> None:
        self._network = problem.network
        self._whole = problem.split.unsplit_layout()
        self._hidden = [layer.activation for layer in problem.network.layers[:-1]]
        data = problem.dataset
        self._dataset = replace(data, X=data.X.toarray()) if issparse(data.X) else data
        layers = self._whole.views(problem.initial.parameters.copy())
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
        values = [X]
        names = [*self._hidden, self._network.output]
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
        loss, gradients = self._loss_and_gradients(rows)
        if isinstance(self._optimizer, AdamOptimizer):
            self._optimizer.learning_rate_init = learning_rate
        else:
            self._optimizer.learning_rate = learning_rate
        self._optimizer.update_params(self._coefs + self._intercepts, gradients)
        return loss * len(self._dataset.y[rows])

    def set_parameters(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """Move to `parameters`; return loss and gradient of all rows there."""
        layers = self._whole.views(parameters)
        for mine, given in zip(
            [*self._coefs, *self._intercepts],
            [*layers.coefs, *layers.intercepts],
            strict=True,
        ):
            mine[...] = given
        loss, gradients = self._loss_and_gradients(slice(None))
        return loss, np.concatenate([gradient.ravel() for gradient in gradients])

    def _loss_and_gradients(self, rows: Any) -> tuple[float, list[np.ndarray]]:
        """Return the mean loss of `rows` and its gradients, with the penalty."""
        data, network = self._dataset, self._network
        y = data.y[rows]
        weight = np.ones(len(y))
        if data.sample_weight is not None:
            weight = data.sample_weight[rows]
        values = self.activations(data.X[rows])
        loss = LOSS_FUNCTIONS[LOSSES[network.output]](y, values[-1], weight)
        norm = sum(np.sum(coef**2) for coef in self._coefs)
        loss += network.alpha / 2 * norm / weight.sum()

        delta = (values[-1] - y) * weight[:, np.newaxis] / weight.sum()
        coef_gradients, intercept_gradients = [], []
        for layer in reversed(range(len(self._coefs))):
            value, coef = values[layer], self._coefs[layer]
            penalty = network.alpha / weight.sum() * coef
            coef_gradients.insert(0, value.T @ delta + penalty)
            intercept_gradients.insert(0, delta.sum(axis=0))
            if layer > 0:
                delta = delta @ coef.T
                DERIVATIVES[self._hidden[layer - 1]](value, delta)
        return loss, coef_gradients + intercept_gradients


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


def train_epoch(opened: OpenNetwork[Any], batches: Batches) -> float:
    """Take the steps of one epoch; return its summed loss."""
    for rows, learning_rate in batches:
        training_step(opened.ops, rows, learning_rate)
    return opened.loss.pop()


def check_network(open_network: NetworkFactory, problem: Problem) -> list[np.ndarray]:
    """Assert the contract of `OpenNetwork` on a problem with some six to thirty rows.

    Shards among peers each run this in step, with a network whose `state.fetch` joins
    what all hold. What is returned must have the same bits on all of them.

    Parameters
    ----------
    open_network : callable
        Gives a context manager around the network; see `NetworkFactory`.
    problem : Problem
        See `make_problem`.

    Returns
    -------
    list of ndarray
        Every loss, prediction and gradient.
    """
    return [
        *_check_training(open_network, problem),
        *_check_going_on(open_network, problem),
        *_check_best(open_network, problem),
        *_check_predicting_only(open_network, problem),
        *_check_evaluations(open_network, problem),
    ]


def _opened(open_network: NetworkFactory, problem: Problem, state: ShardState) -> Any:
    data = problem.dataset
    return open_network(problem.network, problem.split, state, data, data.n_rows)


def _blocks(problem: Problem) -> list[Any]:
    """Blocks of different lengths, as early stopping and predict forward them."""
    n_rows = problem.dataset.n_rows
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
    opened: OpenNetwork[Any], problem: Problem, plain: PlainNetwork
) -> np.ndarray:
    blocks = _blocks(problem)
    found = predict_blocks(opened, blocks)
    expected = np.concatenate([plain.outputs(rows) for rows in blocks])
    assert found.dtype == problem.initial.parameters.dtype
    _assert_close(problem, found, expected)
    return found


def _collected(opened: OpenNetwork[Any], problem: Problem) -> ShardState:
    """Return a copy of the state, which the opened may go on changing."""
    state = deepcopy(opened.state.fetch())
    assert state.parameters.shape == problem.initial.parameters.shape
    assert state.parameters.dtype == problem.initial.parameters.dtype
    return state


def _check_training(open_network: NetworkFactory, problem: Problem) -> list[np.ndarray]:
    """Steps, losses of each epoch alone, predictions between epochs."""
    plain = PlainNetwork(problem)
    seen = []
    with _opened(open_network, problem, problem.start()) as opened:
        assert opened.ops.layers == range(len(problem.split.layer_units) - 1)
        n_steps = 0
        for batches in epochs_of(problem.dataset.n_rows):
            loss = train_epoch(opened, batches)
            assert type(loss) is float
            expected = sum(plain.step(*batch) for batch in batches)
            _assert_close(problem, loss, expected)
            assert opened.loss.pop() == 0.0, "no step was taken since the last call"
            seen += [np.array(loss), _predictions(opened, problem, plain)]
            n_steps += len(batches)
        state = _collected(opened, problem)
    _assert_close(problem, state.parameters, plain.parameters)
    assert state.optimizer is not None
    assert state.optimizer.n_steps == n_steps
    assert state.optimizer.rule == problem.initial.optimizer.rule
    return seen


def _check_going_on(open_network: NetworkFactory, problem: Problem) -> list[np.ndarray]:
    """A state that was collected goes on, moments included, in another opened."""
    plain = PlainNetwork(problem)
    seen, state = [], problem.start()
    for batches in epochs_of(problem.dataset.n_rows):
        with _opened(open_network, problem, state) as opened:
            loss = train_epoch(opened, batches)
            state = _collected(opened, problem)
        _assert_close(problem, loss, sum(plain.step(*batch) for batch in batches))
        _assert_close(problem, state.parameters, plain.parameters)
        seen.append(np.array(loss))
    return seen


def _check_best(open_network: NetworkFactory, problem: Problem) -> list[np.ndarray]:
    """The parameters last kept stay as they are, also in a network that goes on."""
    first, second, third = epochs_of(problem.dataset.n_rows)
    with _opened(open_network, problem, problem.start()) as opened:
        assert _collected(opened, problem).best is None
        opened.state.keep_best()
        train_epoch(opened, first)
        assert opened.leader.decides(0.25) == 0.25
        before = _collected(opened, problem)
        assert_array_equal(before.best, problem.initial.parameters)
        assert not np.array_equal(before.parameters, before.best)
        opened.state.keep_best()
        seen = [np.array(train_epoch(opened, second))]
        after = _collected(opened, problem)
        assert_array_equal(after.best, before.parameters)
        assert not np.array_equal(after.parameters, after.best)
    with _opened(open_network, problem, deepcopy(after)) as opened:
        assert_array_equal(_collected(opened, problem).best, after.best)
        seen.append(np.array(train_epoch(opened, third)))
        state = _collected(opened, problem)
        assert_array_equal(state.best, after.best)
        assert state.optimizer.n_steps > after.optimizer.n_steps
        opened.state.keep_best()
        kept = _collected(opened, problem)
        assert_array_equal(kept.best, kept.parameters)
    # With the best in place of the last, the network is the one that was kept.
    plain = PlainNetwork(problem)
    for rows, rate in first:
        plain.step(rows, rate)
    restored = replace(after, parameters=after.best.copy())
    with _opened(open_network, problem, restored) as opened:
        seen.append(_predictions(opened, problem, plain))
    return seen


def _check_predicting_only(
    open_network: NetworkFactory, problem: Problem
) -> list[np.ndarray]:
    """Without targets and moments it can still predict, and changes no parameters."""
    bare = replace(problem, dataset=Dataset(problem.dataset.X))
    with _opened(open_network, bare, ShardState(problem.start().parameters)) as opened:
        seen = _predictions(opened, problem, PlainNetwork(problem))
        state = _collected(opened, problem)
    assert state.optimizer is None
    assert_array_equal(state.parameters, problem.initial.parameters)
    return [seen]


def blocks_of_evaluations(n_rows: int) -> list[list[slice]]:
    """Cut all rows once into one block, once unevenly, once into single rows."""
    bounds = [[0, n_rows], [0, 1, n_rows // 2, n_rows], list(range(n_rows + 1))]
    return [[slice(*pair) for pair in pairwise(cuts)] for cuts in bounds]


def _evaluate(
    opened: OpenNetwork[Any], point: np.ndarray, blocks: Sequence[slice], every: slice
) -> None:
    # Peers need not know the point: it is handed to them by shard 0.
    assert (
        opened.objective.set_parameters(point if opened.leader.is_here else None)
        is True
    )
    for rows in blocks:
        backpropagate(opened.ops, rows, every)
        opened.objective.add_gradient(rows, every)


def _check_evaluations(
    open_network: NetworkFactory, problem: Problem
) -> list[np.ndarray]:
    """Loss and gradient of all rows at several points, summed over blocks.

    Like scipy's, points are float64, and are not written to.
    """
    n_rows, dtype = problem.dataset.n_rows, problem.initial.parameters.dtype
    every, rng = slice(0, n_rows), np.random.default_rng(1)
    start, plain = problem.initial.parameters, PlainNetwork(problem)
    found = []
    with _opened(open_network, problem, ShardState(start.copy())) as opened:
        for blocks in blocks_of_evaluations(n_rows):
            point = start + 0.1 * rng.normal(size=start.size)
            point.flags.writeable = False
            _evaluate(opened, point, blocks, every)
            loss, gradient = opened.objective.loss_and_gradient(every)
            expected_loss, expected_gradient = plain.set_parameters(point)
            assert type(loss) is float
            assert (gradient.shape, gradient.dtype) == (start.shape, dtype)
            _assert_close(problem, loss, expected_loss)
            _assert_close(problem, gradient, expected_gradient)
            found.append((np.array(loss), gradient, gradient.copy()))
        assert opened.objective.set_parameters(None) is False
        assert_array_equal(opened.state.fetch().parameters, point.astype(dtype))
        predictions = _predictions(opened, problem, plain)
    for _, gradient, then in found:
        assert_array_equal(gradient, then, "a later evaluation wrote to it")
    return [*(array for arrays in found for array in arrays), predictions]


def check_given_up_evaluation(open_network: NetworkFactory, problem: Problem) -> None:
    """Assert that what was done before an evaluation began does not count in it."""
    every = slice(0, problem.dataset.n_rows)
    blocks = blocks_of_evaluations(problem.dataset.n_rows)[1]
    point = problem.initial.parameters
    with _opened(open_network, problem, problem.start()) as opened:
        _evaluate(opened, point + 1, blocks[:2], every)
        _evaluate(opened, point, blocks, every)
        loss, gradient = opened.objective.loss_and_gradient(every)
    expected_loss, expected_gradient = PlainNetwork(problem).set_parameters(point)
    _assert_close(problem, gradient, expected_gradient)
    _assert_close(problem, loss, expected_loss)
