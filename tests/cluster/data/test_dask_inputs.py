"""Dask collections as X, y and sample_weight, on a cluster of processes."""

import os
import re
import signal

import dask
import dask.array as da
import dask.bag
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from distributed import Client, futures_of, wait
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array

from skdistmlp import (
    ClusterError,
    WorkerLostError,
)
from skdistmlp.cluster.client.workers import known_workers
from skdistmlp.cluster.data import dask_inputs, remote_dataset
from tests.cluster.dask_processes import WITHOUT_PACKAGE
from tests.cluster.data.inputs import (
    N_ROWS,
    NAMES,
    as_array,
    as_frame,
    as_sparse,
    classifier,
    dense_or_sparse,
    exploding,
    multilabel,
    regressor,
    weights_of,
)
from tests.cluster.leaks import own_cluster
from tests.cluster.support import bounded
from tests.estimators.support import fit
from tests.marks import only_quick


@pytest.fixture(scope="module")
def data(digits):
    X, y = digits
    return X[:N_ROWS], y[:N_ROWS]


def assert_same_parameters(one, other):
    for mine, theirs in zip(one.coefs_, other.coefs_, strict=True):
        assert mine.dtype == theirs.dtype
        assert_array_equal(mine, theirs)


@pytest.mark.parametrize(
    "dtype", only_quick(0, cases=[np.float32, np.float64, np.int64])
)
def test_features_of_every_kind_train_the_same_network(client, data, convert, dtype):
    X, y = (16 * data[0]).astype(dtype), data[1]
    clf = bounded(fit, classifier(client), convert(X), y)
    assert clf.engine_ == "peers"
    known = fit(classifier(client), dense_or_sparse(X, convert), y)
    assert_same_parameters(clf, known)
    assert clf.plan_.bytes_held == known.plan_.bytes_held
    assert hasattr(clf, "feature_names_in_") == (convert is as_frame)


@pytest.mark.parametrize(
    ("make", "targets", "weights", "parameters"),
    [
        (classifier, lambda y: y, weights_of, {}),
        (classifier, lambda y: np.array([*"abcdefghij"])[y], None, {}),
        (classifier, multilabel, None, {}),
        (classifier, lambda y: y, weights_of, {"early_stopping": True}),
        (classifier, lambda y: y, weights_of, {"solver": "lbfgs"}),
        (classifier, lambda y: y, None, {"shuffle": False, "solver": "sgd"}),
        (classifier, lambda y: y, None, {"class_weight": "balanced", "n_workers": 3}),
        (regressor, weights_of, weights_of, {}),
        (regressor, multilabel, None, {"early_stopping": True}),
    ],
)
def test_targets_and_weights_can_be_collections(
    client, data, make, targets, weights, parameters
):
    X, y = data
    arrays = [X, targets(y), None if weights is None else weights(y)]
    given = [None if array is None else as_array(array) for array in arrays]
    mine = bounded(fit, make(client, **parameters), *given)
    theirs = fit(make(client, **parameters), *arrays)
    assert_same_parameters(mine, theirs)
    assert mine.n_iter_ == theirs.n_iter_


def test_features_can_be_the_targets_too(client, data):
    X, _ = data
    one = as_array(X)
    mine = bounded(fit, regressor(client), one, one)
    assert_same_parameters(mine, fit(regressor(client), X, X))


@pytest.mark.parametrize("make", [classifier, regressor])
def test_partial_fit_accepts_collections_as_batches(client, data, make):
    X, y = data
    one, other = make(client), make(client)
    extra = {"classes": np.arange(10)} if make is classifier else {}
    for rows in (slice(0, 150), slice(150, 300)):
        bounded(one.partial_fit, as_array(X[rows]), as_array(y[rows]), **extra)
        other.partial_fit(X[rows], y[rows], **extra)
    assert_same_parameters(one, other)


@pytest.mark.parametrize("columns", ["a", ["a", "b"]], ids=["series", "columns"])
def test_columns_of_a_data_frame_can_be_targets(client, data, columns):
    X, y = data
    known = pd.DataFrame(X, columns=NAMES).assign(a=y.astype("int8"), b=y % 3)
    frame = dd.from_pandas(known, npartitions=4)
    one, other = (
        bounded(fit, regressor(client), rows[NAMES], rows[columns], rows["b"] + 1)
        for rows in (frame, known)
    )
    assert_same_parameters(one, other)


@pytest.mark.parametrize(
    ("parameters", "engine"),
    only_quick(
        1,
        cases=[
            ({"engine": "futures"}, "futures"),
            ({"engine": "local"}, "local"),
            ({"parameter_threshold": 10**6}, "local"),
        ],
    ),
)
def test_engines_that_hold_the_rows_here_fetch_them(
    client, data, convert, parameters, engine
):
    X, y = data
    clf = bounded(fit, classifier(client, **parameters), convert(X), as_array(y))
    assert clf.engine_ == engine
    known = dense_or_sparse(X, convert)
    assert_same_parameters(clf, fit(classifier(client, **parameters), known, y))


def test_a_collection_of_another_client_of_the_cluster_is_accepted(client, data):
    X, y = data
    address = client.scheduler.address
    X_there = client.persist(as_array(X))
    clf = bounded(fit, classifier(address), X_there, as_array(y))
    assert_same_parameters(clf, fit(classifier(client), X, y))


def test_a_task_can_fit_collections_that_it_creates(client, data):
    X, y = data

    def task():
        clf = fit(classifier(None), as_array(X), as_array(y))
        return clf.coefs_[0], clf.score(as_array(X), as_array(y))

    coef, score = bounded(client.submit(task, pure=False).result)
    theirs = fit(classifier(client), X, y)
    assert_array_equal(coef, theirs.coefs_[0])
    assert score == theirs.score(X, y)


def test_workers_that_are_threads_can_train_on_collections(data):
    X, y = data
    with own_cluster(n_workers=2, processes=False) as client:
        given = client.persist(as_array(X))
        clf = bounded(fit, classifier(client), given, as_array(y))
        assert_array_equal(client.compute(given).result(), X)
        known = fit(classifier(client), X, y)
        assert_array_equal(
            client.compute(clf.predict(given)).result(), known.predict(X)
        )
        del given
    assert_same_parameters(clf, known)


# Where the rows go.


def n_bytes(value):
    if isinstance(value, np.ndarray | pd.Series | pd.DataFrame):
        return np.asarray(value).nbytes
    return sum(map(n_bytes, value)) if isinstance(value, list | tuple) else 0


def sent_to(client, receiver):
    """Return the bytes that workers sent to each other, or to other processes."""
    workers = set(client.nthreads())
    logs = client.run(lambda dask_worker: list(dask_worker.transfer_outgoing_log))
    return sum(
        entry["total"]
        for log in logs.values()
        for entry in log
        if (entry["who"] in workers) == (receiver == "workers")
    )


def test_features_go_from_worker_to_worker_and_never_to_the_client(client, gathered):
    """Every worker of a fit needs all rows, and holds a third of them."""
    rng = da.random.default_rng(0)
    X = client.persist(rng.random((30_000, 64), chunks=(1000, 64), dtype=np.float32))
    y = client.persist((X[:, 0] > 0.5).astype(int))
    with client.as_current():
        wait([X, y])
    before = {who: sent_to(client, who) for who in ("workers", "others")}
    clf = classifier(client, max_iter=1, n_workers=3)
    bounded(fit, clf, X, y)
    between = sent_to(client, "workers") - before["workers"]
    assert 1.5 * X.nbytes < between < 3 * X.nbytes
    score = bounded(clf.score, X, y)
    assert 0.4 < score <= 1
    assert 0 < max(map(n_bytes, gathered)) <= y.nbytes
    # Targets twice, predictions once, and the parameters.
    assert sent_to(client, "others") - before["others"] < 4 * y.nbytes < X.nbytes


def test_lost_blocks_end_the_fit_with_an_error(client, data, monkeypatch):
    X, y = data
    monkeypatch.setattr(
        remote_dataset,
        "block_locations",
        lambda _, futures: {f.key: () for f in futures},
    )
    with pytest.raises(WorkerLostError, match=r"could not fetch \d of the blocks of X"):
        bounded(fit, classifier(client), as_frame(X), y)


# What is refused.


@pytest.mark.parametrize("name", ["y", "sample_weight"])
def test_known_lengths_are_compared_before_anything_is_computed(client, name):
    X, rows = exploding((100, 4), (50, 4)), np.arange(90) % 2
    given = {"y": np.arange(100) % 2, name: da.from_array(rows, chunks=45)}
    with pytest.raises(ValueError, match=f"X has 100 rows, but {name} has 90"):
        classifier(client).fit(X, **given)


@pytest.mark.parametrize("name", ["y", "sample_weight"])
@pytest.mark.parametrize("as_collection", [True, False])
def test_unknown_lengths_are_compared_once_computed(client, data, name, as_collection):
    X, y = data
    given = {"y": y, name: as_array(y[:90]) if as_collection else y[:90]}
    with pytest.raises(ValueError, match=f"X has 300 rows, but {name} has 90"):
        bounded(classifier(client).fit, as_frame(X), **given)


def with_nan(X):
    spoilt = X.copy()
    spoilt[200, 7] = np.nan
    return as_array(spoilt)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (with_nan, ValueError, "Input X contains NaN.\nDistributedMLPClassifier does"),
        (lambda X: exploding(X.shape, 100), ZeroDivisionError, "computed"),
        (lambda X: as_array(X)[:, 0], ValueError, "Expected 2D array, got 1D array"),
        (lambda X: as_array(X[:, :0]), ValueError, "0 feature(s) (shape=("),
        (
            lambda X: da.concatenate([as_array(X[:200]), as_sparse(X[200:])]),
            ValueError,
            "some blocks of X are sparse and others are dense",
        ),
        (lambda X: as_array(X)[None], TypeError, "X is a Dask Array; expected"),
        (
            lambda X: dask.bag.from_sequence(X),
            TypeError,
            "X is a Dask Bag; expected an Array with one or two dimensions, a Dat",
        ),
    ],
)
def test_unsuitable_features_are_refused(client, data, spoil, error, message):
    X, y = data
    clf = classifier(client)
    with pytest.raises(error, match=re.escape(message)):
        bounded(clf.fit, spoil(X), y)
    assert not hasattr(clf, "n_features_in_")


@pytest.mark.parametrize("rows", [np.ones((4, 3)), as_array(np.ones((4, 3)))])
def test_a_fit_that_exceeds_a_workers_memory_is_refused(client, rows):
    """The error states both sizes and the worker."""
    clf = classifier(client, hidden_layer_sizes=(10**6, 10**6), batch_size="auto")
    with pytest.raises(ClusterError) as caught:
        bounded(clf.fit, rows, [0, 1, 0, 1])
    said = (
        r"shard 0 would hold (\S+) bytes on worker (\S+), whose memory_limit is (\S+) "
    )
    held, worker, limit = re.match(said, str(caught.value)).groups()
    assert int(held.replace(",", "")) > 4 * 8 * 10**12 / 2
    # That of one that holds the rows, if any does.
    assert limit == f"{known_workers(client)[worker]['memory_limit']:,}"


def test_an_array_larger_than_this_process_is_not_computed(client):
    n_rows = 10**6
    X, y = exploding((n_rows, 10**5), (n_rows, 10**5)), np.arange(n_rows) % 2
    with pytest.raises(ClusterError, match=f"X takes {X.nbytes:,} bytes, and this pro"):
        bounded(classifier(client, engine="local").fit, X, y)


def test_workers_killed_by_computing_features_are_reported():
    def die(block):
        os.kill(os.getpid(), signal.SIGKILL)

    X = da.zeros((4, 3), chunks=2).map_blocks(die, dtype=float, meta=np.empty((0, 0)))
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        own_cluster(n_workers=1) as client,
        pytest.raises(ClusterError, match="died one after another while computing"),
    ):
        bounded(classifier(client, n_workers=1).fit, X, [0, 1, 0, 1])


@pytest.mark.parametrize("as_collection", [True, False], ids=["collection", "array"])
@pytest.mark.parametrize("engine", ["futures", "peers"])
def test_a_cluster_without_workers_is_reported(data, as_collection, engine):
    """At once, and in the same words."""
    X, y = data
    with own_cluster(n_workers=0) as client:
        clf = classifier(client, n_workers=None, engine=engine)
        given = da.from_array(X, chunks=(100, -1)) if as_collection else X
        expected = r"needs at least 1 worker, but the cluster at tcp://.* has 0\."
        with pytest.raises(ClusterError, match=expected):
            bounded(clf.fit, given, y)


@pytest.mark.slow
def test_a_worker_without_this_package_that_joins_late_lives(
    processes, data, monkeypatch
):
    """After the workers were checked; Dask may send any task there."""
    monkeypatch.setattr(dask_inputs, "check_versions", lambda *_: None)
    monkeypatch.setattr(dask_inputs, "measured_memory", lambda *_: {})
    processes.have_workers(1)
    X, y = data
    with (
        Client(processes.address, set_as_default=False) as client,
        processes.unlike_worker(WITHOUT_PACKAGE) as (worker, process),
    ):
        there = client.persist(as_array(X), workers=[worker])
        assert not any(future.exception() for future in futures_of(there))
        expected = f"worker {worker} cannot import skdistmlp: .* on all workers"
        with pytest.raises(ModuleNotFoundError, match=expected):
            bounded(classifier(client).fit, there, y)
        assert worker in client.nthreads()
        assert process.poll() is None
        del there


@pytest.mark.parametrize(
    ("make", "n_blocks"),
    [
        (lambda X, _: X, 4),
        (lambda X, client: X - client.persist(X.mean(axis=0)), 4),
        (lambda X, client: da.concatenate([X, client.persist(X[:5])]), 5),
        (lambda X, client: client.persist(X), 0),
        (lambda X, client: client.persist(X)[:10], 1),
        (lambda X, _: X.map_blocks(csr_array), 0),
        (lambda X, _: X[X[:, 0] >= 0], 0),
        (lambda X, _: X[:3], 0),
    ],
    ids=[
        "lazy",
        "centred",
        "with persisted rows",
        "persisted",
        "a part of it",
        "sparse",
        "of unknown length",
        "small",
    ],
)
def test_arrays_beyond_the_memory_of_all_workers_are_streamed(client, make, n_blocks):
    """If their blocks are not there already, and their size is known."""
    X = make(da.from_array(np.ones((40, 3)), (10, 3)), client)
    found = dask_inputs._blocks_to_stream(X, room=100)
    assert [block.shape[0] for block in found] == n_blocks * [10] or (
        n_blocks == 5 and sum(block.shape[0] for block in found) == 45
    )


def undeclared(X, sizes):
    """Return sparse blocks of which Dask knows no more than their shapes and dtype."""
    return da.concatenate(
        [
            da.from_delayed(dask.delayed(csr_array)(part), part.shape, X.dtype)
            for part in np.split(X, np.cumsum(sizes)[:-1])
        ]
    )


def test_sparse_blocks_that_dask_takes_for_dense_are_not_streamed(
    client, data, monkeypatch
):
    """As such they would seem to be too large for the workers."""
    X, y = data
    clf, other = classifier(client), classifier(client)
    sizes = [50, len(X) - 50]
    bounded(fit, other, undeclared(X, sizes), y)
    monkeypatch.setattr(dask_inputs, "_room_for_blocks", lambda *_: X.nbytes - 1)
    bounded(fit, clf, undeclared(X, sizes), y)
    assert_same_parameters(clf, other)
