"""Callbacks of scikit-learn that note what they are told."""

import os
import threading
from functools import partial
from typing import Any


class Told:
    """Only counts: asks for nothing, so that nothing need be brought."""

    def __init__(self) -> None:
        self.hooks: list[tuple[str, str, int]] = []
        self.losses: list[float | None] = []

    def setup(self, estimator: Any, context: Any) -> None:
        self._note("setup", estimator, context)

    def on_fit_task_begin(self, estimator: Any, context: Any) -> None:
        self._note("begin", estimator, context)

    def on_fit_task_end(self, estimator: Any, context: Any) -> bool:
        if context.task_name in ("epoch", "lbfgs-iter"):
            self.losses.append(getattr(estimator, "loss_", None))
        return self._note("end", estimator, context)

    def teardown(self, estimator: Any, context: Any) -> None:
        self._note("teardown", estimator, context)

    def _note(self, hook: str, estimator: Any, context: Any) -> bool:
        """Note a call; return whether to stop."""
        self.hooks.append((hook, context.task_name, context.task_id))
        return False


class Recorder(Told):
    """Keeps everything that is given at the end of a task."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[tuple[str, dict[str, Any]]] = []
        self.callers: set[tuple[int, int]] = set()

    def on_fit_task_end(
        self,
        estimator: Any,
        context: Any,
        *,
        X: Any = None,
        y: Any = None,
        metadata: Any = None,
        fitted_estimator: Any = None,
    ) -> bool:
        given = {"X": X, "y": y, "metadata": metadata, "fitted": fitted_estimator}
        self.given.append((context.task_name, {"estimator": estimator, **given}))
        return super().on_fit_task_end(estimator, context)

    def _note(self, hook: str, estimator: Any, context: Any) -> bool:
        self.callers.add((os.getpid(), threading.get_ident()))
        return super()._note(hook, estimator, context)

    def fitted(self, task_name: str = "epoch") -> list[Any]:
        """Return the fitted estimators given at the ends of these tasks."""
        return [given["fitted"] for name, given in self.given if name == task_name]


class Fitting(Told):
    """Fits another estimator after the first epoch."""

    def __init__(self, other: Any, X: Any, y: Any) -> None:
        super().__init__()
        self._fit = partial(other.fit, X, y)

    def _note(self, hook: str, estimator: Any, context: Any) -> bool:
        super()._note(hook, estimator, context)
        if self.hooks[-1] == ("end", "epoch", 0):
            self._fit()
        return False


class At(Told):
    """Does something at one call of a hook: raises an error, or asks to stop."""

    def __init__(
        self,
        hook: str,
        task_name: str,
        task_id: int,
        error: BaseException | None = None,
    ) -> None:
        super().__init__()
        self._at = hook, task_name, task_id
        self._error = error

    def _note(self, hook: str, estimator: Any, context: Any) -> bool:
        super()._note(hook, estimator, context)
        there = self._at == self.hooks[-1]
        if there and self._error is not None:
            raise self._error
        return there
