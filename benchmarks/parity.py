"""How far equal trainings drift apart: by BLAS threads, and by engine and plan.

The tolerances of `check_parity` are chosen by these figures.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_diabetes, load_digits, make_classification
from sklearn.preprocessing import scale
from threadpoolctl import threadpool_limits

from benchmarks.timing import with_progress
from skdistmlp.crossover.local_workers import single_threaded_workers
from skdistmlp.crossover.output import Row
from skdistmlp.estimators import DistributedMLPClassifier, DistributedMLPRegressor
from skdistmlp.estimators.base import BaseDistributedMLP
from skdistmlp.parity.check import check_parity
from skdistmlp.parity.fits import FitData, Fits, differences

N_WORKERS = 3
"""With 2 workers, the sum of two parts has the same bits in either order."""

COLUMNS = ("parameters", "loss curve", "predictions")


class Training(NamedTuple):
    """What is trained for a number of epochs."""

    name: str
    estimator: BaseDistributedMLP
    X: np.ndarray
    y: np.ndarray
    n_epochs: tuple[int, ...]

    @property
    def shape(self) -> str:
        """The features and hidden layers, such as "64-(100)"."""
        return f"{self.X.shape[1]}-{self.estimator.hidden_layer_sizes}"


def trainings() -> list[Training]:
    """Return real data sets of two sizes and each kind, and wide random features."""
    digits, digit = load_digits(return_X_y=True)
    diabetes, progression = load_diabetes(return_X_y=True)
    digits, digit = digits[:1000] / 16, digit[:1000]
    wide, label = make_classification(
        400, 784, n_informative=100, n_classes=10, random_state=0
    )
    return [
        Training(
            "digits, adam",
            DistributedMLPClassifier((100,), random_state=0),
            digits,
            digit,
            (3, 20, 60),
        ),
        Training(
            "digits, sgd",
            DistributedMLPClassifier(
                (100, 50), solver="sgd", learning_rate_init=0.1, random_state=0
            ),
            digits,
            digit,
            (3, 20),
        ),
        Training(
            "diabetes, adam",
            DistributedMLPRegressor(
                hidden_layer_sizes=(100, 50), batch_size=20, random_state=0
            ),
            scale(diabetes),
            progression,
            (3, 20, 60),
        ),
        Training(
            "random, adam",
            DistributedMLPClassifier((512, 512), random_state=0),
            scale(wide),
            label,
            (3, 20),
        ),
    ]


def compare_blas_threads() -> Iterator[Row]:
    """Train with scikit-learn on 1 and on 2 BLAS threads; yield the differences."""
    cases = trainings()
    for case in with_progress("parity, BLAS", cases, lambda case: case.name):
        for dtype in (np.float64, np.float32):
            data = FitData(case.X.astype(dtype), case.y, {})
            for n_epochs in case.n_epochs:
                fits = Fits(_endless(case.estimator), n_epochs, data, data, None)
                answers = []
                for n_threads in (1, 2):
                    with threadpool_limits(n_threads, user_api="blas"):
                        answers.append(fits.of_scikit_learn())
                is_classifier = isinstance(case.estimator, DistributedMLPClassifier)
                found = differences(answers[1], answers[0], is_classifier)
                yield _row(case, dtype, n_epochs) | dict(
                    zip(COLUMNS, found, strict=True)
                )


def compare_plans() -> Iterator[Row]:
    """Train with scikit-learn and on each plan; yield the largest differences."""
    cases = trainings()
    with single_threaded_workers(N_WORKERS) as client:
        for case in with_progress("parity, plans", cases, lambda case: case.name):
            for dtype in (np.float64, np.float32):
                for n_epochs in case.n_epochs:
                    # Not futures: a step takes tens of milliseconds.
                    report = check_parity(
                        _endless(case.estimator),
                        case.X.astype(dtype),
                        case.y,
                        n_epochs=n_epochs,
                        client=client,
                        engines=["local", "peers"],
                        tolerance=np.inf,
                    )
                    report.raise_if_failed()
                    rows = report.rows
                    yield _row(case, dtype, n_epochs) | {
                        "plans": len(rows),
                        "parameters": max(row.parameters for row in rows),
                        "loss curve": max(row.loss_curve for row in rows),
                        "predictions": max(row.predictions for row in rows),
                    }


def _endless(estimator: BaseDistributedMLP) -> BaseDistributedMLP:
    """Keep an estimator from stopping early, so that all epochs are compared."""
    return estimator.set_params(n_iter_no_change=np.inf)


def _row(case: Training, dtype: type, n_epochs: int) -> dict[str, object]:
    return {
        "training": case.name,
        "network": case.shape,
        "dtype": np.dtype(dtype).name,
        "epochs": n_epochs,
    }
