"""Sparse features, beyond the formats that test_parity compares."""

import pickle

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy import sparse

from tests.estimators.configurations import FORMATS, Case
from tests.estimators.support import (
    assert_same_answers,
    assert_same_network,
    fit,
    result_of,
)
from tests.marks import only_quick

FUTURES = {"engine": "futures", "n_workers": 2}
SPARSE = [name for name in FORMATS if name != "dense"]
BOTH = pytest.mark.parametrize("name", ["defaults", "two columns"])
"""One configuration of each estimator, with dense features."""


def _stored(X):
    """Return everything that makes up a sparse matrix, as bytes."""
    names = (
        ("row", "col", "data") if X.format == "coo" else ("indptr", "indices", "data")
    )
    return [getattr(X, name).tobytes() for name in names]


@pytest.mark.parametrize("features", SPARSE)
def test_the_formats_are_what_their_names_say(features):
    dense = Case.of("defaults").X
    X = FORMATS[features](dense)
    assert sparse.issparse(X)
    assert_allclose(X.toarray(), dense)
    if features == "unsorted":
        assert not X.has_sorted_indices
    elif features == "duplicates":
        assert not X.has_canonical_format
    elif features == "stored zeros":
        assert X.nnz == dense.size
    elif features == "wide indices":
        assert X.indices.dtype == X.indptr.dtype == np.int64


@BOTH
@pytest.mark.parametrize("features", SPARSE)
def test_sparse_features_give_the_results_of_dense_ones(features, name):
    """For training and for prediction, in every combination."""
    case = Case.of(name)
    X = FORMATS[features](case.X)
    networks = [fit(case.pair()[0], given, case.y) for given in (case.X, X)]
    assert_same_network(*networks)
    for network in networks:
        assert_same_answers(network, networks[0], X, case.y)
        assert_allclose(network.predict(X), network.predict(case.X), rtol=1e-9)


@BOTH
@pytest.mark.parametrize(
    ("features", "engine"),
    [
        *((features, "local") for features in SPARSE),
        ("unsorted", "futures"),
        ("duplicates", "futures"),
    ],
)
def test_sparse_input_is_not_modified(client, features, name, engine):
    case = Case.of(name, max_iter=1, batch_size=240)
    X = FORMATS[features](case.X)
    before = _stored(X)
    ours, _ = case.pair(client=client, **FUTURES | {"engine": engine})
    fit(ours, X, case.y).predict(X)
    assert ours.engine_ == engine
    assert _stored(X) == before


def test_read_only_features_are_accepted():
    case = Case.of("sparse, early stopping, weighted")
    for array in (case.X.data, case.X.indices, case.X.indptr):
        array.flags.writeable = False
    ours, theirs = case.pair()
    for estimator in (ours, theirs):
        fit(estimator, case.X, case.y, case.sample_weight)
    assert_same_network(ours, theirs)
    assert_same_answers(ours, theirs, case.X, case.y)


@BOTH
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.bool_])
def test_dtypes_are_converted_as_by_scikit_learn(name, dtype):
    case = Case.of(name)
    X = sparse.csr_matrix(np.ceil(case.X)).astype(dtype)
    ours, theirs = case.pair()
    for estimator in (ours, theirs):
        fit(estimator, X, case.y)
    assert_same_network(ours, theirs)
    assert_same_answers(ours, theirs, X, case.y)


@BOTH
def test_a_matrix_of_zeros_is_accepted(name):
    case = Case.of(name)
    X = sparse.csr_matrix(case.X.shape)
    ours, theirs = case.pair()
    for estimator in (ours, theirs):
        fit(estimator, X, case.y)
    assert_same_network(ours, theirs)
    assert_same_answers(ours, theirs, X, case.y)


@BOTH
@pytest.mark.parametrize(
    "engine", only_quick(0, 2, cases=["local", "futures", "peers"])
)
def test_partial_fit_and_warm_start_accept_sparse_and_dense_batches(
    client, name, engine
):
    """Sparse and dense batches alternate, with a pickle in between."""
    case = Case.of(name, warm_start=True, max_iter=2, batch_size=120)
    ours, theirs = case.pair(
        client=client.scheduler.address, **FUTURES | {"engine": engine}
    )
    classes = {} if case.kind == "regressor" else {"classes": range(10)}
    for features in ("csr_matrix", "dense", "csc_array"):
        X = FORMATS[features](case.X)
        for estimator in (ours, theirs):
            estimator.partial_fit(X, case.y, **classes)
            fit(estimator, X, case.y)
        assert ours.engine_ == engine
        assert_same_network(ours, theirs)
        ours = pickle.loads(pickle.dumps(ours))


def _with_a(value):
    def spoil(X):
        X = X.copy()
        X.data[3] = value
        return X

    return spoil


@BOTH
@pytest.mark.parametrize("method", ["fit", "partial_fit", "predict", "score"])
@pytest.mark.parametrize(
    ("spoil", "accepted"),
    [
        pytest.param(_with_a(np.nan), None, id="NaN"),
        pytest.param(_with_a(-np.inf), None, id="infinity"),
        pytest.param(lambda X: X[:0], None, id="no rows"),
        pytest.param(lambda X: X[:, 1:], "fit", id="a column short"),
        pytest.param(lambda X: X[:-1], "predict", id="a row short"),
        pytest.param(lambda X: X.astype(complex), None, id="complex"),
    ],
)
@pytest.mark.parametrize("features", only_quick(0, cases=["csr_matrix", "csc_array"]))
def test_unsuitable_matrices_are_refused_as_by_scikit_learn(
    name, method, spoil, accepted, features
):
    case = Case.of(name)
    X = FORMATS[features](case.X)
    target = () if method == "predict" else (case.y,)

    def call(estimator):
        fit(estimator, X, case.y)
        getattr(estimator, method)(spoil(X), *target)

    ours, theirs = (result_of(lambda e=e: call(e)) for e in case.pair())
    assert ours.error == theirs.error
    assert ours.warnings == theirs.warnings
    assert (theirs.error is None) == (method == accepted)


def test_a_one_dimensional_sparse_array_is_refused_as_by_scikit_learn():
    case = Case.of("defaults")
    row = sparse.coo_array(case.X[0])
    ours, theirs = (result_of(lambda e=e: fit(e, row, case.y[:1])) for e in case.pair())
    assert theirs.error is not None
    assert ours.error == theirs.error


@BOTH
def test_a_sparse_data_frame_is_accepted(name):
    case = Case.of(name)
    X = pd.DataFrame.sparse.from_spmatrix(sparse.csr_matrix(case.X)).add_prefix("p")
    ours, theirs = case.pair()
    for estimator in (ours, theirs):
        fit(estimator, X, case.y)
    assert_same_network(ours, theirs)
    assert ours.feature_names_in_.tolist() == list(X.columns)
    assert_same_answers(ours, theirs, X, case.y)


@pytest.mark.parametrize("name", ["csr_matrix, ten classes", "csc_array, numbers"])
@pytest.mark.parametrize("n_workers", [2, 3])
def test_sparse_rows_are_predicted_on_a_cluster_in_blocks(client, name, n_workers):
    """A network trained locally predicts there; rows are sent block by block."""
    case = Case.of(name)
    ours, theirs = case.pair(engine="local", client=client, parameter_threshold=0)
    for estimator in (ours, theirs):
        fit(estimator, case.X, case.y)
    X = FORMATS["csr_matrix"](np.tile(Case.of("defaults").X, (18, 1))[:4001])
    local = ours.predict(X)
    ours.set_params(engine="futures", n_workers=n_workers)
    assert_allclose(ours.predict(X), theirs.predict(X), rtol=1e-6)
    assert_allclose(ours.predict(X), local, rtol=1e-9)
