from copy import deepcopy
from dataclasses import fields, is_dataclass, replace
from itertools import combinations

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array, csr_matrix, issparse
from threadpoolctl import threadpool_limits

from skdistmlp.cluster.futures import tasks
from skdistmlp.cluster.futures.ops import add_in_order
from skdistmlp.nn.update_rules import Adam, Sgd
from skdistmlp.parallel.shard import join_states, split_state
from skdistmlp.parallel.split import join_shards
from skdistmlp.training.step import backpropagate, predict_blocks, training_step
from tests.marks import only_quick
from tests.nn.softsign import SOFTSIGN
from tests.parallel.ops_contract import blocks_of_evaluations
from tests.parallel.test_local_ops import among_peers, problem_of

ROWS = [np.array([7, 2, 2, 19, 0]), slice(3, 11)]


SHAPES = [(1, ()), *((n, h) for n in [1, 2, 3] for h in [(5,), (6, 4), (4, 3, 5)])]
"""Shards and hidden layers."""


def arrays_in(value):
    """Yield every array that a value is made of."""
    if isinstance(value, np.ndarray):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from arrays_in(item)
    elif issparse(value):
        yield from (value.data, value.indices, value.indptr)
    elif is_dataclass(value):
        for field in fields(value):
            yield from arrays_in(getattr(value, field.name))


def call(task, *args):
    """Call twice on read-only arguments, and check for equal bits.

    Dask may run a task again, on the very arguments that other tasks share.
    """
    given = list(arrays_in(args))
    before = [array.tobytes() for array in given]
    for array in given:
        array.setflags(write=False)
    first, second = task(*args), task(*args)
    assert [array.tobytes() for array in given] == before
    assert_same(first, second)
    return first


def assert_same(mine, theirs):
    assert type(mine) is type(theirs)
    if isinstance(mine, float):
        assert mine == theirs
    elif isinstance(mine, tuple):
        for item, other in zip(mine, theirs, strict=True):
            assert_same(item, other)
    for a, b in zip(arrays_in(mine), arrays_in(theirs), strict=True):
        assert a.dtype == b.dtype
        assert_array_equal(a, b)


class Shards:
    """A step by the tasks themselves, with every collective spelled out."""

    def __init__(self, problem):
        self.network = problem.network
        self.split = problem.split
        self.dataset = problem.dataset
        self.shards = [
            tasks.PlacedShard(self.network, self.split, rank, state)
            for rank, state in enumerate(split_state(self.split, problem.start()))
        ]
        self.last = self.split.output_layer

    def forward(self, rows, training=False):
        """Return the inputs of every layer, by layer and shard, and the logits."""
        given = [[[self.dataset] for _ in self.shards]]
        for layer in self.split.layers:
            outputs = [
                call(
                    tasks.forward,
                    shard,
                    layer,
                    given[layer][shard.rank],
                    rows,
                    training,
                )
                for shard in self.shards
            ]
            alone = layer + 1 == self.last
            given.append([[o] if alone else outputs for o in outputs])
        return given

    def backpropagate(self, rows, batch):
        """Return the loss, and every shard's arguments for its gradients."""
        given = self.forward(rows, training=True)
        delta = [[self.dataset, *pieces] for pieces in given.pop()]
        loss = call(tasks.loss, self.shards[0], delta[0], rows, batch)
        deltas = {self.last: delta}
        for layer in range(self.last, 0, -1):
            sent = [
                call(tasks.backward, shard, layer, delta, rows, batch)
                for shard, delta in zip(self.shards, deltas[layer], strict=True)
            ]
            own = [given[layer][p] for p, _ in enumerate(self.shards)]
            activations = [
                parts[0] if layer == self.last else parts[p]
                for p, parts in enumerate(own)
            ]
            deltas[layer - 1] = [
                [activation, *([sent[p]] if layer == self.last else sent)]
                for p, activation in enumerate(activations)
            ]
        layers = self.split.layers
        return loss, [
            ([given[i][rank] for i in layers], [deltas[i][rank] for i in layers])
            for rank, _ in enumerate(self.shards)
        ]

    def step(self, rows, learning_rate, first_of_epoch):
        """Replace the shards; return the loss."""
        loss, arguments = self.backpropagate(rows, rows)
        self.shards = [
            call(tasks.update, shard, *own, rows, learning_rate, first_of_epoch)
            for shard, own in zip(self.shards, arguments, strict=True)
        ]
        return loss

    def loss_and_gradient(self, blocks, batch):
        """Return the mean loss of `batch`, cut into `blocks`, and its gradient."""
        losses, sums = [], [None for _ in self.shards]
        for rows in blocks:
            loss, arguments = self.backpropagate(rows, batch)
            losses.append(loss)
            sums = [
                call(tasks.add_gradient, shard, *own, rows, batch, before)
                for shard, own, before in zip(self.shards, arguments, sums, strict=True)
            ]
        penalties, gradients = zip(
            *(
                call(tasks.loss_and_gradient, shard, own, self.dataset, batch)
                for shard, own in zip(self.shards, sums, strict=True)
            ),
            strict=True,
        )
        total = add_in_order(losses) + add_in_order(penalties)
        return total / self.dataset.n_rows, join_shards(self.split, gradients)

    def outputs(self, rows):
        pieces = self.forward(rows)[-1][0]
        return call(tasks.predict, self.shards[0], pieces)


@pytest.mark.parametrize(
    ("n_shards", "hidden"), only_quick(0, 2, 4, 6, 8, cases=SHAPES), ids=str
)
@pytest.mark.parametrize(
    "options",
    [
        {"activation": "tanh", "weighted": True},
        {"activation": "identity", "rule": Sgd(), "output": "logistic", "alpha": 0.0},
        {"activation": "relu", "dtype": np.float32},
        {"activation": "logistic", "rule": Sgd(nesterov=False), "output": "identity"},
        {"output": "exp", "n_outputs": 3, "sparse": csr_array, "weighted": True},
        {"output": "identity", "n_outputs": 2, "sparse": csr_matrix},
        {"activation": ["silu", "logistic", "relu"]},
        {"activation": ["gelu", "silu", "mish"], "dtype": np.float32},
        {"activation": ["elu", SOFTSIGN, "gelu"], "weighted": True},
        {"activation": ["gelu", "tanh", "relu"], "dropout": [0.2, 0.5, 0.4, 0.3]},
        {"sparse": csr_array, "dropout": [0.5, 0, 0.3, 0.1]},
    ],
    ids=lambda options: " ".join(map(str, options.values())),
)
def test_steps_of_tasks_equal_those_of_local_ops_to_the_bit(n_shards, hidden, options):
    # One for each hidden layer, of which there are up to three, and for the inputs.
    if isinstance(options.get("activation"), list):
        options = options | {"activation": options["activation"][: len(hidden)]}
    if "dropout" in options:
        options = options | {"dropout": options["dropout"][: len(hidden) + 1]}
    problem = problem_of(hidden, n_shards, **options)
    rates, every = [0.01, 0.02], slice(0, 20)
    blocks = blocks_of_evaluations(20)[1]

    def in_threads(peer):
        with peer(
            problem.network, problem.split, problem.start(), problem.dataset, 20
        ) as network:
            for rows, rate in zip(ROWS, rates, strict=True):
                training_step(network.ops, rows, rate)
            loss = network.loss.pop()
            state, outputs = (
                deepcopy(network.state.fetch()),
                predict_blocks(network, [every]),
            )
            network.objective.set_parameters(state.parameters)
            for rows in blocks:
                backpropagate(network.ops, rows, every)
                network.objective.add_gradient(rows, every)
            return loss, state, outputs, network.objective.loss_and_gradient(every)

    shards = Shards(problem)
    with threadpool_limits(1):
        (loss, state, outputs, evaluation), *_ = among_peers(n_shards, in_threads)
        losses = [
            shards.step(rows, rate, first_of_epoch=number == 0)
            for number, (rows, rate) in enumerate(zip(ROWS, rates, strict=True))
        ]
        penalties = [call(tasks.penalty, shard) for shard in shards.shards]
        assert_array_equal(shards.outputs(every), outputs)
        assert_array_equal(shards.outputs(None), outputs)
        assert_same(shards.loss_and_gradient(blocks, every), evaluation)

    assert add_in_order(losses) + add_in_order(penalties) == loss
    mine = join_states(shards.split, [shard.state for shard in shards.shards])
    assert_array_equal(mine.parameters, state.parameters)
    assert mine.optimizer.n_steps == state.optimizer.n_steps == 2
    assert_same(mine.optimizer.moments, state.optimizer.moments)


def test_penalties_restart_with_each_epoch():
    shards = Shards(problem_of((5,), 2, alpha=3.0))
    sums = []
    for first_of_epoch in [True, False, True]:
        # At this rate the parameters do not change.
        shards.step(ROWS[0], 1e-12, first_of_epoch)
        sums.append([tasks.penalty(shard) for shard in shards.shards])
    once, twice, again = np.array(sums)
    assert (once > 0).all()
    assert_allclose(twice, 2 * once, rtol=1e-9)
    assert_allclose(again, once, rtol=1e-9)


def test_gradient_sums_share_no_memory_with_earlier_ones():
    """Not even the first, or one of a single block."""
    shards, every = Shards(problem_of((5, 4), 2)), slice(0, 20)
    _, arguments = shards.backpropagate(every, every)
    for shard, own in zip(shards.shards, arguments, strict=True):
        first = tasks.add_gradient(shard, *own, every, every, None)
        second = tasks.add_gradient(shard, *own, every, every, first)
        _, last = tasks.loss_and_gradient(shard, second, shards.dataset, every)
        assert_allclose(second, 2 * first, rtol=1e-12)
        sums = [shard.state.parameters, first, second, last]
        assert not any(np.shares_memory(a, b) for a, b in combinations(sums, 2))


def test_an_update_shares_no_memory_with_its_inputs():
    shards = Shards(problem_of((5, 4), 2))
    before = shards.shards
    shards.step(ROWS[0], 0.1, first_of_epoch=True)
    for old, new in zip(before, shards.shards, strict=True):
        pairs = zip(arrays_in(old.state), arrays_in(new.state), strict=True)
        assert not any(np.shares_memory(a, b) for a, b in pairs)


@pytest.mark.parametrize(("n_shards", "hidden"), SHAPES, ids=str)
def test_saved_parameters_are_not_changed_by_a_later_step(n_shards, hidden):
    shards = Shards(problem_of(hidden, n_shards, rule=Adam()))
    kept = [call(tasks.parameters_of, shard) for shard in shards.shards]
    expected = shards.outputs(None)
    shards.step(ROWS[0], 0.1, first_of_epoch=True)
    trained = shards.shards
    assert not np.array_equal(shards.outputs(None), expected)
    shards.shards = [
        replace(shard, state=replace(shard.state, parameters=parameters))
        for shard, parameters in zip(trained, kept, strict=True)
    ]
    assert_array_equal(shards.outputs(None), expected)


def test_a_shard_opened_for_prediction_cannot_be_trained():
    problem = problem_of((5,), 1)
    shards = Shards(problem)
    shards.shards = [
        tasks.PlacedShard(
            problem.network, problem.split, 0, type(s.state)(s.state.parameters)
        )
        for s in shards.shards
    ]
    with pytest.raises(AssertionError, match="opened for prediction"):
        shards.step(ROWS[0], 0.1, first_of_epoch=True)
