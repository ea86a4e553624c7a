"""The fits that faults are injected into, and how they end.

Workers and clients import this module.
"""

import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from sklearn.exceptions import ConvergenceWarning

from skdistmlp import DistributedMLPClassifier
from skdistmlp.planning.recovery import Recovery


@dataclass(frozen=True)
class Training:
    """What is trained, and when a fit is held that passes the point of a phase often.

    Attributes
    ----------
    max_iter : int
        Number of epochs.
    early_stopping : bool
        Whether each epoch ends with a validation.
    held_epoch : int
        The epoch of a run, from 1, in whose exchanges, validation or copies it is held.
    in_rounds : bool
        Whether a round ends, and copies are taken, after every epoch. Otherwise there
        is one round.
    """

    max_iter: int = 2
    early_stopping: bool = False
    held_epoch: int = 1
    in_rounds: bool = False

    @property
    def held_step(self) -> int:
        """Number of the step, from 1, in whose exchanges a fit is held."""
        # Three mini-batches; the validation counts as a step too.
        return (self.held_epoch - 1) * (3 + self.early_stopping) + 2

    @property
    def n_epochs_before_last(self) -> int:
        """Number of epochs before the last round."""
        return self.max_iter - 1 if self.in_rounds else 0


ONCE = Training()
"""The table of fits that do not recover."""

REPEATED = Training(max_iter=4, early_stopping=True, held_epoch=2, in_rounds=True)
"""The table of fits that do: there are copies before the fault."""


@dataclass(frozen=True)
class FitOutcome:
    """How a fit ended.

    Attributes
    ----------
    error : type or None
        Type of the error that it raised.
    text : str
        Message of the error and its notes, or the warnings.
    values : list of ndarray
        Coefficients, intercepts and losses, or predictions, if there are any.
    recoveries : tuple of Recovery
        Losses of workers that it survived.
    """

    error: type[BaseException] | None
    text: str = ""
    values: list[np.ndarray] = field(default_factory=list)
    recoveries: tuple[Recovery, ...] = ()

    @property
    def name(self) -> str:
        return "parameters" if self.error is None else self.error.__name__


def classifier(
    client: Any, n_workers: int = 3, n_replicas: int = 1, training: Training = ONCE
) -> DistributedMLPClassifier:
    """Return a network of two hidden layers, on a grid of workers."""
    return DistributedMLPClassifier(
        (20, 9),
        batch_size=100,
        max_iter=training.max_iter,
        early_stopping=training.early_stopping,
        random_state=0,
        client=client,
        engine="local" if client is None else "peers",
        parameter_threshold=0,
        n_workers=None if client is None else n_workers,
        n_replicas=None if client is None else n_replicas,
    )


def outcome_of_fit(
    clf: DistributedMLPClassifier, X: np.ndarray, y: np.ndarray
) -> FitOutcome:
    """Fit, and return how that ended."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        warnings.simplefilter("ignore", ConvergenceWarning)
        try:
            clf.fit(X, y)
        except BaseException as error:
            notes = getattr(error, "__notes__", [])
            return FitOutcome(type(error), "\n".join([str(error), *notes]))
    text = "\n".join(str(w.message) for w in warned)
    # Early stopping returns the best parameters; the losses show the rest.
    values = [*clf.coefs_, *clf.intercepts_, np.array(clf.loss_curve_)]
    return FitOutcome(None, text, values, clf.recoveries_)
