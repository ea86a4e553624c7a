"""Each row is on one worker, in memory or in a file, and the answer is the same."""

import os
from contextlib import suppress

import dask
import dask.array as da
import numpy as np
import psutil
import pytest
from dask.distributed import Client, LocalCluster
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.neural_network import MLPClassifier

from skdistmlp import DistributedMLPClassifier
from skdistmlp.cluster.client.workers import known_workers
from skdistmlp.cluster.peers import worker as peers_worker
from skdistmlp.parallel.rows import RowHolding
from tests.cluster.support import load
from tests.engines.thread_engine import in_threads
from tests.estimators.configurations import CONFIGURATIONS, Case
from tests.estimators.support import assert_parity, assert_same_network, quiet
from tests.estimators.test_replicas import (
    GRIDS,
    NAMED,
    client,
    four_workers,
    looking,
)
from tests.marks import only_quick

__all__ = ["client", "four_workers"]  # the fixtures

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.mark.parametrize("grid", only_quick(0, cases=["1 x 2", "2 x 2"]))
@pytest.mark.parametrize("name", NAMED)
def test_named_configurations_match(name, grid):
    n_replicas, n_shards = GRIDS[grid]
    assert_parity(
        Case.of(name), shares=n_shards * [1], n_replicas=n_replicas, rows=ONCE
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(CONFIGURATIONS) - set(NAMED)))
def test_every_configuration_matches(name):
    assert_parity(Case.of(name), shares=[1, 1, 1], rows=ONCE)


ONCE = RowHolding("once")


@pytest.mark.parametrize("shares", [(), (5, 1, 2)], ids=["equal", "unequal"])
@pytest.mark.parametrize("grid", only_quick(0, 2, 3, cases=GRIDS))
@pytest.mark.parametrize("convert", [np.asarray, sparse.csr_array])
def test_both_forms_have_the_same_bits(grid, convert, shares):
    n_replicas, n_shards = GRIDS[grid]
    case = Case.of("early stopping, which stops")
    fitted = []
    for form in ("copies", "once"):
        rows = RowHolding(form, shares=shares[:n_replicas])
        cls = in_threads(DistributedMLPClassifier, n_shards * [1], n_replicas, rows)
        clf = cls(**case.params | {"dropout": [0.1, 0.2, 0.3]}, random_state=0)
        fitted.append(clf.fit(convert(case.X), case.y))
    for one, other in zip(fitted[0].coefs_, fitted[1].coefs_, strict=True):
        assert_array_equal(one, other)
    assert fitted[0].validation_scores_ == fitted[1].validation_scores_


def share_of_memory(client, n_bytes):
    """Return the setting by which workers hold so many bytes of features, no more."""
    limit = min(info["memory_limit"] for info in known_workers(client).values())
    return dask.config.set({"skdistmlp.rows.memory-share": n_bytes / limit})


def n_bytes_of(X):
    return (
        sum(a.nbytes for a in (X.data, X.indices, X.indptr))
        if (sparse.issparse(X))
        else X.nbytes
    )


INPUTS = {
    "arrays": (np.asarray, np.asarray),
    "sparse rows": (sparse.csr_array, np.asarray),
    "Dask arrays": (
        lambda X: da.from_array(X, (37, -1)),
        lambda y: da.from_array(y, 50),
    ),
    "sparse Dask arrays": (
        lambda X: da.from_array(X, (37, -1)).map_blocks(sparse.csr_array),
        np.asarray,
    ),
}


def open_files():
    """Return how many files of rows this process has open."""
    return sum("skdistmlp-rows" in opened for opened in opened_files())


def opened_files():
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            yield os.readlink(f"/proc/self/fd/{fd}")


@pytest.mark.parametrize("where", only_quick(1, cases=["in memory", "in a file"]))
@pytest.mark.parametrize("grid", only_quick(0, cases=["1 x 2", "2 x 2"]))
@pytest.mark.parametrize("given", INPUTS)
def test_real_workers_match_scikit_learn(client, given, grid, where):
    case, (n_replicas, n_shards) = Case.of("early stopping, which stops"), GRIDS[grid]
    as_X, as_y = INPUTS[given]
    ours, theirs = case.pair(client=client, engine="peers")
    ours.set_params(n_replicas=n_replicas, n_workers=n_replicas * n_shards)
    n_bytes = case.X.nbytes / n_replicas / n_shards * 1.6
    if where == "in a file":
        n_bytes = 100
    elif "sparse" in given:
        n_bytes = n_bytes_of(sparse.csr_array(case.X)) / n_replicas / n_shards * 1.6
    with share_of_memory(client, n_bytes):
        quiet(ours.fit, as_X(case.X), as_y(case.y))
    quiet(theirs.fit, case.X, case.y)
    assert_same_network(ours, theirs)
    plan = ours.plan_
    assert (plan.rows.form, plan.rows.on_disk) == ("once", where == "in a file")
    assert f"each row on one worker{' in a file' * plan.rows.on_disk}: " in str(plan)
    assert plan.features_held == pytest.approx(
        plan.row_costs.copies.bytes_held / n_shards, abs=1
    )
    assert set(client.run(open_files).values()) == {0}
    stayed = bool(plan.row_ranges)
    assert stayed == ("Dask" in given)


@pytest.mark.parametrize("params", [{"shuffle": False}, {"solver": "lbfgs"}])
def test_blocks_in_order_are_right_too(client, params):
    """Though one replica may compute a whole mini-batch, and another nothing."""
    case = Case.of("defaults", **params)
    ours, theirs = case.pair(client=client, engine="peers", n_replicas=2, n_workers=4)
    with share_of_memory(client, case.X.nbytes / 4 * 1.1):
        quiet(ours.fit, da.from_array(case.X, (30, -1)), case.y)
    quiet(theirs.fit, case.X, case.y)
    assert_same_network(ours, theirs)
    assert {part.replica for part in ours.plan_.row_ranges} == {0, 1}


def shares_memory_with_dask(dask_worker):
    """Say whether all rows of the shards here are in blocks that Dask holds."""
    kept = [value for value in dask_worker.data.values() if hasattr(value, "nbytes")]
    return all(
        any(np.shares_memory(block, value) for value in kept)
        for shard in list(peers_worker._RUNS.values())
        if shard._run is not None
        for block in shard._run._dataset.X._blocks
    )


def test_persisted_blocks_stay_on_their_workers(client):
    """And are not copied; nothing moves where all have as many."""
    case = Case.of("defaults")
    n_rows, names = 240, list(client.nthreads())
    parts = [
        client.persist(
            da.from_array(case.X[start : start + 60], (60, -1)), workers=[name]
        )
        for start, name in zip(range(0, n_rows, 60), names[::-1], strict=True)
    ]
    X = da.concatenate(parts)
    clf = DistributedMLPClassifier(
        **case.params, engine="peers", client=client, n_replicas=1
    )
    shared = []
    clf._engines = {
        **clf._engines,
        "peers": looking(shared, client, clf._engines, shares_memory_with_dask),
    }
    with share_of_memory(client, case.X.nbytes / 4 * 1.1):
        quiet(clf.fit, X, case.y[:n_rows])
    assert [rows.start for rows in clf.plan_.row_ranges] == [0, 60, 120, 180]
    found = [clf.plan_.workers[rows.shard] for rows in clf.plan_.row_ranges]
    assert found == names[::-1]
    assert shared == 4 * [True]
    del X, parts


@pytest.mark.parametrize("n_replicas", [1, 2])
@pytest.mark.parametrize("where", only_quick(1, cases=["in memory", "in a file"]))
def test_a_score_that_needs_all_rows_gets_them(client, where, n_replicas):
    case = Case.of("defaults")
    rows = {"X_val": case.X[:50], "y_val": case.y[:50]}
    scores = {}
    for name, X in {
        "arrays": case.X,
        "blocks": da.from_array(case.X, (70, -1)),
    }.items():
        clf = DistributedMLPClassifier(
            **case.params,
            random_state=0,
            engine="peers",
            client=client,
            scoring=scored_by_features,
            n_replicas=n_replicas,
        )
        with share_of_memory(client, 0 if where == "in a file" else 2 * case.X.nbytes):
            quiet(clf.fit, X, case.y, **rows)
        assert clf.plan_.rows == RowHolding("all", where == "in a file")
        assert ("rows in a file: " in str(clf.plan_)) == clf.plan_.rows.on_disk
        scores[name] = clf.validation_scores_
    alone = clone(clf).set_params(engine="local", n_replicas=None)
    quiet(alone.fit, case.X, case.y, **rows)
    for found in scores.values():
        assert_allclose(found, alone.validation_scores_, rtol=1e-9)


def scored_by_features(estimator, X, y):
    return float(np.mean((estimator.predict(X) == y) * X[:, 10]))


N_ROWS, N_FEATURES = 240_000, 784


def made_up(block_info=None):
    """Return a block of rows that are the same each time."""
    (start, stop), _ = block_info[None]["array-location"]
    return np.random.default_rng(start).random((stop - start, N_FEATURES))


def peak_memory(reset=False):
    """Return the most bytes that this process has held, as Linux counts them."""
    if reset:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        return psutil.Process().memory_info().rss
    with open("/proc/self/status") as file:
        (peak,) = (line.split()[1] for line in file if line.startswith("VmHWM"))
    return int(peak) * 1024


@pytest.mark.slow
def test_an_array_larger_than_all_workers_trains():
    """1.5 GB on two workers of 600 MB, and what they hold is what the plan says."""
    X = da.map_blocks(
        made_up,
        chunks=(48 * (N_ROWS // 48,), (N_FEATURES,)),
        dtype=float,
        meta=np.empty((0, 0)),
    )
    y = np.arange(N_ROWS) % 10
    params = {"hidden_layer_sizes": (64,), "max_iter": 1, "random_state": 0}
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            memory_limit="600MB",
            dashboard_address="127.0.0.1:0",
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        client.run(load)
        before = client.run(peak_memory, reset=True)
        clf = DistributedMLPClassifier(**params, engine="peers", client=client)
        quiet(clf.fit, X, y)
        peak = client.run(peak_memory)
        restarted = set(client.nthreads()) != set(before)
    assert not restarted
    plan = clf.plan_
    assert (plan.rows.form, plan.rows.on_disk) == ("once", True)
    assert plan.features_held == X.nbytes / 2
    for worker, planned in zip(plan.workers, plan.bytes_held, strict=True):
        assert peak[worker] == pytest.approx(before[worker] + planned, rel=0.1)
    theirs = MLPClassifier(**params)
    quiet(theirs.fit, X.compute(scheduler="threads"), y)
    assert_same_network(clf, theirs)
