"""The training loop: epochs of mini-batches, from state to state."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from sklearn.utils import gen_batches, shuffle

from skdistmlp.parallel.communicators import StopRequested
from skdistmlp.parallel.ops import OpenNetwork
from skdistmlp.training.hold_out import Validation
from skdistmlp.training.progress import Outcome
from skdistmlp.training.state import TrainingState
from skdistmlp.training.step import announce, predict_blocks, training_step


@dataclass(frozen=True)
class EpochOptions:
    """What the loop needs of the estimator's parameters.

    Attributes
    ----------
    batch_size : int
        Rows of a mini-batch.
    max_epochs : int
        Maximum number of epochs.
    shuffle : bool
        Whether to shuffle before every epoch.
    tol : float
        Minimum improvement.
    n_iter_no_change : float
        Epochs without improvement after which training ends; may be infinite.
    """

    batch_size: int
    max_epochs: int
    shuffle: bool = True
    tol: float = 1e-4
    n_iter_no_change: float = 10


Log = Callable[[str], None]
"""Called with each of scikit-learn's verbose lines."""


def quiet(line: str) -> None:
    """Log nothing."""


Pause = Callable[[TrainingState], bool]
"""Called after every epoch but the last; says whether to pause there."""


def train_epochs(
    network: OpenNetwork[Any],
    options: EpochOptions,
    state: TrainingState,
    validation: Validation | None = None,
    pause: Pause | None = None,
    log: Log = quiet,
) -> TrainingState:
    """Train until the loss or the validation score stops improving, or to a pause.

    Parameters
    ----------
    network : OpenNetwork
        Holds what `state.network` says; trained in place.
    options : EpochOptions
        Batch size and stopping rules.
    state : TrainingState
        With progress and row order.
    validation : Validation, optional
        With it, scores decide instead of losses.
    pause : callable, optional
        See `Pause`.
    log : callable
        See `Log`.

    Returns
    -------
    TrainingState
        After the last epoch; its outcome is None after a pause. Ctrl-C is an outcome,
        not an error: the parameters stay as they are then.

    Notes
    -----
    The decisions of ``BaseMultilayerPerceptron._fit_stochastic``. All of them
    follow from numbers that the leader decides on.
    """
    # In an epoch, between two, or in a callback: training ends after the last step that
    # was completed. Shards on workers get a request to stop instead, from their driver.
    try:
        while state.outcome is None:
            state = run_epoch(network, options, state, log)
            state = judge_epoch(network, options, state, validation, log)
            if state.outcome is None and pause is not None and pause(state):
                break
    except (KeyboardInterrupt, StopRequested):
        state = replace(
            state, network=network.state.current, outcome=Outcome.INTERRUPTED
        )
    return state


def run_epoch(
    network: OpenNetwork[Any],
    options: EpochOptions,
    state: TrainingState,
    log: Log = quiet,
) -> TrainingState:
    """Train on every row once; return the state after it, not yet judged."""
    assert state.progress is not None
    assert state.row_order is not None
    if options.shuffle:
        rows = shuffle(state.row_order, random_state=state.random_state)
    else:
        rows = state.row_order
    progress = state.progress
    batches = [rows[some] for some in gen_batches(len(rows), options.batch_size)]
    announced = announce(network.ops, batches)
    for number, batch in enumerate(announced, start=progress.n_steps):
        rate = progress.schedule.at_step(progress.learning_rate, number)
        training_step(network.ops, batch, rate)
    loss = network.loss.pop() / len(rows)
    progress = progress.with_loss(loss, len(rows), len(batches))
    log(f"Iteration {progress.n_iter}, loss = {loss:.8f}")
    return replace(
        state, network=network.state.current, progress=progress, row_order=rows
    )


def judge_epoch(
    network: OpenNetwork[Any],
    options: EpochOptions,
    state: TrainingState,
    validation: Validation | None,
    log: Log = quiet,
) -> TrainingState:
    """Score the epoch, set the next learning rate, and decide whether to stop."""
    progress = state.progress
    assert progress is not None
    measure = "Training loss"
    if validation is None:
        progress = progress.without_validation().judged_by_loss(options.tol)
    else:
        score, loss = _validate(network, validation)
        log(f"Validation score: {score:f}")
        progress = progress.with_validation_loss(loss)
        if validation.stops:
            measure = "Validation score"
            progress = progress.judged_by_score(score, options.tol)
        else:
            progress = progress.judged_by_loss(options.tol)
        best_before = progress.best_validation_score
        progress = progress.with_score(score)
        if validation.stops and progress.best_validation_score != best_before:
            network.state.keep_best()
    rate = progress.schedule.after_epoch(
        progress.learning_rate, progress.n_samples_seen
    )
    progress, outcome = replace(progress, learning_rate=rate), None
    if progress.no_improvement_count > options.n_iter_no_change:
        stalled = (
            f"{measure} did not improve more than tol={options.tol:f} for "
            f"{options.n_iter_no_change:.0f} consecutive epochs."
        )
        next_rate = progress.schedule.after_stall(rate)
        if next_rate is None:
            too_small = progress.schedule.name == "adaptive"
            reason = " Learning rate too small." if too_small else ""
            log(f"{stalled}{reason} Stopping.")
            outcome = Outcome.CONVERGED
        else:
            log(f"{stalled} Setting learning rate to {next_rate:f}")
            progress = replace(
                progress, learning_rate=next_rate, no_improvement_count=0
            )
    if outcome is None and progress.n_iter >= options.max_epochs:
        outcome = Outcome.OUT_OF_EPOCHS
    return replace(
        state, network=network.state.current, progress=progress, outcome=outcome
    )


def _validate(
    network: OpenNetwork[Any], validation: Validation
) -> tuple[float, float | None]:
    """Return score and mean loss of the held-out rows."""
    outputs = predict_blocks(network, validation.blocks)
    # A score of the user's own is asked for once, not on every shard.
    score = network.leader.computes(lambda: validation.score(outputs))
    if (loss_of := validation.loss) is None:
        return score, None
    head = network.network.output_head
    return score, network.leader.computes(lambda: loss_of(head, outputs))
