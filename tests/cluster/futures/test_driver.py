"""The "futures" engine: its results, and how much it holds on the cluster."""

from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from distributed import get_task_stream
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array, csr_matrix
from threadpoolctl import threadpool_limits

from skdistmlp import DistributedMLPClassifier
from skdistmlp.cluster.futures.ops import STEPS_AHEAD
from skdistmlp.nn.update_rules import Sgd
from skdistmlp.parallel.data import Dataset
from skdistmlp.planning.cost import BLOCKS_AHEAD
from skdistmlp.training.step import (
    backpropagate,
    forward_pass,
    predict_blocks,
)
from tests.cluster.futures.networks import (
    HIDDEN,
    LBFGS,
    network_of,
    network_on,
    run_lbfgs,
    take_steps,
)
from tests.cluster.support import (
    in_thread,
    occupied,
    task_keys,
    transitions,
    wait_until,
)
from tests.marks import only_quick
from tests.parallel.ops_contract import (
    blocks_of_evaluations,
    check_given_up_evaluation,
    check_network,
)
from tests.parallel.test_local_ops import among_peers, problem_of

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


# The contract.


@pytest.mark.parametrize(
    ("n_shards", "hidden", "options"),
    only_quick(
        7,
        cases=[
            *((n_shards, HIDDEN, {"weighted": True}) for n_shards in [1, 2, 3]),
            (2, (3,), {"output": "logistic", "rule": Sgd(), "alpha": 0.0}),
            (3, (4, 2, 5), {"dtype": np.float32, "activation": "logistic"}),
            (1, (), {}),
            (2, HIDDEN, {"output": "exp", "sparse": csr_matrix, "weighted": True}),
            (3, (4,), {"output": "identity", "n_outputs": 2, "sparse": csr_array}),
            (1, (), {"output": "identity", "sparse": csr_array, "dtype": np.float32}),
        ],
    ),
    ids=str,
)
@pytest.mark.slow
def test_futures_meet_the_contract_with_the_bits_of_local_shards(
    client, n_shards, hidden, options
):
    problem = problem_of(hidden, n_shards, **options)
    found = check_network(network_on(client), problem)
    # Workers compute with one thread, which may change the order of sums.
    with threadpool_limits(1):
        in_threads = among_peers(n_shards, lambda peer: check_network(peer, problem))[0]
    for mine, theirs in zip(found, in_threads, strict=True):
        assert_array_equal(mine, theirs)


def test_an_abandoned_evaluation_does_not_affect_the_next(client):
    check_given_up_evaluation(network_on(client), problem_of(HIDDEN, 2))


@pytest.mark.parametrize("sparse", [None, csr_array], ids=["dense", "sparse"])
def test_streamed_rows_give_the_same_predictions(client, sparse):
    problem = problem_of(HIDDEN, 2, sparse=sparse)
    blocks = [slice(start, start + 3) for start in range(0, 20, 3)]
    outputs = []
    for stream_rows in [False, True]:
        with network_of(client, problem, stream_rows=stream_rows) as network:
            outputs.append(predict_blocks(network, blocks))
    assert len(outputs[0]) == problem.dataset.n_rows
    assert_array_equal(*outputs)


# How much is on the cluster.


def test_tasks_do_not_accumulate_over_steps(client):
    problem = problem_of((3,), 2)
    left = {}
    with network_of(client, problem) as network:
        for n_steps in [5, 30]:
            take_steps(network, n_steps)
            network.loss.pop()
            # The newest state and the rows of each shard; everything else is released.
            left[n_steps] = wait_until(
                lambda: len(keys := task_keys(client)) == 4 and keys,
                "only states and rows are left",
            )
    names = {n_steps: Counter(key[1] for key in keys) for n_steps, keys in left.items()}
    assert names[5] == names[30]


@pytest.mark.slow
def test_values_and_tasks_do_not_accumulate_over_evaluations(client):
    problem = problem_of((3,), 2)
    blocks = blocks_of_evaluations(problem.dataset.n_rows)[2]
    counts_in_memory, all_tasks = [], []

    def states(dask_scheduler):
        return {key: task.state for key, task in dask_scheduler.tasks.items()}

    def values():
        found = client.run_on_scheduler(states)
        return found, [key for key, state in found.items() if state == "memory"]

    def few_values():
        # Of each shard its state, its rows and its sum of gradients.
        found, held = values()
        return len(held) == 2 * 3 and (found, held)

    class Watched:
        def __init__(self, objective):
            self._objective = objective

        def __getattr__(self, name):
            return getattr(self._objective, name)

        def loss_and_gradient(self, batch):
            evaluated = self._objective.loss_and_gradient(batch)
            found, held = wait_until(few_values, "values are released after use")
            counts_in_memory.append(Counter(key[1] for key in held))
            all_tasks.append(len(found))
            return evaluated

    with network_of(client, problem) as network:
        watched = replace(network, objective=Watched(network.objective))
        result = run_lbfgs(watched, problem, blocks)
    assert len(counts_in_memory) == result.nfev > LBFGS.max_iter
    assert all(counts == counts_in_memory[0] for counts in counts_in_memory)
    # Tasks of one evaluation depend on each other; none depends on another's.
    assert max(all_tasks) <= len(blocks) * 12


def test_the_number_of_blocks_evaluated_ahead_is_bounded(client):
    problem = problem_of((3,), 1)
    blocks, every = blocks_of_evaluations(problem.dataset.n_rows)[2], slice(0, 20)

    def evaluate(network):
        for rows in blocks:
            backpropagate(network.ops, rows, every)
            network.objective.add_gradient(rows, every)
        return network.objective.loss_and_gradient(every)

    with network_of(client, problem) as network:
        network.objective.set_parameters(problem.initial.parameters)
        run = wait_until(lambda: task_keys(client), "the shard is placed")[0][2]
        with occupied(client) as let_go:
            evaluation = in_thread(evaluate, network)
            wait_until(
                lambda: len(of("loss", task_keys(client))) > BLOCKS_AHEAD,
                "blocks are submitted ahead of their results",
            )
            let_go()
            evaluation.result(60)
    log = [entry for entry in transitions(client) if entry[0][2] == run]
    assert len({key for key, *_ in log if key[1] == "gradient-shard0"}) == len(blocks)
    assert max(under_way(log, "loss", "loss")) == BLOCKS_AHEAD + 1
    # Not only their losses: a worker that waits for the deltas of a block would go
    # forward through all others.
    assert max(under_way(log, "forward-layer0", "block-end")) == BLOCKS_AHEAD + 1


def under_way(log, first, last):
    """Return the number of submitted, unfinished tasks after each log entry.

    `first` and `last` are the names of the first and last task of each.
    """
    open_, counts = set(), []
    for key, start, end in log:
        if key[1].startswith(first) and (start, end) == ("released", "waiting"):
            open_.add(key[3])
        if key[1].startswith(last) and (start, end) == ("processing", "memory"):
            open_.discard(key[3])
        counts.append(len(open_))
    return counts


def test_the_number_of_steps_submitted_ahead_is_bounded(client):
    problem = problem_of((3,), 1)
    with network_of(client, problem) as network:
        with occupied(client) as let_go:
            steps = in_thread(take_steps, network, 15)
            wait_until(
                lambda: len(of("loss", task_keys(client))) > STEPS_AHEAD,
                "steps are submitted ahead of their results",
            )
            let_go()
            steps.result(60)
        network.loss.pop()
        run = task_keys(client)[0][2]
    log = [entry for entry in transitions(client) if entry[0][2] == run]
    assert len({key for key, *_ in log if key[1] == "update-shard0"}) == 15
    assert max(under_way(log, "update", "loss")) == STEPS_AHEAD + 1


def test_the_number_of_row_blocks_sent_ahead_is_bounded(client):
    problem = problem_of((3,), 2, n_rows=30)
    blocks = [slice(start, start + 1) for start in range(30)]
    rows_on_cluster = []

    def predict(network):
        logits = (forward_pass(network.ops, block) for block in blocks)
        for _ in network.outputs.predictions(logits):
            rows_on_cluster.append(len(of("rows", task_keys(client))))

    with network_of(client, problem, stream_rows=True) as network:
        run = wait_until(lambda: task_keys(client), "shards are placed")[0][2]
        with occupied(client) as let_go:
            prediction = in_thread(predict, network)
            wait_until(
                lambda: len(of("predict", task_keys(client))) > BLOCKS_AHEAD,
                "blocks are sent ahead of their results",
            )
            let_go()
            prediction.result(60)
    log = [entry for entry in transitions(client) if entry[0][2] == run]
    assert max(under_way(log, "predict", "predict")) == BLOCKS_AHEAD + 1
    assert len(rows_on_cluster) == 30
    # Each shard is sent its own copy; the scheduler releases one after a while.
    assert max(rows_on_cluster) <= 2 * (BLOCKS_AHEAD + 2)


def of(name, keys):
    return [key for key in keys if key[1].startswith(name)]


def test_states_stay_on_the_worker_of_their_shard(client):
    def received(dask_worker):
        log = dask_worker.transfer_incoming_log
        return {key for entry in log for key in entry["keys"]}

    problem = problem_of(HIDDEN, 3)
    workers = tuple(client.nthreads())
    with get_task_stream(client) as stream, network_of(client, problem) as network:
        network.state.keep_best()
        take_steps(network, 5)
        network.loss.pop()
        predict_blocks(network, [slice(0, 5)])
        run_lbfgs(network, problem)
        run = task_keys(client)[0][2]

    ran_on = defaultdict(set)
    for task in stream.data:
        if task["key"][2] == run:
            ran_on[task["key"][1]].add(task["worker"])
    for name in ("update", "gradient", "evaluation"):
        assert len(of(name, [("", name) for name in ran_on])) == 3
    for name, where in ran_on.items():
        assert where == {workers[int(name[-1])]}, name

    moved = {
        key[1]
        for keys in client.run(received).values()
        for key in keys
        if isinstance(key, tuple) and run in key
    }
    # Only activations, logits and deltas travel.
    assert {name.split("-")[0] for name in moved} == {"forward", "backward"}


@pytest.mark.parametrize("options", [{}, {"output": "logistic"}], ids=str)
def test_placed_arrays_are_aligned_on_their_worker(client, options):
    """Products would copy unaligned arrays each time: of parameters, every block's."""

    def unaligned(dask_worker):
        values = dask_worker.data.items()
        return {key[1] for key, value in values if not aligned(value)}

    def aligned(value):
        array = value.X if isinstance(value, Dataset) else value.state.parameters
        return array.flags.aligned

    problem = problem_of((3,), 2, **options)
    with network_of(client, problem) as network:
        network.objective.set_parameters(problem.initial.parameters)
        assert set().union(*client.run(unaligned).values()) == set()


def test_two_fits_can_run_at_once_on_one_client(client, digits):
    X, y = digits[0][:300], digits[1][:300]

    def fit(seed, **engine):
        clf = DistributedMLPClassifier((9, 8), max_iter=4, random_state=seed, **engine)
        return clf.fit(X, y)

    futures = {"client": client, "parameter_threshold": 0, "engine": "futures"}
    with ThreadPoolExecutor(2) as pool:
        fits = [pool.submit(fit, seed, **futures) for seed in range(2)]
    for seed, found in enumerate(fits):
        for ours, theirs in zip(found.result().coefs_, fit(seed).coefs_, strict=True):
            assert_allclose(ours, theirs, rtol=1e-6)
