"""Share between classifier and regressor everything except the targets."""

import math
import warnings
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import OptimizeResult
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state

from skdistmlp.engines.dispatch import train
from skdistmlp.engines.engine import EngineRequest
from skdistmlp.engines.plans_only import PLANS_ONLY
from skdistmlp.estimators._sklearn import (
    CallbackSupportMixin,
    DocumentationLinkMixin,
    check_optimize_result,
    check_sample_weight,
)
from skdistmlp.estimators.architecture import (
    checked_activation,
    checked_dropout,
    checked_hidden_layer_sizes,
)
from skdistmlp.estimators.callbacks import CallbackContext
from skdistmlp.estimators.combinations import check_combination
from skdistmlp.estimators.constraints import PARAMETER_CONSTRAINTS
from skdistmlp.estimators.exports.mixin import ExportMixin
from skdistmlp.estimators.fitted_state import FittedStateMixin
from skdistmlp.estimators.habits import HabitsMixin, check_is_computed
from skdistmlp.estimators.inputs import (
    InputFeatures,
)
from skdistmlp.estimators.live_client import STAYED_BEHIND, LiveClientMixin
from skdistmlp.estimators.planning import PlanningMixin
from skdistmlp.estimators.prediction import PredictionMixin
from skdistmlp.estimators.scoring import score_of
from skdistmlp.estimators.sklearn_interop import SklearnInteropMixin
from skdistmlp.estimators.validation_data import (
    ValidationData,
    resolve_with_validation,
)
from skdistmlp.exceptions import counted
from skdistmlp.nn.layers import Network, dense_layers
from skdistmlp.nn.losses import Output, Targets
from skdistmlp.nn.types import FloatArray
from skdistmlp.nn.update_rules import UPDATE_RULES, UpdateRule
from skdistmlp.parallel.class_codes import ClassCodes
from skdistmlp.parallel.data import BaseDataset
from skdistmlp.parallel.shard import ShardState
from skdistmlp.parallel.split import (
    NetworkSplit,
    Parameters,
    flatten,
    layer_units_of,
)
from skdistmlp.training.hold_out import HoldOut, LastRows, Score, ValidationRows
from skdistmlp.training.job import EpochTraining, LbfgsTraining, TrainingJob
from skdistmlp.training.loop import EpochOptions, quiet
from skdistmlp.training.progress import Outcome
from skdistmlp.training.scipy_lbfgs import LbfgsOptions
from skdistmlp.training.state import TrainingState

STACKLEVEL = 5
"""Frames from a warning to the line that called `fit`."""


class BaseDistributedMLP(
    DocumentationLinkMixin,
    CallbackSupportMixin,
    FittedStateMixin,
    PredictionMixin,
    PlanningMixin,
    SklearnInteropMixin,
    ExportMixin,
    LiveClientMixin,
    HabitsMixin,
    BaseEstimator,
    ABC,
):
    """Base of the estimators: everything except the targets.

    Concrete classes define what the targets look like, and describe the parameters.
    """

    _parameter_constraints: ClassVar[dict[str, Any]] = {**PARAMETER_CONSTRAINTS}

    # What a concrete class defines.

    @abstractmethod
    def _validate_targets(
        self, X: InputFeatures, y: Any, incremental: bool, reset: bool
    ) -> tuple[InputFeatures, np.ndarray]:
        """Return validated features, and targets with one column per output."""

    def _register_classes(self, y: Any, classes: ArrayLike | None) -> None:
        """Remember the classes that `partial_fit` was given, if it was."""

    def _validate_weights(
        self, y: np.ndarray, sample_weight: ArrayLike | None
    ) -> FloatArray | None:
        """Return the weights of the samples, if they have any."""
        return None if sample_weight is None else check_sample_weight(sample_weight, y)

    @abstractmethod
    def _output(self) -> str | Output:
        """Return output activation and loss, by their name in `OUTPUTS` if any."""

    def _n_outputs(self, y: np.ndarray) -> int:
        """Return the number of outputs for validated targets."""
        return int(y.shape[1])

    @abstractmethod
    def _validation_targets(self, y: np.ndarray) -> np.ndarray:
        """Return targets of rows for validation, with one column per output."""

    def _stored_targets(self, y: np.ndarray) -> Targets | ClassCodes:
        """Return the targets as every process holds them, for all rows."""
        return y

    @abstractmethod
    def _use_stratified_split(self, n_outputs: int) -> bool:
        """Return whether held-out rows keep the proportions of the classes."""

    @abstractmethod
    def _score_function(self) -> Score:
        """Return the score function for held-out rows, which must be picklable."""

    # Training.

    def _fit(
        self,
        X: Any,
        y: Any,
        sample_weight: ArrayLike | None,
        incremental: bool,
        classes: ArrayLike | None = None,
        *,
        X_val: Any = None,
        y_val: Any = None,
        sample_weight_val: Any = None,
    ) -> Self:
        """Train, from new parameters or the current ones; see the public methods."""
        check_is_computed(X=X, y=y, sample_weight=sample_weight)
        check_is_computed(X_val=X_val, y_val=y_val, sample_weight_val=sample_weight_val)
        validation = ValidationData.given(X_val, y_val, sample_weight_val)
        # Before the rollback notes the attributes: a fit that fails restores them, and
        # scikit-learn tears down the callbacks that it finds there.
        tasks = CallbackContext(self, incremental, X, y, sample_weight)
        with (
            self._rollback_on_error(),
            resolve_with_validation(
                self, X, y, sample_weight, validation, print if self.verbose else quiet
            ) as (X, y, sample_weight, validation),
        ):
            if incremental:
                self._register_classes(y, classes)
            hidden_layer_sizes = checked_hidden_layer_sizes(self.hidden_layer_sizes)
            check_combination(self, incremental)
            activation = checked_activation(self.activation)
            dropout = checked_dropout(self.dropout)
            first_pass = not hasattr(self, "coefs_") or (
                not self.warm_start and not incremental
            )
            X, y = self._validate_targets(X, y, incremental, reset=first_pass)
            weight = self._validate_weights(y, sample_weight)
            if validation is not None:
                X, y, weight = self._joined(validation, X, y, weight)
            dataset = X.with_targets(self._stored_targets(y), weight)
            if self.early_stopping and incremental:
                raise ValueError("partial_fit does not support early_stopping=True")

            if first_pass:
                self._reset_history()
                layer_units = (X.shape[1], *hidden_layer_sizes, self._n_outputs(y))
                dtype = X.dtype
            else:
                layer_units = layer_units_of(self.coefs_)
                dtype = self.coefs_[0].dtype
                # Other widths have no effect, as in scikit-learn.
                if len(layer_units) - 2 != len(hidden_layer_sizes):
                    raise ValueError(
                        f"the network has hidden layers of {layer_units[1:-1]}, but "
                        f"hidden_layer_sizes is {tuple(hidden_layer_sizes)}. Set it "
                        f"back, or fit from scratch with warm_start=False."
                    )
            network = Network(
                dense_layers(layer_units, activation, dropout),
                self._output(),
                float(self.alpha),
                self.max_grad_norm,
            )
            rule = self._new_rule()
            if rule is None:
                if validation is not None:
                    raise ValueError(
                        f"X_val has no meaning with solver={self.solver!r}, which does "
                        f"not train in epochs. Use another solver, or leave X_val out."
                    )
                job = self._lbfgs_job(network, dtype, first_pass)
            else:
                job = self._epochs_job(
                    network,
                    dtype,
                    dataset,
                    rule,
                    first_pass,
                    incremental,
                    validation,
                )
            on_epoch_end = tasks.begin()
            request = self._engine_request()
            result = train(
                request,
                job,
                dataset,
                on_epoch_end,
                self._engines,
                None if incremental else self.checkpoint,
                tasks.begin_epochs,
            )
            self._set_fitted_attributes(result)
            if validation is not None or (self.early_stopping and rule is not None):
                self._watched = validation is not None, self.scoring
            outcome = tasks.end(result.state.outcome)
        advice = None
        # Not before: a callback may have failed.
        if (checkpoint := result.checkpoint) is not None:
            checkpoint.remove()
            advice = checkpoint.advice
            if checkpoint.notice is not None:
                warnings.warn(checkpoint.notice, stacklevel=STACKLEVEL - 1)
        self._warn(outcome, incremental, advice)
        if any(recovery.kind in ("lost", "broken") for recovery in self.recoveries_):
            warnings.warn(
                f"the fit recovered from faults: "
                f"{'. '.join(map(str, self.recoveries_))}. See recoveries_.",
                stacklevel=STACKLEVEL - 1,
            )
        elif any(recovery.kind != "moved" for recovery in self.recoveries_):
            warnings.warn(
                f"the fit left workers: "
                f"{'. '.join(map(str, self.recoveries_))}. See recoveries_.",
                stacklevel=STACKLEVEL - 1,
            )
        if validation is not None or self.scoring is not None:
            self._warn_of_scores()
        if not all(np.isfinite(w).all() for w in (*self.coefs_, *self.intercepts_)):
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may"
                " contain large values and need to be preprocessed."
            )
        return self

    def _epochs_job(
        self,
        network: Network,
        dtype: np.dtype[np.floating],
        dataset: BaseDataset,
        rule: UpdateRule,
        first_pass: bool,
        incremental: bool,
        validation: ValidationData | None,
    ) -> TrainingJob:
        """Return the job of training in epochs.

        The last rows of the data set are those for validation.
        """
        hold_out: ValidationRows | None = None
        score = score_of(self, network.output_head, self._score_function())
        if validation is not None:
            n_validation_rows = validation.n_rows
            weighted = validation.sample_weight is not None
            hold_out = LastRows(
                n_validation_rows,
                score,
                self.early_stopping,
                first_pass,
                weighted,
            )
        elif self.early_stopping:
            hold_out = HoldOut(
                self.validation_fraction,
                stratify=self._use_stratified_split(network.layer_units[-1]),
                score=score,
                include_initial=first_pass,
            )
        n_rows = dataset.n_rows
        if hold_out is not None:
            n_rows -= hold_out.n_rows(dataset)
        clips = self.batch_size != "auto" and self.batch_size > n_rows
        if clips and isinstance(hold_out, HoldOut):
            # Few rows: an error comes before a warning of the batch size.
            hold_out.validate(dataset)
        shards = None
        if not first_pass:
            parameters = flatten(self._parameters(), dtype)
            shards = self._continued_state(parameters, incremental)
        options = self._epoch_options(n_rows, incremental)
        n_steps = options.max_epochs * math.ceil(n_rows / options.batch_size)
        return TrainingJob(
            network,
            NetworkSplit.even(network.layer_units, 1),
            dtype,
            EpochTraining(options, hold_out),
            TrainingState(
                shards,
                check_random_state(self.random_state),
                self._starting_progress(
                    shards,
                    n_steps,
                    incremental,
                    (validation is not None, self.scoring) if hold_out else None,
                ),
            ),
            rule,
            ema_decay=self.ema_decay,
            verbose=bool(self.verbose),
        )

    def _lbfgs_job(
        self, network: Network, dtype: np.dtype[np.floating], first_pass: bool
    ) -> TrainingJob:
        """Return the job of training on all rows at once."""
        shards = None
        if not first_pass:
            shards = ShardState(flatten(self._parameters(), dtype))
        options = LbfgsOptions(self.max_iter, self.max_fun, float(self.tol))
        return TrainingJob(
            network,
            NetworkSplit.even(network.layer_units, 1),
            dtype,
            LbfgsTraining(options),
            TrainingState(shards, check_random_state(self.random_state)),
            verbose=bool(self.verbose),
        )

    def _joined(
        self,
        validation: ValidationData,
        X: InputFeatures,
        y: np.ndarray,
        weight: FloatArray | None,
    ) -> tuple[InputFeatures, np.ndarray, FloatArray | None]:
        """Return all rows, those for validation last."""
        y_val = self._validation_targets(validation.checked_targets())
        if y_val.shape[1] != y.shape[1]:
            raise ValueError(
                f"y_val has {counted(y_val.shape[1], 'column')}, but y has "
                f"{y.shape[1]}. Pass targets of the same kind."
            )
        X = validation.joined_features(self, X, self.client)
        weight = validation.weights_after(weight, y, y_val)
        return X, np.concatenate([y, y_val]), weight

    def _epoch_options(self, n_rows: int, incremental: bool) -> EpochOptions:
        if self.batch_size == "auto":
            batch_size = min(200, n_rows)
        else:
            if self.batch_size > n_rows:
                warnings.warn(
                    "Got `batch_size` less than 1 or larger than "
                    "sample size. It is going to be clipped",
                    stacklevel=STACKLEVEL + 1,
                )
            batch_size = min(int(self.batch_size), n_rows)
        return EpochOptions(
            batch_size=batch_size,
            max_epochs=1 if incremental else self.max_iter,
            shuffle=self.shuffle,
            tol=self.tol,
            n_iter_no_change=self.n_iter_no_change,
        )

    def _new_rule(self) -> UpdateRule | None:
        """Return the optimiser that the parameters ask for; None for L-BFGS."""
        rule = UPDATE_RULES.get(self.solver)
        return None if rule is None else rule.from_params(vars(self))

    def _warn(
        self,
        outcome: Outcome | OptimizeResult,
        incremental: bool,
        advice: str | None,
    ) -> None:
        if isinstance(outcome, OptimizeResult):
            check_optimize_result("lbfgs", outcome, self.max_iter)
        elif outcome is Outcome.INTERRUPTED:
            more = "" if advice is None else f" {advice}{self._whose_advice()}"
            warnings.warn(f"Training interrupted by user.{more}", stacklevel=STACKLEVEL)
        elif outcome is Outcome.OUT_OF_EPOCHS and not incremental:
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) "
                "reached and the optimization hasn't converged yet.",
                ConvergenceWarning,
                stacklevel=STACKLEVEL,
            )

    def _whose_advice(self) -> str:
        """Return what to add to the advice to fit again, if this one cannot."""
        if self.warm_start:
            return " Use a new estimator: this one would start from its parameters."
        if isinstance(self.random_state, np.random.RandomState):
            return " Use a new random_state: this one has drawn numbers since."
        return ""

    def _warn_of_scores(self) -> None:
        """Warn where early stopping had no score to go by."""
        scores = getattr(self, "validation_scores_", None)
        if self.early_stopping and scores and self.best_iter_ is None:
            warnings.warn(
                f"no validation score was a number (scoring={self.scoring!r}), so "
                f"early stopping has kept the parameters that training began with. "
                f"Check the rows for validation, or use scoring='loss'.",
                stacklevel=STACKLEVEL,
            )

    # What scikit-learn and Python ask of an estimator.

    def _engine_request(self) -> EngineRequest:
        return EngineRequest(
            self.client,
            self.n_workers,
            self.parameter_threshold,
            self.engine,
            self.n_replicas,
            vars(self).get(STAYED_BEHIND),
            only_plans=self._engines is PLANS_ONLY,
        )

    def _parameters(self) -> Parameters:
        return Parameters(list(self.coefs_), list(self.intercepts_))

    def __sklearn_tags__(self) -> Any:
        """Say that sparse features are understood."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        """Say whether there are parameters, of a fit that ended well."""
        return hasattr(self, "coefs_")
