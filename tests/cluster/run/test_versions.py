"""Another version of the package on a worker is reported before anything is sent."""

import sys
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest
from distributed import Client

import skdistmlp
from skdistmlp import ClusterError, DistributedMLPClassifier
from skdistmlp.cluster.prediction.by_rows import predict_by_rows
from tests.cluster.leaks import assert_nothing_left, remember
from tests.cluster.support import bounded, wait_until

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def client(processes):
    """A client that has asked no worker for its version yet."""
    processes.have_workers(2)
    with Client(processes.address, set_as_default=False) as connected:
        remember(connected)
        yield connected
        assert_nothing_left(connected)


VERSION = skdistmlp.__version__


@contextmanager
def installed(client, worker, version):
    """Pretend that a worker has another version, or none; restore it on exit."""
    client.run(install, version, workers=[worker])
    yield
    client.run(install, VERSION, workers=[worker])


def install(version):
    # The version of the loaded package, whatever its files and metadata say.
    skdistmlp.__version__ = version
    sys.modules["skdistmlp"] = None if version is None else skdistmlp


def fit(client, engine):
    clf = DistributedMLPClassifier(
        (9, 8), max_iter=2, client=client, engine=engine, parameter_threshold=0
    )
    return clf.fit(np.eye(20), np.arange(20) % 2)


def predict(client):
    X = np.eye(20)
    workers = tuple(client.nthreads())
    found = predict_by_rows(client, workers, np.negative, X, 5, 1, None)
    assert np.array_equal(found, -X)


CALLS = {
    "peers": partial(fit, engine="peers"),
    "futures": partial(fit, engine="futures"),
    "predict": predict,
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("0.0.9", r"runs skdistmlp 0\.0\.9, this process"),
        (None, "has no skdistmlp, this process"),
    ],
)
def test_another_version_on_a_worker_is_reported(client, call, version, said):
    victim = tuple(client.nthreads())[1]
    with (
        installed(client, victim, version),
        pytest.raises(ClusterError, match=f"worker {victim} {said}"),
    ):
        bounded(call, client)
    bounded(call, client)


def test_another_version_at_a_reused_address_is_reported(processes, client):
    bounded(fit, client, "peers")
    victim = tuple(client.nthreads())[1]
    processes.kill_worker(victim)
    wait_until(lambda: victim not in client.nthreads(), "the worker is missed")
    processes.have_workers(2, port=int(victim.rpartition(":")[2]))
    assert victim in client.nthreads()
    with (
        installed(client, victim, "0.0.9"),
        pytest.raises(ClusterError, match=f"worker {victim} runs skdistmlp 0.0.9"),
    ):
        bounded(fit, client, "peers")
    bounded(fit, client, "peers")
