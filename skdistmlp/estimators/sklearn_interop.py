"""Export a network to scikit-learn's estimators, and import one from them.

This module alone reads and writes private attributes of scikit-learn's
networks; ``tests/estimators/test_sklearn_private.py`` fails when they change.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from skdistmlp.estimators._sklearn import AdamOptimizer, SGDOptimizer
from skdistmlp.estimators.exports.sklearn_limits import (
    replacements,
    reset_watch,
    watches_something_else,
)
from skdistmlp.estimators.fitted_state import HELD_OUT
from skdistmlp.nn.optimizers import OptimizerState
from skdistmlp.nn.types import FloatArray
from skdistmlp.nn.update_rules import Adam, Sgd, UpdateRule
from skdistmlp.parallel.split import NetworkSplit, ShardLayout, layer_units_of
from skdistmlp.planning.plan import Plan, local_plan
from skdistmlp.training.schedules import EPOCH_SCHEDULES, LearningRateSchedule

SHARED_ATTRIBUTES = (
    "n_features_in_",
    "feature_names_in_",
    "classes_",
    "_label_binarizer",
    "n_layers_",
    "n_outputs_",
    "out_activation_",
    "n_iter_",
    "t_",
    "loss_",
    "loss_curve_",
    "best_loss_",
    "validation_scores_",
    "best_validation_score_",
    "_no_improvement_count",
)
"""What a fit leaves under the same name, with the same meaning, here and there."""


class SklearnInteropMixin:
    """Convert a fitted estimator to scikit-learn's, and back."""

    _sklearn_class: ClassVar[Any]
    """scikit-learn's estimator with the same parameters."""

    coefs_: list[FloatArray]
    intercepts_: list[FloatArray]
    plan_: Plan
    engine_: str
    n_workers_: int
    n_replicas_: int
    _optimizer_state: OptimizerState | None
    _schedule: LearningRateSchedule
    _learning_rate: float
    _dropout_seed: int | None
    _watched: tuple[bool, Any]
    validation_scores_: list[float] | None
    validation_loss_curve_: list[float] | None
    best_iter_: int | None

    def to_sklearn(self) -> Any:
        """Export the network to scikit-learn's estimator, fitted.

        The result makes the same predictions, needs neither skdistmlp nor a cluster,
        and has the attributes that its own `fit` would have left: its `partial_fit`,
        or its `fit` with ``warm_start=True``, continues where this estimator stopped.
        Tools that support scikit-learn support it.

        A network that was trained in a way that scikit-learn lacks is exported too if
        scikit-learn can predict with it. Its training there continues from the same
        parameters in scikit-learn's way: without what it lacks, such as dropout,
        clipping or label smoothing, and with its default for a value that it lacks:
        Adam for "adamw", a constant rate for "cosine", the squared error for "huber".
        An optimiser that it lacks, or one of parameters before averaging, is not
        exported: a new one begins there.

        Returns
        -------
        MLPClassifier or MLPRegressor
            It has the parameters that scikit-learn has too, which
            `class_weight` is not one of, and shares no array with this estimator.

        Raises
        ------
        NotFittedError
            If this estimator is not fitted.
        ValueError
            If scikit-learn lacks what a prediction needs: an activation such as
            "gelu", different activations in different layers, or several quantiles.
        """
        check_is_fitted(self)
        mlp = self._sklearn_class()
        replaced = replacements(self, mlp)
        _copy_parameters(mlp.get_params(), self, mlp, replaced)
        _copy_attributes(self, mlp)
        if watches_something_else(self, replaced):
            reset_watch(mlp)
        mlp.coefs_ = [np.array(coef, order="C") for coef in self.coefs_]
        mlp.intercepts_ = [np.array(intercept) for intercept in self.intercepts_]
        # What it restores if a warm start with early stopping finds nothing better.
        mlp._best_coefs, mlp._best_intercepts = mlp.coefs_, mlp.intercepts_
        mlp._random_state = check_random_state(mlp.random_state)
        layout = NetworkSplit.even(layer_units_of(mlp.coefs_), 1).unsplit_layout()
        # After coefs_ were edited to other sizes, a new optimiser begins.
        state = getattr(self, "_optimizer_state", None)
        if (
            state
            and type(state.rule) in _CONVERTERS
            # Its moments are those of other parameters than the average.
            and state.average is None
            and all(m.size == layout.n_parameters for m in state.moments)
        ):
            mlp._optimizer = _to_sklearn_optimizer(
                state, self._schedule, self._learning_rate, layout
            )
        return mlp

    @classmethod
    def from_sklearn(cls, mlp: Any, **params: Any) -> Self:
        """Import the fitted network of a scikit-learn estimator.

        The result makes the same predictions, and `partial_fit`, or `fit` with
        ``warm_start=True``, continues where scikit-learn stopped; on a cluster if
        you name one: ``from_sklearn(mlp, client=client)``.

        Parameters
        ----------
        mlp : MLPClassifier or MLPRegressor
            The fitted estimator: a classifier to become a classifier, a regressor
            to become a regressor. It is not changed.
        **params
            Parameters of the new estimator, such as `client`, `n_workers` or
            `engine`. They take precedence over those of `mlp`. With another `solver`,
            `ema_decay` or `warmup_steps`, training begins with a new optimiser.

        Returns
        -------
        DistributedMLPClassifier or DistributedMLPRegressor
            It has the parameters of `mlp`, and defaults for those that
            scikit-learn does not have. It shares no array with `mlp`. Its `plan_`
            says that scikit-learn trained it.

        Raises
        ------
        TypeError
            If `mlp` is something else.
        NotFittedError
            If `mlp` is not fitted.
        ValueError
            If `params` has a name that is not a parameter of the estimator.
        """
        if not isinstance(mlp, cls._sklearn_class):
            raise TypeError(
                f"{cls.__name__}.from_sklearn takes a fitted "
                f"{cls._sklearn_class.__name__}, but was given {_described(mlp)}. An "
                f"MLPClassifier becomes a DistributedMLPClassifier, an MLPRegressor a "
                f"DistributedMLPRegressor; of a pipeline, pass that step."
            )
        check_is_fitted(
            mlp,
            "coefs_",
            msg="This %(name)s instance is not fitted yet. Call 'fit' first, or take "
            f"over its parameters alone: {cls.__name__}(**mlp.get_params()).",
        )
        estimator = cls()
        _copy_parameters(cls._sklearn_class().get_params(), mlp, estimator, params)
        _copy_attributes(mlp, estimator)
        units, dtype = layer_units_of(mlp.coefs_), mlp.coefs_[0].dtype
        plan = local_plan(units, "scikit-learn trained it")
        estimator.coefs_, estimator.intercepts_ = plan.split.unsplit_layout().views(
            _flat([*mlp.coefs_, *mlp.intercepts_], dtype)
        )
        estimator.plan_ = plan
        estimator.engine_ = plan.engine
        estimator.n_workers_ = plan.n_workers
        estimator.n_replicas_ = plan.n_replicas
        if hasattr(mlp, "_optimizer"):
            state, schedule, rate = _from_sklearn_optimizer(mlp._optimizer, dtype)
            if not _asks_for_another_optimizer(estimator, mlp):
                estimator._optimizer_state = state
                estimator._schedule, estimator._learning_rate = schedule, rate
            estimator._dropout_seed = None  # the first dropout draws it
            if estimator.validation_scores_ is not None:
                estimator._watched = HELD_OUT
            # scikit-learn does not record them.
            estimator.validation_loss_curve_ = estimator.best_iter_ = None
        return estimator


def _asks_for_another_optimizer(estimator: Any, mlp: Any) -> bool:
    """Say whether parameters given to `from_sklearn` rule out scikit-learn's optimiser.

    A solver changed by ``mlp.set_params`` does not: `partial_fit` ignores it.
    """
    return bool(
        estimator.solver != mlp.solver
        or estimator.ema_decay is not None
        or estimator.warmup_steps
    )


def _copy_parameters(
    names: Iterable[str], source: Any, target: Any, others: Mapping[str, Any]
) -> None:
    copied = {name: deepcopy(getattr(source, name)) for name in names}
    target.set_params(**{**copied, **others})


def _copy_attributes(source: Any, target: Any) -> None:
    for name in SHARED_ATTRIBUTES:
        if hasattr(source, name):
            setattr(target, name, deepcopy(getattr(source, name)))


class _Converter(NamedTuple):
    """How the state of an optimiser becomes scikit-learn's optimiser, and back."""

    sklearn_class: type
    export: Callable[[Any, OptimizerState, LearningRateSchedule, ShardLayout], Any]
    load: Callable[[Any, np.dtype[np.floating]], OptimizerState]


def _export_adam(
    rule: Adam,
    state: OptimizerState,
    schedule: LearningRateSchedule,
    layout: ShardLayout,
) -> Any:
    adam = AdamOptimizer([], schedule.initial, rule.beta_1, rule.beta_2, rule.epsilon)
    first, second = state.moments
    # Adam keeps moments that are divided by 1 - beta; scikit-learn does not.
    adam.ms = _by_layer(first * (1 - rule.beta_1), layout)
    adam.vs = _by_layer(second * (1 - rule.beta_2), layout)
    adam.t = state.n_steps
    if adam.t > 0:
        adam.learning_rate *= (1 - rule.beta_2**adam.t) ** 0.5
        adam.learning_rate /= 1 - rule.beta_1**adam.t
    return adam


def _load_adam(optimizer: Any, dtype: np.dtype[np.floating]) -> OptimizerState:
    adam = Adam(optimizer.beta_1, optimizer.beta_2, optimizer.epsilon)
    first = _flat(optimizer.ms, dtype)
    first /= 1 - adam.beta_1
    second = _flat(optimizer.vs, dtype)
    second /= 1 - adam.beta_2
    return OptimizerState(adam, (first, second), optimizer.t)


def _export_sgd(
    rule: Sgd,
    state: OptimizerState,
    schedule: LearningRateSchedule,
    layout: ShardLayout,
) -> Any:
    sgd = SGDOptimizer(
        [],
        schedule.initial,
        schedule.name if schedule.name in EPOCH_SCHEDULES else "constant",
        rule.momentum,
        rule.nesterov,
        schedule.power_t,
    )
    (velocity,) = state.moments
    sgd.velocities = _by_layer(np.array(velocity), layout)
    return sgd


def _load_sgd(optimizer: Any, dtype: np.dtype[np.floating]) -> OptimizerState:
    sgd = Sgd(optimizer.momentum, optimizer.nesterov)
    return OptimizerState(sgd, (_flat(optimizer.velocities, dtype),))


_CONVERTERS: Mapping[type[UpdateRule], _Converter] = MappingProxyType(
    {
        Adam: _Converter(AdamOptimizer, _export_adam, _load_adam),
        Sgd: _Converter(SGDOptimizer, _export_sgd, _load_sgd),
    }
)
"""By rule. One that is not here is unknown to scikit-learn, which begins a new one."""


def _to_sklearn_optimizer(
    state: OptimizerState,
    schedule: LearningRateSchedule,
    learning_rate: float,
    layout: ShardLayout,
) -> Any:
    """Return scikit-learn's optimiser, its moments one array per layer."""
    converter = _CONVERTERS[type(state.rule)]
    optimizer = converter.export(state.rule, state, schedule, layout)
    if state.rule.has_schedule:
        optimizer.learning_rate = learning_rate
    return optimizer


def _from_sklearn_optimizer(
    optimizer: Any, dtype: np.dtype[np.floating]
) -> tuple[OptimizerState, LearningRateSchedule, float]:
    """Return what an estimator keeps of its optimiser: state, schedule and rate."""
    state = next(
        (
            converter.load(optimizer, dtype)
            for converter in _CONVERTERS.values()
            if isinstance(optimizer, converter.sklearn_class)
        ),
        None,
    )
    if state is None:
        raise ValueError(
            f"the optimiser of the network is {_described(optimizer)}, expected one of "
            f"scikit-learn's: "
            f"{', '.join(c.sklearn_class.__name__ for c in _CONVERTERS.values())}. "
            f"Delete its attribute _optimizer to begin with a new one."
        )
    initial = float(optimizer.learning_rate_init)
    if not state.rule.has_schedule:
        return state, LearningRateSchedule("constant", initial), initial
    schedule = LearningRateSchedule(
        optimizer.lr_schedule, initial, float(optimizer.power_t)
    )
    return state, schedule, float(optimizer.learning_rate)


def _by_layer(flat: FloatArray, layout: ShardLayout) -> list[FloatArray]:
    """Return the coefficients of all layers, then their intercepts, as views."""
    coefs, intercepts = layout.views(flat)
    return [*coefs, *intercepts]


def _flat(by_layer: Sequence[FloatArray], dtype: np.dtype[np.floating]) -> FloatArray:
    """Return all layers in a new array, in the layout of one shard."""
    return np.concatenate([array.ravel() for array in by_layer], dtype=dtype)


def _described(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"an instance of {type(value).__name__}"
