"""L-BFGS on shards in memory against scipy's on a plain function."""

import re
import threading
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import minimize
from scipy.sparse import csr_array

from skdistmlp.exceptions import ExchangeError
from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.local_network import open_local_network
from skdistmlp.parallel.shard import split_state
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.training import lbfgs
from skdistmlp.training.lbfgs import IterativeMinimisation, blocks_of, minimise
from skdistmlp.training.scipy_lbfgs import LbfgsOptions
from tests.marks import only_quick
from tests.parallel.ops_contract import (
    HEADS,
    PlainNetwork,
    blocks_of_evaluations,
    make_problem,
)
from tests.parallel.test_local_ops import among_peers
from tests.thread_communicator import run_in_threads

N_ROWS = 20

UNEVEN, SINGLE_ROWS = blocks_of_evaluations(N_ROWS)[1:]

FEW = LbfgsOptions(max_iter=12, max_fun=100, tol=1e-9)

every_number_of_shards = pytest.mark.parametrize("n_shards", [1, 2, 3])


def problem_for(n_shards, output="softmax", n_outputs=3, **options):
    split = NetworkSplit.even((4, 5, 3, n_outputs), n_shards)
    options = {"n_rows": N_ROWS, "alpha": 0.5} | options
    return make_problem(split, "tanh", output, **options)


def plain_result(problem, options=FEW):
    """Return what scipy finds for the loss of an undivided network."""
    return minimize(
        PlainNetwork(problem).set_parameters,
        problem.initial.parameters,
        method="L-BFGS-B",
        jac=True,
        options={
            "maxiter": options.max_iter,
            "maxfun": options.max_fun,
            "gtol": options.tol,
        },
    )


class Wrapped:
    """The objective of a shard, to change one of its methods."""

    def __init__(self, objective):
        self.objective = objective

    def __getattr__(self, name):
        return getattr(self.objective, name)


def train_on_shards(problem, options=FEW, blocks=UNEVEN, wrapper=lambda o: o):
    """Return what every shard returns."""

    def work(peer):
        with peer(
            problem.network, problem.split, problem.start(), problem.dataset, N_ROWS
        ) as network:
            network = replace(network, objective=wrapper(network.objective))
            return minimise(network, options, blocks)

    return among_peers(problem.split.n_shards, work)


def assert_same_result(found, expected):
    assert (found.nit, found.nfev) == (expected.nit, expected.nfev)
    assert (found.status, found.message) == (expected.status, expected.message)
    assert_allclose(found.fun, expected.fun, rtol=1e-9)
    assert_allclose(found.x, expected.x, rtol=1e-6, atol=1e-9)


@every_number_of_shards
@pytest.mark.parametrize(("output", "n_outputs"), HEADS)
@pytest.mark.parametrize(
    "options", only_quick(0, cases=[{"weighted": True}, {"sparse": csr_array}]), ids=str
)
def test_the_first_shard_returns_the_result_of_scipy(
    n_shards, output, n_outputs, options
):
    problem = problem_for(n_shards, output, n_outputs, **options)
    assert problem.split.n_shards == n_shards
    found, *others = train_on_shards(problem)
    assert others == [None] * (n_shards - 1)
    assert found.nit > 3
    assert_same_result(found, plain_result(problem))


@every_number_of_shards
@pytest.mark.parametrize("blocks", [[slice(0, N_ROWS)], SINGLE_ROWS], ids=len)
def test_the_result_does_not_depend_on_the_blocks(n_shards, blocks):
    problem = problem_for(n_shards, weighted=True)
    found = train_on_shards(problem, blocks=blocks)[0]
    assert_same_result(found, plain_result(problem))


@every_number_of_shards
@pytest.mark.parametrize("output", ["softmax", "exp"])
def test_a_block_with_zero_weights_adds_nothing(n_shards, output):
    problem, zeros = problem_for(n_shards, output, weighted=True), UNEVEN[1]
    weight = problem.dataset.sample_weight.copy()
    weight[zeros] = 0
    problem = replace(problem, dataset=replace(problem.dataset, sample_weight=weight))
    found = train_on_shards(problem)[0]
    assert_same_result(found, plain_result(problem))
    without = Dataset(
        *(np.delete(a, zeros, axis=0) for a in (problem.dataset.X, problem.dataset.y)),
        np.delete(weight, zeros),
    )
    assert_same_result(found, plain_result(replace(problem, dataset=without)))


@every_number_of_shards
def test_weights_that_are_all_zero_are_refused(n_shards):
    problem = problem_for(n_shards)
    weight = np.zeros(N_ROWS)
    problem = replace(problem, dataset=replace(problem.dataset, sample_weight=weight))
    with pytest.raises(ZeroDivisionError, match="Weights sum to zero"):
        train_on_shards(problem)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (LbfgsOptions(max_iter=3, max_fun=100, tol=1e-9), "ITERATIONS"),
        (LbfgsOptions(max_iter=100, max_fun=4, tol=1e-9), "EVALUATIONS"),
        (LbfgsOptions(max_iter=100, max_fun=100, tol=0.1), "NORM.OF.PROJECTED"),
    ],
    ids=["max_iter", "max_fun", "tol"],
)
def test_training_ends_by_scipys_criteria(options, says):
    problem = problem_for(2)
    found, expected = (
        train_on_shards(problem, options)[0],
        plain_result(problem, options),
    )
    # SciPy before 1.15 has underscores there.
    assert re.search(says, expected.message)
    assert_same_result(found, expected)


def test_loss_and_gradient_are_computed_in_the_dtype_of_the_start():
    problem = problem_for(2, dtype=np.float32)
    seen = []

    class Watched(Wrapped):
        def loss_and_gradient(self, batch):
            loss, gradient = self.objective.loss_and_gradient(batch)
            seen.append((gradient.dtype, self.objective.parameters().dtype))
            return loss, gradient

    found, _ = train_on_shards(problem, wrapper=Watched)
    assert len(seen) == 2 * found.nfev
    assert set(seen) == {(np.dtype("f4"), np.dtype("f4"))}
    assert found.x.dtype == np.float64
    assert_allclose(found.fun, plain_result(problem).fun, rtol=1e-3)


@every_number_of_shards
@pytest.mark.parametrize("raised", [KeyboardInterrupt, ZeroDivisionError])
@pytest.mark.parametrize("failing", [0, 2])
def test_a_failure_of_one_shard_in_an_evaluation_ends_all(n_shards, raised, failing):
    failing = min(failing, n_shards - 1)
    problem, ended = problem_for(n_shards), {}

    class Struck(Wrapped):
        def add_gradient(self, rows, batch):
            if rows == UNEVEN[1]:
                raise raised
            self.objective.add_gradient(rows, batch)

    def work(communicator):
        rank = communicator.rank
        network = open_local_network(
            problem.network,
            problem.split,
            split_state(problem.split, problem.start())[rank],
            problem.dataset,
            communicator,
            N_ROWS,
        )
        if rank == failing:
            network = replace(network, objective=Struck(network.objective))
        try:
            minimise(network, FEW, UNEVEN)
        except BaseException as error:
            ended[rank] = type(error)
            raise

    with pytest.raises(raised):
        run_in_threads(n_shards, work)
    others = {rank: ExchangeError for rank in range(n_shards) if rank != failing}
    assert ended == others | {failing: raised}


def minimise_step_by_step(problem, options=FEW, blocks=UNEVEN, n_iter=None):
    """Return every shard's iterates and result; give up after `n_iter` iterations."""

    def work(peer):
        with peer(
            problem.network, problem.split, problem.start(), problem.dataset, N_ROWS
        ) as network:
            minimisation, iterates = IterativeMinimisation(network, options, blocks), []
            while len(iterates) != n_iter and minimisation.advance():
                iterates.append(minimisation.iterate)
            minimisation.close()
            return iterates, minimisation.result

    return among_peers(problem.split.n_shards, work)


@every_number_of_shards
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_pauses_change_no_bit_of_the_result(n_shards, dtype):
    problem = problem_for(n_shards, dtype=dtype, weighted=True)
    (iterates, found), *others = minimise_step_by_step(problem)
    expected = train_on_shards(problem)[0]
    assert_array_equal(found.x, expected.x)
    assert (found.fun, found.nit, found.nfev) == (
        expected.fun,
        expected.nit,
        expected.nfev,
    )
    assert found.message == expected.message
    assert [iterate.n_iter for iterate in iterates] == list(range(1, found.nit))
    assert others == [([None] * len(iterates), None)] * (n_shards - 1)
    for iterate in iterates[::4]:
        alone = train_on_shards(problem, replace(FEW, max_iter=iterate.n_iter))[0]
        assert_array_equal(iterate.parameters, alone.x)
        assert iterate.loss == alone.fun


@every_number_of_shards
def test_shards_have_the_parameters_of_an_iteration_at_its_pause(n_shards):
    problem, seen = problem_for(n_shards), {}

    def work(peer):
        with peer(
            problem.network, problem.split, problem.start(), problem.dataset, N_ROWS
        ) as network:
            minimisation = IterativeMinimisation(network, FEW, UNEVEN)
            for _ in range(3):
                assert minimisation.advance()
            if minimisation.iterate is not None:
                seen["whole"] = minimisation.iterate.parameters
            minimisation.close()
            return network.objective.parameters()

    for parameters in among_peers(n_shards, work):
        assert_array_equal(parameters, seen["whole"])


@every_number_of_shards
def test_no_thread_is_left_of_a_minimisation_that_is_given_up(n_shards):
    problem = problem_for(n_shards)
    for iterates, result in minimise_step_by_step(problem, n_iter=2):
        assert len(iterates) == 2
        assert result is None
    assert "skdistmlp-lbfgs" not in [t.name for t in threading.enumerate()]


@every_number_of_shards
def test_the_start_is_a_copy_of_all_parameters(n_shards):
    problem = problem_for(n_shards)

    def work(peer):
        with peer(
            problem.network, problem.split, problem.start(), problem.dataset, N_ROWS
        ) as network:
            start = network.objective.parameters()
            return start, start.copy(), minimise(network, FEW, UNEVEN)

    for start, before, found in among_peers(n_shards, work):
        assert_array_equal(start, problem.initial.parameters)
        assert_array_equal(start, before)
        if found is not None:
            assert not np.shares_memory(found.x, start)
            assert not np.array_equal(found.x, start)


@pytest.mark.parametrize(
    ("n_rows", "itemsize", "lengths"),
    [
        (20, 8, [5, 5, 5, 5]),
        (20, 4, [10, 10]),
        (21, 4, [10, 10, 1]),
        (3, 4, [3]),
        (3, 1000, [1, 1, 1]),
    ],
)
def test_block_lengths_follow_from_the_size_of_activations_and_deltas(
    n_rows, itemsize, lengths, monkeypatch
):
    """The features, of which there are many here, are not among them."""
    monkeypatch.setattr(lbfgs, "BLOCK_BYTES", 5 * 2 * (4 + 3) * 8)
    blocks = blocks_of(n_rows, (1000, 4, 3), itemsize)
    rows = np.arange(n_rows)
    assert_array_equal(np.concatenate([rows[block] for block in blocks]), rows)
    assert [block.stop - block.start for block in blocks] == lengths
