"""Every engine keeps the protocol: a plan, training and prediction."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.optimize import OptimizeResult

from skdistmlp.engines.choice import ENGINES
from skdistmlp.engines.engine import EngineRequest, with_step_time
from skdistmlp.parallel.shard import predict_whole
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.planning.forecast import Forecast, ForecastRow
from skdistmlp.training.progress import LbfgsProgress, Outcome
from tests.engines.thread_engine import ThreadEngine
from tests.training.jobs import (
    LAYER_UNITS,
    MAX_EPOCHS,
    dataset_of,
    job_of,
    lbfgs_job,
    plan_of,
)

FACTORIES = {**ENGINES, "threads": lambda plan, _: ThreadEngine(plan)}


def made(name, client):
    n_shards = 1 if name == "local" else 2
    plan = plan_of(name, client.nthreads(), n_shards)
    engine = FACTORIES[name](plan, client)
    assert engine.plan is plan
    return engine


@pytest.mark.parametrize("name", FACTORIES)
def test_an_engine_trains_to_the_end(client, name):
    engine = made(name, client)
    job = job_of("adam", engine.plan.n_shards)
    state = engine.train(job, dataset_of("adam"))
    alone = made("local", client).train(job_of("adam"), dataset_of("adam"))
    assert state.outcome is Outcome.OUT_OF_EPOCHS
    assert state.progress.n_iter == MAX_EPOCHS
    assert_allclose(state.network.parameters, alone.network.parameters, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("make_job", [partial(job_of, "adam"), lbfgs_job])
def test_a_plan_says_what_a_step_took_if_that_was_expected(client, name, make_job):
    engine = made(name, client)
    row = ForecastRow(name, engine.plan.n_workers, 1, 1.0, 1.0, 1.0, 0, 0)
    engine.plan = replace(engine.plan, forecast=Forecast((row,)))
    state = engine.train(make_job(engine.plan.n_shards), dataset_of("adam"))
    assert state.outcome is not None
    assert 0 < engine.plan.forecast.step_s < 60


def test_a_step_of_lbfgs_is_an_evaluation():
    row = ForecastRow("local", 0, 1, 1.0, 1.0, 1.0, 0, 0)
    plan = replace(plan_of("local", (), 1), forecast=Forecast((row,)))
    job = lbfgs_job()
    progress = LbfgsProgress(n_iter=3, loss=0.5)
    found = replace(job.initial, progress=progress, outcome=OptimizeResult(nfev=4))
    assert with_step_time(plan, job, found, 2.0).forecast.step_s == 0.5
    stopped = replace(found, outcome=Outcome.STOPPED)
    assert with_step_time(plan, job, stopped, 2.0) is plan


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_reports_each_epoch_but_the_last(client, name):
    engine, seen = made(name, client), []

    def note(state, snapshot):
        copy = snapshot()
        assert copy.progress == state.progress
        seen.append((state.progress.n_iter, copy.network.parameters.shape))
        return False

    engine.train(job_of("adam", engine.plan.n_shards), dataset_of("adam"), note)
    size = (NetworkSplit.even(LAYER_UNITS, 1).n_parameters,)
    assert seen == [(number, size) for number in range(1, MAX_EPOCHS)]


@pytest.mark.parametrize("name", FACTORIES)
def test_an_engine_predicts_what_the_whole_network_outputs(client, name):
    engine = made(name, client)
    network = job_of("adam").network
    split = NetworkSplit.even(LAYER_UNITS, 1)
    flat = np.random.default_rng(0).normal(size=split.n_parameters)
    parameters = split.unsplit_layout().views(flat)
    X = dataset_of("adam").X
    outputs = engine.predict(network, parameters, X)
    assert_allclose(outputs, predict_whole(network, parameters, X, 1000), rtol=1e-12)


@pytest.mark.parametrize(
    ("request_", "stays"),
    [
        (EngineRequest(None, None, None, "local"), True),
        (EngineRequest(None, None, None, "auto"), True),
        (EngineRequest(None, None, None, "peers"), False),
        (EngineRequest(None, None, 10**6, "peers"), True),
        (EngineRequest(None, None, 0, "auto"), False),
    ],
    ids=str,
)
def test_a_request_says_whether_a_cluster_is_needed(request_, stays):
    assert (request_.reason_to_stay_local(LAYER_UNITS) is not None) == stays


@pytest.mark.parametrize(
    ("given", "engines"),
    [
        ({}, ("peers", "futures")),
        ({"n_replicas": 1}, ("peers", "futures")),
        # Tasks share one copy of the network, and need all features here.
        ({"n_replicas": 2}, ("peers",)),
        ({"must_share": True}, ("peers",)),
        ({"without_peers": "a firewall"}, ("futures",)),
    ],
    ids=str,
)
def test_a_request_says_which_engines_of_a_cluster_may_be_taken(given, engines):
    request = EngineRequest(None, None, None, "auto", **given)
    assert request.cluster_engines == engines
    assert request.may_do_without_peers == (engines == ("peers", "futures"))


def test_engines_agree_on_the_order_of_the_rows(client):
    states = [
        made(name, client).train(
            job_of("adam", 1 if name == "local" else 2), dataset_of("adam")
        )
        for name in ENGINES
    ]
    for state in states[1:]:
        assert_array_equal(state.row_order, states[0].row_order)
