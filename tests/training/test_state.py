"""A state of training is enough to continue it: anywhere, with the same result.

The state after any epoch is pickled and continued on each engine, on another number
of shards and in another process. On the same plan every bit is the same.
"""

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import OptimizeResult

from skdistmlp.engines.futures import FuturesEngine
from skdistmlp.engines.local import LocalEngine
from skdistmlp.engines.peers import PeersEngine
from skdistmlp.nn.optimizers import init
from skdistmlp.nn.update_rules import Adam
from skdistmlp.parallel.shard import ShardState
from skdistmlp.training.progress import Outcome
from skdistmlp.training.state import TrainingState
from tests.engines.thread_engine import ThreadEngine
from tests.marks import only_quick
from tests.training.jobs import CASES, dataset_of, job_of, plan_of

ENGINES = {
    "local": (lambda plan, _: LocalEngine(plan), 1),
    "threads": (lambda plan, _: ThreadEngine(plan), 3),
    "futures": (FuturesEngine, 2),
    "peers": (PeersEngine, 2),
}
"""How each engine is made, and on how many shards it trains here."""


def train(engine, case, client=None, n_shards=None, state=None, on_epoch_end=None):
    """Train to the end from the start, or from a pickled state."""
    make, usual = ENGINES[engine]
    n_shards = n_shards or usual
    workers = client.nthreads() if client is not None else ()
    state = state and pickle.loads(state)
    job = job_of(case, n_shards, state)
    plan = plan_of(engine, workers, n_shards)
    return make(plan, client).train(job, dataset_of(case), on_epoch_end)


def train_and_keep(engine, case, client=None):
    """Return the end of an undisturbed fit, and the pickled state of each epoch."""
    kept = []

    def keep(state, snapshot):
        kept.append(pickle.dumps(snapshot()))
        return False

    return train(engine, case, client, on_epoch_end=keep), kept


def assert_same_training(found, expected, exact):
    """Compare parameters, moments, curve, scores and the number of epochs."""
    compare = assert_array_equal
    if not exact:

        def compare(one, other):
            assert_allclose(one, other, rtol=1e-9, atol=1e-12)

    mine, theirs = found.progress, expected.progress
    assert found.outcome is expected.outcome
    assert (mine.n_iter, mine.n_samples_seen) == (theirs.n_iter, theirs.n_samples_seen)
    assert mine.no_improvement_count == theirs.no_improvement_count
    compare(mine.loss_curve, theirs.loss_curve)
    compare(mine.learning_rate, theirs.learning_rate)
    assert (mine.validation_scores is None) == (theirs.validation_scores is None)
    if mine.validation_scores is not None:
        compare(mine.validation_scores, theirs.validation_scores)
    for name in ("loss", "best_loss", "best_validation_score"):
        one, other = getattr(mine, name), getattr(theirs, name)
        assert (one is None) == (other is None)
        if one is not None:
            compare(one, other)
    assert (found.network.best is None) == (expected.network.best is None)
    if found.network.best is not None:
        compare(found.network.best, expected.network.best)
    compare(found.network.parameters, expected.network.parameters)
    states = found.network.optimizer, expected.network.optimizer
    assert states[0].n_steps == states[1].n_steps
    for one, other in zip(states[0].moments, states[1].moments, strict=True):
        compare(one, other)
    assert_array_equal(found.row_order, expected.row_order)
    assert_array_equal(
        found.random_state.get_state()[1], expected.random_state.get_state()[1]
    )


def train_elsewhere(case, state):
    return train("local", case, state=state)


@pytest.fixture(scope="module")
def another_process():
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) as process:
        yield lambda *args: process.submit(*args).result(60)


@pytest.mark.parametrize("case", CASES)
def test_any_epoch_continues_to_the_bit(case, another_process):
    undisturbed, kept = train_and_keep("local", case)
    assert len(kept) == undisturbed.progress.n_iter - 1 >= 3
    for state in kept:
        continued = train("local", case, state=state)
        assert_same_training(continued, undisturbed, exact=True)
    elsewhere = another_process(train_elsewhere, case, kept[1])
    assert_same_training(elsewhere, undisturbed, exact=True)


@pytest.mark.parametrize("engine", ["local", "threads"])
def test_the_same_state_may_be_continued_again(engine):
    _, kept = train_and_keep("local", "early stopping")
    make, n_shards = ENGINES[engine]
    state = pickle.loads(kept[1])
    ends = [
        make(plan_of(engine, (), n_shards), None).train(
            job_of("early stopping", n_shards, state), dataset_of("early stopping")
        )
        for _ in range(2)
    ]
    assert_same_training(ends[1], ends[0], exact=True)
    unchanged = pickle.loads(kept[1])
    assert_array_equal(state.network.parameters, unchanged.network.parameters)
    assert_array_equal(state.network.best, unchanged.network.best)


def test_a_state_in_which_training_has_ended_is_refused():
    ended = train("local", "adam")
    with pytest.raises(
        ValueError, match=r"training has ended \(Outcome.OUT_OF_EPOCHS\)"
    ):
        train("local", "adam", state=pickle.dumps(ended))


@pytest.mark.parametrize("case", only_quick(0, 2, 4, cases=CASES))
def test_any_epoch_continues_on_another_number_of_shards(case):
    undisturbed, kept = train_and_keep("local", case)
    for number, state in enumerate(kept):
        continued = train("threads", case, n_shards=2 + number % 2, state=state)
        assert_same_training(continued, undisturbed, exact=False)


@pytest.mark.parametrize(
    ("engine", "case"),
    [
        *only_quick(cases=[("futures", case) for case in CASES]),
        *only_quick(1, cases=[("peers", case) for case in CASES]),
    ],
)
def test_an_engine_on_workers_continues_to_the_bit_on_the_same_plan(
    client, engine, case
):
    undisturbed, kept = train_and_keep(engine, case, client)
    continued = train(engine, case, client, state=kept[len(kept) // 2])
    assert_same_training(continued, undisturbed, exact=True)


@pytest.mark.parametrize("case", only_quick(0, 4, cases=CASES))
def test_a_pickled_state_continues_on_another_engine(client, case):
    """Each takes over what another has left, on another number of shards."""
    undisturbed, _ = train_and_keep("local", case)
    stops = iter([("peers", 3), ("local", 1), ("futures", 2), ("peers", 2)])
    state = None
    for engine, n_shards in stops:
        kept = []

        def keep_and_stop(_, snapshot, kept=kept):
            kept.append(pickle.dumps(snapshot()))
            return True

        end = train(engine, case, client, n_shards, state, keep_and_stop)
        assert end.outcome is Outcome.STOPPED
        (state,) = kept
    end = train("local", case, state=state)
    assert end.progress.n_iter == undisturbed.progress.n_iter
    assert_same_training(end, undisturbed, exact=False)


def state_with(**network):
    rng = np.random.default_rng(0)
    parameters = rng.normal(size=5)
    return TrainingState(
        ShardState(parameters, init(Adam(), parameters), **network),
        np.random.RandomState(0),
        row_order=np.arange(3),
    )


def test_a_copy_shares_no_array_that_training_writes_to():
    state = state_with(best=np.ones(5))
    copy = state.copy()
    pairs = [
        (state.network.parameters, copy.network.parameters),
        (state.network.best, copy.network.best),
        *zip(
            state.network.optimizer.moments, copy.network.optimizer.moments, strict=True
        ),
    ]
    assert len(pairs) == 4
    for mine, theirs in pairs:
        assert_array_equal(mine, theirs)
        assert not np.shares_memory(mine, theirs)
    state.random_state.rand()
    assert copy.random_state.rand() == np.random.RandomState(0).rand()


def test_training_ends_with_the_best_parameters():
    best = np.ones(5)
    assert state_with(best=best).as_if_ended().network.parameters is best
    without = state_with()
    assert without.as_if_ended() is without


def test_a_copy_has_another_array_of_the_iterate():
    state = replace(state_with(), iterate=np.ones(5))
    copy = state.copy()
    state.iterate[:] = 2
    assert_array_equal(copy.as_if_ended().network.parameters, np.ones(5))


def test_training_ends_with_what_lbfgs_found():
    found = OptimizeResult(x=np.arange(5.0))
    ended = replace(state_with(best=np.ones(5)), outcome=found).as_if_ended()
    assert_array_equal(ended.network.parameters, found.x)
    assert ended.network.optimizer is None


def test_without_arrays_a_state_says_how_far_training_has_come():
    state = replace(
        state_with(), progress=3, held_out=np.arange(2), iterate=np.ones(5)
    ).without_arrays()
    assert state.progress == 3
    arrays = (state.network, state.row_order, state.held_out, state.iterate)
    assert arrays == (None, None, None, None)
