"""Lazy predictions for Dask collections."""

import gc
import re
from copy import copy
from pathlib import Path

import dask
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from dask import delayed
from distributed import Client, Status
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from skdistmlp import WorkerLostError
from skdistmlp.cluster import _dask
from skdistmlp.cluster.client.workers import worker_statuses
from skdistmlp.cluster.prediction import lazy
from skdistmlp.cluster.prediction.lazy import LARGE_GRAPH_SETTING
from skdistmlp.cluster.run import scatter, watch
from tests.cluster.dask_processes import WITHOUT_PACKAGE
from tests.cluster.data.inputs import (
    N_ROWS,
    NAMES,
    as_array,
    as_frame,
    classifier,
    exploding,
    multilabel,
    regressor,
    weights_of,
)
from tests.cluster.leaks import own_cluster
from tests.cluster.support import bounded, wait_until
from tests.estimators.support import fit, quiet
from tests.marks import only_quick


@pytest.fixture(scope="module")
def data(digits):
    X, y = digits
    return X[:N_ROWS], y[:N_ROWS]


DASK_READS_PARQUET = pytest.mark.filterwarnings("ignore:The inplace keyword")
"""Of pandas, to Dask: it sets the index of what it reads in a deprecated way."""


@DASK_READS_PARQUET
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.slow
def test_the_code_of_the_page_on_data_runs(client, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[3] / "docs" / "data.md").read_text()
    names = {"client": client}
    for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        exec(code, names)
    printed = capsys.readouterr().out
    assert printed.startswith("peers: ")
    assert "dask.array<predict_rows, shape=(20000,), dtype=int64" in printed
    assert names["first"].shape == (1000,)
    ways = [dd.read_parquet(tmp_path / f"labelled{way}") for way in ("", "-by-parts")]
    assert_array_equal(*(way["label"].compute() for way in ways))
    assert "local: a prediction of 1 row takes" in printed


@pytest.fixture(params=["parquet", "from_map"])
def several_files(request, data, tmp_path):
    """A frame of three of many columns, so that Dask reads several files together."""
    frame = as_frame(data[0]).compute()
    wide = pd.concat([frame.add_prefix(f"{n}-") for n in range(4)], axis=1)
    paths = [tmp_path / "in" / f"{n}.parquet" for n in range(8)]
    paths[0].parent.mkdir()
    for n, path in enumerate(paths):
        wide.iloc[n * len(wide) // 8 : (n + 1) * len(wide) // 8].to_parquet(path)
    columns = list(wide.columns[20:23])
    if request.param == "parquet":
        return dd.read_parquet(tmp_path / "in")[columns]
    return dd.from_map(pd.read_parquet, paths)[columns]


@DASK_READS_PARQUET
def test_predictions_of_files_can_be_written_beside_them(several_files, data, tmp_path):
    here = several_files.compute()
    clf = fit(classifier(engine="local", client=None), here, data[1])
    expected, proba = clf.predict(here), clf.predict_proba(here)
    first = len(here) // 8
    lazily = clf.predict(several_files)
    assert lazily.numblocks == (several_files.npartitions,)
    assert_array_equal(lazily.blocks[0].compute(), expected[:first])
    blocks = clf.predict_proba(several_files).blocks
    assert_array_equal(blocks[1, 0].compute(), blocks[1].compute())
    assert_allclose(clf.predict_proba(several_files).compute(), proba, rtol=1e-12)
    several_files.assign(label=lazily).to_parquet(tmp_path / "out")
    written = dd.read_parquet(tmp_path / "out").compute()
    assert_array_equal(written["label"], expected)
    assert_array_equal(written[here.columns], here)


@pytest.fixture(scope="module")
def fitted(data):
    """An estimator of each kind, fitted in this process."""
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
    only_quick(
        *(1, 5, 6, 8),
        cases=[
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
    ),
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


def test_the_active_client_can_compute_predictions(client, data, fitted):
    with client.as_current():
        lazy = fitted["values"].set_params(client=None).predict(as_frame(data[0]))
        assert_allclose(lazy.sum().compute(), lazy.compute().sum())


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_the_graph_contains_the_parameters_without_a_client(client, data, fitted):
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
def test_results_derived_from_predictions_outlive_the_prediction(
    client, data, fitted, make
):
    """The prediction itself may be deleted, and the estimator too."""
    here = fitted["values"].predict(pd.DataFrame(data[0], columns=NAMES))
    estimator = copy(fitted["values"]).set_params(client=None)
    with client.as_current():
        made = make(estimator, as_frame(data[0]))
        del estimator
        gc.collect()
        assert_allclose(np.ravel(made.compute()), here)
    assert_allclose(np.ravel(made.compute(scheduler="sync")), here)


def test_blocks_of_another_width_than_declared_are_refused(client, data):
    X, y = as_array(data[0]).rechunk({1: -1}), data[1]
    narrow = X.map_blocks(lambda block: block[:, :7], dtype=X.dtype)
    with pytest.raises(ValueError, match="X declares 64 columns, but its blocks h"):
        bounded(classifier(client).fit, narrow, y)


def test_nothing_is_computed_before_it_is_requested(client, fitted):
    estimator = fitted["values"].set_params(client=client)
    with pytest.warns(UserWarning, match="valid feature names"):
        lazy = estimator.predict(exploding((100, 64), (50, 64)))
    future = client.compute(lazy)
    assert isinstance(future.exception(), ZeroDivisionError)
    future.release()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_categorical_columns_are_predicted():
    """Even if 0 is not one of the categories."""
    categories = pd.Categorical([1, 2, 1] * 80)
    frame = pd.DataFrame({"a": [1.0, 2.0, 3.0] * 80, "k": categories})
    clf = classifier(None, engine="local").fit(frame, [0, 1, 1] * 80)
    lazy = clf.predict_proba(dd.from_pandas(frame, npartitions=2))
    assert_allclose(lazy.compute(), clf.predict_proba(frame))


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.slow
def test_nothing_is_sent_to_the_active_client_of_another_cluster(client, data, fitted):
    """The prediction will be computed at the address passed as `client=`."""
    expected = fitted["values"].set_params(client=None).predict(data[0])
    with own_cluster(n_workers=1) as other, client.as_current():
        estimator = fitted["values"].set_params(client=other.scheduler.address)
        with dask.config.set({LARGE_GRAPH_SETTING: "1 kiB"}):
            predicted = estimator.predict(as_array(data[0]))
        assert_allclose(bounded(other.compute(predicted).result), expected)


def test_empty_blocks_give_empty_predictions(client, data, fitted):
    frame = as_frame(data[0])
    none = frame[frame[NAMES[2]] > 10]
    estimator = fitted["classes"].set_params(client=client)
    assert client.compute(estimator.predict(none)).result().shape == (0,)
    some = frame.map_partitions(lambda part: part[part.index < 100])
    (labels,) = client.gather(client.compute([estimator.predict(some)]))
    here = fitted["classes"].predict(pd.DataFrame(data[0][:100], columns=NAMES))
    assert_array_equal(labels, here)


@pytest.mark.parametrize(
    "kind",
    only_quick(1, 2, cases=["two classes", "labels", "values", "more values"]),
)
def test_scores_equal_those_of_arrays(client, data, fitted, convert, kind):
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
    """Call, ignoring the warning about features without names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sklearn.utils.validation.warnings.warn", lambda *_, **__: None)
        return quiet(call, *args)


def test_feature_names_are_checked(client, data, fitted):
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


@pytest.fixture(scope="module")
def large(data):
    """A network that has taken one step in this process."""
    clf = classifier(None, engine="local", hidden_layer_sizes=(2000, 1000))
    return fit(clf.set_params(solver="sgd", batch_size=N_ROWS, max_iter=1), *data)


def test_the_graph_does_not_contain_the_parameters_of_a_large_network(
    client, data, large
):
    """Dask warns about a graph beyond 10 MB, and warnings are errors here."""
    X, _ = data
    clf = large.set_params(client=client)
    assert sum(coef.nbytes for coef in clf.coefs_) > 15e6
    (labels,) = client.gather(client.compute([clf.predict(as_array(X))]))
    assert_array_equal(labels, clf.set_params(client=None).predict(X))


def test_a_large_network_is_sent_once_for_all_calls(client, data, large, monkeypatch):
    """Results derived from its predictions can be computed after those are deleted."""
    X, _ = data
    clf = large.set_params(client=None)
    labels = clf.predict(X)
    clf.set_params(client=client)
    scattered = []
    send = scatter.send_value
    monkeypatch.setattr(
        scatter, "send_value", lambda *args: scattered.append(1) or send(*args)
    )
    for _ in range(2):
        made = client.compute(clf.predict(as_array(X)).sum())
        assert made.result() == labels.sum()
    del made
    assert scattered == [1]


def predict_outside_the_graph(estimator, X):
    """Predict lazily by a network that is sent to a worker, however small it is."""
    with dask.config.set({LARGE_GRAPH_SETTING: "1 kiB"}):
        return bounded(estimator.predict, X)


@pytest.fixture
def garbage_stays():
    """Let nothing be freed that is in a reference cycle."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("garbage_stays")
@pytest.mark.parametrize("error", [OSError, _dask.CommClosedError])
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_a_network_goes_through_the_scheduler_if_the_worker_is_out_of_reach(
    data, fitted, monkeypatch, error
):
    call, addresses = _dask.call_or_abort, []

    async def fail_directly(client, address, /, **message):
        addresses.append(address)
        if address == worker:
            raise error("the connection broke")
        return await call(client, address, **message)

    expected = fitted["values"].set_params(client=None).predict(data[0])
    # The error of the first attempt must not keep the network in a reference cycle.
    with own_cluster(n_workers=1, processes=False) as client:
        (worker,) = client.nthreads()
        monkeypatch.setattr(scatter, "can_connect", lambda *_: True)
        monkeypatch.setattr(_dask, "call_or_abort", fail_directly)
        estimator = copy(fitted["values"]).set_params(client=client)
        predicted = predict_outside_the_graph(estimator, as_array(data[0]))
        assert addresses == [worker, client.scheduler.address]
        assert_allclose(bounded(client.compute(predicted).result), expected)
        del predicted, estimator


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
def test_a_worker_that_nobody_can_send_the_network_is_named(data, fitted, monkeypatch):
    async def fail(*_, **__):
        raise OSError("no route")

    # No worker is lost, which the scheduler would need time to notice.
    monkeypatch.setattr(watch, "WORKER_CHECK_S", 0.1)
    with own_cluster(n_workers=1, processes=False) as client:
        monkeypatch.setattr(_dask, "call_or_abort", fail)
        estimator = copy(fitted["values"]).set_params(client=client)
        with pytest.raises(WorkerLostError, match=r"neither .* scheduler: no route"):
            predict_outside_the_graph(estimator, as_array(data[0]))


@pytest.mark.parametrize("direct", only_quick(0, cases=[True, False]))
@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.slow
def test_a_worker_that_is_paused_when_it_is_sent_the_network_is_named(
    data, fitted, monkeypatch, direct
):
    def pause(dask_worker):
        dask_worker.status = Status.paused

    # Without a limit: Dask resumes a worker that is below its limit.
    with own_cluster(n_workers=1, processes=False, memory_limit=0) as client:
        (worker,) = client.nthreads()
        client.run(pause)
        paused = {worker: "paused"}
        wait_until(lambda: worker_statuses(client) == paused, "it is known")
        # It was not when it was chosen.
        monkeypatch.setattr(lazy, "workers_of", lambda _: (worker,))
        monkeypatch.setattr(scatter, "can_connect", lambda *_: direct)
        estimator = copy(fitted["values"]).set_params(client=client)
        with (
            dask.config.set({"skdistmlp.exchange-timeout": "1s"}),
            pytest.raises(WorkerLostError, match=f"{worker} has been paused"),
        ):
            predict_outside_the_graph(estimator, as_array(data[0]))


def test_the_plan_is_that_of_the_client_of_the_estimator(client, data, fitted):
    """Which need not be the active one."""
    X = as_array(data[0])
    clf = fitted["classes"]
    assert clf.set_params(client=None).plan_predict(X).engine == "local"
    plan = clf.set_params(client=client).plan_predict(X)
    assert (plan.engine, plan.split_by) == ("futures", "rows")
    assert "with the client" in plan.reason
    clf.set_params(client=None)


@pytest.mark.filterwarnings("ignore:X does not have valid feature names")
@pytest.mark.slow
def test_a_worker_without_this_package_fails_the_task_and_lives(
    processes, data, fitted
):
    """Whether the network is in the graph or was sent to another worker before."""
    processes.have_workers(1)
    other = next(iter(processes.workers))
    X = as_array(data[0])
    with (
        Client(processes.address, set_as_default=False) as client,
        processes.unlike_worker(WITHOUT_PACKAGE) as (worker, process),
    ):
        estimator = fitted["classes"].set_params(client=client)
        error = f"worker {worker} cannot import skdistmlp: .* on all workers"
        for limit in ("10 MiB", "1 kiB"):
            with dask.config.set({LARGE_GRAPH_SETTING: limit}):
                labels, shares = estimator.predict(X), estimator.predict_proba(X)
            future = client.compute(labels, workers=[worker])
            on_other = client.compute(shares, workers=[other])
            with pytest.raises(ModuleNotFoundError, match=error):
                bounded(future.result)
            assert len(bounded(on_other.result)) == N_ROWS
            future.release()
            on_other.release()
        assert process.poll() is None
        assert {worker, other} <= set(client.nthreads())
    estimator.set_params(client=None)
