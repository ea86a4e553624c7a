"""A step of Adam, by NumPy and by numba, in blocks of several sizes."""

from collections.abc import Iterator
from functools import partial
from statistics import median
from unittest.mock import patch

import numpy as np
from threadpoolctl import threadpool_limits

from benchmarks.timing import time_in_turns, with_progress
from skdistmlp.crossover.output import Row
from skdistmlp.nn import compiled, optimizers
from skdistmlp.nn.update_rules import Adam

N_PARAMETERS = 5_800_000


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
