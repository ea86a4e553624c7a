"""Timed steps of a job: what runs, and how rows that are left out are counted."""

import time
from dataclasses import replace

import numpy as np
import pytest

from skdistmlp.nn.layers import Network, dense_layers
from skdistmlp.parallel.grid import Grid
from skdistmlp.training import trial as module
from skdistmlp.training.trial import MAX_FLOP, Trial
from tests.training.jobs import CASES, LAYER_UNITS, dataset_of, job_of

GRIDS = [Grid(1), Grid(3), Grid(1, 3), Grid(2, 2)]


def trial_of(case: str, n_rows: int = 50) -> Trial:
    return Trial.of(job_of(case), dataset_of(case), n_rows)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_steps_of_every_job_can_be_timed_on_every_grid(case, grid):
    assert 0 < trial_of(case).step_s(grid) < 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_steps_of_other_networks_can_be_timed(dtype):
    layers = dense_layers(LAYER_UNITS, "gelu", 0.2)
    network = Network(layers, "softmax", 0.1, max_grad_norm=1.0)
    trial = replace(trial_of("adam"), network=network, dtype=np.dtype(dtype))
    for grid in GRIDS:
        assert replace(trial, ema_decay=0.9).step_s(grid) > 0


def test_steps_without_hidden_layers_or_stored_features_can_be_timed():
    layers = dense_layers((64, 10), "relu")
    for case in ("adam", "sparse"):
        trial = replace(trial_of(case), network=Network(layers, "softmax"))
        nnz = None if trial.nnz_per_row is None else 0.0
        for grid in (Grid(1), Grid(1, 3)):
            assert replace(trial, nnz_per_row=nnz).step_s(grid) > 0


def test_an_evaluation_has_no_optimiser():
    assert replace(trial_of("adam"), rule=None).step_s(Grid(2)) > 0


def test_a_wait_for_others_is_told_apart(monkeypatch):
    monkeypatch.setattr(module, "TIMED_S", 0.0)

    def wait(goes_on):
        time.sleep(0.05)
        return goes_on

    seconds = trial_of("adam").step_seconds(Grid(1), wait)
    assert seconds.own < 0.05 < seconds.together


def test_a_replica_computes_its_rows_only(monkeypatch):
    seen = []
    monkeypatch.setattr(
        module, "training_step", lambda ops, rows, _: seen.append(ops.inputs(rows))
    )
    trial_of("adam", 50).step_s(Grid(1, 3))
    assert {x.shape for x in seen} == {(17, 64)}


@pytest.mark.parametrize("grid", [Grid(1), Grid(2), Grid(1, 2)], ids=str)
def test_large_steps_are_computed_from_smaller_ones(monkeypatch, grid):
    """Each row takes a microsecond, and what is left of a step a millisecond."""
    timed = []

    def new_step(self, grid, max_rows):
        return timed.append

    monkeypatch.setattr(Trial, "_new_step", new_step)

    def seconds(step, goes_on, timed_s):
        assert timed_s > module.TIMED_S
        step()
        own_s = 1e-3 + 1e-6 * timed[-1]
        return module.StepSeconds(own_s, 2 * own_s)

    monkeypatch.setattr(module, "_timed", seconds)
    n_rows = 10**9
    trial = replace(trial_of("adam"), n_rows=n_rows)
    own_s = 1e-3 + 1e-6 * n_rows
    assert trial.step_seconds(grid) == pytest.approx((own_s, 2 * own_s))
    flop_per_row = 2 * (2 * 64 * 9 + 3 * (9 * 8 + 8 * 10))
    assert max(timed) == pytest.approx(MAX_FLOP / flop_per_row * grid.n_ranks, rel=0.01)
    # One that does not count, and one of each size.
    assert timed == [timed[0], timed[0], timed[0] // 2]


def test_the_key_says_what_seconds_depend_on():
    trial = trial_of("adam")
    assert trial.key == trial_of("adam").key
    different = [
        trial_of("sgd"),
        trial_of("sparse"),
        trial_of("adam", 51),
        replace(trial, dtype=np.dtype(np.float32)),
        replace(trial, ema_decay=0.5),
        replace(trial, network=replace(trial.network, max_grad_norm=1.0)),
    ]
    assert len({trial.key, *(other.key for other in different)}) == 7
