"""Gradients of every plan against finite differences: activation x loss x dropout.

`tests/parallel/test_gradients.py` differences the loss of each plan by itself. Here one
shard's loss is differenced, and the gradient of every plan must agree with it: so the
plans agree with each other too, dropout masks included. In a fixed step the masks are
constants, and the loss of training is a function of the parameters like any other.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skdistmlp.nn.activations import ACTIVATIONS
from skdistmlp.nn.losses import SUMMED_SQUARED_ERROR, output_of
from skdistmlp.nn.parametric_losses import (
    AbsoluteError,
    Huber,
    Pinball,
    SmoothedLabels,
)
from skdistmlp.nn.update_rules import Sgd
from skdistmlp.parallel.communicators import SingleProcess
from skdistmlp.parallel.local_network import open_local_network
from skdistmlp.parallel.shard import split_state
from skdistmlp.parallel.split import NetworkSplit, join_shards, take_shard
from skdistmlp.training.step import training_step
from tests.marks import only_quick
from tests.nn.softsign import SOFTSIGN
from tests.parallel.ops_contract import HEADS, make_problem
from tests.parallel.test_gradients import n_averaged
from tests.thread_communicator import run_in_threads

ROWS = np.array([4, 0, 2, 1, 5, 3, 7])
NUDGE = 1e-5
HIDDEN = (3, 2)

PLANS = {"1 shard": [1], "2 shards": [5, 2], "3 shards": [1, 3, 1]}
"""Uneven ranges. Two of three shards own no neuron of the second layer."""

LOSSES = [
    *HEADS,
    (SmoothedLabels("softmax", 0.1), 3),
    (SmoothedLabels("logistic", 0.1), 1),
    (SmoothedLabels("logistic", 0.1), 3),
    (SUMMED_SQUARED_ERROR, 3),
    (AbsoluteError(), 2),
    (Huber(0.7), 2),
    (Pinball((0.3,)), 2),
    (Pinball((0.1, 0.5, 0.9)), 3),
]
"""Outputs with their losses, and the numbers of outputs."""


def _name(output):
    """Return the name of a table, or the loss with its parameters."""
    return "summed" if output is SUMMED_SQUARED_ERROR else str(output)


losses = pytest.mark.parametrize(
    ("output", "n_outputs"),
    [pytest.param(output, n, id=f"{_name(output)}-{n}") for output, n in LOSSES],
)

DROPOUT = {"": 0.0, "dropout": (0.3, 0.3, 0.3)}
"""None; and one rate for the inputs and each hidden layer."""


class Shard:
    """One shard whose every step begins at the same state."""

    def __init__(self, problem, communicator):
        self._problem, self._rank = problem, communicator.rank
        self._start = split_state(problem.split, problem.start())[self._rank]
        self._opened = open_local_network(
            problem.network,
            problem.split,
            self._start,
            problem.dataset,
            communicator,
            len(ROWS),
        )

    def step(self, parameters, learning_rate):
        """Take the first step from `parameters`; return the mean loss before it."""
        own = take_shard(self._problem.split, self._rank, parameters)
        self._start.parameters[:] = own
        for moment in self._start.optimizer.moments:
            moment[:] = 0
        self._opened.ops.state = self._start
        training_step(self._opened.ops, ROWS, learning_rate)
        return self._opened.loss.pop() / len(ROWS)

    def gradient(self, parameters):
        """Return the loss and this shard's part of its gradient."""
        loss = self.step(parameters, learning_rate=1.0)
        own = take_shard(self._problem.split, self._rank, parameters)
        return loss, own - self._start.parameters


def problem_of(activation, output, n_outputs, dropout, shares):
    kind = output_of(output).activation
    problem = make_problem(
        NetworkSplit.by_shares((2, *HIDDEN, n_outputs), shares),
        activation,
        "identity" if kind == "quantiles" else kind,
        Sgd(momentum=0.0, nesterov=False),
        alpha=0.4,
        weighted=True,
        n_rows=8,
        dropout=dropout,
    )
    network, data = replace(problem.network, output=output), problem.dataset
    if kind == "quantiles":
        data = replace(data, y=data.y[:, :1])
    return replace(problem, network=network, dataset=data)


def directions(n_parameters):
    """Return a few unit vectors in which every parameter takes part.

    A wrong derivative shows in each of them. The other test differences along every
    single parameter, which takes four times as long.
    """
    drawn = np.random.default_rng(0).normal(size=(6, n_parameters))
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def gradient(problem):
    """Return the loss as each shard has it, and the gradient of the whole network."""
    whole = problem.initial.parameters

    def of_shard(communicator):
        return Shard(problem, communicator).gradient(whole)

    if problem.split.n_shards == 1:
        results = [of_shard(SingleProcess())]
    else:
        results = run_in_threads(problem.split.n_shards, of_shard)
    losses, parts = zip(*results, strict=True)
    return losses, join_shards(problem.split, parts)


@cache
def differences(activation, output, n_outputs, dropout):
    """Return the loss of one shard, and its central differences along `directions`."""
    problem = problem_of(activation, output, n_outputs, dropout, [1])
    shard, whole = Shard(problem, SingleProcess()), problem.initial.parameters
    coefs = slice(0, problem.split.n_coefs)
    _, weight_sum = problem.dataset.batch_totals(ROWS)

    def loss(parameters):
        mean = shard.step(parameters, learning_rate=0.0)
        penalty = problem.network.alpha / 2 * np.sum(parameters[coefs] ** 2)
        penalty /= weight_sum
        return n_averaged(problem.network) * (mean - penalty) + penalty

    nudges = NUDGE * directions(whole.size)
    slopes = [(loss(whole + n) - loss(whole - n)) / (2 * NUDGE) for n in nudges]
    return shard.step(whole, learning_rate=0.0), np.array(slopes)


EACH = [*ACTIVATIONS, SOFTSIGN]
# One that goes backward from activations, one that computes its slope on the way, and
# one of a user's: what happens around an activation is the same for the others.
SOME = map(EACH.index, ("tanh", "gelu", SOFTSIGN))


@pytest.mark.parametrize("dropout", DROPOUT)
@losses
@pytest.mark.parametrize("activation", only_quick(*SOME, cases=EACH), ids=str)
def test_gradients_of_every_plan_are_those_of_the_loss(
    activation, output, n_outputs, dropout
):
    case = activation, output, n_outputs, DROPOUT[dropout]
    expected_loss, expected = differences(*case)
    for plan, shares in PLANS.items():
        problem = problem_of(*case, shares)
        loss, found = gradient(problem)
        assert np.count_nonzero(found) > found.size / 2, plan
        slopes = directions(found.size) @ found
        assert_allclose(slopes, expected, rtol=1e-6, atol=1e-8, err_msg=plan)
        assert_allclose(loss, expected_loss, rtol=1e-12, err_msg=plan)


@losses
def test_dropout_changes_loss_and_gradient(output, n_outputs):
    """So that the masks are those of a training step, and not of a prediction."""
    without, with_dropout = (
        differences("tanh", output, n_outputs, rates) for rates in DROPOUT.values()
    )
    assert abs(without[0] - with_dropout[0]) > 1e-3
    assert np.abs(without[1] - with_dropout[1]).max() > 1e-3
