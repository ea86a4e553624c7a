import tracemalloc
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array, csr_matrix
from sklearn.neural_network._base import DERIVATIVES

from skdistmlp.nn.activations import ACTIVATIONS
from skdistmlp.nn.losses import OUTPUTS
from skdistmlp.nn.update_rules import Adam, Sgd
from skdistmlp.parallel.communicators import SingleProcess
from skdistmlp.parallel.local_network import open_local_network
from skdistmlp.parallel.shard import join_states, split_state
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.training.step import (
    backpropagate,
    forward_pass,
    predict_blocks,
    training_step,
)
from tests import strategies
from tests.marks import only_quick
from tests.parallel.ops_contract import (
    HEADS,
    STEADY_ADAM,
    blocks_of_evaluations,
    check_given_up_evaluation,
    check_network,
    epochs_of,
    make_problem,
    train_epoch,
)
from tests.thread_communicator import run_in_threads

HIDDEN = [(), (5,), (6, 1), (4, 3, 5)]

RULES = [STEADY_ADAM, Sgd(), Sgd(momentum=0.5, nesterov=False)]


class JoinedState:
    """The state of a shard that gives the states of all peers, joined.

    All must ask at once.
    """

    def __init__(self, state, split, communicator, desk):
        self._state = state
        self._split = split
        self._communicator = communicator
        self._desk = desk
        self.keep_best = state.keep_best

    @property
    def current(self):
        return self._state.current

    def fetch(self):
        self._desk[self._communicator.rank] = self._state.fetch()
        self._communicator.broadcast(np.zeros(1), 0)  # everybody has laid down a state
        joined = join_states(self._split, self._desk)
        self._communicator.broadcast(np.zeros(1), 0)  # everybody has read them
        return joined


def one_shard(network, split, state, dataset, max_rows):
    return nullcontext(
        open_local_network(network, split, state, dataset, SingleProcess(), max_rows)
    )


def among_peers(n_shards, work):
    """Run `work` with a network factory on every shard; return all results."""
    desk = [None] * n_shards

    def shard(communicator):
        def peer(network, split, whole, dataset, max_rows):
            own = split_state(split, whole)[communicator.rank]
            opened = open_local_network(
                network, split, own, dataset, communicator, max_rows
            )
            state = JoinedState(opened.state, split, communicator, desk)
            return nullcontext(replace(opened, state=state))

        return work(peer)

    return run_in_threads(n_shards, shard)


def problem_of(hidden, n_shards, output="softmax", **kwargs):
    n_outputs = 3 if output == "softmax" else kwargs.pop("n_outputs", 1)
    split = NetworkSplit.even((4, *hidden, n_outputs), n_shards)
    return make_problem(split, output=output, **kwargs)


@pytest.mark.parametrize("activation", sorted(DERIVATIVES))
@pytest.mark.parametrize("hidden", HIDDEN, ids=str)
@pytest.mark.parametrize("weighted", [False, True], ids=["", "weighted"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_one_shard_meets_the_contract_of_network_ops(
    activation, hidden, weighted, dtype
):
    problem = problem_of(
        hidden, 1, activation=activation, weighted=weighted, dtype=dtype
    )
    check_network(one_shard, problem)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize(("output", "n_outputs"), HEADS)
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_the_contract_holds_for_every_loss_and_optimiser(
    rule, output, n_outputs, alpha
):
    split = NetworkSplit.even((4, 5, 4, n_outputs), 1)
    problem = make_problem(split, output=output, rule=rule, alpha=alpha)
    check_network(one_shard, problem)


@pytest.mark.parametrize("n_shards", only_quick(1, 2, cases=[1, 2, 3]))
@pytest.mark.parametrize("hidden", HIDDEN[1:], ids=str)
@pytest.mark.parametrize("output", sorted(OUTPUTS))
@pytest.mark.parametrize(
    "weighted", only_quick(1, cases=[False, True]), ids=["", "weighted"]
)
@pytest.mark.parametrize("dtype", only_quick(0, cases=[np.float32, np.float64]))
def test_shards_in_threads_meet_the_contract_with_the_same_bits(
    n_shards, hidden, output, weighted, dtype
):
    problem = problem_of(
        hidden, n_shards, output, weighted=weighted, dtype=dtype, activation="tanh"
    )
    assert problem.split.n_shards == n_shards
    seen = among_peers(n_shards, lambda peer: check_network(peer, problem))
    for other in seen[1:]:
        for mine, theirs in zip(seen[0], other, strict=True):
            assert_array_equal(mine, theirs)


@pytest.mark.parametrize("n_shards", [1, 3])
@pytest.mark.parametrize("hidden", [(), (4, 3)], ids=str)
@pytest.mark.parametrize("sparse", [csr_matrix, csr_array])
@pytest.mark.parametrize(("output", "dtype"), [("softmax", "f4"), ("identity", "f8")])
def test_the_contract_holds_for_sparse_features(
    n_shards, hidden, sparse, output, dtype
):
    problem = problem_of(
        hidden,
        n_shards,
        output,
        sparse=sparse,
        dtype=np.dtype(dtype).type,
        weighted=True,
    )
    assert isinstance(problem.dataset.X, sparse)
    among_peers(problem.split.n_shards, lambda peer: check_network(peer, problem))


@pytest.mark.parametrize("n_shards", [1, 2])
def test_an_abandoned_evaluation_does_not_affect_the_next(n_shards):
    problem = problem_of((5,), n_shards)
    among_peers(n_shards, lambda peer: check_given_up_evaluation(peer, problem))


def training_run(open_network, problem, epochs):
    """Return losses, outputs and parameters after some epochs, and an evaluation."""
    n_rows, whole = problem.dataset.n_rows, problem.initial.parameters
    with open_network(
        problem.network, problem.split, problem.start(), problem.dataset, n_rows
    ) as opened:
        losses = [train_epoch(opened, batches) for batches in epochs]
        outputs = predict_blocks(opened, [slice(0, n_rows)])
        trained = opened.state.fetch().parameters.copy()
        opened.objective.set_parameters(whole)
        for rows in blocks_of_evaluations(n_rows)[1]:
            backpropagate(opened.ops, rows, slice(0, n_rows))
            opened.objective.add_gradient(rows, slice(0, n_rows))
        return (
            np.array(losses),
            outputs,
            trained,
            *opened.objective.loss_and_gradient(slice(0, n_rows)),
        )


@settings(max_examples=60)
@given(
    split=strategies.splits,
    activation=strategies.activations,
    output=strategies.outputs,
    rule=strategies.update_rules,
    alpha=st.sampled_from([0.0, 0.3]),
    weighted=st.booleans(),
    sparse=strategies.sparse_formats,
    seed=strategies.seeds,
)
def test_any_plan_agrees_with_one_shard(
    split, activation, output, rule, alpha, weighted, sparse, seed
):
    problem = make_problem(
        split,
        activation,
        output,
        rule,
        alpha=alpha,
        weighted=weighted,
        n_rows=8,
        sparse=sparse,
        seed=seed,
    )
    epochs = epochs_of(8)[:2]
    undivided = NetworkSplit.even(split.layer_units, 1)
    whole = replace(problem, split=undivided)
    alone = training_run(one_shard, whole, epochs)
    for shared in among_peers(
        split.n_shards, lambda peer: training_run(peer, problem, epochs)
    ):
        for mine, theirs in zip(shared, alone, strict=True):
            assert_allclose(mine, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("activations", [("logistic", "relu"), ("relu", "tanh")])
@pytest.mark.parametrize("n_shards", [1, 3])
def test_the_contract_holds_with_an_activation_per_layer(activations, n_shards):
    problem = problem_of((6, 4), n_shards, activation=activations, weighted=True)
    among_peers(n_shards, lambda peer: check_network(peer, problem))


@pytest.mark.parametrize("n_shards", [1, 2])
def test_nothing_is_kept_of_a_forward_pass_without_training(n_shards):
    problem = problem_of((6, 4), n_shards, activation="silu")

    def work(peer):
        opened = peer(
            problem.network, problem.split, problem.start(), problem.dataset, 20
        )
        with opened as network:
            shard = network.ops
            kept = []
            for forward in (forward_pass, training_pass):
                forward(shard, slice(0, 8))
                kept.append([sorted(shard._inputs), sorted(shard._residuals)])
            return kept

    def training_pass(shard, rows):
        backpropagate(shard, rows, rows)

    for without, with_training in among_peers(n_shards, work):
        assert without == [[], []]
        assert with_training == [[0, 1, 2], [0, 1]]


@pytest.mark.parametrize("n_shards", [1, 2])
def test_the_first_shard_decides_for_all(n_shards):
    problem = problem_of((5,), n_shards)

    def decide(peer):
        with peer(
            problem.network, problem.split, problem.start(), problem.dataset, 1
        ) as opened:
            rank = 0 if opened.leader.is_here else 1
            return opened.leader.decides(rank + 0.5)

    assert among_peers(n_shards, decide) == [0.5] * n_shards


@pytest.mark.parametrize("rule", [Adam(), Sgd()], ids=str)
def test_parameters_and_moments_are_trained_in_place(rule):
    problem = problem_of((5, 4), 1, rule=rule)
    state = problem.start()
    with one_shard(problem.network, problem.split, state, problem.dataset, 20) as shard:
        training_step(shard.ops, slice(0, 20), 0.1)
        collected = shard.state.fetch()
    assert collected.parameters is state.parameters
    assert np.all(state.parameters != problem.initial.parameters)
    for mine, given_ in zip(
        collected.optimizer.moments, state.optimizer.moments, strict=True
    ):
        assert mine is given_
        assert np.all(mine != 0)


class Recorder:
    """Operations that note the memory address of each value that passes through."""

    def __init__(self, ops):
        self._ops = ops
        self.layers = ops.layers
        self.addresses = []

    def __getattr__(self, operation):
        def call(*args, **kwargs):
            value = getattr(self._ops, operation)(*args, **kwargs)
            if isinstance(value, np.ndarray):
                self.addresses.append((operation, value.ctypes.data))
            return value

        return call


@pytest.mark.parametrize("n_shards", [1, 2, 3])
@pytest.mark.parametrize("activation", ["tanh", "silu", ["silu", "relu", "silu"]])
def test_every_step_uses_the_same_buffers(n_shards, activation):
    """Also a smaller step, and one after predictions for other rows."""
    problem = problem_of((6, 4, 5), n_shards, activation=activation)

    def work(peer):
        with peer(
            problem.network, problem.split, problem.start(), problem.dataset, 12
        ) as shard:
            steps = []
            for rows in (np.arange(12), np.arange(12), np.arange(5), np.arange(9)):
                recorder = Recorder(shard.ops)
                training_step(recorder, rows, 0.1)
                steps.append(recorder.addresses)
                shard.loss.pop()
                predict_blocks(shard, [np.arange(7)])
            return steps

    for steps in among_peers(n_shards, work):
        operations = [operation for operation, _ in steps[0]]
        assert operations == [
            "inputs",
            *["forward"] * 4,
            "output_delta",
            *["backward"] * 4,
        ]
        assert steps[1:] == steps[:1] * 3


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_a_step_makes_no_temporary_above_mallocs_trim_threshold(activation):
    """Workers give larger ones back to the operating system at every step."""
    split = NetworkSplit.even((100, 300, 300, 10), 1)
    problem = make_problem(
        split, activation, n_rows=200, dtype=np.float32, weighted=True
    )
    rows = np.arange(200)[::-1].copy()
    with one_shard(
        problem.network, problem.split, problem.start(), problem.dataset, 200
    ) as shard:
        training_step(shard.ops, rows, 0.01)
        peaks = []
        # Other threads of the test run are traced too, but do not strike every time.
        while len(peaks) < 100 and min(peaks, default=np.inf) > 128 * 1024:
            tracemalloc.start()
            try:
                training_step(shard.ops, rows, 0.01)
                peaks.append(tracemalloc.get_traced_memory()[1])
            finally:
                tracemalloc.stop()
    assert min(peaks) <= 128 * 1024
