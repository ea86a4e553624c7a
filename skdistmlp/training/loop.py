"""The training loop: epochs of mini-batches, until enough."""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import gen_batches, shuffle

from skdistmlp.exceptions import SkdistmlpError
from skdistmlp.nn.types import FloatArray
from skdistmlp.parallel.communicators import StopRequested
from skdistmlp.parallel.ops import NetworkOps
from skdistmlp.training.progress import Outcome, Progress
from skdistmlp.training.step import predict_blocks, training_step

Value = TypeVar("Value")


@dataclass(frozen=True)
class TrainingOptions:
    """What the loop needs of the estimator's parameters.

    Attributes
    ----------
    batch_size : int
        Rows of a mini-batch.
    max_epochs : int
        The most epochs of this call.
    shuffle : bool
        Whether to shuffle before every epoch.
    tol : float
        The least improvement that counts as one.
    n_iter_no_change : float
        Epochs without improvement after which training ends; may be infinite.
    say : callable or None
        Called with each of scikit-learn's verbose lines.
    """

    batch_size: int
    max_epochs: int
    shuffle: bool = True
    tol: float = 1e-4
    n_iter_no_change: float = 10
    say: Callable[[str], None] | None = None


@dataclass(frozen=True)
class Validation:
    """Held-out rows that decide when to stop.

    Attributes
    ----------
    blocks : sequence of rows
        The rows, cut into blocks that are forwarded one after the other.
    score : callable
        From the outputs of all rows to a number; higher is better.
    include_initial : bool
        Whether the weights before the first epoch are a candidate for the best.
    """

    blocks: Sequence[NDArray[np.intp]]
    score: Callable[[FloatArray], float]
    include_initial: bool


def epochs(
    group: NetworkOps[Value],
    options: TrainingOptions,
    progress: Progress,
    rows: np.ndarray,
    random_state: np.random.RandomState,
    validation: Validation | None = None,
) -> Generator[None, bool | None, Outcome]:
    """Train until the loss or the validation score stops improving.

    Parameters
    ----------
    group : NetworkOps
        The network; trained in place.
    options : TrainingOptions
        How to go about it.
    progress : Progress
        Where training stands; brought up to date after every epoch.
    rows : ndarray of int, shape (n_samples,)
        Rows to train on.
    random_state : RandomState
        Shuffles the rows once an epoch, when asked to.
    validation : Validation, optional
        With it, scores decide, and the best weights are restored at the end.

    Yields
    ------
    None
        After every epoch but the last; True, sent there, makes it the last.

    Returns
    -------
    Outcome
        Why training ended. ``Ctrl-C`` is an outcome, not an error: the weights
        stay as they are then.

    Notes
    -----
    The decisions of ``BaseMultilayerPerceptron._fit_stochastic``. All of them
    follow from numbers that every shard has from shard 0.
    """
    progress.begin(validating=validation is not None)
    if validation is not None and validation.include_initial:
        group.keep_best()
    outcome = Outcome.OUT_OF_EPOCHS
    for number in range(options.max_epochs):
        try:
            if number > 0 and (yield):
                outcome = Outcome.STOPPED
                break
            rows = _run_epoch(group, options, progress, rows, random_state)
            if _has_converged(group, options, progress, validation):
                outcome = Outcome.CONVERGED
                break
        except (KeyboardInterrupt, StopRequested):
            outcome = Outcome.INTERRUPTED
            break
    if validation is not None:
        with prefer_interrupt(outcome):
            group.restore_best()
    return outcome


@contextmanager
def prefer_interrupt(outcome: Outcome) -> Iterator[None]:
    """Let ``Ctrl-C`` go before an error that came of it.

    In a terminal it reaches the workers of a local cluster too: that they are
    gone is then no news, that the user wants to stop is.
    """
    try:
        yield
    except SkdistmlpError as error:
        if outcome is Outcome.INTERRUPTED:
            raise KeyboardInterrupt from error
        raise


def _run_epoch(
    group: NetworkOps[Value],
    options: TrainingOptions,
    progress: Progress,
    rows: np.ndarray,
    random_state: np.random.RandomState,
) -> np.ndarray:
    """Train on every row once; return the rows in the order they were used."""
    if options.shuffle:
        rows = shuffle(rows, random_state=random_state)
    for batch in gen_batches(len(rows), options.batch_size):
        training_step(group, rows[batch], progress.learning_rate)
    progress.record_loss(group.pop_epoch_loss() / len(rows), len(rows))
    _say(options, f"Iteration {progress.n_iter}, loss = {progress.loss:.8f}")
    return rows


def _has_converged(
    group: NetworkOps[Value],
    options: TrainingOptions,
    progress: Progress,
    validation: Validation | None,
) -> bool:
    """Judge the epoch and set the next learning rate; say whether to stop."""
    if validation is None:
        progress.judge_loss(options.tol)
        measure = "Training loss"
    else:
        outputs = predict_blocks(group, validation.blocks)
        score = group.from_leader(validation.score(outputs))
        _say(options, f"Validation score: {score:f}")
        if progress.judge_score(score, options.tol):
            group.keep_best()
        measure = "Validation score"
    progress.learning_rate = progress.schedule.after_epoch(
        progress.learning_rate, progress.n_samples_seen
    )
    if progress.no_improvement_count <= options.n_iter_no_change:
        return False
    return _stop_or_slow_down(options, progress, measure)


def _stop_or_slow_down(
    options: TrainingOptions, progress: Progress, measure: str
) -> bool:
    """Drop the learning rate if the schedule can; return whether to stop."""
    message = (
        f"{measure} did not improve more than tol={options.tol:f} for "
        f"{options.n_iter_no_change:.0f} consecutive epochs."
    )
    next_rate = progress.schedule.after_stall(progress.learning_rate)
    if next_rate is None:
        too_small = progress.schedule.name == "adaptive"
        reason = " Learning rate too small." if too_small else ""
        _say(options, f"{message}{reason} Stopping.")
        return True
    _say(options, f"{message} Setting learning rate to {next_rate:f}")
    progress.learning_rate = next_rate
    progress.no_improvement_count = 0
    return False


def _say(options: TrainingOptions, line: str) -> None:
    if options.say is not None:
        options.say(line)
