"""The checks of what processes hold after many fits, and why they are made so."""

import gc
import operator
import sys
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from dask.utils import key_split

from skdistmlp.planning.memory import WorkerMemory
from tests.cluster import memory
from tests.cluster.leaks import own_cluster
from tests.cluster.memory import WARM_UP, held_here, more_objects


def test_what_dask_remembers_of_tasks_is_not_counted():
    n_steps, n_tasks = 5, 200
    held_here()
    with own_cluster(n_workers=1, processes=False) as client:
        for step in range(n_steps):
            tasks = {
                ("mlp-train", f"forward{number}-shard0", f"{step:08x}", step): (
                    operator.add,
                    number,
                    1,
                )
                for number in range(n_tasks)
            }
            client.get(tasks, list(tasks))
    gc.collect()
    assert key_split.cache_info().currsize >= n_steps * n_tasks
    tracemalloc.start()
    try:
        for number in range(n_steps * n_tasks):
            key_split(("mlp-train", f"backward{number}-shard0", f"{number:08x}", 1))
        remembered, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 200 < remembered / (n_steps * n_tasks) < 800
    held_here()
    assert key_split.cache_info().currsize == 0


def test_objects_of_this_package_are_counted():
    kind = f"{WorkerMemory.__module__}.WorkerMemory"
    before = held_here().objects[kind]
    kept = [WorkerMemory(2, 0.5, 1) for _ in range(20)]
    assert held_here().objects[kind] == before + len(kept)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc tells how much it allocates")
def test_arrays_are_counted_while_they_are_in_use():
    before = held_here().in_use
    kept = np.ones(2**23)
    grown = held_here().in_use
    # Threads of other tests of this process may free something meanwhile.
    assert grown - before > 0.9 * kept.nbytes
    n_bytes = kept.nbytes
    del kept
    assert held_here().in_use - before < 0.1 * n_bytes


def test_objects_that_stay_after_each_fit_are_found():
    history = [Counter(leaked=n, kept=5, last=n % 3) for n in range(4 * WARM_UP)]
    assert more_objects(history) == {"leaked": WARM_UP + 1}


def test_growth_is_that_of_the_last_fits_since_the_warm_up():
    assert memory.growth([100] * WARM_UP + [7] * 5 + [9] * 5) == 2
