"""Gradients against central finite differences, through the operations of a group.

With learning rate 1 and no momentum, plain gradient descent moves the
parameters by minus the gradient; with learning rate 0 it leaves them where
they are, but for the loss.

The loss of "identity" is the mean over outputs of half the squared errors, but
as in scikit-learn the gradient is that of their sum.
"""

from itertools import pairwise

import numpy as np
import pytest
from numpy.testing import assert_allclose

from skdistmlp.nn.activations import ACTIVATIONS
from skdistmlp.nn.update_rules import Sgd
from skdistmlp.parallel.communicators import SingleProcess
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.local_network import open_local_network
from skdistmlp.parallel.shard import take_state
from skdistmlp.parallel.split import NetworkSplit, join_shards, take_shard
from skdistmlp.training.step import training_step
from tests.marks import only_quick
from tests.nn.softsign import SOFTSIGN
from tests.parallel.ops_contract import HEADS, make_problem
from tests.thread_communicator import run_in_threads
from tests.wire.test_communicator import connected, run

NAMES = sorted(ACTIVATIONS)

STEP = 1e-5
ROWS = np.array([4, 0, 2, 1, 5])

SHARES = [[1], [1, 1], [1, 1, 1], [5, 2], [1, 1, 1, 1, 1]]
"""One a shard. Of three shards one owns no neuron of the second layer, which has
two; of five, two own none of the first either, which has three."""


def n_averaged(network):
    """Return how many outputs the loss is averaged over, where it should be a sum."""
    return network.layer_units[-1] if network.output == "identity" else 1


def penalty_at(problem, parameters):
    """Return the L2 penalty of the whole network."""
    coefs = parameters[: problem.split.n_coefs]
    _, weight_sum = problem.dataset.batch_totals(ROWS)
    return problem.network.alpha / 2 * np.sum(coefs**2) / weight_sum


def gradients(problem, communicator):
    """Return one shard's gradient, and the whole one from differences of the loss."""
    split, shards = problem.split, communicator.along("neurons")
    n_replicas, rank = communicator.along("replicas").n_ranks, shards.rank
    state = take_state(split, problem.start(), communicator.rank, n_replicas)
    shard = open_local_network(
        problem.network, problem.split, state, problem.dataset, communicator, len(ROWS)
    )
    whole = problem.initial.parameters

    def loss(parameters):
        state.parameters[:] = take_shard(split, rank, parameters)
        training_step(shard.ops, ROWS, learning_rate=0.0)
        mean = shard.loss.pop() / len(ROWS)
        penalty = penalty_at(problem, parameters)
        return n_averaged(problem.network) * (mean - penalty) + penalty

    differences = np.array(
        [
            (loss(whole + nudge) - loss(whole - nudge)) / (2 * STEP)
            for nudge in STEP * np.eye(whole.size)
        ]
    )
    before = take_shard(split, rank, whole)
    state.parameters[:] = before
    training_step(shard.ops, ROWS, learning_rate=1.0)
    return before - state.parameters, differences


def over_sockets(grid, shard):
    return run(connected(grid), shard)


def check_gradient(
    activation, output, n_outputs, shares, weighted, run_shards, n_replicas=1
):
    problem = make_problem(
        NetworkSplit.by_shares((2, 3, 2, n_outputs), shares),
        activation,
        output,
        Sgd(momentum=0.0, nesterov=False),
        alpha=0.4,
        weighted=weighted,
        n_rows=6,
    )
    grid = Grid(len(shares), n_replicas)
    results = run_shards(grid, lambda peer: gradients(problem, peer))
    # Of the last replica: all have the same.
    parts = [own for own, _ in results[-len(shares) :]]
    whole_gradient = join_shards(problem.split, parts)
    assert np.count_nonzero(whole_gradient) > whole_gradient.size / 2
    for _, differences in results:
        assert_allclose(whole_gradient, differences, rtol=1e-6, atol=1e-8)


def in_threads(grid, shard):
    if grid.n_ranks == 1:
        return [shard(SingleProcess())]
    return run_in_threads(grid, shard)


# All of them, with dropout too, are in `tests/oracles/test_gradients.py`, along a few
# directions.
@pytest.mark.parametrize(
    "activation", only_quick(*map(NAMES.index, ("gelu", "relu", "tanh")), cases=NAMES)
)
@pytest.mark.parametrize(("output", "n_outputs"), HEADS)
@pytest.mark.parametrize("shares", only_quick(0, 2, 4, cases=SHARES), ids=str)
@pytest.mark.parametrize(
    "weighted", only_quick(1, cases=[False, True]), ids=["", "weighted"]
)
def test_gradients_match_finite_differences_of_the_loss(
    activation, output, n_outputs, shares, weighted
):
    check_gradient(activation, output, n_outputs, shares, weighted, in_threads)


@pytest.mark.parametrize(("output", "n_outputs"), HEADS)
@pytest.mark.parametrize(
    ("shares", "n_replicas"),
    only_quick(1, cases=[([1], 3), ([1, 1], 2), ([5, 2], 3), ([1, 1, 1], 2)]),
    ids=str,
)
def test_gradients_on_a_grid_match_finite_differences(
    output, n_outputs, shares, n_replicas
):
    """Of five rows, whose numbers leave one replica of three with a single one."""
    check_gradient("tanh", output, n_outputs, shares, True, in_threads, n_replicas)


@pytest.mark.parametrize(("output", "n_outputs"), only_quick(0, cases=HEADS))
@pytest.mark.parametrize(
    ("shares", "n_replicas"), only_quick(0, cases=[([1, 1], 2), ([1], 3), ([5, 2], 3)])
)
def test_gradients_on_a_grid_over_sockets_match(output, n_outputs, shares, n_replicas):
    check_gradient("tanh", output, n_outputs, shares, True, over_sockets, n_replicas)


MIXED = [*pairwise([*NAMES, NAMES[0]])]
"""Activations of the first and of the second hidden layer."""


@pytest.mark.parametrize("activations", MIXED, ids="-".join)
@pytest.mark.parametrize("shares", only_quick(0, 2, cases=SHARES[:3]), ids=str)
def test_gradients_match_with_an_activation_per_layer(activations, shares):
    check_gradient(activations, "softmax", 3, shares, True, in_threads)


@pytest.mark.parametrize("shares", [[1], [1, 1, 1]], ids=str)
def test_gradients_match_with_an_activation_of_ones_own(shares):
    own = SOFTSIGN, "gelu"
    check_gradient(own, "softmax", 3, shares, True, in_threads)


@pytest.mark.parametrize("activations", [("silu", "tanh"), ("relu", "silu")], ids=str)
def test_gradients_match_with_an_activation_per_layer_over_sockets(activations):
    check_gradient(activations, "identity", 2, [5, 2], True, over_sockets)


@pytest.mark.parametrize("activation", only_quick(1, cases=["gelu", "tanh"]))
@pytest.mark.parametrize(("output", "n_outputs"), HEADS)
@pytest.mark.parametrize("shares", only_quick(1, cases=[[1, 1, 1], [5, 2]]), ids=str)
def test_gradients_over_sockets_match_finite_differences(
    activation, output, n_outputs, shares
):
    check_gradient(activation, output, n_outputs, shares, True, over_sockets)
