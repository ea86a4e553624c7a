"""Bytes of copies of the state, against the arrays of states."""

from dataclasses import replace

import numpy as np
import pytest

from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.copies import (
    bytes_of_copies,
    bytes_of_copies_here,
    state_bytes,
)
from skdistmlp.planning.cost import cost_of_training
from tests.training.jobs import (
    LAYER_UNITS,
    N_ROWS,
    dataset_of,
    job_of,
    lbfgs_job,
)

JOBS = {
    "adam": job_of("adam"),
    "sgd": job_of("sgd"),
    "early stopping": job_of("early stopping"),
    "average": replace(job_of("adam"), ema_decay=0.9),
    "lbfgs": lbfgs_job(),
}

GRIDS = [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2), (1, 3)]
"""Shards and replicas."""


def states_on(job, grid):
    """Return the state of each process of a grid, with what early stopping adds."""
    split = NetworkSplit.even(LAYER_UNITS, grid.n_shards)
    job = replace(job, split=split, n_replicas=grid.n_replicas)
    for rank in range(grid.n_ranks):
        layout = split.layout(grid.shard(rank))
        state = job.start(layout, grid.replica(rank)).network
        if job.method.n_spare_arrays and job.rule is not None:
            state = replace(state, best=state.parameters.copy())
        yield state


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize(("n_shards", "n_replicas"), GRIDS)
def test_a_worker_has_copies_of_its_own_state_and_of_one_before(
    name, n_shards, n_replicas
):
    job, split = JOBS[name], NetworkSplit.even(LAYER_UNITS, n_shards)
    cost = cost_of_training(job, dataset_of("adam"))
    sizes = [state.nbytes for state in states_on(job, Grid(n_shards, n_replicas))]
    if name != "lbfgs":
        # The order of the rows.
        sizes[0] += N_ROWS * np.dtype(np.intp).itemsize
    assert state_bytes(split, cost, n_replicas) == tuple(sizes)
    # New ones, and those before them.
    both = [
        2 * (own + before)
        for own, before in zip(sizes, sizes[-1:] + sizes[:-1], strict=True)
    ]
    expected = tuple(both) if len(sizes) > 1 else ()
    assert bytes_of_copies(split, cost, n_replicas) == expected


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize("n_shards", [1, 2, 3])
def test_the_process_of_the_loop_has_copies_of_the_whole_state(name, n_shards):
    job, split = JOBS[name], NetworkSplit.even(LAYER_UNITS, n_shards)
    cost = cost_of_training(job, dataset_of("adam"))
    (state,) = states_on(job, Grid(1))
    n_bytes = state.nbytes
    # The order of the rows, or the iterate of SciPy.
    n_bytes += 8 * (split.n_parameters if name == "lbfgs" else N_ROWS)
    assert bytes_of_copies_here(split, cost) == 3 * n_bytes
