"""What stands around the operations of a shard; `test_local_ops` has the contract."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skdistmlp.parallel.local_network import open_local_network
from skdistmlp.parallel.shard import split_state
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.training.step import backpropagate, training_step
from tests.parallel.ops_contract import make_problem
from tests.thread_communicator import run_in_threads

N_ROWS = 20
ROWS = slice(0, N_ROWS)


def on_shards(n_shards, work):
    """Run `work` with the open network of each shard."""
    problem = make_problem(NetworkSplit.even((4, 5, 3), n_shards), n_rows=N_ROWS)

    def shard(communicator):
        state = split_state(problem.split, problem.start())[communicator.rank]
        return work(
            open_local_network(
                problem.network,
                problem.split,
                state,
                problem.dataset,
                communicator,
                N_ROWS,
            ),
            problem,
        )

    return run_in_threads(n_shards, shard)


def test_the_best_parameters_are_kept_in_the_same_array():
    def work(network, problem):
        assert network.state.current.best is None
        network.state.keep_best()
        best = network.state.current.best
        training_step(network.ops, ROWS, 0.1)
        network.state.keep_best()
        assert network.state.current.best is best
        assert_array_equal(best, network.state.current.parameters)
        assert not np.shares_memory(best, network.state.current.parameters)
        return True

    assert on_shards(2, work) == [True, True]


def test_the_loss_of_an_epoch_is_popped_once_and_is_the_same_everywhere():
    def work(network, problem):
        for _ in range(3):
            training_step(network.ops, ROWS, 0.1)
        return network.loss.pop(), network.loss.pop()

    first, *others = on_shards(3, work)
    assert first[0] > 0 == first[1]
    assert others == [first, first]


def test_only_one_shard_leads_and_its_decision_counts():
    def work(network, problem):
        return network.leader.is_here, network.leader.decides(network.leader.is_here)

    assert on_shards(3, work) == [(True, 1.0), (False, 1.0), (False, 1.0)]


def test_only_the_shard_that_leads_computes_for_all():
    def work(network, problem):
        called = []
        value = network.leader.computes(lambda: called.append(1) or 0.5)
        return value, len(called), network.leader.alone_s > 0

    assert on_shards(2, work) == [(0.5, 1, True), (0.5, 0, False)]


def test_an_objective_starts_from_the_parameters_of_all_shards():
    def work(network, problem):
        assert_array_equal(network.objective.parameters(), problem.initial.parameters)
        return True

    assert on_shards(2, work) == [True, True]


def test_an_objective_without_a_block_is_an_error():
    def work(network, problem):
        with pytest.raises(AssertionError, match="no block"):
            network.objective.loss_and_gradient(ROWS)
        backpropagate(network.ops, ROWS, ROWS)
        network.objective.add_gradient(ROWS, ROWS)
        loss, gradient = network.objective.loss_and_gradient(ROWS)
        return loss, gradient.size

    problem = make_problem(NetworkSplit.even((4, 5, 3), 1), n_rows=N_ROWS)
    ((loss, size),) = on_shards(1, work)
    assert loss > 0
    assert size == problem.initial.parameters.size


def test_outputs_are_new_arrays():
    def work(network, problem):
        logits = np.zeros((2, 3))
        (outputs,) = network.outputs.predictions([logits])
        assert not np.shares_memory(outputs, logits)
        assert not logits.any()
        return outputs.sum(axis=1).tolist()

    assert on_shards(1, work) == [pytest.approx([1.0, 1.0])]
