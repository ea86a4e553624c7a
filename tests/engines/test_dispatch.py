"""Training and predictions go to the engine of the plan, wherever that is."""

from types import SimpleNamespace

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from skdistmlp.cluster.peers.measured import forget_machines, unreachable_before
from skdistmlp.engines.dispatch import plan_prediction, predict, train
from skdistmlp.engines.engine import EngineRequest
from skdistmlp.exceptions import ExchangeError, WorkerLostError
from skdistmlp.nn.layers import Network, dense_layers
from skdistmlp.parallel.split import NetworkSplit
from skdistmlp.training.progress import Outcome
from tests.checkpoints.support import KilledError, killed_after
from tests.cluster.run.test_reservation import forget_choices
from tests.training.jobs import LAYER_UNITS, dataset_of, job_of

LOCAL = EngineRequest(None, None, None, "local")
SPLIT = NetworkSplit.even(LAYER_UNITS, 1)


def parameters():
    flat = np.random.default_rng(0).normal(size=SPLIT.n_parameters)
    return SPLIT.unsplit_layout().views(flat)


def test_the_result_has_the_plan_and_the_state_of_the_whole_network():
    result = train(LOCAL, job_of("adam"), dataset_of("adam"))
    assert result.plan.engine == "local"
    assert result.state.outcome is Outcome.OUT_OF_EPOCHS
    assert result.state.network.parameters.size == SPLIT.n_parameters


def test_the_job_s_random_state_is_advanced_wherever_training_ran(client):
    ends = []
    for request in (LOCAL, EngineRequest(client, 2, None, "peers")):
        job = job_of("adam")
        train(request, job, dataset_of("adam"))
        ends.append(job.initial.random_state.get_state()[1])
    assert_array_equal(*ends)
    assert not np.array_equal(ends[0], np.random.RandomState(0).get_state()[1])


def test_a_callback_gets_what_training_would_end_with():
    results = []

    def note(state, result):
        results.append((state.progress.n_iter, result()))
        return len(results) == 3

    ended = train(LOCAL, job_of("early stopping"), dataset_of("adam"), note)
    assert [number for number, _ in results] == [1, 2, 3]
    assert ended.state.outcome is Outcome.STOPPED
    assert_array_equal(
        results[-1][1].state.network.parameters, ended.state.network.parameters
    )


def test_training_begins_before_its_first_epoch_with_those_of_before(tmp_path):
    told = []

    def fit(on_epoch_end):
        train(
            LOCAL,
            job_of("adam"),
            dataset_of("adam"),
            on_epoch_end,
            checkpoint=tmp_path,
            on_begin=lambda n_before: told.append(("begins after", n_before)),
        )

    def note(state, _):
        told.append(state.progress.n_iter)
        return False

    with killed_after(2), pytest.raises(KilledError):
        fit(note)
    fit(note)
    assert told[:5] == [("begins after", 0), 1, 2, ("begins after", 2), 3]


@pytest.mark.usefixtures("forgets")
@pytest.mark.parametrize("kind", [ExchangeError, WorkerLostError])
def test_an_error_of_a_callback_is_raised_as_it_is(client, kind):
    """Though it may be one after which a fit would recover, or be planned again."""
    error, told = kind("of another fit"), []
    error.before_training = True

    def fail(state, _):
        told.append(state.progress.n_iter)
        raise error from LookupError("why")

    request = EngineRequest(client, 2, 0, "auto")
    with pytest.raises(kind) as caught:
        train(request, job_of("adam"), dataset_of("adam"), fail)
    assert caught.value is error
    assert isinstance(error.__cause__, LookupError)
    assert told == [1]


def plans_of_broken_fit(request, **attributes):
    """Return the plans of a fit whose shards do not find each other."""
    plans = []

    class Broken:
        def __init__(self, plan, client):
            self.plan = plan
            plans.append(plan)

        def train(self, *_):
            error = ExchangeError("no connection. Open a port.")
            vars(error).update(attributes)
            raise error

    table = dict.fromkeys(("local", "futures", "peers"), Broken)
    with pytest.raises(ExchangeError, match="no connection"):
        train(request, job_of("adam"), dataset_of("adam"), engines=table)
    return plans


@pytest.fixture
def forgets(client):
    forget_machines()
    forget_choices(client)
    yield
    forget_machines()
    forget_choices(client)


@pytest.mark.usefixtures("forgets")
@pytest.mark.parametrize("before_training", [True, False])
def test_only_a_fit_that_has_not_begun_is_planned_again(client, before_training):
    request = EngineRequest(client, None, 0, "auto")
    plans = plans_of_broken_fit(request, before_training=before_training)
    # And no more than once.
    engines = [plan.engine for plan in plans]
    assert engines == ["peers", "futures"][: 1 + before_training]


@pytest.mark.usefixtures("forgets")
@pytest.mark.parametrize("apart", [((0, 1),), ()])
def test_workers_that_could_not_connect_are_noted_and_not_those_of_the_next_plan(
    client, apart
):
    request = EngineRequest(client, 2, 0, "auto")
    first, second = plans_of_broken_fit(request, before_training=True, apart=apart)
    # The first plan's choice counts for a while, since its fit has not arrived.
    assert {*second.workers} != {*first.workers}
    noted = "no connection" if apart else None
    what = (
        "the workers cannot reach each other"
        if apart
        else "peers failed before their first step"
    )
    assert second.reason == f"{what} (no connection)"
    assert unreachable_before(client, first.workers) == noted
    assert unreachable_before(client, second.workers) is None


@pytest.mark.usefixtures("forgets")
def test_workers_that_were_asked_for_are_not_noted(client):
    request = EngineRequest(client, 2, 0, "peers")
    (plan,) = plans_of_broken_fit(request, before_training=True, apart=((0, 1),))
    assert unreachable_before(client, plan.workers) is None


class Noted:
    """An engine that notes which network it is asked to predict with."""

    def __init__(self, plan, client):
        self.plan = plan

    def predict(self, network, parameters, X):
        return SimpleNamespace(network=network, rows=len(X), plan=self.plan)


def test_a_large_prediction_goes_to_the_engine_of_its_plan(client):
    layer_units = (64, 1000, 1000, 10)
    network = Network(dense_layers(layer_units, "relu"), "softmax")
    split = NetworkSplit.even(layer_units, 1)
    parameters = split.unsplit_layout().views(np.zeros(split.n_parameters))
    X = np.zeros((100_000, 64))
    table = dict.fromkeys(("local", "futures", "peers"), Noted)
    request = EngineRequest(client, None, 0, "auto")
    noted = predict(request, network, parameters, X, table)
    planned = plan_prediction(request, network, parameters, X, table)
    assert noted.rows == 100_000
    assert noted.plan == planned
    assert (planned.engine, planned.split_by) == ("futures", "rows")


@pytest.mark.parametrize("request_", [LOCAL, EngineRequest(None, None, 10**6, "peers")])
def test_a_prediction_that_stays_makes_no_engine(request_):
    network, X = job_of("adam").network, dataset_of("adam").X
    outputs = predict(request_, network, parameters(), X, {})
    assert outputs.shape == (len(X), 10)
