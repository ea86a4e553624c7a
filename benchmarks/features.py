"""What a step of training costs with the parameters that scikit-learn lacks."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from statistics import median
from typing import Any

import numpy as np
from distributed import Client
from threadpoolctl import threadpool_limits

from benchmarks.timing import time_in_turns, with_progress
from skdistmlp.crossover.local_workers import single_threaded_workers
from skdistmlp.crossover.output import Row
from skdistmlp.crossover.timing import EstimatorFactory, median_ratio, time_fit
from skdistmlp.crossover.workloads import N_CLASSES, Workload
from skdistmlp.estimators import DistributedMLPClassifier
from skdistmlp.nn import compiled
from skdistmlp.nn.layers import Network, dense_layers
from skdistmlp.nn.optimizers import init
from skdistmlp.nn.parametric_losses import SmoothedLabels
from skdistmlp.nn.update_rules import UPDATE_RULES
from skdistmlp.parallel.communicators import SingleProcess
from skdistmlp.parallel.data import Dataset
from skdistmlp.parallel.initial import draw_parameters
from skdistmlp.parallel.local_ops import LocalOps
from skdistmlp.parallel.shard import ShardState
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.training.step import training_step

WORKLOAD = Workload(784, (1024, 1024), n_steps=20, n_epochs=2)

SEED = 0
"""Of dropout."""

STEPS_PER_TURN = 10
"""Steps of one network before it is the next one's turn."""

TURNS_PER_REPEAT = 4

DEFAULTS = "defaults"

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
    """Time steps of one shard in this process; yield one row per feature."""
    _load_kernels()
    X, labels = WORKLOAD.data()
    dataset = Dataset(X, np.eye(N_CLASSES, dtype=bool)[labels], None)
    candidates = {DEFAULTS: partial(_train, _open({}, dataset))}
    for name in with_progress("features, local", FEATURES, str):
        parameters, _ = FEATURES[name]
        candidates[name] = partial(_train, _open(parameters, dataset))
    with threadpool_limits(n_threads):
        seconds = time_in_turns(candidates, TURNS_PER_REPEAT * repeats)
    steps_ms = {
        name: [1e3 * turn_s / STEPS_PER_TURN for turn_s in turns]
        for name, turns in seconds.items()
    }
    yield from _rows(steps_ms)


def compare_on_peers(repeats: int) -> Iterator[Row]:
    """Time steps of two shards with `peers`; yield one row per feature."""
    steps_ms: dict[str, list[float]] = {}
    everything: dict[str, Mapping[str, Any]] = {DEFAULTS: {}}
    everything |= {name: parameters for name, (parameters, _) in FEATURES.items()}
    turns = [name for _ in range(repeats) for name in everything]
    with single_threaded_workers(N_SHARDS) as client:
        client.run(_load_kernels)
        factory = _on_workers(client)
        # The first fit also connects and fills caches.
        time_fit(WORKLOAD, factory)
        for name in with_progress("features, peers", turns, str):
            step_s, _ = time_fit(WORKLOAD, partial(factory, **everything[name]))
            steps_ms.setdefault(name, []).append(1e3 * step_s)
    yield from _rows(steps_ms)


def _rows(steps_ms: Mapping[str, Sequence[float]]) -> Iterator[Row]:
    for name, (_, limit) in {DEFAULTS: ({}, None), **FEATURES}.items():
        yield {
            "feature": name,
            "ms/step": median(steps_ms[name]),
            "times the defaults": median_ratio(steps_ms[name], steps_ms[DEFAULTS]),
            "limit": "" if limit is None else limit,
        }


def _open(parameters: Mapping[str, Any], dataset: Dataset) -> LocalOps:
    """Return a network on one shard, as an estimator with these parameters has it."""
    params = DistributedMLPClassifier(**parameters).get_params()
    layers = dense_layers(WORKLOAD.layer_units, params["activation"], params["dropout"])
    smoothing = params["label_smoothing"]
    output = SmoothedLabels("softmax", smoothing) if smoothing else "softmax"
    network = Network(layers, output, params["alpha"], params["max_grad_norm"])
    split = NetworkSplit.even(WORKLOAD.layer_units, 1)
    flat = draw_parameters(
        split.unsplit_layout(),
        layers,
        np.random.RandomState(0),
        np.dtype(np.float32),
    )
    rule = UPDATE_RULES[params["solver"]].from_params(params)
    state = ShardState(flat, init(rule, flat, params["ema_decay"]), dropout_seed=SEED)
    batch_size = WORKLOAD.batch_size
    return LocalOps(network, split, state, dataset, SingleProcess(), batch_size)


def _train(ops: LocalOps) -> None:
    size = WORKLOAD.batch_size
    for step in range(STEPS_PER_TURN):
        start = step % WORKLOAD.n_steps * size
        rows = np.arange(start, start + size)
        training_step(ops, rows, 1e-3)


def _load_kernels() -> None:
    for kernel in compiled.KERNELS:
        compiled.load(kernel)


def _on_workers(client: Client) -> EstimatorFactory:
    return partial(
        DistributedMLPClassifier, client=client, engine="peers", n_workers=N_SHARDS
    )
