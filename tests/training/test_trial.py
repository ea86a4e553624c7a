"""Timed steps of a job: what runs, and how rows that are left out are counted."""

import time
from dataclasses import replace
from functools import partial
from itertools import accumulate, pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from skdistmlp.nn import compiled
from skdistmlp.nn.layers import Network, dense_layers
from skdistmlp.nn.update_rules import Adam, AdamW, Sgd
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.split import count_parameters
from skdistmlp.training import trial as module
from skdistmlp.training.step import backpropagate
from skdistmlp.training.trial import Trial, alone
from tests.training.jobs import CASES, LAYER_UNITS, dataset_of, job_of, lbfgs_job

GRIDS = [Grid(1), Grid(3), Grid(1, 3), Grid(2, 2)]


def step_s(trial, grid):
    """Seconds of a step on a grid."""
    return trial.steps_seconds([Grid(1), grid])[1].own


def trial_of(case: str, n_rows: int = 50) -> Trial:
    return Trial.of(job_of(case), dataset_of(case), n_rows)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_steps_of_every_job_can_be_timed_on_every_grid(case, grid):
    assert 0 < step_s(trial_of(case), grid) < 1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_steps_of_other_networks_can_be_timed(dtype):
    layers = dense_layers(LAYER_UNITS, "gelu", 0.2)
    network = Network(layers, "softmax", 0.1, max_grad_norm=1.0)
    trial = replace(trial_of("adam"), network=network, dtype=np.dtype(dtype))
    for grid in GRIDS:
        assert step_s(replace(trial, ema_decay=0.9), grid) > 0


def test_steps_without_hidden_layers_or_stored_features_can_be_timed():
    layers = dense_layers((64, 10), "relu")
    for case in ("adam", "sparse"):
        trial = replace(trial_of(case), network=Network(layers, "softmax"))
        nnz = None if trial.nnz_per_row is None else 0.0
        for grid in (Grid(1), Grid(1, 3)):
            assert step_s(replace(trial, nnz_per_row=nnz), grid) > 0


def network_of(*layer_units):
    return Network(dense_layers(layer_units, "tanh", 0.1), "softmax", alpha=0.5)


def job_with(network):
    return replace(job_of("adam"), network=network)


def units_timed(*layer_units, nnz_per_row=None):
    """What is timed of a large network."""
    dataset = SimpleNamespace(
        nnz_per_row=nnz_per_row, targets=dataset_of("adam").targets
    )
    trial = Trial.of(job_with(network_of(*layer_units)), dataset, 50)
    same = network_of(*trial.network.layer_units)
    assert trial.network == same, "all but the widths stays"
    return trial.network.layer_units


def test_of_large_networks_narrower_ones_are_timed():
    assert units_timed(784, 512, 512, 10) == (784, 512, 512, 10)
    first, second, third, last = units_timed(300, 4096, 4096, 10)
    assert (first, last) == (300, 10)
    assert second == third
    n_parameters = 301 * second + (second + 1) * third + (third + 1) * 10
    assert 0.99 * module.MAX_PARAMETERS < n_parameters <= module.MAX_PARAMETERS
    # Narrow layers stay as they are.
    assert units_timed(10**6, 64, 50_000, 2)[1] == 64
    assert units_timed(10**5, 2) == (10**5, 2)
    wide, n_outputs = units_timed(10**8, 2)
    assert wide == (module.MAX_PARAMETERS - n_outputs) // n_outputs
    # As many outputs, however many, and all features that a row stores.
    assert units_timed(5000, 20, 10**7) == (1, 1, 10**7)
    assert units_timed(10**6, 1000, 10, nnz_per_row=30_000.5)[0] == 30_001


def test_steps_of_a_network_that_was_narrowed_can_be_timed():
    network = network_of(10**4, 10**4, 10)
    for case in ("adam", "sparse"):
        trial = Trial.of(job_with(network), dataset_of(case), 50)
        assert 0 < step_s(trial, Grid(2)) < 5


def seconds_of_updates(monkeypatch, trial, grids):
    """Return seconds of steps of which all that takes time is 1 ns per parameter."""
    n_updated = []

    def seconds(part, goes_on, waits_s):
        part()
        if part.func.__name__ != "update":
            return module.StepSeconds(0.0, 0.0)
        n_updated.append(part.func.__self__.state.parameters.size)
        return module.StepSeconds(1e-9 * n_updated[-1], 2e-9 * n_updated[-1])

    monkeypatch.setattr(module, "_timed", seconds)
    return trial.steps_seconds(grids), n_updated


def test_the_optimiser_is_timed_on_more_parameters_than_products(monkeypatch):
    """Those of a narrower network would fit in a cache."""
    network = network_of(784, 2048, 2048, 10)
    trial = Trial.of(job_with(network), dataset_of("adam"), 50)
    grids = [Grid(1), Grid(2), Grid(1, 2)]
    assert trial.n_rows_timed(grids) == [50, 50, 0]
    found, n_updated = seconds_of_updates(monkeypatch, trial, grids)
    most = module.MAX_UPDATED
    assert n_updated == pytest.approx([most, most / 2], rel=0.01)
    whole, shard, replica = found
    n_parameters = count_parameters(trial.network.layer_units)
    assert whole == pytest.approx((1e-9 * n_parameters, 2e-9 * n_parameters))
    assert shard.own == pytest.approx(whole.own / 2, rel=0.01)
    assert replica.own == pytest.approx(whole.own / 2)
    # An evaluation has none.
    job = replace(lbfgs_job(), network=network)
    assert Trial.of(job, dataset_of("adam"), 50).updated is None


NETWORK = network_of(64, 100, 10)


@pytest.mark.parametrize(
    "changes",
    [
        {"network": replace(NETWORK, alpha=0.25)},
        {"network": Network(dense_layers((64, 100, 10), "tanh", 0.3), "softmax", 0.5)},
        {"rule": Adam(beta_1=0.8, beta_2=0.99, epsilon=1e-7)},
        {"ema_decay": 0.99},
    ],
)
def test_candidates_of_a_search_share_a_measurement(changes):
    """What changes numbers only leaves the seconds of a step as they are."""
    trial = replace(trial_of("adam"), network=NETWORK, rule=Adam(), ema_decay=0.9)
    assert replace(trial, **changes).key == trial.key


@pytest.mark.parametrize(
    "changes",
    [
        {"network": network_of(64, 101, 10)},
        {"network": replace(NETWORK, alpha=0.0)},
        {"network": replace(NETWORK, max_grad_norm=1.0)},
        {"network": replace(NETWORK, output="logistic")},
        {"network": Network(dense_layers((64, 100, 10), "tanh"), "softmax", 0.5)},
        {"network": Network(dense_layers((64, 100, 10), "relu", 0.1), "softmax", 0.5)},
        {"rule": Sgd(0.9, nesterov=True)},
        {"rule": AdamW()},
        {"rule": None},
        {"ema_decay": 0.9},
        {"n_rows": 51},
        {"dtype": np.dtype(np.float32)},
        {"nnz_per_row": 3.0},
        {"runs_compiled": True},
        {"updated": network_of(64, 200, 10)},
    ],
)
def test_steps_that_do_other_work_are_measured(changes):
    trial = replace(trial_of("adam"), network=NETWORK, rule=Sgd(0.9, nesterov=False))
    trial = replace(trial, dtype=np.dtype(np.float64), nnz_per_row=None)
    assert replace(trial, **changes).key != trial.key


def test_an_evaluation_has_no_optimiser():
    assert step_s(replace(trial_of("adam"), rule=None), Grid(2)) > 0


def test_a_wait_for_others_is_told_apart(monkeypatch):
    monkeypatch.setattr(module, "TIMED_S", 0.0)

    def wait(goes_on):
        time.sleep(0.05)
        return goes_on

    (seconds,) = trial_of("adam").steps_seconds([Grid(1)], wait)
    assert seconds.own < 0.05 < seconds.together
    # What it takes anyway does not count.
    (seconds,) = trial_of("adam").steps_seconds([Grid(1)], wait, waits_s=0.05)
    assert 0 < seconds.together < 0.05
    # On a busy machine, that may take longer at first.
    (seconds,) = trial_of("adam").steps_seconds([Grid(1)], wait, waits_s=1.0)
    assert 0.025 <= seconds.together < 0.5


@pytest.fixture
def loaded(monkeypatch):
    """Kernels that are loaded, by a compiler that only notes them."""
    noted = []
    monkeypatch.setattr(compiled, "_updates", 0)
    monkeypatch.setattr(compiled, "_compiled", {})
    monkeypatch.setattr(compiled, "_compile", noted.append)
    return noted


@pytest.mark.parametrize("max_flop", [1e9, 1e4])
def test_steps_that_are_timed_do_not_count_towards_loading_numba(
    loaded, monkeypatch, max_flop
):
    monkeypatch.setattr(compiled, "UPDATES_BEFORE_LOADING", 1)
    monkeypatch.setattr(module, "MAX_FLOP", max_flop)
    trial_of("adam").steps_seconds(GRIDS)
    assert (loaded, compiled._updates) == ([], 0)
    # Those of a fit do again.
    assert compiled.compiled(compiled.adam, 2) is None
    assert loaded == [compiled.adam]


@pytest.mark.parametrize("max_flop", [1e9, 1e4])
def test_what_runs_compiled_is_loaded_before_steps_are_timed(
    loaded, monkeypatch, max_flop
):
    monkeypatch.setattr(module, "MAX_FLOP", max_flop)
    loaded_by_then = []

    def timed(part, goes_on, waits_s):
        loaded_by_then.append([*loaded])
        part()
        return module.StepSeconds(1.0, 1.0)

    monkeypatch.setattr(module, "_timed", timed)
    trial = replace(trial_of("adam"), network=EVERY_KERNEL, dtype=np.dtype(np.float32))
    replace(trial, runs_compiled=True).steps_seconds(GRIDS)
    assert {*loaded_by_then[0]} == {*OF_ADAM}
    assert {*map(len, loaded_by_then)} == {len(OF_ADAM)}
    assert compiled._updates == 0


EVERY_KERNEL = Network(
    dense_layers(LAYER_UNITS, "gelu", 0.2), "softmax", 0.1, max_grad_norm=1.0
)

OF_ADAM = compiled.adam, compiled.squares, compiled.dropout_mask, compiled.gelu


@pytest.mark.parametrize("case", CASES)
def test_what_runs_compiled_can_be_loaded_before(case, loaded):
    """A tiny network asks for the same code as that which is timed."""
    trial = replace(trial_of(case), network=EVERY_KERNEL, dtype=np.dtype(np.float32))
    trial.load_kernels()
    assert loaded == []
    trial = replace(trial, runs_compiled=True)
    trial.load_kernels()
    before = [*loaded]
    assert compiled.gelu in before
    trial.steps_seconds([Grid(1)])
    assert loaded == before


def test_only_a_fit_of_many_updates_runs_compiled(monkeypatch):
    n_parameters = sum(
        (m + 1) * n for m, n in pairwise(job_of("adam").network.layer_units)
    )
    monkeypatch.setattr(compiled, "UPDATES_BEFORE_LOADING", 10 * n_parameters)
    arguments = job_of("adam"), dataset_of("adam"), 50
    assert not Trial.of(*arguments, 10).runs_compiled
    assert Trial.of(*arguments, 11).runs_compiled


def test_all_begin_to_time_steps_at_the_same_time():
    """Whoever has taken longer to load and to allocate holds up no step."""
    events = []

    def wait(goes_on):
        events.append("waited")
        return goes_on and len(events) < 4

    module._timed(lambda: events.append("step"), wait, 0.0)
    assert events == ["waited", "step", "waited", "step", "waited"]


@pytest.mark.parametrize("grid", [Grid(1), Grid(1, 3)])
def test_what_a_step_needs_is_allocated_by_one_with_few_rows(monkeypatch, grid):
    """With all of them it would take as long as one that is timed."""
    n_rows, begun = [], []

    def compute(ops, rows, batch):
        n_rows.append(len(rows))
        backpropagate(ops, rows, batch)

    def timed(part, goes_on, waits_s):
        begun.append(len(n_rows))
        return module.StepSeconds(1.0, 1.0)

    monkeypatch.setattr(module, "backpropagate", compute)
    monkeypatch.setattr(module, "_timed", timed)
    trial_of("adam")._parts(grid, partial(timed, goes_on=alone, waits_s=0.0))
    assert n_rows == [module.FIRST_ROWS * grid.n_replicas]
    assert begun == [1]


def test_of_two_steps_the_one_that_was_not_held_up_counts(monkeypatch):
    clock = accumulate([0.0, 5.0, 0.0, 2.0, 1.0])
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(clock))
    seconds = module._timed(lambda: None, alone, 0.0)
    assert seconds == (2.0, 3.0)


def test_a_replica_computes_its_rows_only(monkeypatch):
    seen = []
    monkeypatch.setattr(
        module, "training_step", lambda ops, rows, _: seen.append(ops.inputs(rows))
    )
    step_s(trial_of("adam", 50), Grid(1, 3))
    assert {x.shape for x in seen} == {(50, 64), (17, 64)}


@pytest.mark.parametrize("case", ["adam", "sparse"])
def test_a_replica_draws_no_features_of_others(case):
    dataset = trial_of(case)._dataset(Grid(1, 3), 50, np.random.default_rng(0))
    assert dataset.X.shape == (17, 64)
    assert dataset.n_rows == 50


def test_large_steps_are_computed_from_smaller_ones(monkeypatch):
    """Each row takes a microsecond, and the optimiser a millisecond."""
    timed = []

    def seconds(part, goes_on, waits_s):
        part()
        is_update = part.func.__name__ == "update"
        if is_update:
            own_s = 1e-3 / len(grids)
        else:
            (_, rows, batch) = part.args
            assert rows is batch
            timed.append(len(rows))
            own_s = 1e-6 * len(rows)
        return module.StepSeconds(own_s, 2 * own_s)

    monkeypatch.setattr(module, "_timed", seconds)
    monkeypatch.setattr(module, "MAX_FLOP", 1e7)
    n_rows, grids = 10**6, [Grid(1), Grid(2), Grid(1, 4)]
    trial = replace(trial_of("adam"), n_rows=n_rows)
    alone, shard, replica = trial.steps_seconds(grids)
    update_s = 1e-3 / 3
    assert alone == pytest.approx((1 + update_s, 2 * (1 + update_s)))
    assert shard.own == pytest.approx(1 + update_s)
    # A quarter of the rows, and of the optimiser: it is not timed again.
    assert replica.own == pytest.approx(0.25 + update_s / 4)
    flop_per_row = 2 * (2 * 64 * 9 + 3 * (9 * 8 + 8 * 10))
    most = 1e7 / flop_per_row
    assert timed == pytest.approx([most, 2 * most], rel=0.01)


def test_large_evaluations_have_no_optimiser(monkeypatch):
    monkeypatch.setattr(module, "MAX_FLOP", 1e6)
    trial = replace(trial_of("adam"), n_rows=10**4, rule=None)
    alone, _, replica = trial.steps_seconds([Grid(1), Grid(2), Grid(1, 2)])
    assert replica.own == pytest.approx(alone.own / 2)


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
