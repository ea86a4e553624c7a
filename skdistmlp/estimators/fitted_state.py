"""Between fitted attributes and the state of training, both ways.

All state of training lives in an estimator's attributes, so that it can be pickled,
edited and continued anywhere.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from skdistmlp.engines.dispatch import TrainingResult
from skdistmlp.nn.losses import Output, output_of
from skdistmlp.nn.optimizers import OptimizerState
from skdistmlp.nn.types import FloatArray
from skdistmlp.nn.update_rules import UPDATE_RULES
from skdistmlp.parallel.shard import ShardState
from skdistmlp.planning.recovery import Recovery
from skdistmlp.training.progress import LbfgsProgress, Progress
from skdistmlp.training.schedules import EPOCH_SCHEDULES, LearningRateSchedule

_HISTORY = (
    "loss_curve_",
    "best_loss_",
    "validation_scores_",
    "validation_loss_curve_",
    "best_validation_score_",
    "best_iter_",
    "_watched",
    "_no_improvement_count",
    "_optimizer_state",
    "_dropout_seed",
    "_raw_parameters",
)
"""Attributes that training in epochs sets, and "lbfgs" does not."""


def watched_by(estimator: Any) -> tuple[bool, Any]:
    """Return of what an estimator has the best score: rows of `X_val`, and `scoring`.

    Without either it is that of rows held out, as in scikit-learn.
    """
    return getattr(estimator, "_watched", HELD_OUT)


HELD_OUT: tuple[bool, Any] = (False, None)
"""What scikit-learn's best score is one of: of rows held out, by accuracy or R²."""


class FittedStateMixin:
    """Read the state of training from the fitted attributes, and set them."""

    solver: str
    learning_rate: Any
    learning_rate_init: float
    power_t: float
    warmup_steps: int
    early_stopping: bool
    _optimizer_state: OptimizerState | None
    _schedule: LearningRateSchedule
    _learning_rate: float
    _output: Callable[[], str | Output]

    @contextmanager
    def _rollback_on_error(self) -> Iterator[None]:
        """Leave an estimator whose training failed with the attributes it had.

        Validation sets some of them before the cluster is reached.
        """
        before = dict(self.__dict__)
        try:
            yield
        except BaseException:
            self.__dict__.clear()
            self.__dict__.update(before)
            raise

    def _reset_history(self) -> None:
        """Drop what trainings before have left that a new one may not set."""
        for name in _HISTORY:
            self.__dict__.pop(name, None)
        self.t_ = 0

    def _continues(self) -> bool:
        """Return whether partial_fit continues with the optimiser of earlier calls.

        As in scikit-learn, it then keeps the hyperparameters it started with.
        """
        return hasattr(self, "_optimizer_state")

    def _continued_state(self, parameters: FloatArray, incremental: bool) -> ShardState:
        """Return the state to continue from; the optimiser may not continue."""
        optimizer: OptimizerState | None = vars(self).get("_optimizer_state")
        if optimizer is None or any(
            array.shape != parameters.shape for array in optimizer.arrays
        ):
            return ShardState(parameters)
        if (average := optimizer.average) is not None:
            raw = vars(self).get("_raw_parameters")
            if raw is not None and np.array_equal(parameters, average):
                parameters = raw
            else:
                # They were edited, or the best were restored: a new average begins.
                optimizer = replace(optimizer, average=parameters.copy())
        if not incremental:
            return ShardState(parameters)
        seed = vars(self).get("_dropout_seed")
        return ShardState(parameters, optimizer, dropout_seed=seed)

    def _starting_progress(
        self,
        state: ShardState | None,
        n_steps: int,
        incremental: bool,
        watched: tuple[bool, Any] | None,
    ) -> Progress:
        """Return where training stands, from the fitted attributes.

        If there are scores to come, `watched` says of what. A best score of other rows,
        or by another scoring, is forgotten, since they do not compare with it.
        """
        continues = incremental and self._continues()
        if continues and self._schedule.name in EPOCH_SCHEDULES:
            schedule, rate = self._schedule, self._learning_rate
        else:
            # Schedules from step to step are over when the `fit` is that began them.
            rate = float(self.learning_rate_init)
            schedule = self._new_schedule(rate, n_steps)
        steps_done = 0
        if state is not None and state.optimizer is not None:
            steps_done = state.optimizer.n_steps
        scores = getattr(self, "validation_scores_", None)
        losses = getattr(self, "validation_loss_curve_", None)
        best_score = getattr(self, "best_validation_score_", None)
        n_stalled = getattr(self, "_no_improvement_count", 0)
        if best_score is not None and watched not in (None, watched_by(self)):
            best_score = -math.inf
            n_stalled = 0 if self.early_stopping else n_stalled
        return Progress(
            schedule,
            rate,
            n_samples_seen=self.t_,
            n_steps=steps_done,
            loss_curve=tuple(getattr(self, "loss_curve_", ())),
            best_loss=getattr(self, "best_loss_", None),
            validation_scores=None if scores is None else tuple(scores),
            validation_losses=None if losses is None else tuple(losses),
            best_iter=getattr(self, "best_iter_", None),
            best_validation_score=best_score,
            no_improvement_count=n_stalled,
        )

    def _new_schedule(self, rate: float, n_steps: int) -> LearningRateSchedule:
        """Return the schedule that the parameters ask for."""
        name, factor = self.learning_rate, None
        if callable(name):
            name, factor = "callable", self.learning_rate
        elif name in EPOCH_SCHEDULES and not UPDATE_RULES[self.solver].has_schedule:
            name = "constant"
        return LearningRateSchedule(
            name, rate, float(self.power_t), n_steps, int(self.warmup_steps), factor
        )

    @property
    def recoveries_(self) -> tuple[Recovery, ...]:
        """What happened if the fit went on on other workers; usually empty."""
        return self.plan_.recoveries

    def _set_fitted_attributes(self, result: TrainingResult) -> None:
        """Set the fitted attributes."""
        plan, state = result.plan, result.state
        self._set_progress_attributes(state.progress)
        if isinstance(state.progress, Progress):
            self._optimizer_state = state.network.optimizer
            self._dropout_seed = state.network.dropout_seed
        parameters = self._shown_parameters(state.network)
        self.coefs_, self.intercepts_ = plan.split.unsplit_layout().views(parameters)
        self.n_layers_ = len(plan.split.layer_units)
        self.n_outputs_ = plan.split.layer_units[-1]
        self.out_activation_ = output_of(self._output()).activation
        self.plan_ = plan
        self.engine_ = plan.engine
        self.n_workers_ = plan.n_workers
        self.n_replicas_ = plan.n_replicas

    def _shown_parameters(self, network: ShardState) -> FloatArray:
        """Return the parameters to predict with; keep the others, if there are any."""
        self.__dict__.pop("_raw_parameters", None)
        optimizer = network.optimizer
        if network.best is not None or optimizer is None or optimizer.average is None:
            return network.parameters
        self._raw_parameters = network.parameters
        return optimizer.average.copy()

    def _set_progress_attributes(self, progress: Progress | LbfgsProgress) -> None:
        """Set the fitted attributes that say how far training has come."""
        if isinstance(progress, LbfgsProgress):
            self.n_iter_ = progress.n_iter
            self.loss_ = progress.loss
            return
        self.n_iter_ = progress.n_iter
        self.t_ = progress.n_samples_seen
        if progress.loss is not None:
            self.loss_ = progress.loss
        elif not progress.loss_curve:
            # An interrupt came before the end of the first epoch.
            self.loss_ = math.nan
        self.loss_curve_ = list(progress.loss_curve)
        self.best_loss_ = progress.best_loss
        scores = progress.validation_scores
        self.validation_scores_ = None if scores is None else list(scores)
        losses = progress.validation_losses
        self.validation_loss_curve_ = None if losses is None else list(losses)
        self.best_validation_score_ = progress.best_validation_score
        self.best_iter_ = progress.best_iter
        self._no_improvement_count = progress.no_improvement_count
        self._schedule = progress.schedule
        self._learning_rate = progress.learning_rate
