from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from itertools import pairwise

import numpy as np
import pytest
from distributed import Client, get_task_stream
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array, csr_matrix
from threadpoolctl import threadpool_limits

from skdistmlp import DistributedMLPClassifier
from skdistmlp.cluster.futures import BLOCKS_AHEAD, STEPS_AHEAD, FuturesGroup
from skdistmlp.cluster.kept import keep_nothing
from skdistmlp.cluster.pinned import PinnedTasks
from skdistmlp.nn.optimizers import Sgd
from skdistmlp.parallel.data import Dataset
from skdistmlp.training.job import finish
from skdistmlp.training.lbfgs import LbfgsOptions, minimise
from skdistmlp.training.loop import TrainingOptions, epochs
from skdistmlp.training.progress import LearningRateSchedule, Outcome, Progress
from skdistmlp.training.step import (
    backpropagate,
    forward_pass,
    predict_blocks,
    training_step,
)
from tests.cluster.leaks import assert_nothing_left
from tests.cluster.support import (
    in_thread,
    occupied,
    task_keys,
    transitions,
    wait_until,
)
from tests.parallel.group_contract import (
    blocks_of_evaluations,
    check_given_up_evaluation,
    check_shard_group,
)
from tests.parallel.test_buffered import among_peers, problem_of

HIDDEN = (5, 4)

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


def group_on(client, **options):
    """Return a factory of groups as the contract wants it."""

    def make_group(network, state, dataset, max_rows):
        workers = tuple(client.nthreads())[: network.split.n_shards]
        return FuturesGroup(client, workers, network, state, dataset, **options)

    return make_group


def group_of(client, problem, **options):
    data = problem.dataset
    return group_on(client, **options)(
        problem.network, problem.start(), data, data.n_rows
    )


LBFGS = LbfgsOptions(max_iter=4, max_fun=20, tol=1e-9)


def run_lbfgs(group, problem, blocks=None):
    """Return scipy's result; by default with blocks of some rows each."""
    blocks = blocks or blocks_of_evaluations(problem.dataset.n_rows)[1]
    return minimise(group, LBFGS, problem.initial.parameters, blocks)


def take_steps(group, n_steps, rows=slice(0, 8)):
    for _ in range(n_steps):
        training_step(group, rows, 0.01)


# The contract.


@pytest.mark.parametrize(
    ("n_shards", "hidden", "options"),
    [
        *((n_shards, HIDDEN, {"weighted": True}) for n_shards in [1, 2, 3]),
        (2, (3,), {"output": "logistic", "rule": Sgd(), "alpha": 0.0}),
        (3, (4, 2, 5), {"dtype": np.float32, "activation": "logistic"}),
        (1, (), {}),
        (2, HIDDEN, {"output": "exp", "sparse": csr_matrix, "weighted": True}),
        (3, (4,), {"output": "identity", "n_outputs": 2, "sparse": csr_array}),
        (1, (), {"output": "identity", "sparse": csr_array, "dtype": np.float32}),
    ],
    ids=str,
)
def test_the_contract_of_shard_groups_and_the_bits_of_shards_in_memory(
    client, n_shards, hidden, options
):
    problem = problem_of(hidden, n_shards, **options)
    found = check_shard_group(group_on(client), problem)
    # Workers compute with one thread, which may change the order of sums.
    with threadpool_limits(1):
        in_memory = among_peers(
            n_shards, lambda peer: check_shard_group(peer, problem)
        )[0]
    for mine, theirs in zip(found, in_memory, strict=True):
        assert_array_equal(mine, theirs)


def test_an_evaluation_that_is_given_up_leaves_nothing_to_the_next(client):
    check_given_up_evaluation(group_on(client), problem_of(HIDDEN, 2))


@pytest.mark.parametrize("sparse", [None, csr_array], ids=["dense", "sparse"])
def test_streamed_rows_give_the_same_predictions(client, sparse):
    problem = problem_of(HIDDEN, 2, sparse=sparse)
    blocks = [slice(start, start + 3) for start in range(0, 20, 3)]
    outputs = []
    for stream_rows in [False, True]:
        with group_of(client, problem, stream_rows=stream_rows) as group:
            outputs.append(predict_blocks(group, blocks))
    assert len(outputs[0]) == problem.dataset.n_rows
    assert_array_equal(*outputs)


# How much is on the cluster.


def test_tasks_do_not_pile_up_with_the_steps(client):
    problem = problem_of((3,), 2)
    left = {}
    with group_of(client, problem) as group:
        for n_steps in [5, 200]:
            take_steps(group, n_steps)
            group.epoch_loss()
            # The newest state and the rows of each shard; all else is to go.
            left[n_steps] = wait_until(
                lambda: len(keys := task_keys(client)) == 4 and keys,
                "only states and rows are left",
            )
    names = {n_steps: Counter(key[0] for key in keys) for n_steps, keys in left.items()}
    assert names[5] == names[200]


def test_neither_values_nor_tasks_pile_up_with_the_evaluations(client):
    problem = problem_of((3,), 2)
    blocks = blocks_of_evaluations(problem.dataset.n_rows)[2]
    in_memory, all_tasks = [], []

    def states(dask_scheduler):
        return {key: task.state for key, task in dask_scheduler.tasks.items()}

    def values():
        found = client.run_on_scheduler(states)
        return found, [key for key, state in found.items() if state == "memory"]

    def few_values():
        # Of each shard its state, its rows and its sum of gradients.
        found, held = values()
        return len(held) == 2 * 3 and (found, held)

    class Watched(FuturesGroup):
        def evaluation(self, batch):
            evaluated = super().evaluation(batch)
            found, held = wait_until(few_values, "what is done with is let go of")
            in_memory.append(Counter(key[0] for key in held))
            all_tasks.append(len(found))
            return evaluated

    with Watched(
        client,
        tuple(client.nthreads())[:2],
        problem.network,
        problem.start(),
        problem.dataset,
    ) as group:
        result = run_lbfgs(group, problem, blocks)
    assert len(in_memory) == result.nfev > LBFGS.max_iter
    assert all(counts == in_memory[0] for counts in in_memory)
    # Tasks of one evaluation depend on each other; none depends on another's.
    assert max(all_tasks) <= len(blocks) * 10


def test_a_bounded_number_of_blocks_is_evaluated_ahead(client):
    problem = problem_of((3,), 1)
    blocks, every = blocks_of_evaluations(problem.dataset.n_rows)[2], slice(0, 20)

    def evaluate(group):
        for rows in blocks:
            backpropagate(group, rows, every)
            group.accumulate(rows, every)
        return group.evaluation(every)

    with group_of(client, problem) as group:
        group.evaluate_at(problem.initial.parameters)
        run = wait_until(lambda: task_keys(client), "the shard is placed")[0][1]
        with occupied(client) as let_go:
            evaluation = in_thread(evaluate, group)
            wait_until(
                lambda: len(of("loss", task_keys(client))) > BLOCKS_AHEAD,
                "blocks are submitted ahead of their results",
            )
            let_go()
            evaluation.result(60)
    log = [entry for entry in transitions(client) if entry[0][1] == run]
    assert len({key for key, *_ in log if key[0] == "gradient-shard0"}) == len(blocks)
    assert max(under_way(log, "loss", "loss")) == BLOCKS_AHEAD + 1


def under_way(log, first, last):
    """Return how many were submitted and not done, after each entry of the log.

    `first` and `last` are the names of the first and last task of each.
    """
    open_, counts = set(), []
    for key, start, end in log:
        if key[0].startswith(first) and (start, end) == ("released", "waiting"):
            open_.add(key[2])
        if key[0].startswith(last) and (start, end) == ("processing", "memory"):
            open_.discard(key[2])
        counts.append(len(open_))
    return counts


def test_a_bounded_number_of_steps_is_submitted_ahead(client):
    problem = problem_of((3,), 1)
    with group_of(client, problem) as group:
        with occupied(client) as let_go:
            steps = in_thread(take_steps, group, 15)
            wait_until(
                lambda: len(of("loss", task_keys(client))) > STEPS_AHEAD,
                "steps are submitted ahead of their results",
            )
            let_go()
            steps.result(60)
        group.epoch_loss()
        run = task_keys(client)[0][1]
    log = [entry for entry in transitions(client) if entry[0][1] == run]
    assert len({key for key, *_ in log if key[0] == "update-shard0"}) == 15
    assert max(under_way(log, "update", "loss")) == STEPS_AHEAD + 1


def test_a_bounded_number_of_blocks_of_rows_is_sent_ahead(client):
    problem = problem_of((3,), 2, n_rows=30)
    blocks = [slice(start, start + 1) for start in range(30)]
    rows_on_cluster = []

    def predict(group):
        logits = (forward_pass(group, block) for block in blocks)
        for _ in group.predictions(logits):
            rows_on_cluster.append(len(of("rows", task_keys(client))))

    with group_of(client, problem, stream_rows=True) as group:
        run = wait_until(lambda: task_keys(client), "shards are placed")[0][1]
        with occupied(client) as let_go:
            prediction = in_thread(predict, group)
            wait_until(
                lambda: len(of("predict", task_keys(client))) > BLOCKS_AHEAD,
                "blocks are sent ahead of their results",
            )
            let_go()
            prediction.result(60)
    log = [entry for entry in transitions(client) if entry[0][1] == run]
    assert max(under_way(log, "predict", "predict")) == BLOCKS_AHEAD + 1
    assert len(rows_on_cluster) == 30
    # Each shard is sent its own copy; letting go of one takes the scheduler a while.
    assert max(rows_on_cluster) <= 2 * (BLOCKS_AHEAD + 2)


def of(name, keys):
    return [key for key in keys if key[0].startswith(name)]


def test_states_stay_on_the_worker_of_their_shard(client):
    def received(dask_worker):
        log = dask_worker.transfer_incoming_log
        return {key for entry in log for key in entry["keys"]}

    problem = problem_of(HIDDEN, 3)
    workers = tuple(client.nthreads())
    with get_task_stream(client) as stream, group_of(client, problem) as group:
        group.keep_best()
        take_steps(group, 5)
        group.epoch_loss()
        group.restore_best()
        predict_blocks(group, [slice(0, 5)])
        run_lbfgs(group, problem)
        run = task_keys(client)[0][1]

    ran_on = defaultdict(set)
    for task in stream.data:
        if task["key"][1] == run:
            ran_on[task["key"][0]].add(task["worker"])
    for name in ("update", "gradient", "evaluation"):
        assert len(of(name, [(name,) for name in ran_on])) == 3
    for name, where in ran_on.items():
        assert where == {workers[int(name[-1])]}, name

    moved = {
        key[0]
        for keys in client.run(received).values()
        for key in keys
        if isinstance(key, tuple) and key[1] == run
    }
    # Only activations, logits and deltas travel.
    assert {name.split("-")[0] for name in moved} == {"forward", "backward"}


@pytest.mark.parametrize("options", [{}, {"output": "logistic"}], ids=str)
def test_what_is_placed_is_aligned_on_its_worker(client, options):
    """Products would copy unaligned arrays each time: of weights, every block's."""

    def unaligned(dask_worker):
        values = dask_worker.data.items()
        return {key[0] for key, value in values if not aligned(value)}

    def aligned(value):
        array = value.X if isinstance(value, Dataset) else value.state.parameters
        return array.flags.aligned

    problem = problem_of((3,), 2, **options)
    with group_of(client, problem) as group:
        group.evaluate_at(problem.initial.parameters)
        assert set().union(*client.run(unaligned).values()) == set()


def test_two_fits_at_once_on_one_client(client, digits):
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


# Nothing is left behind.


@contextmanager
def leaves_nothing(client):
    """No task on the scheduler, no future in the client, no value on a worker."""
    before = set(client.futures)
    yield
    keep_nothing()
    wait_until(lambda: set(client.futures) == before, "the client holds nothing")
    assert_nothing_left(client)
    wait_until(
        lambda: not any(client.run(lambda dask_worker: len(dask_worker.data)).values()),
        "the workers hold nothing",
    )


@pytest.mark.parametrize(
    "phase", ["at once", "steps", "epoch", "best", "predictions", "evaluation", "lbfgs"]
)
@pytest.mark.parametrize("fails", [False, True], ids=["", "fails"])
def test_nothing_is_left_at_the_end(client, phase, fails):
    problem = problem_of(HIDDEN, 2)
    expected = pytest.raises(ZeroDivisionError) if fails else nullcontext()
    with leaves_nothing(client), expected, group_of(client, problem) as group:
        if phase == "steps":
            take_steps(group, 5)
        elif phase == "epoch":
            take_steps(group, 5)
            group.epoch_loss()
        elif phase == "best":
            group.keep_best()
            take_steps(group, 5)
            group.restore_best()
        elif phase == "predictions":
            # Some blocks are still under way when the first is looked at.
            logits = (forward_pass(group, slice(0, 3)) for _ in range(8))
            next(group.predictions(logits))
        elif phase == "evaluation":
            # Given up before its end.
            group.evaluate_at(problem.initial.parameters)
            for rows in (slice(0, 3), slice(3, 9)):
                backpropagate(group, rows, slice(0, 20))
                group.accumulate(rows, slice(0, 20))
        elif phase == "lbfgs":
            run_lbfgs(group, problem)
        if fails:
            raise ZeroDivisionError


@pytest.mark.parametrize(
    ("stream_rows", "work"),
    [
        (False, lambda group: take_steps(group, 10)),
        (False, lambda group: (take_steps(group, 1), group.epoch_loss())),
        (True, lambda group: predict_blocks(group, [slice(0, 3)] * 10)),
        (False, lambda group: run_lbfgs(group, problem_of(HIDDEN, 2))),
    ],
    ids=["training", "end of an epoch", "predicting", "lbfgs"],
)
def test_nothing_is_left_after_a_task_that_raises(client, stream_rows, work):
    problem = problem_of(HIDDEN, 2)
    narrow = Dataset(problem.dataset.X[:, :-1], problem.dataset.y)
    make_group = group_on(client, stream_rows=stream_rows)
    with (
        leaves_nothing(client),
        make_group(problem.network, problem.start(), narrow, 20) as group,
        pytest.raises(ValueError, match="mismatch"),
    ):
        work(group)


# Ctrl-C in the second evaluation of three blocks on two shards.
STRUCK = {
    "sending parameters": (PinnedTasks, "place", 1 + 1 + 1),
    "between forward tasks": (FuturesGroup, "forward", 3 * 3 + 4),
    "between backward tasks": (FuturesGroup, "backward", 3 * 3 + 4),
    "before the gradients": (FuturesGroup, "accumulate", 3 + 1),
    "submitting a block": (Client, "get", 4 + 1),
    "submitting the end": (Client, "get", 4 + 3),
    "fetching the gradients": (PinnedTasks, "fetch", 2 + 1),
}


@pytest.mark.parametrize("where", STRUCK)
@pytest.mark.parametrize("raised", [KeyboardInterrupt, ArithmeticError])
def test_nothing_is_left_after_what_strikes_an_evaluation(
    client, monkeypatch, where, raised
):
    owner, method, n_calls_before = STRUCK[where]
    problem = problem_of(HIDDEN, 2)
    original, evaluate_at = getattr(owner, method), FuturesGroup.evaluate_at
    calls, evaluations = [], []

    def struck(*args, **kwargs):
        calls.append(method)
        if len(calls) == n_calls_before + 1:
            raise raised
        return original(*args, **kwargs)

    def counted(*args):
        evaluations.append(args)
        return evaluate_at(*args)

    monkeypatch.setattr(owner, method, struck)
    monkeypatch.setattr(FuturesGroup, "evaluate_at", counted)
    with (
        leaves_nothing(client),
        pytest.raises(raised),
        group_of(client, problem) as group,
    ):
        run_lbfgs(group, problem)
    assert len(calls) == n_calls_before + 1
    assert len(evaluations) == 2


def test_nothing_is_left_after_placing_failed(client, monkeypatch):
    problem = problem_of(HIDDEN, 2)
    scatter, calls = client.scatter, []

    def scatter_twice(*args, **kwargs):
        calls.append(args)
        if len(calls) > 2:
            raise ZeroDivisionError
        return scatter(*args, **kwargs)

    monkeypatch.setattr(client, "scatter", scatter_twice)
    with (
        leaves_nothing(client),
        pytest.raises(ZeroDivisionError),
        group_of(client, problem),
    ):
        pass
    assert len(calls) >= 3


# Ctrl-C: where it strikes at the third step, and the steps that count then.
INTERRUPTED = {
    "between forward tasks": (FuturesGroup, "forward", 3 * 2 + 1, 2),
    "before the loss": (FuturesGroup, "output_delta", 2, 2),
    "between backward tasks": (FuturesGroup, "backward", 3 * 2 + 1, 2),
    "before the update": (FuturesGroup, "update", 2, 2),
    "before submitting": (Client, "get", 2, 2),
    "waiting for a loss": (PinnedTasks, "fetch", 0, 3),
}


@pytest.mark.parametrize("with_best", [False, True], ids=["", "best weights kept"])
@pytest.mark.parametrize("where", INTERRUPTED)
def test_an_interrupt_leaves_whole_steps(client, monkeypatch, where, with_best):
    owner, method, n_calls_before, n_whole_steps = INTERRUPTED[where]
    problem = problem_of(HIDDEN, 2)
    n_rows, batch_size = problem.dataset.n_rows, 3
    rows = np.arange(n_rows)
    original, calls = getattr(owner, method), []

    def interrupted(*args, **kwargs):
        calls.append(method)
        if len(calls) == n_calls_before + 1:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    with leaves_nothing(client), group_of(client, problem) as group:
        if with_best:
            group.keep_best()
        with monkeypatch.context() as patch:
            patch.setattr(owner, method, interrupted)
            outcome = finish(
                epochs(
                    group,
                    TrainingOptions(batch_size, max_epochs=1, shuffle=False),
                    Progress(LearningRateSchedule("constant", 0.01), 0.01),
                    rows,
                    np.random.RandomState(0),
                )
            )
        state = group.collect()
        if with_best:
            # What the interrupt left half done must not come in between.
            group.restore_best()
            best = group.collect()
    assert outcome is Outcome.INTERRUPTED
    assert state.optimizer.n_steps == n_whole_steps

    def whole_steps(peer):
        with peer(problem.network, problem.start(), problem.dataset, n_rows) as group:
            for start, stop in list(pairwise(range(0, n_rows, batch_size)))[
                :n_whole_steps
            ]:
                training_step(group, rows[start:stop], 0.01)
            return group.collect()

    with threadpool_limits(1):
        expected = among_peers(2, whole_steps)[0]
    assert_array_equal(state.parameters, expected.parameters)
    for mine, theirs in zip(
        state.optimizer.moments, expected.optimizer.moments, strict=True
    ):
        assert_array_equal(mine, theirs)
    if with_best:
        assert_array_equal(best.parameters, problem.initial.parameters)


def test_an_interrupted_fit_keeps_its_weights_and_can_go_on(
    client, digits, monkeypatch
):
    X, y = digits[0][:300], digits[1][:300]
    clf = DistributedMLPClassifier(
        (9, 8),
        max_iter=3,
        batch_size=50,
        random_state=0,
        client=client,
        parameter_threshold=0,
        engine="futures",
    )
    update, calls = FuturesGroup.update, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 9:
            raise KeyboardInterrupt
        update(*args)

    with leaves_nothing(client):
        with monkeypatch.context() as patch:
            patch.setattr(FuturesGroup, "update", interrupted)
            with pytest.warns(UserWarning, match="interrupted"):
                clf.fit(X, y)
        assert clf.n_iter_ == 1
        assert len(clf.predict(X)) == len(X)
        clf.fit(X, y)
    assert clf.n_iter_ == 3
