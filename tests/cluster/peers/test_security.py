"""Shards in real worker processes of a cluster that uses TLS."""

import gc
import ssl
import warnings
from types import SimpleNamespace

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster, Security
from numpy.testing import assert_allclose

from skdistmlp import DistributedMLPClassifier
from skdistmlp.cluster.peers.measured import forget_machines
from skdistmlp.cluster.peers.measurement import measure_machines
from skdistmlp.cluster.peers.worker import tls_of
from skdistmlp.exceptions import ExchangeError
from skdistmlp.parallel.grid import Grid
from skdistmlp.training.trial import Trial
from tests.certificates import write_certificates
from tests.cluster.leaks import assert_nothing_left, remember
from tests.cluster.support import bounded, in_thread, wait_until
from tests.marks import only_quick
from tests.training.jobs import dataset_of, job_of

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture(scope="module")
def security(tmp_path_factory):
    return write_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module", params=only_quick(0, cases=["tls://", "wss://"]))
def encrypted(request, security):
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address="127.0.0.1:0",
            protocol=request.param,
            security=security,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        remember(client)
        yield client
        assert_nothing_left(client)
    del cluster, client
    with warnings.catch_warnings():
        # Dask leaves its WebSockets to the garbage collector, and tornado warns: here,
        # and not in whatever test comes next.
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def classifier(client, **parameters):
    return DistributedMLPClassifier(
        (20, 9),
        batch_size=100,
        random_state=0,
        client=client,
        engine="peers",
        parameter_threshold=0,
        **{"max_iter": 3} | parameters,
    )


def sockets_in_use():
    """Say for each connection of the shards in this process if it is encrypted."""
    from skdistmlp.cluster.peers import worker as peers_worker

    return [
        isinstance(link.socket, ssl.SSLSocket)
        for shard in list(peers_worker._RUNS.values())
        if shard._communicator is not None
        for link in shard._communicator._connections.links.values()
    ]


def stop(client, fit):
    client.run(stop_all)
    bounded(fit.result)


def stop_all():
    from skdistmlp.cluster.peers import worker as peers_worker

    for shard in list(peers_worker._RUNS.values()):
        shard.request_stop()


def test_shards_use_the_tls_of_their_cluster(encrypted, digits):
    X, y = digits[0][:300], digits[1][:300]
    scheme = encrypted.cluster.scheduler_address.partition("//")[0]
    assert {worker.partition("//")[0] for worker in encrypted.nthreads()} == {scheme}
    clf = classifier(encrypted, max_iter=10**6, tol=0.0, n_iter_no_change=np.inf)
    fit = in_thread(clf.fit, X, y)
    in_use = wait_until(
        lambda: all(found := encrypted.run(sockets_in_use).values()) and list(found),
        "both shards are connected",
    )
    assert in_use == [[True], [True]]
    with pytest.warns(UserWarning, match="interrupted"):
        stop(encrypted, fit)

    here = classifier(None).set_params(engine="local").fit(X, y)
    there = bounded(classifier(encrypted).fit, X, y)
    assert there.engine_ == "peers"
    for mine, other in zip(there.coefs_, here.coefs_, strict=True):
        assert_allclose(mine, other, rtol=1e-6, atol=1e-12)


def test_workers_are_measured_over_tls(encrypted):
    forget_machines()
    trial = Trial.of(job_of("adam"), dataset_of("adam"), 50)
    workers, grids = tuple(encrypted.nthreads()), [Grid(1), Grid(2), Grid(1, 2)]
    found = measure_machines(encrypted, workers, trial, grids)
    assert found.exchange_s[-1] > found.exchange_s[0] > 0
    assert len(found.worker_s) == 2


UNENCRYPTED = Security(require_encryption=False)
WITHOUT_CERTIFICATES = Security(require_encryption=True)


@pytest.mark.parametrize("scheme", ["tcp", "ws", "inproc"])
def test_shards_of_an_unencrypted_cluster_do_not_encrypt(scheme):
    worker = SimpleNamespace(address=f"{scheme}://here", security=UNENCRYPTED)
    assert tls_of(worker) is None


@pytest.mark.parametrize(
    ("scheme", "given"),
    [
        ("tls", UNENCRYPTED),
        ("wss", UNENCRYPTED),
        ("new", UNENCRYPTED),
        ("tcp", WITHOUT_CERTIFICATES),
        ("ws", WITHOUT_CERTIFICATES),
    ],
)
def test_without_a_certificate_nothing_is_sent_unencrypted(scheme, given):
    worker = SimpleNamespace(address=f"{scheme}://here", security=given)
    with pytest.raises(ExchangeError, match=f"{scheme}://here has no TLS certificate"):
        tls_of(worker)


def test_required_encryption_is_used_with_any_protocol(security):
    tls = tls_of(SimpleNamespace(address="ws://here", security=security))
    assert all(isinstance(context, ssl.SSLContext) for context in tls)


def set_port(port):
    dask.config.set({"skdistmlp.listen-port": port})


def listening_ports():
    from skdistmlp.cluster.peers import worker as peers_worker

    return [
        s.address[1]
        for s in list(peers_worker._RUNS.values())
        if s._communicator is not None
    ]


@pytest.fixture
def ports(client):
    """Assign a port to each worker, until the context ends."""
    import socket

    chosen = {}
    for worker in client.nthreads():
        with socket.create_server(("127.0.0.1", 0)) as free:
            chosen[worker] = free.getsockname()[1]
    for worker, port in chosen.items():
        client.run(set_port, port, workers=[worker])
    yield chosen
    client.run(set_port, 0)


def test_the_port_of_a_worker_can_be_chosen(client, ports, digits):
    """Twice, since a port stays in use for a while after a connection."""
    X, y = digits[0][:300], digits[1][:300]
    clf = classifier(client, max_iter=10**6, tol=0.0, n_iter_no_change=np.inf)
    for _ in range(2):
        fit = in_thread(clf.fit, X, y)
        wait_until(
            lambda: all(client.run(listening_ports).values()), "the shards have met"
        )
        found = client.run(listening_ports)
        assert found == {worker: [port] for worker, port in ports.items()}
        with pytest.warns(UserWarning, match="interrupted"):
            stop(client, fit)


@pytest.mark.slow
def test_a_port_in_use_ends_the_fit_with_an_error(client, ports, digits):
    X, y = digits[0][:300], digits[1][:300]
    port = next(iter(ports.values()))
    client.run(set_port, port)
    with pytest.raises(ExchangeError, match=rf"port {port} of 127.0.0.1.*listen-port"):
        bounded(classifier(client).fit, X, y)
    assert_nothing_left(client)
