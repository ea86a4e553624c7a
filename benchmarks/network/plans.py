"""The plans that are compared in the lab: one line each."""

from collections.abc import Callable, Mapping
from typing import Any

ONE_THREAD = "one thread"
"""The plan that all others are compared with."""

PLANS: dict[str, Callable[[int], dict[str, Any]]] = {
    ONE_THREAD: lambda _: {"engine": "local"},
    "one worker": lambda _: {"engine": "peers", "n_workers": 1},
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

FORECAST = ["one worker", *DEFAULT]
"""Plans that are measured by default where they are forecast."""


def name_of(row: Mapping[str, Any]) -> str:
    """Return the name of a plan, from the fields of a `ForecastRow`."""
    engine, n_workers = row["engine"], row["n_workers"]
    n_replicas = row["n_replicas"]
    if n_workers == 0:
        return ONE_THREAD
    if engine == "futures":
        return "futures"
    if n_workers == 1:
        return "one worker"
    if n_replicas == 1:
        return "neurons"
    return "replicas" if n_replicas == n_workers else f"{n_replicas}-replicas"
