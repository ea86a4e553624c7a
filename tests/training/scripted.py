"""Training on losses and scores from a script."""

from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import numpy as np
from numpy.testing import assert_array_equal
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPRegressor

from skdistmlp.parallel.shard import ShardState
from skdistmlp.training.hold_out import Validation
from skdistmlp.training.loop import EpochOptions, quiet, train_epochs
from skdistmlp.training.progress import Progress
from skdistmlp.training.run import TrainingRun
from skdistmlp.training.schedules import LearningRateSchedule
from skdistmlp.training.state import TrainingState


@dataclass
class Script:
    """What the epochs of a training bring, and what it did.

    Attributes
    ----------
    losses, scores : list of float
        One an epoch.
    interrupted_at : int or None
        Number of the step at which the user presses Ctrl-C.
    steps : list
        Rows and learning rate of each step.
    """

    losses: list[float]
    scores: list[float] = field(default_factory=list)
    interrupted_at: int | None = None
    steps: list[tuple[list[int], float]] = field(default_factory=list)

    def take_step(self, rows, rate):
        if len(self.steps) == self.interrupted_at:
            raise KeyboardInterrupt
        self.steps.append((np.asarray(rows).tolist(), rate))


class ScriptedNetwork:
    """A network of no layers and one weight, which falls by the learning rate.

    All parts of an `OpenNetwork` in one.
    """

    layers = range(0)
    is_here = True

    def __init__(self, script):
        self.script = script
        self.ops = self.outputs = self.leader = self.loss = self.state = self
        self.weight = 0.0
        self.best = None
        self.n_epochs = 0
        self.n_kept = 0
        self._loss_sum = 0.0

    def expect(self, rows):
        """Do nothing."""

    def inputs(self, rows):
        return rows

    def output_delta(self, logits, rows, batch):
        assert logits is rows is batch
        self._loss_sum += self.script.losses[self.n_epochs] * len(rows)

    def update(self, rows, learning_rate):
        self.script.take_step(rows, learning_rate)
        self.weight -= learning_rate

    def pop(self):
        loss_sum, self._loss_sum = self._loss_sum, 0.0
        self.n_epochs += 1
        return loss_sum

    def predictions(self, logits):
        for rows in logits:
            yield rows[:, np.newaxis]

    def computes(self, function):
        return self.decides(function())

    def decides(self, value):
        return value

    @property
    def current(self):
        return self.fetch()

    def fetch(self):
        best = None if self.best is None else np.array([self.best])
        return ShardState(np.array([self.weight]), best=best)

    def keep_best(self):
        self.n_kept += 1
        self.best = self.weight


class ScriptedRegressor(MLPRegressor):
    """scikit-learn's training loop around the same script and the same weight."""

    script: Script

    def _init_coef(self, fan_in, fan_out, dtype):
        return np.zeros((fan_in, fan_out)), np.zeros(fan_out)

    def _backprop(self, X, y, weight, activations, deltas, coef_grads, intercept_grads):
        self.script.take_step(X[:, 0].astype(int), self._optimizer.learning_rate)
        loss = self.script.losses[self.n_iter_]
        return loss, [np.ones((1, 1))], [np.zeros(1)]

    def _score(self, X, y, sample_weight=None):
        return self.script.scores[len(self.validation_scores_)]


N_SAMPLES = 11


@dataclass(frozen=True)
class ScriptedTraining:
    """Training on scripted losses, with scripted scores of 30% of the rows.

    A `Method`; its rows are numbers, not a data set.
    """

    options: EpochOptions
    scores: list[float] | None = None
    include_initial: bool = True

    def for_run(self):
        return self

    def close(self):
        """Hold nothing."""

    def begin(self, network, n_samples, state):
        rows, held_out = np.arange(n_samples), None
        if self.scores is not None:
            rows, held_out = train_test_split(
                rows, random_state=state.random_state, test_size=0.3
            )
            if self.include_initial:
                network.keep_best()
        progress = state.progress.started(validating=self.scores is not None)
        return replace(state, progress=progress, row_order=rows, held_out=held_out)

    def advance(self, network, n_samples, state, pause, log):
        validation = None
        if self.scores is not None:
            rows = state.held_out

            def score(outputs):
                assert_array_equal(outputs, rows[:, np.newaxis])
                return self.scores[network.n_epochs - 1]

            validation = Validation([rows[:3], rows[3:]], score)
        return train_epochs(network, self.options, state, validation, pause, log)


def started(schedule=None, seed=0):
    """Return a state whose parameters are those of the network."""
    schedule = schedule or LearningRateSchedule("constant", 0.5)
    progress = Progress(schedule, schedule.initial)
    return TrainingState(None, np.random.RandomState(seed), progress)


def train_from_script(
    script,
    options,
    schedule=None,
    *,
    early_stopping=False,
    include_initial=True,
    seed=0,
    n_samples=N_SAMPLES,
    on_epoch_end=None,
    log=quiet,
):
    """Return the end of training on a script: outcome, progress, weight, network."""
    network = ScriptedNetwork(script)
    scores = script.scores if early_stopping else None
    method = ScriptedTraining(options, scores, include_initial)
    run = TrainingRun(
        SimpleNamespace(method=method), network, n_samples, started(schedule, seed), log
    )
    state = run.train(on_epoch_end)
    return state.outcome, state.progress, state.network.parameters[0], network
