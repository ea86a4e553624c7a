import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.neural_network._stochastic_optimizers import SGDOptimizer

from skdistmlp.training.progress import Progress
from skdistmlp.training.schedules import LearningRateSchedule

NAMES = ["constant", "invscaling", "adaptive"]

schedules = st.builds(
    LearningRateSchedule, st.sampled_from(NAMES), st.floats(1e-9, 10), st.floats(0, 2)
)


def progress(**kwargs):
    return Progress(LearningRateSchedule("constant", 0.1), 0.1, **kwargs)


@given(
    schedule=schedules,
    n_samples=st.integers(1, 10**6),
    stalls=st.lists(st.booleans(), max_size=12),
)
def test_learning_rates_match_scikit_learn(schedule, n_samples, stalls):
    optimizer = SGDOptimizer(
        [], schedule.initial, schedule.name, power_t=schedule.power_t
    )
    rate = schedule.initial
    for epoch, stalled in enumerate(stalls, start=1):
        optimizer.iteration_ends(epoch * n_samples)
        rate = schedule.after_epoch(rate, epoch * n_samples)
        assert rate == optimizer.learning_rate
        if stalled:
            next_rate = schedule.after_stall(rate)
            stopping = optimizer.trigger_stopping("", verbose=False)
            assert (next_rate is None) == stopping
            if stopping:
                break
            rate = next_rate
            assert rate == optimizer.learning_rate


@pytest.mark.parametrize(
    ("name", "rate", "expected"),
    [
        ("adaptive", 0.5, 0.1),
        ("adaptive", 1.1e-6, 1.1e-6 / 5),
        ("adaptive", 1e-6, None),
        ("adaptive", 1e-9, None),
        ("constant", 0.5, None),
        ("invscaling", 0.5, None),
    ],
)
def test_only_an_adaptive_rate_continues_after_a_stall(name, rate, expected):
    assert LearningRateSchedule(name, 1.0).after_stall(rate) == expected


def test_inverse_scaling_depends_on_the_samples_seen():
    schedule = LearningRateSchedule("invscaling", 0.8, power_t=0.5)
    assert schedule.after_epoch(123.0, n_samples_seen=15) == 0.2


def test_an_epoch_increases_epochs_and_samples():
    before = progress(n_samples_seen=7, loss_curve=(3.0,))
    seen = before.with_loss(2.0, 10, 3).with_loss(1.0, 10, 3)
    assert (seen.n_iter, seen.n_samples_seen, seen.loss) == (2, 27, 1.0)
    assert seen.loss_curve == (3.0, 2.0, 1.0)
    assert before == progress(n_samples_seen=7, loss_curve=(3.0,))


def test_training_starts_from_the_worst_loss_or_score():
    assert progress().started(validating=False).best_loss == np.inf
    seen = progress().started(validating=True)
    assert (seen.validation_scores, seen.best_validation_score) == ((), -np.inf)
    assert seen.best_loss is None
    again = progress(best_loss=0.5).started(validating=False)
    assert again == progress(best_loss=0.5)


@pytest.mark.parametrize(
    ("loss", "count", "best"),
    [
        (0.75, 0, 0.75),  # lower by exactly tol is an improvement
        (0.8125, 4, 0.8125),  # a smaller one is not, though it is the best
        (1.0, 4, 1.0),
        (2.0, 4, 1.0),
        (np.nan, 0, 1.0),  # as in scikit-learn, whose comparison is false too
    ],
)
def test_a_loss_improves_by_more_than_tol(loss, count, best):
    seen = progress(best_loss=1.0, no_improvement_count=3)
    seen = seen.with_loss(loss, 1, 1).judged_by_loss(tol=0.25)
    assert (seen.no_improvement_count, seen.best_loss) == (count, best)


@pytest.mark.parametrize(
    ("score", "count", "is_best"),
    [
        (0.75, 0, True),  # higher by exactly tol is an improvement
        (0.625, 4, True),  # a smaller one is not, though it is the best
        (0.5, 4, False),
        (0.25, 4, False),
        (np.nan, 0, False),
    ],
)
def test_a_score_improves_by_more_than_tol(score, count, is_best):
    seen = progress(
        best_loss=None,
        validation_scores=(0.5,),
        best_validation_score=0.5,
        no_improvement_count=3,
    )
    seen = seen.judged_by_score(score, tol=0.25).with_score(score)
    assert seen.no_improvement_count == count
    np.testing.assert_equal(seen.validation_scores, (0.5, score))
    assert seen.best_validation_score == (score if is_best else 0.5)
    assert seen.best_loss is None


def test_losses_and_the_epoch_of_the_best_score_are_noted():
    seen = progress(loss_curve=(2.0, 1.0), validation_losses=(0.75,))
    seen = seen.started(validating=True, stops=False)
    assert seen.best_loss == np.inf
    assert seen.with_validation_loss(None) is seen
    seen = seen.with_validation_loss(0.5).with_score(0.25)
    assert (seen.validation_losses, seen.validation_scores) == ((0.75, 0.5), (0.25,))
    assert (seen.best_validation_score, seen.best_iter) == (0.25, 2)
    assert seen.with_score(0.25).best_iter == 2


def test_losses_for_validation_stay_in_step_with_the_epochs():
    """A call may have rows for validation though those before and after have none."""
    seen = progress(loss_curve=(2.0,)).without_validation()
    assert seen.validation_losses is None
    seen = seen.started(validating=True).with_validation_loss(0.5).with_score(0.25)
    seen = seen.started(validating=False).without_validation()
    np.testing.assert_equal(seen.validation_losses, (np.nan, 0.5, np.nan))
    assert seen.validation_scores == (0.25,)
