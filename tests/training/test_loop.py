"""The decisions of the training loop, with losses and scores from a script."""

import warnings
from contextlib import redirect_stdout
from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_equal
from sklearn.utils import shuffle

from skdistmlp.training.hold_out import Validation
from skdistmlp.training.loop import EpochOptions, train_epochs
from skdistmlp.training.progress import Outcome
from skdistmlp.training.schedules import LearningRateSchedule
from tests import strategies
from tests.training.scripted import (
    N_SAMPLES,
    Script,
    ScriptedNetwork,
    ScriptedRegressor,
    started,
    train_from_script,
)

numbers = st.lists(
    st.sampled_from([1.0, 0.97, 0.9, 0.5, 1.05, np.inf, np.nan]),
    min_size=1,
    max_size=12,
)


@settings(max_examples=200)
@given(
    losses=numbers,
    scores=numbers,
    interrupted_at=st.none() | st.integers(0, 30),
    schedule=st.builds(
        LearningRateSchedule,
        st.sampled_from(["constant", "invscaling", "adaptive"]),
        st.sampled_from([0.5, 3e-6, 1e-6]),
        st.sampled_from([0.5, 0.1]),
    ),
    early_stopping=st.booleans(),
    batch_size=st.integers(1, 7),
    shuffled=st.booleans(),
    tol=st.sampled_from([0.0, 0.03, 0.1]),
    n_iter_no_change=st.sampled_from([1, 2, 3, np.inf]),
    seed=strategies.seeds,
)
def test_every_decision_matches_scikit_learn(
    losses,
    scores,
    interrupted_at,
    schedule,
    early_stopping,
    batch_size,
    shuffled,
    tol,
    n_iter_no_change,
    seed,
):
    n_epochs = min(len(losses), len(scores))
    mine = Script(losses, scores, interrupted_at)
    theirs = replace(mine, steps=[])

    lines = []
    outcome, progress, weight, _ = train_from_script(
        mine,
        EpochOptions(batch_size, n_epochs, shuffled, tol, n_iter_no_change),
        schedule,
        early_stopping=early_stopping,
        seed=seed,
        log=lines.append,
    )

    reference = ScriptedRegressor(
        hidden_layer_sizes=(),
        solver="sgd",
        batch_size=batch_size,
        learning_rate=schedule.name,
        learning_rate_init=schedule.initial,
        power_t=schedule.power_t,
        max_iter=n_epochs,
        shuffle=shuffled,
        random_state=seed,
        tol=tol,
        verbose=True,
        momentum=0,
        nesterovs_momentum=False,
        early_stopping=early_stopping,
        validation_fraction=0.3,
        n_iter_no_change=n_iter_no_change,
    )
    reference.script = theirs
    X = np.arange(float(N_SAMPLES))[:, np.newaxis]
    with (
        redirect_stdout(StringIO()) as printed,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        reference.fit(X, X[:, 0])

    assert mine.steps == theirs.steps
    scores = progress.validation_scores
    assert lines == printed.getvalue().splitlines()
    assert weight == reference.coefs_[0][0, 0]
    assert_equal(
        (
            progress.n_iter,
            progress.n_samples_seen,
            list(progress.loss_curve),
            progress.best_loss,
            None if scores is None else list(scores),
            progress.best_validation_score,
            progress.no_improvement_count,
            progress.learning_rate,
        ),
        (
            reference.n_iter_,
            reference.t_,
            reference.loss_curve_,
            reference.best_loss_,
            reference.validation_scores_,
            reference.best_validation_score_,
            reference._no_improvement_count,
            reference._optimizer.learning_rate,
        ),
    )
    starts = {
        Outcome.CONVERGED: [],
        Outcome.OUT_OF_EPOCHS: ["Stochastic Optimizer: Maximum iterations"],
        Outcome.INTERRUPTED: ["Training interrupted by user."],
    }[outcome]
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == len(starts)
    assert all(map(str.startswith, messages, starts))


@pytest.mark.parametrize("n_iter_no_change", [1, 2, 5])
def test_training_ends_after_more_than_n_iter_no_change_stalled_epochs(
    n_iter_no_change,
):
    options = EpochOptions(
        4, max_epochs=100, n_iter_no_change=n_iter_no_change, tol=1e-4
    )
    outcome, progress, *_ = train_from_script(Script([1.0] * 100), options)
    assert outcome is Outcome.CONVERGED
    # The first epoch improves on infinity; the count must exceed the limit.
    assert progress.n_iter == 1 + n_iter_no_change + 1


def test_training_without_early_end_runs_to_the_last_epoch():
    options = EpochOptions(4, max_epochs=30, n_iter_no_change=np.inf)
    outcome, progress, *_ = train_from_script(Script([1.0] * 30), options)
    assert (outcome, progress.n_iter) == (Outcome.OUT_OF_EPOCHS, 30)


def test_an_adaptive_rate_is_divided_by_five_until_it_is_too_small():
    lines = []
    options = EpochOptions(N_SAMPLES, max_epochs=100, n_iter_no_change=1)
    script = Script([1.0] * 100)
    schedule = LearningRateSchedule("adaptive", 1e-4)
    outcome, progress, *_ = train_from_script(
        script, options, schedule, log=lines.append
    )
    rates = [rate for _, rate in script.steps]
    np.testing.assert_allclose(
        rates, [1e-4] * 3 + [2e-5] * 2 + [4e-6] * 2 + [8e-7] * 2, rtol=1e-12
    )
    assert outcome is Outcome.CONVERGED
    assert progress.learning_rate == rates[-1]
    stalled = (
        "Training loss did not improve more than tol=0.000100 for 1 consecutive epochs."
    )
    assert [line for line in lines if not line.startswith("Iteration")] == [
        f"{stalled} Setting learning rate to 0.000020",
        f"{stalled} Setting learning rate to 0.000004",
        f"{stalled} Setting learning rate to 0.000001",
        f"{stalled} Learning rate too small. Stopping.",
    ]


def test_verbose_lines_without_validation():
    lines = []
    options = EpochOptions(4, 10, tol=0.5, n_iter_no_change=1, shuffle=False)
    script = Script([2.0, 1.75, 1 / 3, 0.25, 0.125])
    train_from_script(script, options, log=lines.append)
    assert lines == [
        "Iteration 1, loss = 2.00000000",
        "Iteration 2, loss = 1.75000000",
        "Iteration 3, loss = 0.33333333",
        "Iteration 4, loss = 0.25000000",
        "Iteration 5, loss = 0.12500000",
        "Training loss did not improve more than tol=0.500000 for 1 consecutive epochs."
        " Stopping.",
    ]


def test_verbose_lines_with_validation():
    lines = []
    options = EpochOptions(4, 10, tol=0.25, n_iter_no_change=1)
    train_from_script(
        Script([1.0] * 3, [1 / 3, 0.5, 0.375]),
        options,
        early_stopping=True,
        log=lines.append,
    )
    assert lines == [
        "Iteration 1, loss = 1.00000000",
        "Validation score: 0.333333",
        "Iteration 2, loss = 1.00000000",
        "Validation score: 0.500000",
        "Iteration 3, loss = 1.00000000",
        "Validation score: 0.375000",
        "Validation score did not improve more than tol=0.250000 for 1 consecutive "
        "epochs. Stopping.",
    ]


def test_shuffles_accumulate():
    script = Script([1.0] * 3)
    train_from_script(script, EpochOptions(4, max_epochs=3), seed=5)
    random_state, rows = np.random.RandomState(5), np.arange(N_SAMPLES)
    expected = []
    for _ in range(3):
        rows = shuffle(rows, random_state=random_state)
        expected += [rows[:4].tolist(), rows[4:8].tolist(), rows[8:].tolist()]
    assert [rows for rows, _ in script.steps] == expected
    assert {len(rows) for rows in expected} == {4, 3}


def test_rows_keep_their_order_without_shuffling():
    script = Script([1.0] * 2)
    train_from_script(script, EpochOptions(4, max_epochs=2, shuffle=False))
    batches = [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    assert [rows for rows, _ in script.steps] == batches * 2


@pytest.mark.parametrize("step", [0, 2, 3, 4])
def test_an_interrupt_keeps_the_parameters(step):
    """Three steps an epoch."""
    script = Script([1.0] * 9, interrupted_at=step)
    outcome, progress, weight, _ = train_from_script(script, EpochOptions(4, 9))
    assert outcome is Outcome.INTERRUPTED
    assert len(script.steps) == step
    assert weight == -0.5 * step
    assert progress.loss_curve == (1.0,) * (step // 3)
    assert progress.n_samples_seen == N_SAMPLES * (step // 3)


@pytest.mark.parametrize(("step", "best"), [(1, 0.0), (5, -1.0), (8, -1.0)])
def test_an_interrupt_with_early_stopping_restores_the_best(step, best):
    """Two steps an epoch; the score falls from the second on."""
    script = Script([1.0] * 9, [0.9, 0.8, 0.7, 0.6], interrupted_at=step)
    outcome, _, weight, _ = train_from_script(
        script, EpochOptions(4, 9), early_stopping=True
    )
    assert outcome is Outcome.INTERRUPTED
    assert len(script.steps) == step
    assert weight == best


def test_an_interrupt_during_scoring_restores_the_best():
    class Interrupting(list):
        def __getitem__(self, epoch):
            if epoch == 2:
                raise KeyboardInterrupt
            return super().__getitem__(epoch)

    script = Script([1.0] * 9, Interrupting([0.9, 0.8]))
    outcome, progress, weight, _ = train_from_script(
        script, EpochOptions(4, 9), early_stopping=True
    )
    assert outcome is Outcome.INTERRUPTED
    assert progress.validation_scores == (0.9, 0.8)
    assert len(progress.loss_curve) == 3
    assert weight == -1.0


@pytest.mark.parametrize(("include_initial", "weight"), [(True, 0.0), (False, -1.0)])
def test_initial_parameters_compete_for_the_best_only_on_request(
    include_initial, weight
):
    """No score is better than none at all when it is not a number."""
    options = EpochOptions(4, 1)
    _, _, final, network = train_from_script(
        Script([1.0], [np.nan]),
        options,
        early_stopping=True,
        include_initial=include_initial,
    )
    assert network.n_kept == include_initial
    assert final == weight


@pytest.mark.parametrize("early_stopping", [False, True])
def test_training_stops_at_a_pause_on_request(early_stopping):
    """As if there were no more epochs, the best weights restored."""
    stops = [False, True]
    ends = []
    for max_epochs, pause in ((5, lambda *_: stops.pop(0)), (2, None)):
        script = Script([1.0, 0.5, 0.2, 0.1, 0.1], [0.7, 0.3, 0.8, 0.9, 0.9])
        options = EpochOptions(4, max_epochs)
        ends.append(
            train_from_script(
                script, options, early_stopping=early_stopping, on_epoch_end=pause
            )
        )
    (stopped, progress, weight, network), (ended, other_progress, other, _) = ends
    assert (stopped, ended) == (Outcome.STOPPED, Outcome.OUT_OF_EPOCHS)
    assert progress == other_progress
    assert weight == other
    assert (weight == -network.script.steps[0][1] * 2) == early_stopping
    assert stops == []


def test_an_error_is_not_an_outcome():
    class Failing(ScriptedNetwork):
        def pop(self):
            raise ZeroDivisionError

    state = replace(started(), row_order=np.arange(4))
    with pytest.raises(ZeroDivisionError):
        train_epochs(Failing(Script([1.0])), EpochOptions(4, 1), state)


def test_ctrl_c_between_two_epochs_keeps_the_parameters():
    def interrupt(*_):
        raise KeyboardInterrupt

    outcome, progress, weight, _ = train_from_script(
        Script([1.0, 0.5]), EpochOptions(11, 2), on_epoch_end=interrupt
    )
    assert outcome is Outcome.INTERRUPTED
    assert progress.loss_curve == (1.0,)
    assert weight == -0.5


def test_the_score_of_the_leader_decides():
    class Peer(ScriptedNetwork):
        def decides(self, value):
            assert value == 0.25
            return 0.75

    state = started()
    state = replace(
        state, progress=state.progress.started(validating=True), row_order=np.arange(4)
    )
    validation = Validation([np.arange(2)], lambda _: 0.25)
    network = Peer(Script([1.0]))
    state = train_epochs(network, EpochOptions(4, 1), state, validation)
    assert state.progress.validation_scores == (0.75,)
    assert state.progress.best_validation_score == 0.75


def test_training_can_continue_after_a_pause():
    options = EpochOptions(4, 3)
    paused = train_epochs(
        ScriptedNetwork(script := Script([1.0, 0.5, 0.25])),
        options,
        replace(
            started(),
            progress=started().progress.started(False),
            row_order=np.arange(N_SAMPLES),
        ),
        pause=lambda state: state.progress.n_iter == 2,
    )
    assert paused.outcome is None
    assert paused.progress.loss_curve == (1.0, 0.5)
    network = ScriptedNetwork(script)
    network.n_epochs = 2
    ended = train_epochs(network, options, paused)
    assert ended.outcome is Outcome.OUT_OF_EPOCHS
    assert ended.progress.loss_curve == (1.0, 0.5, 0.25)
    whole = Script([1.0, 0.5, 0.25])
    train_from_script(whole, options)
    assert script.steps == whole.steps
