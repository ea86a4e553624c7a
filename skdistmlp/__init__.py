"""A multilayer perceptron split by neurons over the workers of a Dask cluster.

The estimators have scikit-learn's names, parameters and answers.
"""

from skdistmlp.estimators import (
    DistributedMLPClassifier,
    DistributedMLPRegressor,
    FastestWithin,
)
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
