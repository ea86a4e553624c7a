"""What a step takes besides its products: Adam, and what SciPy does for L-BFGS."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any
from unittest.mock import patch

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.timing import time_in_turns, with_progress
from skdistmlp.crossover.output import Row
from skdistmlp.crossover.workloads import Workload
from skdistmlp.estimators import DistributedMLPClassifier
from skdistmlp.estimators.uninterrupted import fit_uninterrupted
from skdistmlp.nn import compiled, optimizers
from skdistmlp.nn.update_rules import Adam
from skdistmlp.parallel.split import count_parameters
from skdistmlp.training import lbfgs
from skdistmlp.training.step import backpropagate

N_PARAMETERS = 5_800_000

OF_LBFGS = [
    Workload(784, hidden, n_steps=10, n_epochs=1)
    for hidden in [(100,), (256, 256), (1024, 1024)]
]
"""Networks that are trained by L-BFGS."""

N_VECTORS = 10
"""Steps and gradients that L-BFGS remembers: until it has as many, it does less."""

LOAD = """
import time
import psutil
import skdistmlp.cluster.peers.probe
from skdistmlp.nn import compiled
process = psutil.Process()
begun, before = time.process_time(), process.memory_info().rss
compiled.load(compiled.adam)
print(time.process_time() - begun, process.memory_info().rss - before)
"""
"""A program that imports what a worker does, and prints the seconds of the processor in
which it loads what is compiled for Adam, which other work of the machine does not
change, and the bytes of memory that this takes."""


def run(repeats: int) -> dict[str, list[Row]]:
    """Measure everything; return tables by title."""
    return {
        "optimizer": list(compare_block_sizes(repeats)),
        "optimizer, L-BFGS": list(time_lbfgs(repeats)),
        "optimizer, loading numba": list(time_loading(repeats)),
    }


def compare_block_sizes(repeats: int) -> Iterator[Row]:
    """Time steps on one thread; yield one row per library and size of block."""
    random = np.random.default_rng(0)
    parameters = random.standard_normal(N_PARAMETERS, dtype=np.float32)
    gradient = random.standard_normal(N_PARAMETERS, dtype=np.float32)
    state = optimizers.init(Adam(), parameters)
    compiled.load(compiled.adam)
    kernels = {"NumPy": None, "numba": compiled.compiled(compiled.adam, 0)}

    def step(by: str, block_bytes: int) -> None:
        with (
            patch.object(optimizers, "BLOCK_BYTES", block_bytes),
            patch.object(compiled, "compiled", lambda *_: kernels[by]),
        ):
            optimizers.update(
                state,
                parameters,
                gradient,
                1e-3,
                n_coefs=N_PARAMETERS,
                penalty=1e-6,
            )

    sizes = [16, 32, 64, 128, 256, 512, 1024]
    for by in with_progress("optimizer", kernels, str):
        if by == "numba" and kernels[by] is None:
            continue
        with threadpool_limits(1):
            seconds = time_in_turns(
                {f"{kib}": partial(step, by, kib * 1024) for kib in sizes}, repeats
            )
        for kib, times in seconds.items():
            yield {
                "by": by,
                "block, KiB": kib,
                "Adam step, ms": 1e3 * median(times),
            }


def time_lbfgs(repeats: int) -> Iterator[Row]:
    """Time what a fit does between two evaluations; yield one row per network.

    On one thread, with as many vectors as L-BFGS remembers. This is the measurement
    behind `SCIPY_PARAMETER_S`.
    """
    for workload in with_progress("optimizer, L-BFGS", OF_LBFGS, _name):
        n_parameters = count_parameters(workload.layer_units)
        evaluation_s, between_s = _lbfgs_seconds(workload, N_VECTORS + 4 * repeats)
        yield {
            "network": workload.name,
            "parameters": n_parameters,
            "evaluation, ms": 1e3 * evaluation_s,
            "between two, ms": 1e3 * between_s,
            "us per parameter": 1e6 * between_s / n_parameters,
        }


def _lbfgs_seconds(workload: Workload, max_iter: int) -> tuple[float, float]:
    """Return what an evaluation takes, and what comes between two of them."""
    spans: list[tuple[float, float]] = []

    # Seconds of the processor: nobody waits for anything, and a machine that has other
    # work to do does not change them.
    def evaluate(*args: Any) -> None:
        begun = time.process_time()
        backpropagate(*args)
        spans.append((begun, time.process_time()))

    estimator = DistributedMLPClassifier(
        workload.hidden,
        solver="lbfgs",
        engine="local",
        max_iter=max_iter,
        tol=0.0,
        random_state=0,
    )
    # All rows are one block: there is one call for each evaluation.
    with threadpool_limits(1), patch.object(lbfgs, "backpropagate", evaluate):
        fit_uninterrupted(estimator, *workload.data())
    between_s = [begun - ended for (_, ended), (begun, _) in pairwise(spans)]
    return (
        median(ended - begun for begun, ended in spans),
        median(between_s[N_VECTORS:] or between_s),
    )


def time_loading(repeats: int) -> Iterator[Row]:
    """Time how new processes compile code, and load it from a cache on disk.

    Yields one row for each of the two.
    """
    with TemporaryDirectory() as cache:
        found = [_loaded(cache) for _ in range(1 + repeats)]
    for how, each in ("compiled", found[:1]), ("from the cache", found[1:]):
        each_s, each_bytes = zip(*each, strict=True)
        yield {
            "kernel": f"adam, {how}",
            "seconds": median(each_s),
            "MB": median(each_bytes) / 1e6,
        }


def _loaded(cache: str) -> list[float]:
    """Run `LOAD` with a folder as numba's cache; return what it prints."""
    printed = subprocess.check_output(
        [sys.executable, "-c", LOAD], env=os.environ | {"NUMBA_CACHE_DIR": cache}
    )
    return [float(number) for number in printed.split()]


def _name(workload: Workload) -> str:
    return workload.name
