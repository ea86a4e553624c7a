"""The estimators whose saved files are read by other versions.

`python -m tests.versions.trained` writes those of the installed scikit-learn. Keep the
files of versions that people have, and add some before a release: what they hold is
what each later version must read, and must train to.
"""

import pickle
import warnings
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED

import numpy as np
import sklearn
import skops.io as skops
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning

from skdistmlp import DistributedMLPClassifier, DistributedMLPRegressor

SAVED = Path(__file__).parent / "saved"


def features() -> np.ndarray:
    """Return 300 rows of 16 features, float64."""
    return load_digits().data[:300, ::4] / 16


def targets(name: str) -> np.ndarray:
    """Return the targets of an estimator by its name."""
    y = load_digits().target[:300]
    if name == "strings":
        return np.array(["low", "middle", "high"])[y // 4]
    if name == "labels":
        return np.column_stack([y % 2 == 0, y > 4]).astype(int)
    return y


def estimators() -> dict[str, Any]:
    """Return estimators that are not fitted, by their names."""
    common = {"random_state": 0, "max_iter": 5}
    one = {"hidden_layer_sizes": (8,)} | common
    sgd = {"solver": "sgd", "learning_rate": "adaptive", "early_stopping": True}
    return {
        "classes": DistributedMLPClassifier((8, 5), **common),
        "strings": DistributedMLPClassifier(**sgd, **one),
        "labels": DistributedMLPClassifier(activation="tanh", **one),
        "numbers": DistributedMLPRegressor(
            hidden_layer_sizes=(8,), alpha=0.1, **common
        ),
        "lbfgs": DistributedMLPRegressor(
            hidden_layer_sizes=(8,), solver="lbfgs", **common
        ),
    }


def fit(name: str, **parameters: Any) -> Any:
    """Return an estimator, fitted."""
    estimator = estimators()[name].set_params(**parameters)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(features(), targets(name))


if __name__ == "__main__":
    fitted = {name: fit(name) for name in estimators()}
    file = f"scikit-learn-{sklearn.__version__}"
    (SAVED / f"{file}.pickle").write_bytes(pickle.dumps(fitted, protocol=4))
    skops.dump(fitted, SAVED / f"{file}.skops", compression=ZIP_DEFLATED)
