"""What the tests of the estimators share: scikit-learn as the yardstick."""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.exceptions import ConvergenceWarning

from tests.estimators.configurations import Case


def quiet(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Call, with leave to end at `max_iter`; every other warning is an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return call(*args, **kwargs)


def fit(clf: Any, *args: Any, **kwargs: Any) -> Any:
    """Fit, with leave to end at `max_iter`."""
    return quiet(clf.fit, *args, **kwargs)


class InterruptAfter:
    """Calls through so many times, then presses Ctrl-C."""

    def __init__(self, function: Callable[..., Any], n_calls: int) -> None:
        self._function = function
        self._left = n_calls

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._left == 0:
            raise KeyboardInterrupt
        self._left -= 1
        return self._function(*args, **kwargs)


@dataclass(frozen=True)
class Result:
    """What a call led to; class names are left out of messages."""

    value: Any
    error: tuple[type, str] | None
    warnings: list[tuple[type, str]]


def result_of(call: Callable[[], Any]) -> Result:
    """Call, and record the value or the error, and the warnings."""
    value, error = None, None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            value = call()
        except Exception as raised:
            error = type(raised), _anonymous(str(raised))
    return Result(
        value, error, [(w.category, _anonymous(str(w.message))) for w in caught]
    )


def _anonymous(message: str) -> str:
    """Leave out our name, and the order of sets, which changes from run to run."""
    message = message.replace("DistributedMLP", "MLP")
    return re.sub(r"\{(.*?)\}", lambda part: str(sorted(part[1].split(", "))), message)


def assert_parity(case: Case, **engine_params: Any) -> Any:
    """Fit both estimators; all they say and know afterwards must be the same.

    To rtol 1e-6 in float64, and to atol 1e-5 in float32. Returns ours.
    """
    ours, theirs = case.pair(**engine_params)
    results = [
        result_of(lambda e=e: e.fit(case.X, case.y, sample_weight=case.sample_weight))
        for e in (ours, theirs)
    ]
    assert results[0].error == results[1].error
    assert results[0].warnings == results[1].warnings
    if results[1].error is None:
        close = tolerance(np.float32 if case.X.dtype == np.float32 else np.float64)
        assert_same_network(ours, theirs, close)
        assert_same_answers(ours, theirs, case.X, case.y, case.sample_weight, close)
    return ours


HISTORY = (
    "best_loss_",
    "loss_curve_",
    "validation_scores_",
    "best_validation_score_",
)
"""Attributes that "lbfgs" does not set."""


def assert_same_network(
    ours: Any, theirs: Any, close: dict[str, float] | None = None
) -> None:
    """Compare every fitted attribute that scikit-learn's estimator has."""
    close = close or tolerance(theirs.coefs_[0].dtype)
    if hasattr(theirs, "classes_"):
        assert_array_equal(ours.classes_, theirs.classes_)
    for name in ("coefs_", "intercepts_"):
        pairs = zip(getattr(ours, name), getattr(theirs, name), strict=True)
        for layer, (our_array, their_array) in enumerate(pairs):
            assert our_array.dtype == their_array.dtype
            assert_allclose(our_array, their_array, err_msg=f"{name}[{layer}]", **close)
    for name in ("loss_", *HISTORY):
        assert hasattr(ours, name) == hasattr(theirs, name), name
        value = getattr(theirs, name, None)
        if value is None:
            assert getattr(ours, name, None) is None, name
        else:
            assert_allclose(getattr(ours, name), value, err_msg=name, **close)
    for name in (
        "n_iter_",
        "t_",
        "n_layers_",
        "n_outputs_",
        "n_features_in_",
        "out_activation_",
    ):
        assert getattr(ours, name) == getattr(theirs, name), name


def assert_same_answers(
    ours: Any,
    theirs: Any,
    X: Any,
    y: Any,
    sample_weight: Any = None,
    close: dict[str, float] | None = None,
) -> None:
    """Compare what both estimators predict."""
    close = close or tolerance(theirs.coefs_[0].dtype)
    our_values, their_values = ours.predict(X), theirs.predict(X)
    assert our_values.dtype == their_values.dtype
    scores = ours.score(X, y, sample_weight), theirs.score(X, y, sample_weight)
    if not hasattr(theirs, "classes_"):
        assert_allclose(our_values, their_values, err_msg="predict", **close)
        assert_allclose(*scores, err_msg="score", **close)
        return
    assert sparse.issparse(our_values) == sparse.issparse(their_values)
    assert_array_equal(_dense(our_values), _dense(their_values))
    assert scores[0] == scores[1]
    with np.errstate(divide="ignore"):
        for name in ("predict_proba", "predict_log_proba"):
            our_values, their_values = getattr(ours, name)(X), getattr(theirs, name)(X)
            assert our_values.dtype == their_values.dtype
            assert_allclose(our_values, their_values, err_msg=name, **close)


def tolerance(dtype: Any) -> dict[str, float]:
    """Return how close is close enough for networks of `dtype`."""
    if dtype == np.float32:
        return {"rtol": 1e-6, "atol": 1e-5}
    return {"rtol": 1e-6, "atol": 1e-9}


def _dense(labels: Any) -> np.ndarray:
    return labels.toarray() if hasattr(labels, "toarray") else labels
