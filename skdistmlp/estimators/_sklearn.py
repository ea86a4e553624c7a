"""The parts of scikit-learn without a public name that estimators cannot do without.

They check parameters, classes and sample weights and word the errors, so that what
scikit-learn refuses is refused here with its message; the optimisers are what
its networks go on training with; callbacks are set up as its documentation says; the
mixin says where an estimator is documented. This is the only module that uses them;
``tests/estimators/test_sklearn_private.py`` fails when one of them changes.
"""

from collections.abc import Mapping
from inspect import signature
from typing import Any

import numpy as np
import sklearn
from sklearn.base import _fit_context as fit_context
from sklearn.neural_network._base import squared_loss
from sklearn.neural_network._stochastic_optimizers import AdamOptimizer, SGDOptimizer
from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    Options,
    StrOptions,
    validate_parameter_constraints,
)
from sklearn.utils.multiclass import (
    _check_partial_fit_first_call as check_partial_fit_first_call,
)
from sklearn.utils.optimize import _check_optimize_result as check_optimize_result
from sklearn.utils.validation import _check_sample_weight

try:
    from sklearn.callback import CallbackContext, CallbackSupportMixin
except ImportError:  # scikit-learn before 1.9

    class CallbackSupportMixin:  # type: ignore[no-redef]
        """What an estimator has of callbacks where scikit-learn has none."""

        def set_callbacks(self, *callbacks: Any) -> Any:
            """Raise an error: this version of scikit-learn has no callbacks.

            Parameters
            ----------
            *callbacks : object
                Ignored.

            Raises
            ------
            ImportError
                Always.
            """
            raise ImportError(
                f"callbacks need scikit-learn 1.9 or newer; {sklearn.__version__} is "
                f"installed. Upgrade it, or set verbose=True to follow training."
            )

        def _init_callback_context(self, *_: Any, **__: Any) -> "CallbackContext":
            return CallbackContext()

    class CallbackContext:  # type: ignore[no-redef]
        """A task that no callback is told of."""

        def subcontext(self, _: str) -> "CallbackContext":
            """Return the context of a task within this one."""
            return CallbackContext()

        def call_on_fit_task_begin(self, **_: Any) -> None:
            """Tell nobody."""

        def call_on_fit_task_end(self, **_: Any) -> bool:
            """Tell nobody; say that nobody wants to stop the fit."""
            return False


REFUSES_ZERO_WEIGHTS = "allow_all_zero_weights" in (
    signature(_check_sample_weight).parameters
)
"""Whether scikit-learn refuses weights that are all zero by itself: from 1.9 on."""


def check_sample_weight(sample_weight: Any, X: Any) -> Any:
    """Return weights as an array; raise ValueError unless they are right for X."""
    weights = _check_sample_weight(sample_weight, X)
    # Otherwise training ends in a division by zero.
    if not REFUSES_ZERO_WEIGHTS and not weights.any():
        raise ValueError("Sample weights must contain at least one non-zero number.")
    return weights


SUMS_OUTPUTS = bool(squared_loss(np.zeros((1, 2)), np.ones((1, 2))) > 0.75)
"""Whether scikit-learn's squared error of several outputs is their sum, not their mean.
It is the mean up to 1.9; pull request 34830 makes it the sum."""


SITE = "https://skdistmlp.readthedocs.io/en/latest"
"""Where the documentation is published; nothing else says so."""


class DocumentationLinkMixin:
    """Link an estimator's HTML representation to its page of the site."""

    _doc_link_module = "skdistmlp"
    _doc_link_template = f"{SITE}/api/skdistmlp.{{estimator_name}}.html"


__all__ = [
    "AdamOptimizer",
    "CallbackSupportMixin",
    "DocumentationLinkMixin",
    "HasMethods",
    "Interval",
    "Options",
    "SGDOptimizer",
    "SUMS_OUTPUTS",
    "StrOptions",
    "callbacks_of",
    "check_optimize_result",
    "check_partial_fit_first_call",
    "check_sample_weight",
    "fit_context",
    "refused_parameters",
    "root_context",
]


def refused_parameters(cls: type, params: Mapping[str, Any]) -> list[str]:
    """Return the names of parameters whose values a class of scikit-learn refuses."""
    constraints: Mapping[str, Any] = cls._parameter_constraints  # type: ignore[attr-defined]
    refused = []
    for name, value in params.items():
        try:
            validate_parameter_constraints(
                {name: constraints[name]}, {name: value}, caller_name=cls.__name__
            )
        except ValueError:
            refused.append(name)
    return refused


def callbacks_of(estimator: CallbackSupportMixin) -> list[Any]:
    """Return the callbacks set on an estimator, or handed down to it."""
    return list(getattr(estimator, "_skl_callbacks", []))


def root_context(
    estimator: CallbackSupportMixin, task_name: str, max_subtasks: int
) -> CallbackContext:
    """Set the callbacks of an estimator up; return the context of its fit."""
    return estimator._init_callback_context(task_name, max_subtasks=max_subtasks)
