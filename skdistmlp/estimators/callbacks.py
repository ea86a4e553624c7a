"""A fit and its epochs or iterations, as the tasks that callbacks are told of."""

from collections.abc import Callable
from copy import copy
from inspect import signature
from typing import Any

from skdistmlp.engines.dispatch import OnResult, TrainingResult
from skdistmlp.estimators._sklearn import callbacks_of, root_context
from skdistmlp.nn.update_rules import UPDATE_RULES
from skdistmlp.training.progress import Outcome
from skdistmlp.training.state import TrainingState


class CallbackContext:
    """One call of `fit` or `partial_fit`: a task, and one within for every epoch.

    With "lbfgs" there is one within for every iteration, of the name that it has in
    scikit-learn's `LogisticRegression`. What is said of epochs here holds for both.

    Callbacks are called in this process, in the thread that fits. To begin is to
    set them up; scikit-learn's decorator of `fit` tears them down.

    Parameters
    ----------
    estimator : BaseDistributedMLP
        What is fitted.
    incremental : bool
        Whether by `partial_fit`.
    X, y, sample_weight : array-like
        As the user gave them, to be given to callbacks.
    """

    def __init__(
        self,
        estimator: Any,
        incremental: bool,
        X: Any,
        y: Any,
        sample_weight: Any,
    ) -> None:
        metadata = {} if sample_weight is None else {"sample_weight": sample_weight}
        self._estimator = estimator
        self._given = {"estimator": estimator, "X": X, "y": y, "metadata": metadata}
        if incremental:
            self._fit = root_context(estimator, "partial_fit", 1)
        else:
            self._fit = root_context(estimator, "fit", estimator.max_iter)
        self._name = "epoch" if estimator.solver in UPDATE_RULES else "lbfgs-iter"
        self._epoch: Any = None
        self._n_epochs_ended = 0
        self._outcome: Outcome | None = None
        self._asks_for_fitted = False

    def begin(self) -> OnResult | None:
        """Begin the fit.

        Returns
        -------
        callable or None
            Called after every epoch but the last; see `OnResult`. None if no callback
            is set.
        """
        self._fit.call_on_fit_task_begin(**self._given)
        callbacks = callbacks_of(self._estimator)
        if not callbacks:
            return None
        self._asks_for_fitted = any(map(_asks_for_fitted, callbacks))
        return self._on_epoch_end

    def begin_epochs(self, n_before: int) -> None:
        """Begin the first epoch, if there is anybody to be told of it.

        Parameters
        ----------
        n_before : int
            Epochs that ended in another process, of a fit that is resumed: callbacks
            were told of them there.
        """
        self._n_epochs_ended = n_before
        if not callbacks_of(self._estimator):
            return
        for _ in range(n_before):
            # scikit-learn numbers the tasks in their order.
            self._fit.subcontext(self._name)
        self._begin_epoch()

    def _on_epoch_end(
        self, state: TrainingState, result: Callable[[], TrainingResult]
    ) -> bool:
        assert state.progress is not None
        self._estimator._set_progress_attributes(state.progress)
        if self._end_epoch(lambda: self._as_fitted(result())):
            return True
        self._begin_epoch()
        return False

    def end(self, outcome: Any) -> Any:
        """End the last epoch and the fit; the estimator is fitted.

        Parameters
        ----------
        outcome : Outcome or OptimizeResult
            Why training ended.

        Returns
        -------
        Outcome or OptimizeResult
            The same, unless a callback had a part in it.
        """
        if self._epoch is not None:
            # An interrupted epoch counts for nothing; nor does an iteration of L-BFGS
            # that finds no better place.
            whole = self._estimator.n_iter_ > self._n_epochs_ended
            if self._end_epoch({} if whole else None):
                self._outcome = Outcome.STOPPED
        self._fit.call_on_fit_task_end(**self._given, reconstruction_attributes={})
        return self._outcome or outcome

    def _begin_epoch(self) -> None:
        self._epoch = self._fit.subcontext(self._name)
        self._epoch.call_on_fit_task_begin(**self._given)

    def _end_epoch(self, attributes: Any) -> bool:
        """End an epoch; return whether a callback wants to stop.

        `attributes` are those that a fitted estimator has and this one has not, or a
        function that returns them, called if a callback asks for such an estimator.
        """
        # Before any callback is told: if a worker is lost meanwhile, the epoch is
        # trained again, and ends for all of them then. scikit-learn would call it when
        # the first that asks is due, after those before it have been told.
        if callable(attributes) and self._asks_for_fitted:
            attributes = attributes()
        epoch, self._epoch = self._epoch, None
        self._n_epochs_ended += 1
        stop: bool = epoch.call_on_fit_task_end(
            **self._given, reconstruction_attributes=attributes
        )
        return stop

    def _as_fitted(self, result: TrainingResult) -> dict[str, Any]:
        """Return the attributes of the estimator that a fit would leave."""
        fitted = copy(self._estimator)
        fitted._set_fitted_attributes(result)
        return vars(fitted)


def _asks_for_fitted(callback: Any) -> bool:
    """Say whether a callback wants the estimator that a fit would leave."""
    return "fitted_estimator" in signature(callback.on_fit_task_end).parameters
