"""Which engine a request leads to, and what it does not do on the way there."""

import warnings
from types import SimpleNamespace

import dask
import numpy as np
import pytest
from distributed import Client

from skdistmlp import ClusterError, DistributedMLPClassifier
from skdistmlp.engines import choice
from skdistmlp.engines.choice import ENGINES, NO_CLIENT, open_engine
from skdistmlp.engines.engine import EngineRequest
from skdistmlp.engines.futures import FuturesEngine
from skdistmlp.engines.local import LocalEngine
from skdistmlp.engines.peers import PeersEngine
from skdistmlp.planning.cost import StepCost
from tests.cluster.run.test_reservation import choices, forget_choices

LARGE, SMALL = (64, 300, 300, 10), (64, 5, 10)
STEP = StepCost.of_step(200)

CLASSES = {"local": LocalEngine, "futures": FuturesEngine, "peers": PeersEngine}


def opened(layer_units, cost=STEP, *, client=None, n_workers=None, **parameters):
    threshold = parameters.get("parameter_threshold")
    engine = parameters.get("engine", "auto")
    request = EngineRequest(client, n_workers, threshold, engine)
    with open_engine(request, layer_units, cost) as engine:
        assert type(engine) is CLASSES[engine.plan.engine]
        return engine.plan


def test_the_table_has_every_engine():
    assert set(ENGINES) == set(CLASSES)


@pytest.mark.parametrize(
    ("layer_units", "engine", "threshold", "expected"),
    [
        (LARGE, "auto", None, "peers"),
        (SMALL, "auto", None, "local"),
        (SMALL, "auto", 0, "peers"),
        (SMALL, "peers", None, "peers"),
        (SMALL, "futures", None, "futures"),
        (SMALL, "futures", 10**6, "local"),
        (LARGE, "local", 0, "local"),
    ],
)
def test_training_runs_where_the_parameters_say(
    client, layer_units, engine, threshold, expected
):
    plan = opened(
        layer_units, client=client, engine=engine, parameter_threshold=threshold
    )
    assert plan.engine == expected
    assert len(plan.workers) == (0 if expected == "local" else 3)


def test_n_workers_limits_the_workers_of_training(client):
    assert len(opened(LARGE, client=client, n_workers=2).workers) == 2
    with pytest.raises(ClusterError, match="n_workers=4"):
        opened(LARGE, client=client, n_workers=4)


@pytest.fixture
def no_choices(client):
    forget_choices(client)
    yield
    forget_choices(client)


@pytest.mark.usefixtures("no_choices")
def test_workers_that_a_plan_does_without_are_left_to_others(client, monkeypatch):
    one_neuron = 64, 1, 10
    plan = opened(one_neuron, client=client, n_workers=2, parameter_threshold=0)
    assert len(plan.workers) == 1
    assert choices(client) == []
    plan = opened(LARGE, client=client, n_workers=2)
    assert choices(client) == [{*plan.workers}]
    forget_choices(client)

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(choice.DefaultPlanner, "plan", fail)
    with pytest.raises(KeyboardInterrupt):
        opened(LARGE, client=client, n_workers=2)
    assert choices(client) == []


def test_a_prediction_takes_the_workers_there_are(client):
    many_rows = StepCost.of_prediction(10**7)
    plan = opened((64, 1000, 1000, 10), many_rows, client=client, n_workers=4)
    assert (plan.engine, plan.split_by, len(plan.workers)) == ("futures", "rows", 3)


def test_links_of_workers_that_were_not_measured_are_those_of_one_machine_or_more():
    here, far = (
        choice.assumed_machines((f"tcp://{host}:1", f"tcp://{host}:2"))
        for host in ("127.0.0.1", "192.0.2.7")
    )
    assert len(here.workers) == len(far.workers) == 2
    assert far.links[0].bits_per_s < 1e9 < here.links[0].bits_per_s


def test_a_small_prediction_asks_no_cluster():
    plan = opened(LARGE, StepCost.of_prediction(10), client="tcp://192.0.2.1:1")
    assert plan.engine == "local"


def test_the_warning_of_a_prediction_names_the_line_of_the_user(monkeypatch):
    monkeypatch.setattr(choice, "reason_to_predict_locally", lambda *_: None)
    clf = DistributedMLPClassifier((5,), engine="local", max_iter=200, tol=1)
    X = np.eye(8)
    clf.fit(X, np.arange(8) % 2)
    clf.set_params(engine="auto", client="tcp://127.0.0.1:1", parameter_threshold=0)
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.warns(UserWarning, match="cannot be used") as caught,
    ):
        clf.predict(X)
    assert [warning.filename for warning in caught] == [__file__]


def test_a_prediction_without_its_cluster_is_made_here():
    many_rows, address = StepCost.of_prediction(10**7), "tcp://127.0.0.1:1"
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.warns(UserWarning, match=rf"no Dask scheduler answers at .*{address}"),
    ):
        plan = opened(LARGE, many_rows, client=address)
    assert (plan.engine, plan.reason) == ("local", "the cluster cannot be used")
    with (
        dask.config.set({"distributed.comm.timeouts.connect": "1s"}),
        pytest.raises(ClusterError, match="no Dask scheduler answers"),
    ):
        opened(LARGE, many_rows, client=address, engine="futures")


@pytest.mark.usefixtures("not_yet_warned")
def test_without_a_client_training_is_local_and_warns_once():
    with pytest.warns(UserWarning, match="engine='peers' needs a cluster"):
        plan = opened(LARGE, engine="peers")
    assert (plan.engine, plan.reason) == ("local", NO_CLIENT)
    assert opened(LARGE, engine="futures").engine == "local"


@pytest.mark.usefixtures("not_yet_warned")
def test_auto_without_a_client_says_nothing():
    assert opened(LARGE).reason == NO_CLIENT
    assert opened(LARGE, StepCost.of_prediction(10**7)).reason == NO_CLIENT


@pytest.mark.usefixtures("not_yet_warned")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"client": "tcp://192.0.2.1:1"}, "client= was given"),
        ({"n_workers": 2}, "n_workers=2 was given"),
    ],
)
def test_a_small_network_that_uses_no_cluster_says_so_once(given, said):
    expected = (
        rf"{said}, but training stays in this process: 385 parameters .* "
        r"\(setting skdistmlp\.parameter-threshold\)\. Pass parameter_threshold=0"
    )
    with pytest.warns(UserWarning, match=expected):
        assert opened(SMALL, **given).engine == "local"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert opened(SMALL, **given).engine == "local"


@pytest.mark.usefixtures("not_yet_warned")
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"n_workers": 1},
        {"n_workers": 2, "parameter_threshold": 1000},
        {"n_workers": 2, "engine": "local"},
    ],
    ids=str,
)
def test_whoever_has_decided_or_asked_for_no_cluster_is_not_warned(given):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert opened(SMALL, **given).engine == "local"


@pytest.mark.usefixtures("not_yet_warned")
def test_whose_rows_have_a_client_is_not_told_to_have_given_one():
    request = EngineRequest(
        "tcp://192.0.2.1:1", None, None, "auto", client_of_data=True
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with open_engine(request, SMALL, STEP) as engine:
            assert engine.plan.engine == "local"


def test_an_engine_of_another_table_is_planned_by_its_name(client):
    made = []

    def make(plan, client_):
        made.append(plan)
        return SimpleNamespace(plan=plan, client=client_)

    request = EngineRequest(client, 2, None, "threads")
    with open_engine(request, SMALL, STEP, {**ENGINES, "threads": make}) as engine:
        assert engine.client is client
    (plan,) = made
    assert (plan.engine, plan.n_shards) == ("threads", 2)
    assert plan.reason == "engine='threads' was asked for"


def test_the_client_is_connected_inside_the_context(cluster):
    request = EngineRequest(cluster.scheduler_address, 2, 0, "peers")
    with open_engine(request, SMALL, STEP) as engine:
        used = engine._client
        assert isinstance(used, Client)
        assert used.status == "running"
    assert used.status == "closed"
