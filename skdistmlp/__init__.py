"""A multilayer perceptron split by neurons over the workers of a Dask cluster.

The estimators have scikit-learn's names, parameters and answers.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from skdistmlp._version import __version__ as __version__
from skdistmlp.exceptions import (
    CheckpointError,
    ClusterError,
    ExchangeError,
    SkdistmlpError,
    WorkerLostError,
)
from skdistmlp.settings import register_defaults as _register_defaults

__all__ = [
    "Activation",
    "CheckpointError",
    "ClusterError",
    "DistributedMLPClassifier",
    "DistributedMLPRegressor",
    "ExchangeError",
    "FastestWithin",
    "Forecast",
    "NetworkSplit",
    "ParityReport",
    "ParityRow",
    "Plan",
    "Recovery",
    "SkdistmlpError",
    "WorkerLostError",
    "check_parity",
]

_register_defaults()

if TYPE_CHECKING:
    from skdistmlp.estimators import (
        DistributedMLPClassifier,
        DistributedMLPRegressor,
        FastestWithin,
    )
    from skdistmlp.nn.activations import Activation
    from skdistmlp.parallel.split import NetworkSplit
    from skdistmlp.parity.check import check_parity
    from skdistmlp.parity.report import ParityReport, ParityRow
    from skdistmlp.planning.forecast import Forecast
    from skdistmlp.planning.plan import Plan
    from skdistmlp.planning.recovery import Recovery
else:
    # Dask imports this package at each of its commands, to add `dask mlp`: the
    # estimators, and scikit-learn with them, are imported when they are used.
    _LAZY = {
        "Activation": "skdistmlp.nn.activations",
        "DistributedMLPClassifier": "skdistmlp.estimators",
        "DistributedMLPRegressor": "skdistmlp.estimators",
        "FastestWithin": "skdistmlp.estimators",
        "Forecast": "skdistmlp.planning.forecast",
        "NetworkSplit": "skdistmlp.parallel.split",
        "ParityReport": "skdistmlp.parity.report",
        "ParityRow": "skdistmlp.parity.report",
        "Plan": "skdistmlp.planning.plan",
        "Recovery": "skdistmlp.planning.recovery",
        "check_parity": "skdistmlp.parity.check",
    }

    def __getattr__(name):
        if name in _LAZY:
            return getattr(import_module(_LAZY[name]), name)
        if name in ("estimators", "plotting"):
            return import_module(f"skdistmlp.{name}")
        raise AttributeError(f"module 'skdistmlp' has no attribute {name!r}")

    def __dir__():
        return sorted([*__all__, "__version__", "estimators", "plotting"])
