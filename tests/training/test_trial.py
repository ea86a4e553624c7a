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
from skdistmlp.nn.parametric_losses import Pinball
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


def test_of_large_networks_narrower_ones_are_timed():
    network = network_of(300, 4096, 4096, 10)
    trial = Trial.of(job_with(network), dataset_of("adam"), 50)
    n_parameters = count_parameters(trial.network.layer_units)
    assert 0.99 * module.MAX_PARAMETERS < n_parameters <= module.MAX_PARAMETERS


def dataset_with(n_columns):
    """Rows of one class of many."""
    y = np.zeros((60, n_columns), bool)
    y[:, -1] = True
    return SimpleNamespace(nnz_per_row=None, targets=lambda rows: y[rows])


@pytest.fixture
def narrows(monkeypatch):
    """Narrow what has more than a few parameters."""
    monkeypatch.setattr(module, "MAX_PARAMETERS", 10_000)
    monkeypatch.setattr(module, "MAX_UPDATED", 20_000)


def test_narrowed_outputs_have_targets(narrows):
    job = job_with(network_of(64, 70, 2000))
    trial = Trial.of(job, dataset_with(2000), 50)
    n_outputs = trial.network.layer_units[-1]
    assert trial.network.layer_units[:2] == (64, 70)
    assert trial.targets.shape == (60, n_outputs)
    assert 64 < n_outputs < trial.network_updated(Grid(4)).layer_units[-1]


def test_outputs_without_targets_of_their_own_are_not_narrowed(narrows):
    """As those of quantiles."""
    trial = Trial.of(job_with(network_of(99, 70, 2000)), dataset_with(1), 50)
    assert trial.network.layer_units == (64, 64, 2000)
    assert trial.network_updated(Grid(1)).layer_units == (64, 64, 2000)


QUANTILES = Pinball(tuple(np.linspace(0.01, 0.99, 2000)))


@pytest.mark.parametrize(
    ("units", "output", "n_columns"),
    [
        ((300, 300, 10), "softmax", 10),
        ((64, 70, 2000), "softmax", 2000),
        ((64, 70, 2000), QUANTILES, 1),
    ],
)
def test_steps_of_a_network_that_was_narrowed_can_be_timed(
    units, output, n_columns, narrows, loaded
):
    job = job_with(replace(network_of(*units), output=output))
    trial = Trial.of(job, dataset_with(n_columns), 50, n_steps=1e9)
    trial.load_kernels()
    assert loaded
    assert trial.updated is not None
    for grid in (Grid(2), Grid(1, 2)):
        assert step_s(trial, grid) > 0


def test_steps_of_a_narrowed_network_on_sparse_features_can_be_timed(narrows):
    network = network_of(300, 300, 10)
    trial = Trial.of(job_with(network), dataset_of("sparse"), 50)
    assert trial.updated is not None
    assert step_s(trial, Grid(2)) > 0


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


@pytest.mark.parametrize("hidden", [(300, 300), (100, 100)])
def test_the_optimiser_is_timed_on_more_parameters_than_products(
    monkeypatch, narrows, hidden
):
    """Those of a narrower network would fit in a cache."""
    network = network_of(64, *hidden, 10)
    trial = Trial.of(job_with(network), dataset_of("adam"), 50)
    grids = [Grid(1), Grid(2), Grid(1, 2)]
    assert trial.n_rows_timed(grids) == [50, 50, 50]
    found, n_updated = seconds_of_updates(monkeypatch, trial, grids)
    # Each process as many as in the fit, or as do not fit in a cache.
    n_all, most = count_parameters(network.layer_units), module.MAX_UPDATED
    each = [min(most, n_all), min(most, n_all / 2)]
    assert n_updated == pytest.approx(each, rel=0.05)
    whole, shard, _ = found
    n_parameters = count_parameters(trial.network.layer_units)
    assert whole == pytest.approx((1e-9 * n_parameters, 2e-9 * n_parameters))
    assert shard.own == pytest.approx(whole.own / 2, rel=0.05)
    # An evaluation has none.
    job = replace(lbfgs_job(), network=network)
    assert Trial.of(job, dataset_of("adam"), 50).updated is None


def test_a_replica_updates_parameters_as_fast_as_a_shard(monkeypatch, narrows):
    """It has as many of them, which may fit in a cache."""
    n_updated = []

    def seconds(part, goes_on, waits_s):
        if part.func.__name__ != "update":
            return module.StepSeconds(0.0, 0.0)
        n_updated.append(part.func.__self__.state.parameters.size)
        per_parameter_s = 1e-9 if n_updated[-1] < 10**4 else 2e-9
        own_s = per_parameter_s * n_updated[-1]
        return module.StepSeconds(own_s, own_s)

    monkeypatch.setattr(module, "_timed", seconds)
    network = network_of(64, 100, 100, 10)
    for n_rows in (50, 1000):
        trial = Trial.of(job_with(network), dataset_of("adam"), n_rows)
        whole, shard, replica = trial.steps_seconds([Grid(1), Grid(2), Grid(1, 2)])
        assert replica == shard
        assert shard.own == pytest.approx(whole.own / 4, rel=0.05)
        # Nothing is known of a part that was not timed.
        (_, alone) = trial.steps_seconds([Grid(1), Grid(1, 2)])
        assert alone.own == pytest.approx(whole.own / 2)


def test_replicas_with_few_rows_are_timed(monkeypatch, narrows):
    """Per row, products of few are slower than those of all."""
    n_rows_seen = []

    def seconds(part, goes_on, waits_s):
        if part.func is backpropagate:
            ops, rows, _ = part.args
            n_rows_seen.append(len(ops.inputs(rows)))
        return module.StepSeconds(1.0, 1.0)

    monkeypatch.setattr(module, "_timed", seconds)
    network = network_of(64, 300, 300, 10)
    grids = [Grid(1), Grid(1, 4)]
    for n_rows, of_replica in [(32, [8]), (255, [64]), (256, [])]:
        trial = Trial.of(job_with(network), dataset_of("adam"), n_rows)
        trial.steps_seconds(grids)
        assert n_rows_seen == [n_rows, *of_replica]
        n_rows_seen.clear()


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


@pytest.mark.parametrize(
    ("job", "network", "runs_compiled"),
    [
        (job_of("adam"), {}, True),
        (replace(job_of("adam"), rule=Sgd()), {}, False),
        (replace(job_of("adam"), rule=Sgd()), {"max_grad_norm": 1.0}, True),
        (lbfgs_job(), {}, False),
        (lbfgs_job(), {"layers": dense_layers(LAYER_UNITS, "gelu")}, True),
    ],
)
def test_only_a_fit_that_asks_for_compiled_code_runs_it(
    job, network, runs_compiled, loaded
):
    network = replace(job.network, **network)
    job = replace(job, network=network, dtype=np.dtype(np.float32))
    trial = Trial.of(job, dataset_of("adam"), 50, 1e12)
    assert trial.runs_compiled is runs_compiled
    assert (trial.bytes_to_load > 0) is runs_compiled
    assert (loaded, compiled._updates) == ([], 0)
    trial.load_kernels()
    assert bool(loaded) is runs_compiled
    assert trial.bytes_to_load == 0


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
    trial_of("adam")._parts(grid, partial(timed, goes_on=alone, waits_s=0.0), {})
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
