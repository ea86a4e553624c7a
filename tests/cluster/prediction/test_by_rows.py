"""Predictions split by rows: every worker has the whole network."""

import asyncio
import math
import re
import signal
import time
from copy import copy
from dataclasses import replace

import dask
import numpy as np
import pytest
from distributed import Client
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skdistmlp import ClusterError, DistributedMLPClassifier
from skdistmlp.cluster import _dask
from skdistmlp.cluster.prediction import by_rows
from skdistmlp.cluster.run.placement import Placement
from skdistmlp.cluster.run.scatter import Scatterer
from skdistmlp.engines import choice, futures
from skdistmlp.parallel.grid import Grid
from skdistmlp.planning import machines, prediction
from skdistmlp.planning.machines import Speed, reference_machines
from skdistmlp.planning.memory import WorkerMemory
from skdistmlp.planning.rates import REFERENCE
from skdistmlp.timeouts import ORPHAN_LOOKS_S
from tests.cluster.dask_processes import DaskProcesses
from tests.cluster.leaks import assert_nothing_left, own_cluster
from tests.cluster.support import WITHIN_S, bounded
from tests.estimators.support import fit
from tests.marks import only_quick


def all_of_them(slowness):
    return [len(slowness)] if slowness else []


def with_slow_process(n_workers, _):
    machines = reference_machines(n_workers, math.inf)
    slow = Speed(REFERENCE, {Grid(1): 1e3})
    links = [replace(link, here_bits_per_s=math.inf) for link in machines.links]
    return replace(machines, here=slow, links=tuple(links))


@pytest.fixture
def sharing_is_free(monkeypatch):
    """Let all workers share the rows of any prediction, at most 40 at a time."""
    # By neurons, more tasks wait for each other.
    monkeypatch.setattr(prediction, "TASK_S", 1e-5)
    monkeypatch.setattr(prediction, "worker_counts", all_of_them)
    monkeypatch.setattr(prediction, "DASK_BYTE_S", 0.0)
    monkeypatch.setattr(machines, "DASK_BYTE_S", 0.0)
    # Several workers compute a row as fast as one; this process, slowly.
    monkeypatch.setattr(choice, "reference_machines", with_slow_process)
    monkeypatch.setattr(futures, "ROWS_SENT_AT_ONCE", 40)


@pytest.fixture(scope="module")
def data(digits):
    return digits[0][:500].astype(np.float32), digits[1][:500]


@pytest.fixture(scope="module")
def trained(data):
    clf = DistributedMLPClassifier((20, 9), max_iter=3, random_state=0)
    return fit(clf.set_params(parameter_threshold=0, engine="local"), *data)


@pytest.fixture
def fitted(trained):
    return copy(trained)


def test_every_worker_predicts_rows(client, data, fitted, sharing_is_free, monkeypatch):
    """Even if all rows could be sent at once."""
    monkeypatch.setattr(futures, "ROWS_SENT_AT_ONCE", 10_000)
    ranks, add = [], Placement.add

    def note(tasks, rank, *args):
        ranks.append(rank)
        return add(tasks, rank, *args)

    monkeypatch.setattr(Placement, "add", note)
    expected = fitted.predict_proba(data[0])
    fitted.set_params(engine="auto", client=client)
    assert_allclose(fitted.predict_proba(data[0]), expected, rtol=1e-5, atol=1e-6)
    assert ranks == [0, 1, 2]


@pytest.mark.parametrize(
    "convert",
    [np.asarray, sparse.csr_array, sparse.csc_matrix],
    ids=lambda c: c.__name__,
)
@pytest.mark.parametrize("n_rows", [500, 130, 40, 3])
def test_predictions_equal_local_ones(
    client, data, fitted, sharing_is_free, convert, n_rows
):
    X = convert(data[0][:n_rows])
    here = fitted.predict_proba(X)
    fitted.set_params(engine="auto", client=client)
    plan = fitted.plan_predict(X)
    assert (plan.engine, plan.split_by) == ("futures", "rows")
    assert set(plan.workers) == set(client.nthreads())
    assert plan.reason.startswith(f"a prediction of {n_rows} rows should take ")
    assert " s on 3 workers by rows (" in plan.reason
    shared = bounded(fitted.predict_proba, X)
    assert shared.dtype == np.float32
    # Products of fewer rows may be summed in another order.
    assert_allclose(shared, here, rtol=1e-5)


def test_the_network_is_sent_once_and_blocks_in_turn(
    client, data, fitted, sharing_is_free, monkeypatch
):
    placed = []
    original = Scatterer.scatter

    def place(self, name, values, ranks=None):
        placed.append((name, [getattr(value, "shape", None) for value in values]))
        return original(self, name, values, ranks)

    monkeypatch.setattr(Scatterer, "scatter", place)
    bounded(fitted.set_params(engine="auto", client=client).predict, data[0])
    # 500 rows are 13 blocks of 40; in as many turns, all get equally many.
    assert placed == [
        ("network", [None] * 3),
        *[("rows", [(34, 64)] * 3)] * 4,
        ("rows", [(34, 64), (34, 64), (24, 64)]),
    ]


def test_a_network_that_does_not_fit_a_worker_is_split_by_neurons(
    client, data, fitted, sharing_is_free, monkeypatch
):
    memory = dict.fromkeys(client.nthreads(), WorkerMemory(10_000, 0.9, taken=3000))
    monkeypatch.setattr(
        "skdistmlp.cluster.client.workers.worker_memory", lambda *_: memory
    )
    labels = fitted.predict(data[0])
    fitted.set_params(engine="auto", client=client)
    plan = fitted.plan_predict(data[0])
    assert (plan.engine, plan.split_by, plan.n_shards) == ("futures", "neurons", 3)
    assert "no worker has more than 6,000" in plan.reason
    assert_array_equal(bounded(fitted.predict, data[0]), labels)


@pytest.mark.parametrize(
    ("parameters", "engine", "reason"),
    [
        ({"engine": "futures"}, "futures", "engine='futures' was asked for"),
        ({"engine": "local"}, "local", "engine='local' was asked for"),
        ({"engine": "auto"}, "local", "and sharing it .* s or more"),
        ({"parameter_threshold": 10**6}, "local", "fewer than the threshold"),
    ],
)
def test_plan_predict_gives_engine_and_reason(
    client, data, fitted, parameters, engine, reason
):
    fitted.set_params(**{"engine": "auto", "client": client} | parameters)
    plan = fitted.plan_predict(data[0][:10])
    assert plan.engine == engine
    assert re.search(reason, plan.reason)


def test_workers_that_are_threads_can_predict(data, fitted, sharing_is_free):
    labels = fitted.predict(data[0])
    with own_cluster(n_workers=2, processes=False) as client:
        fitted.set_params(engine="auto", client=client)
        assert fitted.plan_predict(data[0]).split_by == "rows"
        shared = bounded(fitted.predict, data[0])
    assert_array_equal(shared, labels)


def test_an_error_on_a_worker_leaves_nothing_behind(client, monkeypatch):
    def spoilt(rows):
        raise ArithmeticError("no")

    X, workers = np.zeros((100, 3)), tuple(client.nthreads())
    with pytest.raises(ArithmeticError, match="no"):
        bounded(by_rows.predict_by_rows, client, workers, spoilt, X, 10, 1, X)


@pytest.mark.parametrize(
    "n_killed", only_quick(0, cases=[1, 3]), ids=["one of them", "all of them"]
)
def test_rows_of_lost_workers_are_predicted_elsewhere(
    tmp_path, data, fitted, sharing_is_free, monkeypatch, n_killed
):
    labels = fitted.predict(data[0])
    with (
        DaskProcesses(tmp_path, n_workers=3) as processes,
        Client(processes.address, set_as_default=False) as client,
    ):
        turns, submit = [], Placement.submit

        def kill_and_submit(self, keys):
            turns.append(keys)
            if len(turns) == 3:
                for worker in list(processes.workers)[:n_killed]:
                    processes.kill_worker(worker)
            return submit(self, keys)

        monkeypatch.setattr(Placement, "submit", kill_and_submit)
        fitted.set_params(engine="auto", client=client)
        where = "on 2 of the workers" if n_killed == 1 else "here"
        expected = rf"lost while predicting: continuing with the .* rows {where}\.$"
        with pytest.warns(UserWarning, match=expected) as caught:
            found = bounded(lambda: fitted.predict(data[0]))
        assert {warning.filename for warning in caught} == {__file__}
        assert_array_equal(found, labels)
        assert_nothing_left(client)


@pytest.mark.slow
def test_workers_that_are_left_predict_all_the_rest(
    tmp_path, data, fitted, sharing_is_free, monkeypatch
):
    """Also when what was on its way to a lost worker is cleaned up."""
    labels = fitted.predict(data[0])
    with (
        DaskProcesses(tmp_path, n_workers=3) as processes,
        Client(processes.address, set_as_default=False) as client,
    ):
        lost, runs, call = next(iter(processes.workers)), [], _dask.call_or_abort
        submit = Placement.submit

        async def kill_and_call(client, address, **message):
            (key,) = message.get("data", [()])
            if address == lost and key[1].startswith("rows") and key[3] == 2:
                processes.kill_worker(lost)
                # As long as Dask tries to connect to a worker.
                await asyncio.sleep(WITHIN_S)
            return await call(client, address, **message)

        def note_and_submit(self, keys):
            if self not in runs:
                runs.append(self)
                if len(runs) == 2:
                    time.sleep(ORPHAN_LOOKS_S[0] + 0.5)
            return submit(self, keys)

        monkeypatch.setattr(_dask, "call_or_abort", kill_and_call)
        monkeypatch.setattr(Placement, "submit", note_and_submit)
        fitted.set_params(engine="auto", client=client)
        with pytest.warns(UserWarning, match="continuing") as caught:
            found = bounded(lambda: fitted.predict(data[0]))
        assert_array_equal(found, labels)
        (warning,) = caught
        assert f"{lost} was lost while predicting" in str(warning.message)
        assert "rows on 2 of the workers." in str(warning.message)
        assert [len(run.workers) for run in runs] == [3, 2]
        assert set(runs[1].workers) == set(processes.workers)
        assert_nothing_left(client)


@pytest.mark.parametrize(
    "wheres",
    [["on the same workers"], ["on the same workers", "here"]],
    ids=["once", "twice"],
)
def test_workers_that_dropped_a_block_go_on_once(
    client, data, fitted, sharing_is_free, monkeypatch, wheres
):
    labels = fitted.predict(data[0])
    runs, submit = [], Placement.submit

    def submit_and_cancel(self, keys):
        futures = submit(self, keys)
        if self not in runs:
            runs.append(self)
            if len(runs) <= len(wheres):
                client.cancel(futures, force=True)
        return futures

    monkeypatch.setattr(Placement, "submit", submit_and_cancel)
    fitted.set_params(engine="auto", client=client)
    with pytest.warns(UserWarning, match="dropped the data of this call") as caught:
        found = bounded(lambda: fitted.predict(data[0]))
    found_wheres = [str(warning.message).split(" rows ")[1] for warning in caught]
    assert found_wheres == [f"{where}." for where in wheres]
    assert_array_equal(found, labels)
    assert_nothing_left(client)


@pytest.mark.parametrize("engine", only_quick(0, cases=["auto", "peers"]))
def test_a_scheduler_lost_in_a_prediction_matters_only_if_an_engine_was_asked_for(
    processes, data, fitted, sharing_is_free, monkeypatch, engine
):
    labels = fitted.predict(data[0])
    processes.have_workers(2)
    with (
        Client(processes.address, set_as_default=False) as client,
        dask.config.set({"skdistmlp.exchange-timeout": "500ms"}),
        processes.stopped_scheduler() as stop,
    ):
        turns, submit = [], Placement.submit

        def stop_and_submit(self, keys):
            turns.append(keys)
            if len(turns) == 3:
                stop()
            return submit(self, keys)

        monkeypatch.setattr(Placement, "submit", stop_and_submit)
        fitted.set_params(engine=engine, client=client)
        if engine == "auto":
            expected = r"not answered for 2 s .*\)\. Predicting in this process\.$"
            with pytest.warns(UserWarning, match=expected) as caught:
                found = bounded(lambda: fitted.predict(data[0]))
            assert {warning.filename for warning in caught} == {__file__}
            assert_array_equal(found, labels)
        else:
            with pytest.raises(ClusterError, match=r"not answered .* call again"):
                bounded(fitted.predict, data[0])
        assert len(turns) == 3


@pytest.mark.slow
def test_workers_of_which_one_hangs_are_not_asked_again(
    processes, data, fitted, sharing_is_free, monkeypatch
):
    labels = fitted.predict(data[0])
    processes.have_workers(2)
    hung = next(iter(processes.workers))
    with (
        Client(processes.address, set_as_default=False) as client,
        dask.config.set({"skdistmlp.exchange-timeout": "500ms"}),
    ):
        turns, submit = [], Placement.submit

        def stop_and_submit(self, keys):
            turns.append(keys)
            if len(turns) == 3:
                processes.workers[hung].send_signal(signal.SIGSTOP)
            return submit(self, keys)

        monkeypatch.setattr(Placement, "submit", stop_and_submit)
        fitted.set_params(engine="auto", client=client)
        expected = rf"{hung} has not answered .* rows here\.$"
        try:
            with pytest.warns(UserWarning, match=expected) as caught:
                found = bounded(lambda: fitted.predict(data[0]))
        finally:
            processes.kill_worker(hung)
        assert len(caught) == 1
        assert_array_equal(found, labels)
