"""A multilayer perceptron split by neurons over the workers of a Dask cluster.

The estimators have scikit-learn's names, parameters and answers.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from skdistmlp.exceptions import (
    ClusterError,
    ExchangeError,
    SkdistmlpError,
    WorkerLostError,
)

__all__ = [
    "ClusterError",
    "DistributedMLPClassifier",
    "DistributedMLPRegressor",
    "ExchangeError",
    "FastestWithin",
    "SkdistmlpError",
    "WorkerLostError",
]
__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from skdistmlp.estimators import (
        DistributedMLPClassifier,
        DistributedMLPRegressor,
        FastestWithin,
    )
else:
    # Dask imports this package at each of its commands, to hang `dask mlp` below it:
    # the estimators, and scikit-learn with them, are imported when they are used.
    def __getattr__(name):
        if name == "estimators":
            return import_module("skdistmlp.estimators")
        if name in __all__:
            return getattr(import_module("skdistmlp.estimators"), name)
        raise AttributeError(f"module 'skdistmlp' has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *__all__, "estimators"})
