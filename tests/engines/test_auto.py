"""What ``engine="auto"`` chooses, by measurements that are made up."""

import re
import socket
import time
from dataclasses import replace

import dask
import dask.array as da
import numpy as np
import pytest
from numpy.testing import assert_allclose
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier

from skdistmlp import DistributedMLPClassifier, DistributedMLPRegressor
from skdistmlp.cluster._dask import memory_use
from skdistmlp.cluster.client import workers as client_workers
from skdistmlp.cluster.data import remote_dataset
from skdistmlp.cluster.peers import driver, failure
from skdistmlp.cluster.peers import measured as measured_machines
from skdistmlp.cluster.peers import measurement as cluster_measurement
from skdistmlp.cluster.peers.measured import (
    MeasurementError,
    UnreachableError,
    forget_machines,
    keep_machines,
    known_machines,
    note_unreachable,
    unreachable_before,
)
from skdistmlp.cluster.peers.shard import Roster
from skdistmlp.cluster.run import loaded
from skdistmlp.cluster.run.reservation import reserve_workers
from skdistmlp.engines import auto
from skdistmlp.engines.auto import FitOutline, is_worth_measuring
from skdistmlp.engines.choice import open_engine
from skdistmlp.engines.engine import EngineRequest
from skdistmlp.engines.local import LocalEngine
from skdistmlp.exceptions import ClusterError, ExchangeError
from skdistmlp.nn import compiled
from skdistmlp.parallel.grid import Grid
from skdistmlp.parallel.split import count_parameters
from skdistmlp.planning.calibration import Timings
from skdistmlp.planning.candidates import FitLength
from skdistmlp.planning.cost import StepCost
from skdistmlp.planning.forecast import Forecast
from skdistmlp.planning.machines import reference_machines
from skdistmlp.planning.memory import WorkerMemory
from tests.cluster.leaks import own_cluster
from tests.cluster.run.test_reservation import choices, forget_choices
from tests.cluster.slow_link import slow_link
from tests.cluster.support import WITHIN_S, load
from tests.marks import only_quick
from tests.training.jobs import dataset_of, job_of

X = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
Y = X[:, 0] > 0
UNITS = 4, 300, 300, 1


def made_up(
    grids, n_workers, here_s=1.0, worker_s=1.0, exchange_s=1e-6, first_slower=1
):
    """Return a measurement in which workers divide their work perfectly.

    The first may be slower than the others.
    """
    each = [
        tuple(slower * worker_s / grid.n_ranks for grid in grids)
        for slower in (first_slower, *(n_workers - 1) * [1])
    ]
    return Timings(
        UNITS, tuple(grids), here_s, tuple(each), (0.0, 1e6), (exchange_s,) * 2
    )


@pytest.fixture
def measures(monkeypatch):
    """Let measurements be made up, with what the test puts into the dict."""
    monkeypatch.setattr(auto, "MEASURED_FROM_S", 0.0)
    options = {}

    def measure(client, workers, trial, grids):
        if "error" in options:
            raise MeasurementError(options["error"])
        return made_up(grids, len(workers), **options)

    monkeypatch.setattr(cluster_measurement, "measure_machines", measure)
    return options


@pytest.fixture(autouse=True)
def forgets(client):
    """Also of tests of other modules that share the cluster: who is to train next."""
    forget_machines()
    forget_choices(client)
    yield
    forget_machines()


@pytest.fixture
def unconnected(monkeypatch):
    """Let shards look for each other where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = closed.getsockname()

    def roster(addresses, *others):
        return Roster([address] * len(addresses), *others)

    monkeypatch.setattr(driver, "Roster", roster)
    # No worker is lost, which the scheduler would need time to notice.
    monkeypatch.setattr(failure, "WORKER_CHECK_S", 0.1)


def classifier(client, **parameters):
    # It stops at the second epoch, without a warning.
    given = {"max_iter": 20, "tol": 1e9, "n_iter_no_change": 1, **parameters}
    given |= {"client": client, "random_state": 0}
    return DistributedMLPClassifier((300, 300), **given)


def plan_of(client, **parameters):
    return classifier(client, **parameters).plan_fit(X, Y)


def test_workers_that_divide_the_work_are_taken(client, measures):
    measures |= {"here_s": 1e3, "worker_s": 1e3}
    plan = plan_of(client)
    assert (plan.engine, len(plan.workers)) == ("peers", 3)
    assert "3 workers should train " in plan.reason


def test_fits_on_some_of_equal_workers_take_those_that_are_free(client, measures):
    # More of them would exchange for too long.
    measures |= {"here_s": 1e3, "exchange_s": 10.0}
    first, *_ = client.nthreads()
    with reserve_workers(client, [first], lambda: None):
        (other,) = plan_of(client).workers
        assert other != first
        # A plan reserves nothing.
        assert plan_of(client).workers == (other,)
    assert plan_of(client).workers == (first,)


def test_fits_on_some_of_equal_workers_take_free_ones_beside_a_slow_one(
    client, measures
):
    measures |= {"here_s": 1e3, "exchange_s": 10.0, "first_slower": 2.0}
    _, second, third = client.nthreads()
    assert plan_of(client).workers == (second,)
    with reserve_workers(client, [second], lambda: None):
        plan = plan_of(client)
    assert plan.workers == (third,)
    assert "is left out, 2.0 times as slow" in plan.reason


def test_a_fit_on_all_equal_workers_has_others_know_before_it_reserves_them(
    client, measures
):
    measures |= {"here_s": 1e3, "worker_s": 1e3, "first_slower": 10.0}
    workers = tuple(client.nthreads())
    outline = FitOutline.of(job_of("adam"), dataset_of("adam"))
    request = EngineRequest(client, None, None, "auto", only_plans=True)
    forget_choices(client)
    assert auto.fastest_plan(request, outline, workers, client).workers == workers[1:]
    assert choices(client) == []
    auto.fastest_plan(replace(request, only_plans=False), outline, workers, client)
    assert choices(client) == [{*workers[1:]}]
    forget_choices(client)


@pytest.mark.parametrize("with_room", [(0, 2), (0,)])
def test_free_workers_without_room_are_left_to_other_fits(
    client, measures, monkeypatch, with_room
):
    measures |= {"here_s": 1e3, "exchange_s": 10.0}
    workers = tuple(client.nthreads())
    memory = {
        worker: WorkerMemory(10**9 if number in with_room else 1000)
        for number, worker in enumerate(workers)
    }
    monkeypatch.setattr(client_workers, "worker_memory", lambda *_: memory)
    monkeypatch.setattr(cluster_measurement, "check_room_for_trial", lambda *_, **__: 0)
    outline = FitOutline.of(job_of("adam"), dataset_of("adam"))
    request = EngineRequest(client, None, None, "auto")
    forget_choices(client)
    with reserve_workers(client, workers[:1], lambda: None):
        plan = auto.fastest_plan(request, outline, workers, client)
    # If only the worker that is held has room, the fit waits for it.
    assert plan.workers == (workers[with_room[-1]],)
    assert choices(client) == [{*plan.workers}]
    forget_choices(client)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_worker_behind_a_slow_link_is_left_out(client, monkeypatch):
    """By the exchanges that real workers time, one of which sends slowly."""
    monkeypatch.setattr(auto, "MEASURED_FROM_S", 0.0)
    # On a busy machine, one might compute slowly too.
    monkeypatch.setattr(
        cluster_measurement,
        "_worker_seconds",
        lambda reports: ((0.06, 0.02, 0.02),) * len(reports),
    )
    forget_machines()
    X = np.random.default_rng(0).normal(size=(4000, 64)).astype(np.float32)
    clf = DistributedMLPClassifier(
        (512, 512),
        batch_size=2000,
        max_iter=1,
        client=client,
        parameter_threshold=0,
        random_state=0,
    )
    first, slow, last = client.nthreads()
    y = X[:, 0] > 0
    with slow_link(client, slow):
        forecast = clf.plan_fit(X, y).forecast
        # What is known of the others is of their own link.
        known, every = (
            known_machines(client, workers, (64, 512, 512, 1))
            for workers in [(first, last), (first, slow, last)]
        )
        clf.fit(X, y)
    assert set(clf.plan_.workers) == {first, last}
    assert re.search(
        rf"{slow} is left out: its link is [\d.]+ times as slow as the others",
        str(clf.plan_),
    )
    assert known.links == (every.links[0], every.links[2])
    assert every.links[1].slowness > 2 * every.links[0].slowness
    assert forecast.bits_per_s == every.links[0].bits_per_s
    forget_machines()


def test_a_slow_link_keeps_training_here(client, measures):
    measures["exchange_s"] = 10.0
    plan = plan_of(client)
    assert plan.engine == "local"
    assert "this process" not in plan.reason
    assert plan.forecast is not None
    assert plan.forecast.rows[0].n_workers == 0


def test_this_process_does_not_train_what_it_has_no_room_for(
    client, measures, monkeypatch
):
    measures["exchange_s"] = 10.0
    regressor = DistributedMLPRegressor(
        hidden_layer_sizes=(300, 300), solver="lbfgs", client=client
    )
    assert regressor.plan_fit(X, Y).engine == "local"
    # A step that is timed has room. SciPy keeps 27 numbers for each parameter besides.
    monkeypatch.setattr(remote_dataset, "available_memory", lambda: 10**7)
    assert regressor.plan_fit(X, Y).engine == "peers"


def test_a_threshold_of_zero_always_distributes(client, measures):
    measures["exchange_s"] = 10.0
    plan = plan_of(client, parameter_threshold=0)
    assert plan.engine == "peers"
    assert len(plan.workers) >= 2


def test_a_number_of_workers_is_obeyed_even_if_this_process_is_faster(client, measures):
    measures["exchange_s"] = 10.0
    plan = plan_of(client, n_workers=2)
    assert (plan.engine, len(plan.workers)) == ("peers", 2)
    assert plan_of(client, n_workers=2, n_replicas=2).n_replicas == 2
    measures["error"] = "it must not be asked"
    assert plan_of(client, n_workers=2, n_replicas=1).forecast is None


def test_a_number_of_replicas_is_obeyed(client, measures):
    measures["exchange_s"] = 10.0
    plan = plan_of(client, n_replicas=3)
    assert (plan.engine, plan.n_replicas) == ("peers", 3)
    # One copy of the network is what this process has, too.
    assert plan_of(client, n_replicas=1).engine == "local"


@pytest.mark.parametrize("convert", [np.asarray, da.from_array])
def test_a_slow_worker_computes_fewer_rows_of_the_same_mini_batches(
    client, measures, convert
):
    measures["first_slower"] = 2.0
    clf = classifier(client, n_replicas=3, max_iter=3, tol=0, n_iter_no_change=9)
    with pytest.warns(ConvergenceWarning):
        clf.fit(convert(X), Y)
    plan = clf.plan_
    assert plan.rows.shares == (13, 13, 6)
    assert plan.workers[-1] == min(client.nthreads())
    theirs = MLPClassifier((300, 300), max_iter=3, random_state=0)
    with pytest.warns(ConvergenceWarning):
        theirs.fit(X, Y)
    assert_allclose(clf.loss_curve_, theirs.loss_curve_, rtol=1e-5)
    n_rows = [
        sum(part.stop - part.start for part in plan.row_ranges if part.replica == r)
        for r in range(3)
    ]
    assert n_rows == ([0, 0, 0] if convert is np.asarray else [24, 25, 11])


@pytest.mark.parametrize("engine", ["peers", "futures", "local"])
def test_an_engine_that_was_asked_for_is_not_measured(client, measures, engine):
    measures["error"] = "it must not be asked"
    plan = plan_of(client, engine=engine)
    assert plan.engine == engine
    assert "it must" not in plan.reason


def test_without_measurement_the_threshold_decides_and_the_plan_says_why(
    client, measures
):
    measures["error"] = "the workers are asleep"
    plan = plan_of(client)
    assert plan.engine == "peers"
    assert plan.reason.endswith("(nothing was measured: the workers are asleep)")
    assert plan_of(client, parameter_threshold=10**9).engine == "local"


def test_workers_without_room_for_what_is_timed_do_not_time_it(
    client, measures, monkeypatch
):
    """It would have them restarted."""

    def little(client, workers):
        return dict.fromkeys(workers, WorkerMemory(1_000_000))

    monkeypatch.setattr(client_workers, "worker_memory", little)
    measures["error"] = "it must not be asked"
    plan = plan_of(client)
    assert plan.engine == "local"
    assert re.fullmatch(
        r"too few workers have room for this network; tcp.* are left out: they have .* "
        r"bytes of memory free, of [\d,]+ that are needed \(nothing was measured: "
        r"steps that are timed take \d+,\d+,\d+ bytes, and tcp://.* has .*\)",
        plan.reason,
    )
    # Another fit may fill them for a while, and they were measured before.
    workers = tuple(client.nthreads())
    keep_machines(client, workers, UNITS, reference_machines(len(workers)))
    assert plan_of(client).forecast is not None


@pytest.fixture
def first_is_full(client, monkeypatch):
    """Have a worker say that it has little memory; return it, and the others."""
    first, *others = client.nthreads()
    memory = {first: WorkerMemory(10**5), **dict.fromkeys(others, WorkerMemory(10**9))}

    def of(client, workers):
        return {worker: memory[worker] for worker in workers}

    monkeypatch.setattr(client_workers, "worker_memory", of)
    monkeypatch.setattr(
        loaded,
        "answers_in_time",
        lambda _client, asked, *_: dict.fromkeys(asked, (1.0, 0)),
    )
    return first, others


@pytest.mark.parametrize(
    "given", [{}, {"parameter_threshold": 0}, {"n_replicas": 2}], ids=str
)
def test_a_worker_without_room_is_left_out_of_the_measurement(
    client, measures, first_is_full, given
):
    first, others = first_is_full
    measures |= {"here_s": 1e3, "worker_s": 1e3}
    plan = plan_of(client, **given)
    assert plan.workers == tuple(others)
    assert re.search(
        rf"; {first} is left out: it has 100,000 bytes of memory free, of [\d,]+ "
        rf"that are needed$",
        plan.reason,
    )
    (left_out,) = plan.forecast.left_out
    assert (left_out.worker, left_out.why) == (first, "memory")


def test_a_number_of_workers_is_measured_on_those_with_room(
    client, measures, first_is_full
):
    first, others = first_is_full
    plan = plan_of(client, n_workers=2)
    assert plan.workers == tuple(others)
    assert plan.forecast is not None
    # That one has no room, the fit will say.
    plan = plan_of(client, n_workers=3)
    assert plan.workers == (first, *others)
    assert plan.reason.endswith(f" bytes, and {first} has 100,000)")


def test_a_short_fit_goes_by_what_is_known_of_workers_with_room(
    client, measures, first_is_full, monkeypatch
):
    first, others = first_is_full
    measures |= {"here_s": 1e3, "worker_s": 1e3}
    plan_of(client)
    monkeypatch.setattr(auto, "MEASURED_FROM_S", 1e9)
    plan = plan_of(client)
    assert plan.workers == tuple(others)
    assert f"; {first} is left out: it has" in plan.reason


def test_without_measurement_workers_without_room_are_left_out(
    client, measures, first_is_full
):
    first, others = first_is_full
    measures["error"] = "the workers are asleep"
    plan = plan_of(client)
    assert plan.workers == tuple(others)
    assert re.fullmatch(
        rf"[\d,]+ parameters reach the threshold, and there are workers; {first} is "
        rf"left out: it has 100,000 .* \(nothing was measured: the workers are "
        rf"asleep\)",
        plan.reason,
    )


def test_without_measurement_a_worker_that_trains_will_have_room(
    client, measures, first_is_full, monkeypatch
):
    first, _ = first_is_full
    its = WorkerMemory(10**9, taken=10**9)
    memory = dict.fromkeys(client.nthreads(), its)
    monkeypatch.setattr(client_workers, "worker_memory", lambda *_: memory)
    monkeypatch.setattr(
        loaded,
        "answers_in_time",
        lambda _client, asked, *_: dict.fromkeys(asked, (1.0, 10**9)),
    )
    with reserve_workers(client, [first], lambda: None):
        plan = plan_of(client, parameter_threshold=0)
        assert plan.workers == (first,)
        # One is too few to train there if it may be trained here.
        assert plan_of(client).engine == "local"
        monkeypatch.setattr(auto, "MEMORY_ASKED_FROM_BYTES", 0)
        monkeypatch.setattr(remote_dataset, "available_memory", lambda: 1000)
        assert plan_of(client).workers == (first,)
    # If no fit frees its memory, this one will say what is missing.
    assert len(plan_of(client, parameter_threshold=0).workers) == 3


def test_real_workers_with_room_are_measured_beside_a_full_one():
    pytest.importorskip("numba")
    X = np.random.default_rng(0).normal(size=(2000, 784)).astype(np.float32)
    y = X[:, 0] > 0
    with own_cluster(n_workers=3, memory_limit="1GB") as client:
        client.run(load)
        full, *_ = client.nthreads()
        # Dask pauses a worker at 800, and this fit may load compiled code.
        client.run(fill_memory, 720 * 10**6, workers=[full])
        clf = classifier(client, max_iter=80, parameter_threshold=0)
        clf.set_params(hidden_layer_sizes=(1024, 1024))
        plan = clf.plan_fit(X, y)
        assert plan.forecast is not None
        assert full not in plan.workers
        assert f"; {full} is left out: it has " in plan.reason
        clf.fit(X, y)
        assert full not in clf.plan_.workers


def fill_memory(n_bytes, dask_worker):
    """Have a worker's process take as many bytes."""
    taken, *_ = memory_use(dask_worker)
    dask_worker.filled = np.ones(n_bytes - taken, np.uint8)


@pytest.fixture
def long_fit(monkeypatch):
    """Return the outline of a fit for which each process loads compiled code."""
    monkeypatch.setattr(compiled, "_compiled", {})
    # Workers answer what is true of this process, and that they take nothing else.
    monkeypatch.setattr(
        loaded,
        "answers_in_time",
        lambda _client, asked, *_: dict.fromkeys(
            asked, (1.0, compiled.bytes_to_load())
        ),
    )
    outline = FitOutline.of(job_of("adam"), dataset_of("adam"))
    return replace(outline, trial=replace(outline.trial, runs_compiled=True))


def test_a_plan_leaves_room_for_compiled_code(client, measures, monkeypatch, long_fit):
    # A single worker should train.
    measures |= {"here_s": 1e3, "exchange_s": 10.0}
    workers = tuple(client.nthreads())
    # The fit and what is timed need less than the code.
    limits = [compiled.LOADED_BYTES, 2 * compiled.LOADED_BYTES, 1000]
    memory = memory_of(workers, *limits)
    monkeypatch.setattr(client_workers, "worker_memory", lambda *_: memory)
    monkeypatch.setattr(cluster_measurement, "check_room_for_trial", lambda *_, **__: 0)
    request = EngineRequest(client, None, None, "auto", only_plans=True)

    def workers_by(find_plan):
        return find_plan(request, long_fit, workers, client).workers

    assert workers_by(auto.fastest_plan) == workers[1:2]
    assert workers_by(auto.plan_by_known_machines) == workers[1:2]
    # They have loaded it, whoever had them do so.
    monkeypatch.setattr(compiled, "_compiled", {compiled.adam: None})
    assert workers_by(auto.fastest_plan) == workers[:1]
    assert workers_by(auto.plan_by_known_machines) == workers[:1]


def test_this_process_needs_room_for_compiled_code_too(
    client, measures, monkeypatch, long_fit
):
    measures["exchange_s"] = 10.0
    monkeypatch.setattr(
        remote_dataset, "available_memory", lambda: compiled.LOADED_BYTES + 1000
    )
    monkeypatch.setattr(cluster_measurement, "check_room_for_trial", lambda *_, **__: 0)
    workers = tuple(client.nthreads())
    request = EngineRequest(client, None, None, "auto", only_plans=True)
    plan = auto.fastest_plan(request, long_fit, workers, client)
    assert plan.engine == "peers"
    monkeypatch.setattr(compiled, "_compiled", {compiled.adam: None})
    plan = auto.fastest_plan(request, long_fit, workers, client)
    assert plan.engine == "local"


def test_workers_that_have_loaded_compiled_code_are_measured_in_little_room(
    client, measures, monkeypatch, long_fit
):
    workers = tuple(client.nthreads())
    request = EngineRequest(client, None, 0, "auto", only_plans=True)
    memory = dict.fromkeys(workers, WorkerMemory(compiled.LOADED_BYTES))
    monkeypatch.setattr(client_workers, "worker_memory", lambda *_: memory)
    with pytest.raises(MeasurementError, match="steps that are timed take"):
        auto.fastest_plan(request, long_fit, workers, client)
    monkeypatch.setattr(compiled, "_compiled", {compiled.adam: None})
    assert auto.fastest_plan(request, long_fit, workers, client)


def test_below_the_threshold_nothing_is_looked_at(measures):
    measures["error"] = "it must not be asked"
    plan = plan_of("tcp://192.0.2.1:1", parameter_threshold=10**9)
    assert plan.engine == "local"


def test_short_fits_are_not_measured():
    outline = FitOutline.of(job_of("adam"), dataset_of("adam"))
    request = EngineRequest(None, None, None, "auto")
    assert not is_worth_measuring(request, outline)
    longer = replace(outline, length=outline.length._replace(n_epochs=10**7))
    assert is_worth_measuring(request, longer)
    for other in (
        {"engine": "peers"},
        {"n_workers": 1},
        {"n_workers": 4, "n_replicas": 2},
    ):
        assert not is_worth_measuring(replace(request, **other), longer)


@pytest.mark.parametrize("n_rows", [1, 4, 16, 64, 200])
def test_fits_that_are_too_short_to_be_measured_load_no_compiled_code(n_rows):
    """It would take as long as the measurement, or longer."""
    units = 784, 1024, 1024, 10
    outline = replace(
        FitOutline.of(job_of("adam"), dataset_of("adam")),
        layer_units=units,
        cost=StepCost.of_step(n_rows, itemsize=4),
        length=FitLength(1.0, 1),
    )
    n_steps = auto.MEASURED_FROM_S / outline.nominal_s
    assert n_steps * count_parameters(units) < compiled.UPDATES_BEFORE_LOADING


def test_each_shard_that_is_timed_has_neurons_of_a_narrowed_network():
    outline = FitOutline.of(job_of("adam"), dataset_of("adam"))
    # The trial has 9 neurons.
    wide = replace(outline, layer_units=(64, 100, 100, 10))
    assert wide.grids_timed(20)[:2] == [Grid(1), Grid(9)]


def test_short_fits_use_what_is_known(client, monkeypatch):
    def measure(client, workers, trial, grids, *_):
        measured.append(trial.n_rows)
        exchange_s = 1e-6 if trial.n_rows == len(X) else 1e5
        return made_up(grids, len(workers), 1e3, 1e3, exchange_s)

    measured = []
    monkeypatch.setattr(cluster_measurement, "_measure", measure)
    # No step takes as long as that.
    monkeypatch.setattr(measured_machines, "MISS_FROM_S", 1e9)
    clf = classifier(client)
    assert clf.plan_fit(X, Y).forecast is None
    monkeypatch.setattr(auto, "MEASURED_FROM_S", 0.0)
    assert clf.plan_fit(X, Y).engine == "peers"
    assert plan_of(client, batch_size=10).engine == "local"
    monkeypatch.setattr(auto, "MEASURED_FROM_S", 1e9)
    clf.partial_fit(X, Y, classes=[False, True])
    assert clf.plan_.forecast is not None
    assert clf.engine_ == "peers"
    # Of another job on the same network, what was found last is known.
    assert plan_of(client, batch_size=20).engine == "local"
    assert plan_of(client, n_workers=2).forecast is not None
    other = classifier(client).set_params(hidden_layer_sizes=(300, 299))
    assert other.plan_fit(X, Y).forecast is None
    assert measured == [60, 10]


def test_a_short_fit_uses_its_own_timings_after_a_miss_of_another_job(
    client, monkeypatch
):
    def measure(client, workers, trial, grids, *_):
        # No step takes an hour.
        return made_up(grids, len(workers), 3600.0, 3600.0)

    monkeypatch.setattr(auto, "MEASURED_FROM_S", 0.0)
    monkeypatch.setattr(cluster_measurement, "_measure", measure)
    plan_of(client, batch_size=10)
    assert classifier(client).fit(X, Y).plan_.forecast.missed_s > 2.0
    assert known_machines(client, tuple(client.nthreads()), UNITS) is None
    monkeypatch.setattr(auto, "MEASURED_FROM_S", 1e9)
    assert plan_of(client, batch_size=10).forecast is not None
    assert plan_of(client).forecast is None


def test_a_fit_that_takes_what_was_expected_makes_up_for_misses_before(
    client, measures, monkeypatch
):
    for missed_s, kept in (1.9, [1.9]), (0.0, []):
        monkeypatch.setattr(Forecast, "missed_s", missed_s)
        classifier(client).fit(X, Y)
        assert list(measured_machines._MISSED_S.values()) == kept


def test_fits_whose_workers_are_held_use_what_is_known(client, monkeypatch):
    monkeypatch.setattr(auto, "MEASURED_FROM_S", 0.0)
    workers = tuple(client.nthreads())
    with reserve_workers(client, workers, lambda: None):
        plan = plan_of(client)
        assert plan.forecast is None
        assert "nothing was measured: other fits hold" in plan.reason
        machines = reference_machines(len(workers))
        keep_machines(client, workers, UNITS, machines)
        plan = plan_of(client)
        assert plan.forecast is not None
        assert plan.reason.endswith(
            " (by an earlier measurement: other fits hold or measure the workers)"
        )


@pytest.mark.parametrize("threshold", [None, 1, "auto"])
def test_short_fits_stay_here_without_a_look_at_the_cluster(threshold):
    plan = plan_of("tcp://192.0.2.1:1", parameter_threshold=threshold)
    assert plan.engine == "local"
    assert re.fullmatch(
        r"a fit of about 0\.\d+ s is too short for workers to pay off", plan.reason
    )


def test_short_fits_of_a_network_that_was_measured_on_other_workers_stay_here(client):
    keep_machines(client, ("tcp://other:1",), UNITS, reference_machines(1))
    plan = plan_of(client)
    assert (plan.engine, plan.forecast) == ("local", None)
    assert "is too short for workers to pay off" in plan.reason


@pytest.mark.usefixtures("not_yet_warned")
def test_whose_client_is_not_used_for_a_short_fit_is_told_so():
    expected = r"client= was given, but training stays .* 0\.\d+ s is too"
    with pytest.warns(UserWarning, match=expected):
        plan_of("tcp://192.0.2.1:1")


@pytest.mark.parametrize(
    ("given", "n_workers"),
    [
        ({"n_workers": 2}, 2),
        ({"n_replicas": 3}, 3),
        ({"engine": "peers"}, 3),
        ({"engine": "futures"}, 3),
        ({"parameter_threshold": 0}, 2),
    ],
    ids=str,
)
def test_a_short_fit_is_distributed_if_that_was_asked_for(client, given, n_workers):
    assert plan_of(client, **given).n_workers == n_workers


@pytest.mark.parametrize(
    ("hidden", "solver", "grid"),
    [
        # Without neurons, there are only rows to share.
        ((), "adam", Grid(1, 2)),
        ((), "lbfgs", Grid(1, 2)),
        # Shards exchange less than the parameters.
        ((5,), "adam", Grid(2)),
        ((1000, 1000), "adam", Grid(2)),
    ],
)
def test_a_short_fit_above_no_threshold_takes_the_best_grid(
    client, hidden, solver, grid
):
    clf = DistributedMLPClassifier(
        hidden,
        solver=solver,
        client=client,
        parameter_threshold=0,
        max_iter=1,
        random_state=0,
    )
    with pytest.warns(ConvergenceWarning):
        clf.fit(X, Y)
    plan = clf.plan_
    assert (plan.engine, plan.grid, plan.forecast) == ("peers", grid, None)
    assert len(set(plan.workers)) == 2
    assert re.fullmatch(
        r"the fastest plan if all machines are alike \(nothing was measured: a fit of "
        r"about 0?\.?[0-9e-]+ s is too short for that\)",
        plan.reason,
    )
    with pytest.warns(ConvergenceWarning):
        here = clone(clf).set_params(engine="local").fit(X, Y)
    for mine, other in zip(clf.coefs_, here.coefs_, strict=True):
        assert_allclose(mine, other, rtol=1e-4, atol=1e-6)


def test_a_short_fit_that_has_no_grid_of_two_workers_takes_one(client):
    """A single row has no replicas, and no neurons no shards."""
    clf = DistributedMLPClassifier(
        (), client=client, parameter_threshold=0, max_iter=1, batch_size=1
    )
    assert clf.plan_fit(X, Y).n_workers == 1


def test_a_short_fit_says_why_fewer_workers_than_were_asked_for_train(client):
    clf = DistributedMLPClassifier(
        (2,), client=client, parameter_threshold=0, n_workers=3, batch_size=2
    )
    plan = clf.set_params(max_iter=1).plan_fit(X, Y)
    assert (plan.engine, plan.n_workers) == ("peers", 2)
    assert "2 of 3 workers train: no more of them make a grid" in plan.reason


def test_a_short_fit_takes_workers_with_room(client, first_is_full):
    _, others = first_is_full
    plan = plan_of(client, parameter_threshold=0)
    assert plan.workers == tuple(others)
    assert plan.forecast is None


def test_a_short_fit_that_this_process_has_no_room_for_is_distributed(
    client, monkeypatch
):
    monkeypatch.setattr(auto, "MEMORY_ASKED_FROM_BYTES", 0)
    assert plan_of(client).engine == "local"
    monkeypatch.setattr(remote_dataset, "available_memory", lambda: 1000)
    assert plan_of(client).engine == "peers"


def test_rows_that_take_long_to_fetch_are_no_short_fit():
    outline = FitOutline.of(job_of("adam"), dataset_of("adam"))
    many = replace(outline, cost=replace(outline.cost, feature_bytes=10**8))
    assert many.nominal_s == outline.nominal_s
    on_cluster = replace(many, on_cluster=True)
    # The link is taken to have 100 Mbit/s.
    assert on_cluster.nominal_s == pytest.approx(10**8 * (80e-9 + 4e-9), rel=0.1)
    request = EngineRequest(None, None, None, "auto")
    assert auto.reason_too_short(request, many) is not None
    assert auto.reason_too_short(request, on_cluster) is None


def test_without_threshold_and_measurement_that_of_the_settings_decides(
    client, measures
):
    measures["error"] = "the workers are asleep"
    assert plan_of(client, parameter_threshold="auto").engine == "peers"
    with dask.config.set({"skdistmlp.parameter-threshold": 10**9}):
        plan = plan_of(client, parameter_threshold="auto")
    assert plan.engine == "local"
    assert plan.reason.endswith("(nothing was measured: the workers are asleep)")


def test_the_plan_of_a_fit_says_what_a_step_took(client, measures):
    clf = classifier(client)
    expected = clf.plan_fit(X, Y)
    assert not hasattr(clf, "coefs_")
    clf.fit(X, Y)
    assert clf.plan_.workers == expected.workers
    assert expected.forecast.step_s is None
    assert clf.plan_.forecast.step_s > 0
    assert "; it took " in str(clf.plan_)


def test_what_a_callback_takes_is_not_part_of_a_step(client, measures):
    measures |= {"exchange_s": 10.0}
    plan = plan_of(client)
    assert plan.engine == "local"
    job, dataset = job_of("adam"), dataset_of("adam")
    engine = LocalEngine(replace(plan, split=job.split))

    def wait(*_):
        time.sleep(0.2)
        return False

    engine.train(job, dataset, wait)
    assert engine.plan.forecast.step_s < 0.05


def test_workers_out_of_reach_have_no_futures_for_rows_that_are_not_here(
    client, monkeypatch
):
    def fail(*_):
        raise UnreachableError("behind a firewall")

    monkeypatch.setattr(cluster_measurement, "measure_machines", fail)
    outline = FitOutline.of(job_of("adam"), dataset_of("adam"))
    workers = tuple(client.nthreads())
    request = EngineRequest(client, None, 0, "auto")
    plan = auto.fastest_plan(request, outline, workers, client)
    assert plan.engine == "futures"
    assert plan.reason == "the workers cannot reach each other (behind a firewall)"
    with pytest.raises(UnreachableError):
        auto.fastest_plan(replace(request, must_share=True), outline, workers, client)


def test_a_plan_without_peers_goes_by_what_is_known_of_the_machines(client):
    outline = FitOutline.of(job_of("adam"), dataset_of("adam"))
    workers, units = tuple(client.nthreads()), outline.layer_units
    request = EngineRequest(client, None, 0, "auto", without_peers="a firewall")
    assumed = auto.plan_without_peers(request, outline, workers, client)
    assert (assumed.engine, assumed.reason) == ("futures", "a firewall")
    assert assumed.forecast is None
    machines = reference_machines(len(workers))
    slow, *others = machines.workers
    slow = replace(slow, corrections={Grid(1): 3.0})
    machines = replace(machines, workers=(slow, *others))
    keep_machines(client, workers, units, machines)
    plan = auto.plan_without_peers(request, outline, workers, client)
    assert plan.reason == "a firewall"
    assert plan.forecast is not None
    sizes = [[len(part) for part in p.split.ranges[0]] for p in (assumed, plan)]
    assert sizes == [[3, 3, 3], [1, 4, 4]]


@pytest.fixture
def out_of_reach(client):
    """Let it be known that the workers cannot connect to each other."""
    workers = tuple(client.nthreads())
    note_unreachable(client, workers, "behind a firewall")
    return workers


def memory_of(workers, *limits):
    return dict(zip(workers, map(WorkerMemory, limits), strict=True))


def test_workers_out_of_reach_without_room_do_not_train_as_peers_all_the_same(
    client, out_of_reach, monkeypatch
):
    """Tasks say what is missing, if it still is when they begin."""
    little = memory_of(out_of_reach, 1000, 1000, 1000)
    monkeypatch.setattr(client_workers, "worker_memory", lambda *_: little)
    plan = plan_of(client, parameter_threshold=0)
    assert plan.engine == "futures"
    assert plan.reason == "the workers cannot reach each other (behind a firewall)"


def test_of_workers_out_of_reach_one_trains_what_nothing_else_has_room_for(
    client, out_of_reach, monkeypatch
):
    memory = memory_of(out_of_reach, 1000, 10**9, 1000)
    monkeypatch.setattr(client_workers, "worker_memory", lambda *_: memory)
    plan = plan_of(client, parameter_threshold=0)
    assert (plan.engine, plan.workers) == ("peers", out_of_reach[1:2])
    # As many workers as were asked for.
    assert plan_of(client, n_workers=3).engine == "futures"


def test_of_workers_out_of_reach_a_free_one_trains_alone(client, monkeypatch):
    """Others know it before the fit has reserved it."""
    workers = tuple(client.nthreads())
    memory = memory_of(workers, 10**9, 10**9, 1000)
    monkeypatch.setattr(client_workers, "worker_memory", lambda *_: memory)
    outline = FitOutline.of(job_of("adam"), dataset_of("adam"))
    request = EngineRequest(client, None, 0, "auto", without_peers="a firewall")
    forget_choices(client)
    with reserve_workers(client, workers[:1], lambda: None):
        plan = auto.plan_without_peers(request, outline, workers, client)
    assert (plan.engine, plan.workers) == ("peers", workers[1:2])
    assert plan.reason == "a firewall"
    assert choices(client) == [{workers[1]}]
    forget_choices(client)


def test_without_peers_what_has_no_room_in_this_process_is_an_error(
    client, out_of_reach, monkeypatch
):
    """SciPy would keep its vectors here: there is nothing to wait for."""
    little = memory_of(out_of_reach, 1000, 1000, 1000)
    monkeypatch.setattr(client_workers, "worker_memory", lambda *_: little)
    monkeypatch.setattr(remote_dataset, "available_memory", lambda: 10**6)
    regressor = DistributedMLPRegressor(
        hidden_layer_sizes=(300, 300),
        solver="lbfgs",
        client=client,
        parameter_threshold=0,
    )
    with pytest.raises(
        ClusterError,
        match=r"\(behind a firewall\), and without peers this process would hold "
        r"\d+,\d+,\d+ bytes, of which it can allocate 1,000,000\. Let the workers",
    ):
        regressor.plan_fit(X, Y)


@pytest.mark.parametrize(
    ("given", "engine"), [({}, "local"), ({"n_workers": 2, "n_replicas": 1}, "futures")]
)
def test_shards_that_cannot_connect_are_done_without_though_nothing_was_measured(
    client, unconnected, measures, capsys, given, engine
):
    measures["error"] = "the workers are asleep"
    here = classifier(None, verbose=True).set_params(engine="local").fit(X, Y)
    lines_here = re.sub(r"\d+\.\d+", "", capsys.readouterr().out)
    clf = classifier(client, verbose=True, **given)
    assert clf.plan_fit(X, Y).engine == "peers"
    clf.fit(X, Y)
    assert clf.plan_.engine == engine
    assert re.match(
        r"the workers cannot reach each other \(shard [12] on .* cannot connect to "
        r"shard 0 on .*refused\)$",
        clf.plan_.reason,
    )
    assert_allclose(clf.loss_curve_, here.loss_curve_, rtol=1e-5)
    for mine, other in zip(clf.coefs_, here.coefs_, strict=True):
        assert_allclose(mine, other, rtol=1e-4, atol=1e-6)
    # The next fit knows it, for a while.
    assert clf.plan_fit(X, Y).engine == engine
    forget_machines()
    assert clf.plan_fit(X, Y).engine == "peers"
    # No line is written twice, or lost.
    assert re.sub(r"\d+\.\d+", "", capsys.readouterr().out) == lines_here


@pytest.mark.parametrize(
    "given", only_quick(0, cases=[{"engine": "peers"}, {"n_replicas": 3}])
)
def test_shards_that_were_asked_for_and_cannot_connect_are_an_error(
    client, unconnected, given
):
    clf = classifier(client).set_params(**given)
    with pytest.raises(ExchangeError, match="cannot connect to shard 0") as failed:
        clf.fit(X, Y)
    assert failed.type is ExchangeError


def test_a_plan_for_rows_that_do_not_fit_here_says_why_nothing_was_measured(
    client, measures
):
    measures["error"] = "the workers are asleep"
    outline = FitOutline.of(job_of("adam"), dataset_of("adam"))
    request = EngineRequest(client, None, 0, "auto", must_share=True)
    with open_engine(
        request, outline.layer_units, outline.cost, outline=outline
    ) as engine:
        assert engine.plan.reason == (
            "X does not fit this process, and there are workers "
            "(nothing was measured: the workers are asleep)"
        )


def test_what_was_measured_before_needs_no_room(client, monkeypatch):
    """A worker that is short of memory for a moment does not change the plan."""
    monkeypatch.setattr(auto, "MEASURED_FROM_S", 0.0)

    def measure(client, workers, trial, grids, *_):
        return made_up(grids, len(workers))

    monkeypatch.setattr(cluster_measurement, "_measure", measure)
    assert plan_of(client).forecast is not None

    def little(client, workers):
        return dict.fromkeys(workers, WorkerMemory(1_000_000))

    monkeypatch.setattr(client_workers, "worker_memory", little)
    assert plan_of(client).forecast is not None


@pytest.mark.parametrize(("exchange_s", "engine"), [(1e-6, "peers"), (1e5, "local")])
def test_a_job_whose_forecast_misses_is_measured_again(
    client, monkeypatch, exchange_s, engine
):
    def measure(client, workers, trial, grids, *_):
        measured.append(trial.n_rows)
        # No step takes an hour.
        return made_up(grids, len(workers), 3600.0, 3600.0, exchange_s)

    measured = []
    monkeypatch.setattr(auto, "MEASURED_FROM_S", 0.0)
    monkeypatch.setattr(cluster_measurement, "_measure", measure)
    workers = tuple(client.nthreads())
    note_unreachable(client, ("tcp://other:1",), "behind a firewall")
    plan_of(client, batch_size=10)
    for n_measured in (2, 3):
        clf = classifier(client).fit(X, Y)
        assert clf.plan_.engine == engine
        assert len(measured) == n_measured
        assert known_machines(client, workers, UNITS) is None
    # That of another job is kept, and what has failed is not tried again.
    plan_of(client, batch_size=10)
    assert measured == [10, 60, 60]
    assert known_machines(client, workers, UNITS) is not None
    assert unreachable_before(client, ("tcp://other:1",)) == "behind a firewall"
    # A short fit that goes by these figures forgets them as well.
    monkeypatch.setattr(auto, "MEASURED_FROM_S", 1e9)
    clf = classifier(client).fit(X, Y)
    assert clf.plan_.forecast.missed_s > 2.0
    assert known_machines(client, workers, UNITS) is None


def test_real_measurements_lead_to_a_plan(client, monkeypatch):
    monkeypatch.setattr(auto, "MEASURED_FROM_S", 0.0)
    # The machine may be busy.
    monkeypatch.setattr(cluster_measurement, "MEASURING_TIMEOUT_S", WITHIN_S)
    clf = classifier(client).fit(X, Y)
    forecast = clf.plan_.forecast
    assert {row.n_workers for row in forecast.rows} == {0, 1, 2, 3}
    assert all(row.step_s > 0 for row in forecast.rows)
    assert forecast.bits_per_s > 1e6
    with_lbfgs = DistributedMLPRegressor(
        hidden_layer_sizes=(300, 300), solver="lbfgs", max_iter=2, client=client
    )
    plan = with_lbfgs.plan_fit(X, X[:, 0])
    assert plan.forecast is not None
