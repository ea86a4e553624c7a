"""The promise: one Dask task per layer and shard computes the forward pass."""

from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import product
from math import ceil
from typing import Any

import numpy as np
import pytest
from distributed import Client, get_task_stream
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from skdistmlp import DistributedMLPClassifier
from skdistmlp.cluster.run.graph import PREDICT, TRAIN
from skdistmlp.parallel.whole_network import PREDICT_BLOCK_ROWS
from tests.cluster.dask_processes import DASK, DaskProcesses
from tests.cluster.leaks import assert_nothing_left, remember
from tests.cluster.support import bounded

HIDDEN = (64, 32)
N_LAYERS = len(HIDDEN) + 1
N_EPOCHS = 3
PARAMETERS = {"max_iter": N_EPOCHS, "random_state": 0}


def fitted(pipeline: Pipeline, X: np.ndarray, y: np.ndarray) -> Pipeline:
    with pytest.warns(ConvergenceWarning, match=f"Maximum iterations .{N_EPOCHS}."):
        return pipeline.fit(X, y)


def watched(address: str, call: Callable[[], Any]) -> tuple[Any, list, dict]:
    """Call a function, and record what the scheduler saw.

    Returns the result, the keys that its transition log says were computed, and the
    workers that computed each key.
    """

    def log(dask_scheduler):
        return [tuple(entry)[:3] for entry in dask_scheduler.transition_log]

    with Client(address, set_as_default=False) as watcher:
        remember(watcher)
        n_before = len(watcher.run_on_scheduler(log))
        with get_task_stream(watcher) as stream:
            result = bounded(call)
        entries = watcher.run_on_scheduler(log)[n_before:]
        assert_nothing_left(watcher)
    computed = [key for key, *states in entries if states == ["processing", "memory"]]
    workers = defaultdict(set)
    for task in stream.data:
        workers[task["key"]].add(task["worker"])
    return result, computed, workers


def assert_delegated(plan, group, n_times, computed, workers):
    """There is one forward task per layer and shard, on the worker of the plan."""
    of_group = Counter(key[1] for key in computed if key[1].startswith("forward"))
    assert of_group == {
        f"forward-layer{layer}-shard{shard}": n_times
        for layer, shard in product(range(N_LAYERS), range(2))
    }
    assert {key[0] for key in computed} == {group}
    for shard in range(2):
        on_shard = [key for key in computed if key[1].endswith(f"-shard{shard}")]
        assert {worker for key in on_shard for worker in workers[key]} == {
            plan.workers[shard]
        }


def test_each_layer_of_each_shard_is_a_task_on_its_worker(tmp_path, digits):
    X, y = digits
    X_long = np.tile(X, (2, 1))
    X, y = X[:600], y[:600]
    with DaskProcesses(tmp_path, n_workers=2, command=DASK) as processes:
        ours = make_pipeline(
            StandardScaler(),
            DistributedMLPClassifier(
                HIDDEN,
                client=processes.address,
                engine="futures",
                parameter_threshold=0,
                **PARAMETERS,
            ),
        )
        _, *seen = watched(processes.address, lambda: fitted(ours, X, y))

        mlp = ours[-1]
        assert mlp.engine_ == "futures"
        assert sorted(mlp.plan_.workers) == sorted(processes.workers)
        n_steps = N_EPOCHS * ceil(len(X) / 200)
        assert_delegated(mlp.plan_, TRAIN, n_steps, *seen)

        labels, *seen = watched(processes.address, lambda: ours.predict(X_long))

        # Prediction goes block by block of rows.
        n_blocks = ceil(len(X_long) / PREDICT_BLOCK_ROWS)
        assert n_blocks == 2
        assert_delegated(mlp.plan_, PREDICT, n_blocks, *seen)

    theirs = fitted(
        make_pipeline(StandardScaler(), MLPClassifier(HIDDEN, **PARAMETERS)), X, y
    )
    np.testing.assert_array_equal(labels, theirs.predict(X_long))
    for name in ["coefs_", "intercepts_", "loss_curve_"]:
        for own, other in zip(
            getattr(mlp, name), getattr(theirs[-1], name), strict=True
        ):
            np.testing.assert_allclose(own, other, rtol=1e-6)
