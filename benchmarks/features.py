"""What a step of training costs with the parameters that scikit-learn lacks."""

from collections.abc import Iterator, Mapping
from functools import partial
from statistics import median
from typing import Any

from distributed import Client
from threadpoolctl import threadpool_limits

from benchmarks.timing import with_progress
from skdistmlp.crossover.local_workers import single_threaded_workers
from skdistmlp.crossover.output import Row
from skdistmlp.crossover.timing import EstimatorFactory, median_ratio, time_fit
from skdistmlp.crossover.workloads import Workload
from skdistmlp.estimators import DistributedMLPClassifier
from skdistmlp.nn import compiled

WORKLOAD = Workload(784, (1024, 1024), n_steps=20, n_epochs=2)

N_SHARDS = 2
"""Shards with `peers`, on as many single-threaded workers."""

LIMIT = 1.15
"""Times the step with the defaults that a step with a feature may take."""

GELU_LIMIT = 1.3

CLIPPING = {"max_grad_norm": 0.01}
"""A norm that every step exceeds."""

FEATURES: dict[str, tuple[Mapping[str, Any], float | None]] = {
    "dropout": ({"dropout": 0.2}, LIMIT),
    "gelu": ({"activation": "gelu"}, GELU_LIMIT),
    "silu": ({"activation": "silu"}, None),
    "mish": ({"activation": "mish"}, None),
    "elu": ({"activation": "elu"}, None),
    "adamw": ({"solver": "adamw"}, LIMIT),
    "rmsprop": ({"solver": "rmsprop"}, None),
    "nadam": ({"solver": "nadam"}, None),
    "clipping": (CLIPPING, LIMIT),
    "average of the parameters": ({"ema_decay": 0.999}, None),
    "label smoothing": ({"label_smoothing": 0.1}, None),
    "all together": (
        {
            "dropout": 0.2,
            "activation": "gelu",
            "solver": "adamw",
            "ema_decay": 0.999,
            "label_smoothing": 0.1,
            **CLIPPING,
        },
        None,
    ),
}
"""Parameters by what they add to the defaults, ReLU and Adam, and the limit, if any."""


def compare_locally(n_threads: int, repeats: int) -> Iterator[Row]:
    """Time steps of the `local` engine; yield one row per feature."""
    _load_kernels()
    factory = partial(DistributedMLPClassifier, engine="local")
    with threadpool_limits(n_threads):
        yield from _compare("features, local", factory, repeats)


def compare_on_peers(repeats: int) -> Iterator[Row]:
    """Time steps of two shards with `peers`; yield one row per feature."""
    with single_threaded_workers(N_SHARDS) as client:
        client.run(_load_kernels)
        factory = _on_workers(client)
        yield from _compare("features, peers", factory, repeats)


def _compare(title: str, factory: EstimatorFactory, repeats: int) -> Iterator[Row]:
    # The first fits also import, connect and fill caches.
    time_fit(WORKLOAD, factory)
    for name in with_progress(title, FEATURES, str):
        parameters, limit = FEATURES[name]
        steps_s: dict[str, list[float]] = {"default": [], "feature": []}
        for _ in range(repeats):
            # Neighbours in time, so that whatever else the machine does affects both.
            steps_s["default"].append(time_fit(WORKLOAD, factory).step_s)
            changed = partial(factory, **parameters)
            steps_s["feature"].append(time_fit(WORKLOAD, changed).step_s)
        yield {
            "feature": name,
            "defaults, ms": 1e3 * median(steps_s["default"]),
            "with it, ms": 1e3 * median(steps_s["feature"]),
            "ratio": median_ratio(steps_s["feature"], steps_s["default"]),
            "limit": "" if limit is None else limit,
        }


def _load_kernels() -> None:
    for kernel in compiled.KERNELS:
        compiled.load(kernel)


def _on_workers(client: Client) -> EstimatorFactory:
    return partial(
        DistributedMLPClassifier, client=client, engine="peers", n_workers=N_SHARDS
    )
