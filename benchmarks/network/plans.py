"""The plans that are compared in the lab: one line each."""

from collections.abc import Callable
from typing import Any

ONE_THREAD = "one thread"
"""The plan that all others are compared with."""

PLANS: dict[str, Callable[[int], dict[str, Any]]] = {
    ONE_THREAD: lambda _: {"engine": "local"},
    "neurons": lambda n: {"engine": "peers", "n_workers": n, "n_replicas": 1},
    "replicas": lambda n: {"engine": "peers", "n_workers": n, "n_replicas": n},
    "2-replicas": lambda n: {"engine": "peers", "n_workers": n, "n_replicas": 2},
    "rule": lambda n: {"engine": "peers", "n_workers": n},
    "futures": lambda n: {"engine": "futures", "n_workers": n},
}
"""From the number of workers to the parameters of an estimator, by the plan's name."""

DEFAULT = ["neurons", "replicas"]
"""Plans that are measured by default. Two replicas of two workers are the same; the
rule takes one of the others; futures takes 40 to 60 ms of scheduling per step, and
longer than all others together."""
