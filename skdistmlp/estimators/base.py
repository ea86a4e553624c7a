"""What a distributed classifier and a distributed regressor share."""

import operator
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from numbers import Integral, Real
from typing import Any, ClassVar, Self, cast

import numpy as np
from numpy.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state, gen_batches
from sklearn.utils.validation import check_is_fitted, validate_data

from skdistmlp.estimators._sklearn import (
    HasMethods,
    Interval,
    Options,
    StrOptions,
    check_sample_weight,
)
from skdistmlp.estimators.engines import (
    EngineRequest,
    planned,
    predict,
    training_group,
)
from skdistmlp.estimators.live_client import LiveClientMixin
from skdistmlp.nn.initialization import glorot_uniform
from skdistmlp.nn.optimizers import Adam, OptimizerState, Sgd, init
from skdistmlp.nn.types import FloatArray
from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.plan import Plan, Work
from skdistmlp.parallel.shard import Network, ShardState
from skdistmlp.parallel.split import NetworkSplit, Parameters, flatten
from skdistmlp.training.loop import TrainingOptions, Validation, interrupt_first, train
from skdistmlp.training.progress import LearningRateSchedule, Outcome, Progress

VALIDATION_BLOCK_ROWS = 1000
"""Validation rows forwarded at a time."""

WARNED = 5
"""Frames from a warning to the line that called `fit`."""


class BaseDistributedMLP(LiveClientMixin, BaseEstimator, ABC):
    """Base of the estimators: everything but the targets.

    Concrete classes say what the targets look like. Parameters are described
    there.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {
        "hidden_layer_sizes": [
            "array-like",
            Interval(Integral, 1, None, closed="left"),
        ],
        "activation": [StrOptions({"identity", "logistic", "tanh", "relu"})],
        "solver": [StrOptions({"sgd", "adam"})],
        "alpha": [Interval(Real, 0, None, closed="left")],
        "batch_size": [
            StrOptions({"auto"}),
            Interval(Integral, 1, None, closed="left"),
        ],
        "learning_rate": [StrOptions({"constant", "invscaling", "adaptive"})],
        "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
        "power_t": [Interval(Real, 0, None, closed="left")],
        "max_iter": [Interval(Integral, 1, None, closed="left")],
        "shuffle": ["boolean"],
        "random_state": ["random_state"],
        "tol": [Interval(Real, 0, None, closed="left")],
        "verbose": ["verbose"],
        "warm_start": ["boolean"],
        "momentum": [Interval(Real, 0, 1, closed="both")],
        "nesterovs_momentum": ["boolean"],
        "early_stopping": ["boolean"],
        "validation_fraction": [Interval(Real, 0, 1, closed="left")],
        "beta_1": [Interval(Real, 0, 1, closed="left")],
        "beta_2": [Interval(Real, 0, 1, closed="left")],
        "epsilon": [Interval(Real, 0, None, closed="neither")],
        "n_iter_no_change": [
            Interval(Integral, 1, None, closed="left"),
            Options(Real, {np.inf}),
        ],
        "max_fun": [Interval(Integral, 1, None, closed="left")],
        "client": [None, str, HasMethods(["scatter", "gather", "nthreads"])],
        "n_workers": [None, Interval(Integral, 1, None, closed="left")],
        "parameter_threshold": [Interval(Integral, 0, None, closed="left")],
        "engine": [StrOptions({"auto", "local", "futures"})],
    }

    # What a concrete class says.

    @abstractmethod
    def _validate_targets(
        self, X: Any, y: Any, incremental: bool, reset: bool
    ) -> tuple[FloatArray, np.ndarray]:
        """Return X, and y with one column an output."""

    @abstractmethod
    def _output_activation(self) -> str:
        """Return the name of the output activation."""

    @abstractmethod
    def _stratify(self, y: np.ndarray) -> np.ndarray | None:
        """Return what the validation split keeps the shares of, if anything."""

    @abstractmethod
    def _validation_score(
        self, y: np.ndarray, outputs: FloatArray, sample_weight: np.ndarray | None
    ) -> float:
        """Return a score, higher is better; one column an output in both arrays."""

    # Training.

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None,
        incremental: bool,
    ) -> Self:
        """Train, from new weights or from those at hand; see the public methods."""
        with self._as_before_on_failure():
            hidden_layer_sizes = self._checked_hidden_layer_sizes()
            first_pass = not hasattr(self, "coefs_") or (
                not self.warm_start and not incremental
            )
            X, y = self._validate_targets(X, y, incremental, reset=first_pass)
            weight = (
                None if sample_weight is None else check_sample_weight(sample_weight, X)
            )
            if self.early_stopping and incremental:
                raise ValueError("partial_fit does not support early_stopping=True")
            dataset = Dataset(X, y, weight)

            # scikit-learn draws from the random state in this order: weights, rows
            # held out, shuffles.
            random_state = check_random_state(self.random_state)
            if first_pass:
                layer_units = (X.shape[1], *hidden_layer_sizes, y.shape[1])
                parameters = self._draw_parameters(layer_units, X.dtype, random_state)
            else:
                layer_units = _layer_units(self.coefs_)
                parameters = flatten(self._weights(), self.coefs_[0].dtype)
            rows, validation = self._hold_out(dataset, random_state, first_pass)
            options = self._training_options(len(rows), incremental)
            progress = self._starting_progress(first_pass, incremental)
            state = ShardState(
                parameters, self._starting_optimizer(parameters, incremental)
            )

            work = Work(options.batch_size, training=True)
            with planned(self._engine_request(), layer_units, work) as (plan, client):
                network = Network(
                    plan.split,
                    self.activation,
                    self._output_activation(),
                    float(self.alpha),
                )
                max_rows = max(options.batch_size, _longest(validation))
                with training_group(
                    plan, client, network, state, dataset, max_rows
                ) as group:
                    outcome = train(
                        group, options, progress, rows, random_state, validation
                    )
                    with interrupt_first(outcome):
                        state = group.collect()
            assert state.optimizer is not None
            self._take_over(plan, state, progress)
        self._warn(outcome, incremental)
        if not np.isfinite(state.parameters).all():
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may"
                " contain large values and need to be preprocessed."
            )
        return self

    @contextmanager
    def _as_before_on_failure(self) -> Iterator[None]:
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

    def _checked_hidden_layer_sizes(self) -> list[int]:
        sizes = self.hidden_layer_sizes
        sizes = list(sizes) if hasattr(sizes, "__iter__") else [sizes]
        if np.any(np.array(sizes) <= 0):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
        return [operator.index(size) for size in sizes]

    def _draw_parameters(
        self,
        layer_units: Sequence[int],
        dtype: np.dtype[np.floating],
        random_state: np.random.RandomState,
    ) -> FloatArray:
        """Draw the weights of all layers into one flat array."""
        split = NetworkSplit.even(layer_units, 1)
        flat = np.empty(split.n_parameters, dtype)
        coefs, intercepts = split.whole().views(flat)
        for layer, (fan_in, fan_out) in enumerate(pairwise(layer_units)):
            coefs[layer][...], intercepts[layer][...] = glorot_uniform(
                fan_in, fan_out, self.activation, random_state, dtype
            )
        return flat

    def _hold_out(
        self, dataset: Dataset, random_state: np.random.RandomState, first_pass: bool
    ) -> tuple[np.ndarray, Validation | None]:
        """Return the rows to train on, and with early stopping those held out."""
        rows = np.arange(len(dataset.X))
        if not self.early_stopping:
            return rows, None
        assert dataset.y is not None
        rows, held_out = train_test_split(
            rows,
            random_state=random_state,
            test_size=self.validation_fraction,
            stratify=self._stratify(dataset.y),
        )
        if len(held_out) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' "
                "or the size of your dataset."
            )
        y, weight = dataset.y[held_out], dataset.weights(held_out)
        validation = Validation(
            blocks=[
                held_out[block]
                for block in gen_batches(len(held_out), VALIDATION_BLOCK_ROWS)
            ],
            score=lambda outputs: self._validation_score(y, outputs, weight),
            keep_first=first_pass,
        )
        return rows, validation

    def _training_options(self, n_rows: int, incremental: bool) -> TrainingOptions:
        if self.batch_size == "auto":
            batch_size = min(200, n_rows)
        else:
            if self.batch_size > n_rows:
                warnings.warn(
                    "Got `batch_size` less than 1 or larger than "
                    "sample size. It is going to be clipped",
                    stacklevel=WARNED,
                )
            batch_size = min(int(self.batch_size), n_rows)
        return TrainingOptions(
            batch_size=batch_size,
            max_epochs=1 if incremental else self.max_iter,
            shuffle=self.shuffle,
            tol=self.tol,
            n_iter_no_change=self.n_iter_no_change,
            say=print if self.verbose else None,
        )

    def _starting_optimizer(
        self, parameters: FloatArray, incremental: bool
    ) -> OptimizerState:
        """Return the optimiser's state: that of the last call, or a new one."""
        if incremental and self._continues():
            state = cast("OptimizerState", self._optimizer_state)
            if all(m.shape == parameters.shape for m in state.moments):
                # Those of an estimator loaded as a memory map cannot be written to.
                moments = tuple(np.require(m, requirements="W") for m in state.moments)
                return replace(state, moments=moments)
        rule: Sgd | Adam
        if self.solver == "sgd":
            rule = Sgd(float(self.momentum), bool(self.nesterovs_momentum))
        else:
            rule = Adam(float(self.beta_1), float(self.beta_2), float(self.epsilon))
        return init(rule, parameters)

    def _continues(self) -> bool:
        """Say whether partial_fit goes on with an optimiser begun before.

        As in scikit-learn, it then keeps the hyperparameters it began with.
        """
        return hasattr(self, "_optimizer_state")

    def _starting_progress(self, first_pass: bool, incremental: bool) -> Progress:
        """Return where training stands, from the fitted attributes."""
        if incremental and self._continues():
            schedule, rate = self._schedule, self._learning_rate
        else:
            # Only plain gradient descent has a schedule.
            name = self.learning_rate if self.solver == "sgd" else "constant"
            rate = float(self.learning_rate_init)
            schedule = LearningRateSchedule(name, rate, float(self.power_t))
        progress = Progress(schedule, rate)
        if not first_pass:
            progress.n_samples_seen = self.t_
            progress.loss_curve = list(self.loss_curve_)
            progress.best_loss = self.best_loss_
            scores = getattr(self, "validation_scores_", None)
            progress.validation_scores = None if scores is None else list(scores)
            progress.best_validation_score = getattr(
                self, "best_validation_score_", None
            )
            progress.no_improvement_count = self._no_improvement_count
        return progress

    def _take_over(self, plan: Plan, state: ShardState, progress: Progress) -> None:
        """Set the fitted attributes from what training left."""
        self.coefs_, self.intercepts_ = plan.split.whole().views(state.parameters)
        self.n_layers_ = len(plan.split.layer_units)
        self.n_outputs_ = plan.split.layer_units[-1]
        self.out_activation_ = self._output_activation()
        self.n_iter_ = progress.n_iter
        self.t_ = progress.n_samples_seen
        if progress.loss is not None:
            self.loss_ = progress.loss
        self.loss_curve_ = progress.loss_curve
        self.best_loss_ = progress.best_loss
        self.validation_scores_ = progress.validation_scores
        self.best_validation_score_ = progress.best_validation_score
        self.plan_ = plan
        self.engine_ = plan.engine
        self.n_shards_ = plan.n_shards
        self._no_improvement_count = progress.no_improvement_count
        self._optimizer_state = state.optimizer
        self._schedule = progress.schedule
        self._learning_rate = progress.learning_rate

    def _warn(self, outcome: Outcome, incremental: bool) -> None:
        if outcome is Outcome.INTERRUPTED:
            warnings.warn("Training interrupted by user.", stacklevel=WARNED)
        elif outcome is Outcome.OUT_OF_EPOCHS and not incremental:
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) "
                "reached and the optimization hasn't converged yet.",
                ConvergenceWarning,
                stacklevel=WARNED,
            )

    # Prediction.

    def _outputs(self, X: Any) -> FloatArray:
        """Return the outputs for `X`, shape (n_samples, n_outputs)."""
        check_is_fitted(self)
        X = validate_data(self, X, reset=False)
        work = Work(len(X), training=False, itemsize=self.coefs_[0].itemsize)
        layer_units = _layer_units(self.coefs_)
        with planned(self._engine_request(), layer_units, work) as (plan, client):
            network = Network(plan.split, self.activation, self.out_activation_)
            return predict(plan, client, network, self._weights(), X)

    # What scikit-learn and Python ask of an estimator.

    def _engine_request(self) -> EngineRequest:
        return EngineRequest(
            self.client, self.n_workers, self.parameter_threshold, self.engine
        )

    def _weights(self) -> Parameters:
        return Parameters(list(self.coefs_), list(self.intercepts_))

    def __sklearn_is_fitted__(self) -> bool:
        """Say whether there are weights, drawn by a fit that ended well."""
        return hasattr(self, "coefs_")


def _layer_units(coefs: Sequence[FloatArray]) -> tuple[int, ...]:
    return (coefs[0].shape[0], *(coef.shape[1] for coef in coefs))


def _longest(validation: Validation | None) -> int:
    if validation is None:
        return 0
    return max(map(len, validation.blocks))
