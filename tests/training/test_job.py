"""A job starts from drawn parameters or from a state, whole or one shard's part."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skdistmlp.nn.optimizers import init
from skdistmlp.nn.update_rules import Adam
from skdistmlp.parallel.shard import ShardState, join_states
from skdistmlp.training.loop import quiet
from skdistmlp.training.progress import Progress
from tests.training.jobs import CASES, HOLD_OUT, dataset_of, job_of, lbfgs_job


def start_all(job):
    """Return the states that all shards start from, each from its own copy."""
    states = []
    for rank in range(job.split.n_shards):
        own = pickle.loads(pickle.dumps(job.for_rank(rank)))
        states.append(own.start(own.split.layout(rank)))
    return states


def test_all_shards_draw_the_parameters_of_one_network():
    (whole,) = start_all(job_of("adam"))
    parts = start_all(job_of("adam", n_shards=3))
    joined = join_states(job_of("adam", 3).split, [part.network for part in parts])
    assert_array_equal(joined.parameters, whole.network.parameters)
    for part in parts:
        assert_array_equal(
            part.random_state.get_state()[1], whole.random_state.get_state()[1]
        )


def test_the_optimiser_starts_at_zero():
    (state,) = start_all(job_of("adam"))
    assert state.network.optimizer.rule == Adam()
    assert state.network.optimizer.n_steps == 0
    assert not any(moment.any() for moment in state.network.optimizer.moments)


@pytest.mark.parametrize("n_shards", [1, 3])
def test_a_state_to_continue_from_is_split_with_its_moments(n_shards):
    parameters = np.random.default_rng(0).normal(size=job_of("adam").split.n_parameters)
    optimizer = init(Adam(0.5), parameters)
    optimizer = replace(optimizer, moments=(parameters + 1, parameters + 2), n_steps=7)
    job = job_of("adam", n_shards)
    whole = ShardState(parameters, optimizer, best=parameters + 3)
    job = replace(job, initial=replace(job.initial, network=whole))
    joined = join_states(job.split, [state.network for state in start_all(job)])
    assert_array_equal(joined.parameters, parameters)
    assert_array_equal(joined.best, parameters + 3)
    assert joined.optimizer.rule == Adam(0.5)
    assert joined.optimizer.n_steps == 7
    assert_array_equal(joined.optimizer.moments, optimizer.moments)


@pytest.mark.parametrize(("case", "n_rows"), [("adam", 50), ("early stopping", 50)])
def test_buffers_have_room_for_a_batch_and_a_block_of_held_out_rows(case, n_rows):
    job, dataset = job_of(case), dataset_of(case)
    assert job.max_rows(dataset) == n_rows
    larger = replace(HOLD_OUT, fraction=0.5)
    if job.method.hold_out is not None:
        job = replace(job, method=replace(job.method, hold_out=larger))
        assert job.max_rows(dataset) == 120


def test_lbfgs_has_room_for_a_block_and_one_spare_array():
    job, dataset = lbfgs_job(), dataset_of("adam")
    (block,) = job.method.blocks(dataset, job.network, 8)
    assert job.max_rows(dataset) == block.stop == dataset.n_rows
    assert job.method.n_spare_arrays == 1
    assert start_all(job)[0].network.optimizer is None


@pytest.mark.parametrize("case", CASES)
def test_only_early_stopping_has_a_spare_array(case):
    assert job_of(case).method.n_spare_arrays == case.startswith("early stopping")


def test_a_job_logs_only_if_it_is_verbose():
    assert job_of("adam").log is quiet
    assert replace(job_of("adam"), verbose=True).log is print


def test_a_job_does_not_change_the_progress_it_was_given():
    job = job_of("adam")
    start_all(job)
    assert job.initial.progress == Progress(job.initial.progress.schedule, 0.01)
    assert job.initial.network is None
