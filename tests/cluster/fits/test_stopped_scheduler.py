"""A scheduler that has stopped before a call begins, and answers nothing."""

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client

from skdistmlp import ClusterError, DistributedMLPClassifier
from skdistmlp.cluster.prediction.lazy import LARGE_GRAPH_SETTING
from tests.cluster.dask_processes import DaskProcesses
from tests.cluster.leaks import assert_nothing_left, remember
from tests.cluster.support import bounded
from tests.marks import only_quick

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def processes(tmp_path_factory):
    with DaskProcesses(tmp_path_factory.mktemp("dask"), n_workers=2) as running:
        yield running


@pytest.fixture(scope="module")
def data(digits):
    X, y = digits
    return X[:300], y[:300]


def classifier(**parameters):
    return DistributedMLPClassifier(
        (9, 8), batch_size=100, max_iter=2, random_state=0, **parameters
    )


@pytest.fixture(scope="module")
def fitted(data):
    return classifier(engine="local").fit(*data)


def fit(engine, client, fitted, X, y):
    classifier(client=client, engine=engine).fit(X, y)


def fit_collection(engine, client, fitted, X, y):
    fit(engine, client, fitted, da.from_array(X, chunks=(100, -1)), y)


def predict(engine, client, fitted, X, y):
    fitted.set_params(client=client, engine=engine).predict(X)


def score_collection(engine, client, fitted, X, y):
    X = da.from_array(X, chunks=(100, -1))
    fitted.set_params(client=client, engine=engine).score(X, y)


def predict_lazily_with_a_large_network(engine, client, fitted, X, y):
    with dask.config.set({LARGE_GRAPH_SETTING: "1 kiB"}):
        X = da.from_array(X, chunks=(100, -1))
        fitted.set_params(client=client, engine=engine).predict(X)


CALLS = [
    fit,
    fit_collection,
    predict,
    score_collection,
    predict_lazily_with_a_large_network,
]


CASES = [(call, engine) for call in CALLS for engine in ("futures", "peers")]
# With "peers", a few rows are predicted here, and the scheduler is not asked.
CASES.remove((predict, "peers"))


@pytest.mark.parametrize(
    ("call", "engine"),
    only_quick(1, 4, 8, cases=CASES),
    ids=lambda one: getattr(one, "__name__", one),
)
def test_a_call_ends_within_the_bound_and_names_the_scheduler(
    processes, data, fitted, call, engine
):
    with Client(processes.address, set_as_default=False) as client:
        remember(client)
        with (
            dask.config.set({"skdistmlp.exchange-timeout": "500ms"}),
            processes.stopped_scheduler() as stop,
        ):
            stop()
            refused = f"{processes.address} has not answered for 2 s"
            with pytest.raises(ClusterError, match=refused):
                bounded(call, engine, client, fitted, *data)
        bounded(call, engine, client, fitted, *data)
        assert_nothing_left(client)


@pytest.mark.parametrize("engine", ["futures", "peers"])
@pytest.mark.slow
def test_a_fit_after_it_has_woken_up_is_right(processes, data, fitted, engine):
    with Client(processes.address, set_as_default=False) as client:
        clf = classifier(client=client, engine=engine).fit(*data)
    for mine, other in zip(clf.coefs_, fitted.coefs_, strict=True):
        np.testing.assert_allclose(mine, other, rtol=1e-6)
