"""A run of the "futures" engine leaves nothing behind, however it ends."""

from contextlib import contextmanager, nullcontext
from itertools import pairwise

import numpy as np
import pytest
from distributed import Client
from numpy.testing import assert_array_equal
from threadpoolctl import threadpool_limits

from skdistmlp import DistributedMLPClassifier
from skdistmlp.cluster.futures.driver import FuturesObjective
from skdistmlp.cluster.futures.ops import FuturesOps
from skdistmlp.cluster.run import scatter
from skdistmlp.cluster.run.cache import clear_caches
from skdistmlp.cluster.run.placement import Placement
from skdistmlp.cluster.run.scatter import Scatterer
from skdistmlp.parallel.data import Dataset
from skdistmlp.training.loop import EpochOptions, train_epochs
from skdistmlp.training.progress import Outcome, Progress
from skdistmlp.training.schedules import LearningRateSchedule
from skdistmlp.training.state import TrainingState
from skdistmlp.training.step import (
    backpropagate,
    forward_pass,
    predict_blocks,
    training_step,
)
from tests.cluster.futures.networks import (
    HIDDEN,
    network_of,
    network_on,
    run_lbfgs,
    take_steps,
)
from tests.cluster.leaks import assert_nothing_left
from tests.cluster.support import (
    wait_until,
)
from tests.marks import only_quick
from tests.parallel.test_local_ops import among_peers, problem_of

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@contextmanager
def leaves_nothing(client):
    """Check for tasks on the scheduler, futures in the client, values on workers."""
    before = set(client.futures)
    yield
    clear_caches()
    wait_until(lambda: set(client.futures) == before, "the client holds nothing")
    assert_nothing_left(client)
    wait_until(
        lambda: not any(client.run(lambda dask_worker: len(dask_worker.data)).values()),
        "the workers hold nothing",
    )


@pytest.mark.parametrize(
    "phase",
    only_quick(
        *(1, 3, 5, 6),
        cases=[
            *("at once", "steps", "epoch", "best"),
            *("predictions", "evaluation", "lbfgs"),
        ],
    ),
)
@pytest.mark.parametrize("fails", only_quick(1, cases=[False, True]), ids=["", "fails"])
def test_nothing_is_left_at_the_end(client, phase, fails):
    problem = problem_of(HIDDEN, 2)
    expected = pytest.raises(ZeroDivisionError) if fails else nullcontext()
    with leaves_nothing(client), expected, network_of(client, problem) as network:
        if phase == "steps":
            take_steps(network, 5)
        elif phase == "epoch":
            take_steps(network, 5)
            network.loss.pop()
        elif phase == "best":
            network.state.keep_best()
            take_steps(network, 5)
        elif phase == "predictions":
            # Some blocks are still in flight when the first is read.
            logits = (forward_pass(network.ops, slice(0, 3)) for _ in range(8))
            next(network.outputs.predictions(logits))
        elif phase == "evaluation":
            # Abandoned before its end.
            network.objective.set_parameters(problem.initial.parameters)
            for rows in (slice(0, 3), slice(3, 9)):
                backpropagate(network.ops, rows, slice(0, 20))
                network.objective.add_gradient(rows, slice(0, 20))
        elif phase == "lbfgs":
            run_lbfgs(network, problem)
        if fails:
            raise ZeroDivisionError


@pytest.mark.parametrize(
    ("stream_rows", "work"),
    [
        (False, lambda network: take_steps(network, 10)),
        (False, lambda network: (take_steps(network, 1), network.loss.pop())),
        (True, lambda network: predict_blocks(network, [slice(0, 3)] * 10)),
        (False, lambda network: run_lbfgs(network, problem_of(HIDDEN, 2))),
    ],
    ids=["training", "end of an epoch", "predicting", "lbfgs"],
)
def test_nothing_is_left_after_a_task_that_raises(client, stream_rows, work):
    problem = problem_of(HIDDEN, 2)
    narrow = Dataset(problem.dataset.X[:, :-1], problem.dataset.y)
    open_network = network_on(client, stream_rows=stream_rows)
    with (
        leaves_nothing(client),
        open_network(
            problem.network, problem.split, problem.start(), narrow, 20
        ) as network,
        pytest.raises(ValueError, match="mismatch"),
    ):
        work(network)


# Ctrl-C in the second evaluation of three blocks on two shards.
STRUCK = {
    "sending parameters": (Scatterer, "scatter", 1 + 1 + 1),
    "between forward tasks": (FuturesOps, "forward", 3 * 3 + 4),
    "between backward tasks": (FuturesOps, "backward", 3 * 3 + 4),
    "before the gradients": (FuturesObjective, "add_gradient", 3 + 1),
    "submitting a block": (Client, "get", 4 + 1),
    "submitting the end": (Client, "get", 4 + 3),
    "fetching the gradients": (Placement, "fetch", 2 + 1),
}


@pytest.mark.parametrize("where", only_quick(0, 2, 5, 6, cases=STRUCK))
@pytest.mark.parametrize(
    "raised", only_quick(0, cases=[KeyboardInterrupt, ArithmeticError])
)
def test_nothing_is_left_after_a_failed_evaluation(client, monkeypatch, where, raised):
    owner, method, n_calls_before = STRUCK[where]
    problem = problem_of(HIDDEN, 2)
    original = getattr(owner, method)
    set_parameters = FuturesObjective.set_parameters
    calls, evaluations = [], []

    def struck(*args, **kwargs):
        calls.append(method)
        if len(calls) == n_calls_before + 1:
            raise raised
        return original(*args, **kwargs)

    def counted(*args):
        evaluations.append(args)
        return set_parameters(*args)

    monkeypatch.setattr(owner, method, struck)
    monkeypatch.setattr(FuturesObjective, "set_parameters", counted)
    with (
        leaves_nothing(client),
        pytest.raises(raised),
        network_of(client, problem) as network,
    ):
        run_lbfgs(network, problem)
    assert len(calls) == n_calls_before + 1
    assert len(evaluations) == 2


def test_nothing_is_left_after_placing_failed(client, monkeypatch):
    problem = problem_of(HIDDEN, 2)
    send, calls = scatter.send_value, []

    async def send_twice(*args):
        calls.append(args)
        if len(calls) > 2:
            raise ZeroDivisionError
        return await send(*args)

    monkeypatch.setattr(scatter, "send_value", send_twice)
    with (
        leaves_nothing(client),
        pytest.raises(ZeroDivisionError),
        network_of(client, problem),
    ):
        pass
    assert len(calls) >= 3


# Ctrl-C: where it occurs in the third step, and the steps that count then.
INTERRUPTED = {
    "between forward tasks": (FuturesOps, "forward", 3 * 2 + 1, 2),
    "before the loss": (FuturesOps, "output_delta", 2, 2),
    "between backward tasks": (FuturesOps, "backward", 3 * 2 + 1, 2),
    "before the update": (FuturesOps, "update", 2, 2),
    "before submitting": (Client, "get", 2, 2),
    "waiting for a loss": (Placement, "fetch", 0, 3),
}


@pytest.mark.parametrize(
    "with_best", only_quick(0, cases=[False, True]), ids=["", "best parameters kept"]
)
@pytest.mark.parametrize("where", INTERRUPTED)
def test_an_interrupt_ends_after_whole_steps(client, monkeypatch, where, with_best):
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

    with leaves_nothing(client), network_of(client, problem) as network:
        if with_best:
            network.state.keep_best()
        with monkeypatch.context() as patch:
            patch.setattr(owner, method, interrupted)
            schedule = LearningRateSchedule("constant", 0.01)
            progress = Progress(schedule, 0.01).started(validating=False)
            ended = train_epochs(
                network,
                EpochOptions(batch_size, max_epochs=1, shuffle=False),
                TrainingState(
                    network.state.current,
                    np.random.RandomState(0),
                    progress,
                    row_order=rows,
                ),
            )
        # The unfinished work that the interrupt left must not interfere.
        state = network.state.fetch()
    assert ended.outcome is Outcome.INTERRUPTED
    assert state.optimizer.n_steps == n_whole_steps

    def whole_steps(peer):
        with peer(
            problem.network, problem.split, problem.start(), problem.dataset, n_rows
        ) as network:
            for start, stop in list(pairwise(range(0, n_rows, batch_size)))[
                :n_whole_steps
            ]:
                training_step(network.ops, rows[start:stop], 0.01)
            return network.state.fetch()

    with threadpool_limits(1):
        expected = among_peers(2, whole_steps)[0]
    assert_array_equal(state.parameters, expected.parameters)
    for mine, theirs in zip(
        state.optimizer.moments, expected.optimizer.moments, strict=True
    ):
        assert_array_equal(mine, theirs)
    if with_best:
        assert_array_equal(state.best, problem.initial.parameters)


def test_an_interrupted_fit_keeps_its_parameters_and_can_continue(
    client, digits, monkeypatch
):
    X, y = digits[0][:300], digits[1][:300]
    clf = DistributedMLPClassifier(
        (9, 8),
        max_iter=3,
        batch_size=150,
        random_state=0,
        client=client,
        parameter_threshold=0,
        engine="futures",
    )
    update, calls = FuturesOps.update, []

    def interrupted(*args):
        calls.append(args)
        if len(calls) == 4:
            raise KeyboardInterrupt
        update(*args)

    with leaves_nothing(client):
        with monkeypatch.context() as patch:
            patch.setattr(FuturesOps, "update", interrupted)
            with pytest.warns(UserWarning, match="interrupted"):
                clf.fit(X, y)
        assert clf.n_iter_ == 1
        assert len(clf.predict(X)) == len(X)
        clf.fit(X, y)
    assert clf.n_iter_ == 3
