"""Dask collections as X, y and sample_weight, on a cluster of processes."""

import gc
import re
from copy import copy
from pathlib import Path

import dask.array as da
import dask.bag
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from dask import delayed
from distributed import Client, LocalCluster, wait
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skdistmlp import (
    ClusterError,
    DistributedMLPClassifier,
    DistributedMLPRegressor,
    WorkerLostError,
)
from skdistmlp.cluster import blocks, collections
from skdistmlp.cluster.client import known_workers
from tests.cluster.support import bounded
from tests.estimators.support import fit, quiet

COMMON = {
    "hidden_layer_sizes": (20, 9),
    "batch_size": 100,
    "random_state": 0,
    "max_iter": 3,
    "n_workers": 2,
    "parameter_threshold": 0,
    "engine": "peers",
}
N_ROWS, N_COLUMNS = 300, 64
NAMES = [f"pixel {n}" for n in range(N_COLUMNS)]


@pytest.fixture(scope="module")
def data(digits):
    X, y = digits
    return X[:N_ROWS], y[:N_ROWS]


def classifier(client, **parameters):
    return DistributedMLPClassifier(**COMMON | {"client": client} | parameters)


def regressor(client, **parameters):
    return DistributedMLPRegressor(**COMMON | {"client": client} | parameters)


def as_array(X):
    """Return an array in blocks of rows and of columns."""
    return da.from_array(X, chunks=(70, 40) if X.ndim > 1 else 110)


def as_sparse(X):
    return as_array(X).rechunk({1: -1}).map_blocks(sparse.csr_array)


def as_frame(X):
    return dd.from_pandas(pd.DataFrame(X, columns=NAMES), npartitions=4)


def of_unknown_length(array):
    """Return the same rows, in an array that does not know how many they are."""
    kept = da.from_array(np.ones(len(array), bool), chunks=array.chunks[0])
    return array[kept]


KINDS = {
    "array": as_array,
    "array of unknown length": lambda X: of_unknown_length(as_array(X)),
    "sparse blocks": as_sparse,
    "data frame": as_frame,
}


@pytest.fixture(params=KINDS)
def convert(request):
    return KINDS[request.param]


def dense_or_sparse(X, convert):
    return sparse.csr_array(X) if convert is as_sparse else X


def assert_same_weights(one, other):
    for mine, theirs in zip(one.coefs_, other.coefs_, strict=True):
        assert mine.dtype == theirs.dtype
        assert_array_equal(mine, theirs)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_features_of_every_kind_train_the_same_network(client, data, convert, dtype):
    X, y = (16 * data[0]).astype(dtype), data[1]
    clf = bounded(fit, classifier(client), convert(X), y)
    assert clf.engine_ == "peers"
    known = fit(classifier(client), dense_or_sparse(X, convert), y)
    assert_same_weights(clf, known)
    assert clf.plan_.bytes_held == known.plan_.bytes_held
    assert hasattr(clf, "feature_names_in_") == (convert is as_frame)


def multilabel(y):
    return np.column_stack([y % 2, y > 4, y == 3]).astype(int)


def weights_of(y):
    return 1.0 + y / 4


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
def test_targets_and_weights_may_be_collections(
    client, data, make, targets, weights, parameters
):
    X, y = data
    arrays = [X, targets(y), None if weights is None else weights(y)]
    given = [None if array is None else as_array(array) for array in arrays]
    mine = bounded(fit, make(client, **parameters), *given)
    theirs = fit(make(client, **parameters), *arrays)
    assert_same_weights(mine, theirs)
    assert mine.n_iter_ == theirs.n_iter_


def test_features_may_be_the_targets_too(client, data):
    X, _ = data
    one = as_array(X)
    mine = bounded(fit, regressor(client), one, one)
    assert_same_weights(mine, fit(regressor(client), X, X))


@pytest.mark.parametrize("make", [classifier, regressor])
def test_partial_fit_of_batches_that_are_collections(client, data, make):
    X, y = data
    one, other = make(client), make(client)
    extra = {"classes": np.arange(10)} if make is classifier else {}
    for rows in (slice(0, 150), slice(150, 300)):
        bounded(one.partial_fit, as_array(X[rows]), as_array(y[rows]), **extra)
        other.partial_fit(X[rows], y[rows], **extra)
    assert_same_weights(one, other)


@pytest.mark.parametrize("columns", ["a", ["a", "b"]], ids=["series", "columns"])
def test_targets_of_a_data_frame(client, data, columns):
    X, y = data
    known = pd.DataFrame(X, columns=NAMES).assign(a=y.astype("int8"), b=y % 3)
    frame = dd.from_pandas(known, npartitions=4)
    one, other = (
        bounded(fit, regressor(client), rows[NAMES], rows[columns], rows["b"] + 1)
        for rows in (frame, known)
    )
    assert_same_weights(one, other)


@pytest.mark.parametrize(
    ("parameters", "engine"),
    [
        ({"engine": "futures"}, "futures"),
        ({"engine": "local"}, "local"),
        ({"parameter_threshold": 10**6}, "local"),
    ],
)
def test_engines_of_this_process_fetch_the_rows(
    client, data, convert, parameters, engine
):
    X, y = data
    clf = bounded(fit, classifier(client, **parameters), convert(X), as_array(y))
    assert clf.engine_ == engine
    known = dense_or_sparse(X, convert)
    assert_same_weights(clf, fit(classifier(client, **parameters), known, y))


def test_a_collection_of_another_client_of_the_same_cluster(client, data):
    X, y = data
    address = client.scheduler.address
    X_there = client.persist(as_array(X))
    clf = bounded(fit, classifier(address), X_there, as_array(y))
    assert_same_weights(clf, fit(classifier(client), X, y))


def test_a_fit_inside_a_task_of_collections_made_there(client, data):
    X, y = data

    def task():
        clf = fit(classifier(None), as_array(X), as_array(y))
        return clf.coefs_[0], clf.score(as_array(X), as_array(y))

    coef, score = bounded(client.submit(task, pure=False).result)
    theirs = fit(classifier(client), X, y)
    assert_array_equal(coef, theirs.coefs_[0])
    assert score == theirs.score(X, y)


def test_workers_that_are_threads(data):
    X, y = data
    with (
        LocalCluster(
            n_workers=2, processes=False, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        given = client.persist(as_array(X))
        clf = bounded(fit, classifier(client), given, as_array(y))
        assert_array_equal(client.compute(given).result(), X)
        known = fit(classifier(client), X, y)
        assert_array_equal(
            client.compute(clf.predict(given)).result(), known.predict(X)
        )
    assert_same_weights(clf, known)


# Where the rows go.


@pytest.fixture
def gathered(monkeypatch):
    """Return the bytes of each value that a client of this process fetches."""
    sizes = []
    original = Client._gather

    async def gather(self, futures, *args, **kwargs):
        values = await original(self, futures, *args, **kwargs)
        sizes.extend(n_bytes(value) for value in values)
        return values

    monkeypatch.setattr(Client, "_gather", gather)
    return sizes


def n_bytes(value):
    if isinstance(value, np.ndarray | pd.Series | pd.DataFrame):
        return np.asarray(value).nbytes
    return sum(map(n_bytes, value)) if isinstance(value, list | tuple) else 0


def sent_to(client, receiver):
    """Return the bytes that workers have sent to others, or to somebody else."""
    workers = set(client.nthreads())
    logs = client.run(lambda dask_worker: list(dask_worker.transfer_outgoing_log))
    return sum(
        entry["total"]
        for log in logs.values()
        for entry in log
        if (entry["who"] in workers) == (receiver == "workers")
    )


def test_features_go_from_worker_to_worker_and_never_to_the_client(client, gathered):
    """Every worker of a fit needs all rows, of which it has a third."""
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
    assert 0 < max(gathered) <= y.nbytes
    # Targets twice, predictions once, and the weights.
    assert sent_to(client, "others") - before["others"] < 4 * y.nbytes < X.nbytes


def test_blocks_are_joined_a_few_at_a_time(monkeypatch):
    """Those on their way are bounded; a block beyond the bound comes alone."""
    given = [blocks.Block((n, 4), np.dtype(float), None, 32 * n) for n in (5, 6, 30, 1)]
    monkeypatch.setattr(blocks, "BATCH_BYTES", 32 * 12)
    asked = []

    def gather(names):
        asked.append(names)
        return [np.full(given[name].shape, name) for name in names]

    rows = blocks.join(range(4), given, np.dtype(np.float32), gather)
    assert asked == [[0, 1], [2], [3]]
    assert rows.dtype == np.float32
    assert_array_equal(rows[:, 0], np.repeat(range(4), [5, 6, 30, 1]))


def test_blocks_that_are_gone_end_the_fit_with_an_error(client, data, monkeypatch):
    X, y = data
    monkeypatch.setattr(
        collections, "_who_has", lambda _, futures: {f.key: () for f in futures}
    )
    with pytest.raises(WorkerLostError, match=r"\d blocks of X were not to be had"):
        bounded(fit, classifier(client), as_frame(X), y)


def test_features_let_go_of_are_computed_again_when_they_are_wanted_again(client, data):
    X, y = data
    with collections.brought(client, "me", as_array(X), y, None) as (features, *_):
        for _ in range(2):
            assert_array_equal(bounded(features.fetch), X)
            assert not features._futures


# What is refused.


def exploding(shape, chunks):
    """Return an array that cannot be computed."""

    def explode(block):
        raise ZeroDivisionError("computed")

    zeros = da.zeros(shape, chunks=chunks)
    return zeros.map_blocks(explode, dtype=float, meta=np.empty((0,) * len(shape)))


@pytest.mark.parametrize("name", ["y", "sample_weight"])
def test_known_lengths_that_differ_are_named_before_anything_is_computed(client, name):
    X, rows = exploding((100, 4), (50, 4)), np.arange(90) % 2
    given = {"y": np.arange(100) % 2, name: da.from_array(rows, chunks=45)}
    with pytest.raises(ValueError, match=f"X has 100 rows, but {name} has 90"):
        classifier(client).fit(X, **given)


@pytest.mark.parametrize("name", ["y", "sample_weight"])
@pytest.mark.parametrize("as_collection", [True, False])
def test_lengths_that_differ_are_named_once_they_are_known(
    client, data, name, as_collection
):
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
            "some blocks of X are sparse and some are dense",
        ),
        (lambda X: as_array(X)[None], TypeError, "X is a Dask Array; expected"),
        (
            lambda X: dask.bag.from_sequence(X),
            TypeError,
            "X is a Dask Bag; expected an Array of one or two dimensions, a DataFrame",
        ),
    ],
)
def test_features_that_are_not_fit_to_train_on(client, data, spoil, error, message):
    X, y = data
    clf = classifier(client)
    with pytest.raises(error, match=re.escape(message)):
        bounded(clf.fit, spoil(X), y)
    assert not hasattr(clf, "n_features_in_")


@pytest.mark.parametrize("rows", [np.ones((4, 3)), as_array(np.ones((4, 3)))])
def test_what_does_not_fit_a_worker_is_refused_before_training(client, rows):
    """The error has both sizes, and the name of the worker."""
    clf = classifier(client, hidden_layer_sizes=(10**6, 10**6), batch_size="auto")
    worker = next(iter(client.nthreads()))
    limit = known_workers(client)[worker]["memory_limit"]
    with pytest.raises(ClusterError) as caught:
        bounded(clf.fit, rows, [0, 1, 0, 1])
    held = re.match(r"shard 0 would hold ([\d,]+) bytes on worker", str(caught.value))
    assert int(held[1].replace(",", "")) > 4 * 8 * 10**12 / 2
    assert f"{worker}, whose memory_limit is {limit:,} bytes" in str(caught.value)


# Predictions.


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_page_on_data_works(client, capsys):
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    names = {"client": client}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(code, names)
    printed = capsys.readouterr().out
    assert printed.startswith("peers: ")
    assert "dask.array<predict_rows, shape=(20000,), dtype=int64" in printed
    assert names["first"].shape == (1000,)
    assert "local: a prediction of 1 rows takes" in printed


@pytest.fixture(scope="module")
def fitted(data):
    """An estimator of every kind, fitted here."""
    X, y = data
    names = np.array(["no", "yes"])
    local = {"engine": "local", "client": None}
    with_names = pd.DataFrame(X, columns=NAMES)
    return {
        "classes": fit(classifier(**local), with_names, y),
        "two classes": fit(classifier(**local), with_names, names[y % 2]),
        "labels": fit(classifier(**local), with_names, multilabel(y)),
        "sparse labels": fit(
            classifier(**local), with_names, sparse.csr_matrix(multilabel(y))
        ),
        "values": fit(regressor(**local), with_names, y),
        "more values": fit(regressor(**local), with_names, multilabel(y)),
    }


@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("classes", "predict"),
        ("classes", "predict_proba"),
        ("classes", "predict_log_proba"),
        ("two classes", "predict"),
        ("two classes", "predict_proba"),
        ("labels", "predict"),
        ("sparse labels", "predict"),
        ("values", "predict"),
        ("more values", "predict"),
    ],
)
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_a_collection_is_predicted_lazily(client, data, fitted, convert, kind, method):
    X = data[0].astype(np.float32)
    estimator = fitted[kind].set_params(client=client)
    given = convert(X)
    lazy = getattr(estimator, method)(given)
    known = getattr(estimator, method)(
        pd.DataFrame(X, columns=NAMES) if convert is as_frame else X
    )
    assert isinstance(lazy, da.Array)
    assert lazy.dtype == lazy._meta.dtype == known.dtype
    assert lazy.ndim == known.ndim
    if convert is as_frame:
        assert np.isnan(lazy.chunks[0]).all()
        assert lazy.numblocks[0] == given.npartitions
    else:
        assert_array_equal(lazy.chunks[0], given.chunks[0])
    assert [sum(c) for c in lazy.chunks[1:]] == list(known.shape[1:])
    assert type(lazy._meta) is type(known)
    (values,) = client.gather(client.compute([lazy]))
    assert type(values) is type(known)
    if sparse.issparse(known):
        values, known = values.toarray(), known.toarray()
    compare = assert_allclose if known.dtype.kind == "f" else assert_array_equal
    compare(values, known)


def test_the_active_client_computes_predictions_too(client, data, fitted):
    with client.as_current():
        lazy = fitted["values"].set_params(client=None).predict(as_frame(data[0]))
        assert_allclose(lazy.sum().compute(), lazy.compute().sum())


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_without_a_client_at_hand_the_weights_are_in_the_graph(client, data, fitted):
    address = client.scheduler.address
    estimator = fitted["values"].set_params(client=address)
    lazy = estimator.predict(as_array(data[0]))
    here = estimator.set_params(client=None).predict(data[0])
    assert_allclose(lazy.compute(scheduler="sync"), here)
    assert_allclose(client.compute(lazy).result(), here)


@pytest.mark.parametrize(
    "make",
    [
        lambda mlp, X: X.assign(p=mlp.predict(X))["p"],
        lambda mlp, X: dd.from_dask_array(mlp.predict(X)),
        lambda mlp, X: delayed(np.concatenate)(list(mlp.predict(X).to_delayed())),
    ],
    ids=["column", "series", "delayed"],
)
def test_what_is_made_of_predictions_is_all_that_one_has_to_hold(
    client, data, fitted, make
):
    """The prediction itself may be gone, and the estimator too."""
    here = fitted["values"].predict(pd.DataFrame(data[0], columns=NAMES))
    estimator = copy(fitted["values"]).set_params(client=None)
    with client.as_current():
        made = make(estimator, as_frame(data[0]))
        del estimator
        gc.collect()
        assert_allclose(np.ravel(made.compute()), here)
    assert_allclose(np.ravel(made.compute(scheduler="sync")), here)


def test_blocks_of_another_width_than_was_said_are_refused(client, data):
    X, y = as_array(data[0]).rechunk({1: -1}), data[1]
    narrow = X.map_blocks(lambda block: block[:, :7], dtype=X.dtype)
    with pytest.raises(ValueError, match="said to have 64 columns, but its blocks h"):
        bounded(classifier(client).fit, narrow, y)


def test_nothing_is_computed_until_it_is_asked_for(client, fitted):
    estimator = fitted["values"].set_params(client=client)
    with pytest.warns(UserWarning, match="valid feature names"):
        lazy = estimator.predict(exploding((100, 64), (50, 64)))
    future = client.compute(lazy)
    assert isinstance(future.exception(), ZeroDivisionError)
    future.release()


def test_empty_blocks_are_predicted_as_empty(client, data, fitted):
    frame = as_frame(data[0])
    none = frame[frame[NAMES[2]] > 10]
    estimator = fitted["classes"].set_params(client=client)
    assert client.compute(estimator.predict(none)).result().shape == (0,)
    some = frame.map_partitions(lambda part: part[part.index < 100])
    (labels,) = client.gather(client.compute([estimator.predict(some)]))
    here = fitted["classes"].predict(pd.DataFrame(data[0][:100], columns=NAMES))
    assert_array_equal(labels, here)


@pytest.mark.parametrize("kind", ["two classes", "labels", "values", "more values"])
def test_scores_are_those_of_arrays(client, data, fitted, convert, kind):
    X, y = data
    targets = {
        "two classes": np.array(["no", "yes"])[y % 2],
        "labels": multilabel(y),
        "values": y.astype(float),
        "more values": multilabel(y),
    }[kind]
    estimator, weights = fitted[kind].set_params(client=client), weights_of(y)
    given = convert(X), as_array(targets), as_array(weights)
    known = pd.DataFrame(X, columns=NAMES), targets, weights
    mine = bounded(quiet_names, estimator.score, *given)
    assert_allclose(mine, estimator.score(*known))


def quiet_names(call, *args):
    """Call, with leave to give features without names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sklearn.utils.validation.warnings.warn", lambda *_, **__: None)
        return quiet(call, *args)


def test_names_of_features_are_kept_and_checked(client, data, fitted):
    X, y = data
    clf = bounded(fit, classifier(client), as_frame(X), y)
    assert_array_equal(clf.feature_names_in_, NAMES)
    renamed = as_frame(X).rename(columns={NAMES[0]: "other"})
    for call in (clf.predict, clf.predict_proba, lambda X: clf.partial_fit(X, y)):
        with pytest.raises(ValueError, match="feature names should match"):
            call(renamed)
    clf = fit(classifier(client), X, y)
    with pytest.raises(ValueError, match=r"X has 63 features, but .* is expecting 64"):
        clf.predict(as_array(X[:, 1:]))


def test_the_weights_of_a_large_network_are_not_in_the_graph(client, data):
    """Dask warns of a graph beyond 10 MB, and warnings are errors here."""
    X, y = data
    wide = (2000, 1000)
    clf = fit(classifier(None, engine="local", hidden_layer_sizes=wide), X, y)
    clf.set_params(client=client)
    assert sum(coef.nbytes for coef in clf.coefs_) > 15e6
    (labels,) = client.gather(client.compute([clf.predict(as_array(X))]))
    assert_array_equal(labels, clf.set_params(client=None).predict(X))


def test_a_large_network_is_sent_once_for_all_calls(client, data, monkeypatch):
    """What is made of its predictions is computed though nobody holds them."""
    X, y = data
    clf = fit(classifier(None, engine="local", hidden_layer_sizes=(2000, 1000)), X, y)
    labels = clf.predict(X)
    clf.set_params(client=client)
    scattered = []
    scatter = client.scatter
    monkeypatch.setattr(
        client,
        "scatter",
        lambda *args, **options: scattered.append(1) or scatter(*args, **options),
    )
    for _ in range(2):
        made = client.compute(clf.predict(as_array(X)).sum())
        assert made.result() == labels.sum()
    del made
    assert scattered == [1]
