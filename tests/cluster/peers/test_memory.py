"""Memory of a worker in the "peers" engine, compared with an idle worker."""

import gc
import math
import sys

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import futures_of
from scipy.sparse import csr_array

from skdistmlp.cluster.client.allocator import return_freed_memory
from skdistmlp.cluster.peers import driver
from skdistmlp.cluster.peers.copies import StateCopies
from skdistmlp.cluster.run.cache import clear_caches
from tests.cluster.leaks import own_cluster
from tests.cluster.peers.test_driver import endless, steps_taken, stop_all
from tests.cluster.support import in_thread, wait_until
from tests.estimators.support import fit
from tests.marks import only_quick

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="reads a process's memory from /proc"
)

ALLOWANCE = 6 * 2**20
"""For what is no array: found were 1 to 3 MiB, the more in a worker's first fit."""


@pytest.fixture(scope="module")
def client():
    """Two workers that have trained before, so that everything is imported."""
    with own_cluster(method="spawn", n_workers=2, memory_limit=0) as connected:
        connected.run(never_load_numba)
        fit(classifier(connected, (50, 50), max_iter=3), *rows(100))
        yield connected


def never_load_numba():
    """Have NumPy do all updates: a fit that is watched late has taken many steps."""
    from skdistmlp.nn import compiled

    compiled.UPDATES_BEFORE_LOADING = math.inf


def classifier(client, hidden_layer_sizes, **parameters):
    return endless(
        client, hidden_layer_sizes=hidden_layer_sizes, batch_size=32
    ).set_params(**parameters)


def rows(n_rows):
    X = np.random.default_rng(0).random((n_rows, 784), dtype=np.float32)
    return X, np.arange(n_rows) % 10


def resident(client):
    """Return the resident bytes of each worker, now and at their peak.

    Without what was freed, which the C library may keep.
    """
    client.run(return_freed_memory)

    def read():
        with open("/proc/self/status") as file:
            fields = dict(line.split(":") for line in file)
        return [int(fields[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM")]

    return client.run(read)


def forget_peaks(client):
    def reset():
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")

    client.run(reset)


@pytest.mark.parametrize(
    ("hidden_layer_sizes", "n_rows", "early_stopping"),
    [
        pytest.param(
            (8192, 7000), 64, False, id="1 GB of parameters", marks=pytest.mark.slow
        ),
        pytest.param(
            (2048, 2048), 64, False, id="90 MB of parameters", marks=pytest.mark.slow
        ),
        pytest.param((2048, 2048), 64, True, id="and the best parameters"),
        pytest.param((64, 64), 20_000, False, id="60 MB of rows"),
    ],
)
def test_a_worker_holds_its_share_and_the_rows_once(
    client, hidden_layer_sizes, n_rows, early_stopping
):
    X, y = rows(n_rows)
    forget_peaks(client)
    idle = {worker: now for worker, (now, _) in resident(client).items()}
    clf = classifier(client, hidden_layer_sizes, early_stopping=early_stopping)
    training = in_thread(clf.fit, X, y)
    wait_until(lambda: steps_taken(client) > 2, "every buffer is in use")
    during = resident(client)
    with pytest.warns(UserWarning, match="interrupted"):
        stop_all(client, training)
    plan, after = clf.plan_, resident(client)
    n_parameters = plan.split.n_parameters
    for worker, held in zip(plan.workers, plan.bytes_held, strict=True):
        share = (16 + 4 * early_stopping) * n_parameters / 2
        assert share + X.nbytes < held < 1.1 * share + 1.02 * X.nbytes + ALLOWANCE
        assert abs(during[worker][0] - idle[worker] - held) < ALLOWANCE
        # Rows are copied on arrival, to where the processor wants them. What is
        # collected at the end is not copied.
        peak = after[worker][1] - idle[worker]
        assert peak < held + X.nbytes + ALLOWANCE
    assert_back_at(client, idle)


@pytest.mark.parametrize(
    ("hidden_layer_sizes", "n_rows"),
    [
        pytest.param(
            (2048, 2048), 64, id="90 MB of parameters", marks=pytest.mark.slow
        ),
        pytest.param((64, 64), 20_000, id="60 MB of rows"),
    ],
)
def test_a_replica_holds_half_of_the_rows_and_of_the_moments(
    client, hidden_layer_sizes, n_rows
):
    X, y = rows(n_rows)
    idle = {worker: now for worker, (now, _) in resident(client).items()}
    clf = classifier(client, hidden_layer_sizes, n_replicas=2)
    training = in_thread(clf.fit, X, y)
    wait_until(lambda: steps_taken(client) > 2, "every buffer is in use")
    during = resident(client)
    with pytest.warns(UserWarning, match="interrupted"):
        stop_all(client, training)
    plan = clf.plan_
    # Parameters and gradient; half of two moments, of the sum of gradients, and of
    # what the other sends.
    arrays = (2 + 4 / 2) * 4 * plan.split.n_parameters
    for worker, held in zip(plan.workers, plan.bytes_held, strict=True):
        assert arrays + X.nbytes / 2 < held < arrays + X.nbytes / 2 + ALLOWANCE
        assert abs(during[worker][0] - idle[worker] - held) < ALLOWANCE
    assert_back_at(client, idle)


@pytest.mark.parametrize("n_replicas", only_quick(0, cases=[1, 2]))
def test_at_its_peak_a_worker_holds_new_copies_and_those_before(
    client, monkeypatch, n_replicas
):
    monkeypatch.setattr(driver, "ROUND_S", 0.0)
    monkeypatch.setattr(StateCopies, "is_due", True)
    X, y = rows(64)
    forget_peaks(client)
    idle = {worker: now for worker, (now, _) in resident(client).items()}
    clf = classifier(client, (2048, 2048), n_replicas=n_replicas, max_iter=4)
    with dask.config.set({"skdistmlp.max-recoveries": 3}):
        fit(clf, X, y)
    plan, after = clf.plan_, resident(client)
    # Of what arrives, the parameters are copied to where the processor wants them.
    arriving = 4 * plan.split.n_parameters / plan.n_shards
    for worker, held in zip(plan.workers, plan.bytes_held, strict=True):
        peak = after[worker][1] - idle[worker]
        assert held - ALLOWANCE < peak < held + 1.01 * arriving + ALLOWANCE
    assert min(plan.bytes_of_copies) > 10 * ALLOWANCE
    assert_back_at(client, idle)


BLOCK_BYTES = 1000 * 784 * 4


@pytest.mark.slow
@pytest.mark.parametrize("held_by_the_user", only_quick(1, cases=[True, False]))
@pytest.mark.parametrize("is_sparse", [False, True], ids=["dense", "sparse"])
def test_a_worker_concatenates_blocks_without_holding_them_twice(
    client, small_batches, held_by_the_user, is_sparse
):
    """At its peak it holds its rows and one batch of blocks in flight.

    Beside them are blocks that the user holds, which were there before, or those that
    were computed for the fit, of which it has about a half.
    """
    n_rows = 40_000
    X = da.random.default_rng([held_by_the_user, is_sparse]).random(
        (n_rows, 784), chunks=1000, dtype=np.float32
    )
    if is_sparse:
        X = X.map_blocks(csr_array)
    if held_by_the_user:
        X = client.persist(X)
        client.gather(client.map(type, futures_of(X)))
    wait_until(lambda: not any(client.processing().values()), "no task is left")
    client.run(gc.collect)
    forget_peaks(client)
    idle = {worker: now for worker, (now, _) in resident(client).items()}
    clf = classifier(client, (64, 64))
    training = in_thread(clf.fit, X, np.arange(n_rows) % 10)
    wait_until(lambda: steps_taken(client) > 2, "every buffer is in use")
    during = resident(client)
    with pytest.warns(UserWarning, match="interrupted"):
        stop_all(client, training)
    plan, after = clf.plan_, resident(client)
    computed = 0 if held_by_the_user else (1 + is_sparse) * X.nbytes
    for worker, held in zip(plan.workers, plan.bytes_held, strict=True):
        assert X.nbytes < held
        assert abs(during[worker][0] - idle[worker] - held) < ALLOWANCE
        peak = after[worker][1] - idle[worker]
        assert peak < held + 4 * BLOCK_BYTES + 0.6 * computed + ALLOWANCE
    keys = {future.key for future in futures_of(X)}
    X = None
    # Else the memory of these blocks would be taken for that of the next test.
    wait_until(
        lambda: keys.isdisjoint(k for held in client.has_what().values() for k in held),
        "the blocks are released",
    )
    assert_back_at(client, idle)


@pytest.fixture
def small_batches(client):
    """Allow two dense blocks in flight to a worker at a time."""
    before = set_batch_bytes(client, 2 * BLOCK_BYTES)
    yield
    set_batch_bytes(client, before)


def set_batch_bytes(client, n_bytes):
    """Set the bytes of a batch on every worker; return the previous value."""

    def exchange():
        from skdistmlp.cluster.data import blocks

        before, blocks.BATCH_BYTES = blocks.BATCH_BYTES, n_bytes
        return before

    (before,) = set(client.run(exchange).values())
    return before


def assert_back_at(client, idle):
    clear_caches()
    wait_until(
        lambda: all(
            now < idle[worker] + ALLOWANCE
            for worker, (now, _) in resident(client).items()
        ),
        "the workers are idle again",
    )
